"""The reinforcement learner: advantages from trajectories, minibatch updates, and what changes between batches."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from espo_jax import objectives, rewards
from espo_jax.learner.guarded import guarded_step
from espo_jax.learner.scoring import Scored, score
from espo_jax.learner.state import TrainState, jit_update
from espo_jax.model import ActorCritic, Params
from espo_jax.objectives import LossInputs, explained_variance, gae, masked_mean, whiten
from espo_jax.stops import Adaptive, GateState, StopRule, update_gate
from espo_jax.types import Metrics, Reward, Trajectories


class Batch(flax.struct.PyTreeNode):
  """Trajectories with what the loss needs beside them."""

  trajectories: Trajectories
  advantages: Float[Array, 'N T']
  returns: Float[Array, 'N T']
  reference_logprobs: Float[Array, 'N T']


@dataclasses.dataclass(frozen=True, eq=False)
class Reinforcement:
  """How trajectories become an update. Static: its methods are pure functions of arrays.

  Attributes:
    model: Policy and critic.
    optimizer: Of both.
    rule: The stop rule, for what it learns between batches.
    objective: A registered policy objective.
    options: Its keyword arguments.
    gamma: Discount.
    lam: GAE's lambda.
    whiten_advantages: Whether advantages are whitened over the batch.
    bootstrap_truncated: Whether a row that the horizon cut counts on its last state's value; a stopped row never does.
    fail_reward: `r_fail`, on the token that triggered a stop.
    temperature: Of the sampler.
    logit_chunk: Response tokens whose logits exist at a time.
    gate: Keyword arguments of `update_gate`.
  """

  model: ActorCritic
  optimizer: optax.GradientTransformation
  rule: StopRule
  objective: str
  options: Mapping[str, float]
  gamma: float
  lam: float
  whiten_advantages: bool
  bootstrap_truncated: bool
  fail_reward: float
  temperature: float
  logit_chunk: int
  gate: Mapping[str, Any]

  @property
  def uses_reference(self) -> bool:
    """Whether the objective looks at the reference policy."""
    return self.options.get('kl_coef', 0.0) > 0.0

  def _score(self, params: Params, rows: Trajectories) -> Scored:
    return score(
      self.model,
      params,
      rows.prompt_tokens,
      rows.prompt_lengths,
      rows.tokens,
      temperature=self.temperature,
      chunk=self.logit_chunk,
    )

  @functools.partial(jax.jit, static_argnums=0)
  def prepare(self, params: Params, reference: Params | None, rows: Trajectories, reward: Reward) -> tuple[Batch, Metrics]:
    """Rewards on tokens, advantages and returns; and how far the learner's log-probabilities are from the sampler's."""
    mask = rows.mask
    scored = self._score(params, rows)
    bootstrap = jnp.where(rows.truncated & self.bootstrap_truncated, scored.final_values, 0.0)
    advantages, returns = gae(
      rewards.token_rewards(rows, reward, fail=self.fail_reward),
      rows.values,
      mask,
      gamma=self.gamma,
      lam=self.lam,
      bootstrap=bootstrap,
    )
    if self.whiten_advantages:
      advantages = whiten(advantages, mask)
    metrics = {
      'entropy': masked_mean(scored.entropy, mask),
      'critic/loss': masked_mean(jnp.square(rows.values - returns), mask),
      'critic/explained_variance': explained_variance(rows.values, returns, mask),
      'critic/value_mean': masked_mean(rows.values, mask),
      **self._agreement(scored.logprobs - rows.logprobs, mask),
    }
    reference_logprobs = self._score(reference, rows).logprobs if self.uses_reference else jnp.zeros_like(advantages)
    return Batch(rows, advantages, returns, reference_logprobs), metrics

  def _agreement(self, difference: Float[Array, 'N T'], mask: Array) -> Metrics:
    """Sampler against learner: the ratio at which an update starts, which should be 1 everywhere."""
    size = jnp.where(mask, jnp.abs(difference), jnp.nan)
    ratio = jnp.exp(difference)
    low, high = self.options.get('clip_low', 0.2), self.options.get('clip_high', 0.2)
    outside = (ratio < 1 - low) | (ratio > 1 + high)
    return {
      'sampler_gap/mean': masked_mean(jnp.abs(difference), mask),
      'sampler_gap/p95': jnp.nanpercentile(size, 95),
      'sampler_gap/max': jnp.nanmax(size),
      'sampler_gap/outside_clip': masked_mean(outside.astype(jnp.float32), mask),
    }

  @jit_update
  def update(self, state: TrainState, batch: Batch, rows: Int[Array, 'M']) -> tuple[TrainState, Metrics]:
    """One optimizer step on the rows named."""
    batch = jax.tree.map(lambda x: x[rows], batch)
    trajectories = batch.trajectories

    def loss_fn(params: Params) -> tuple[Array, Metrics]:
      scored = self._score(params, trajectories)
      inputs = LossInputs(
        logprobs=scored.logprobs,
        entropy=scored.entropy,
        values=scored.values,
        old_logprobs=trajectories.logprobs,
        old_values=trajectories.values,
        reference_logprobs=batch.reference_logprobs,
        advantages=batch.advantages,
        returns=batch.returns,
        mask=trajectories.mask,
      )
      terms, metrics = objectives.get(self.objective)(inputs, **self.options)
      return sum((weight * term.mean for weight, term in terms.values()), jnp.zeros(())), metrics

    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state, step_metrics = guarded_step(state, self.optimizer, loss, grads)
    return state, metrics | step_metrics

  def finish(self, state: TrainState, rows: Trajectories, critic: Metrics) -> TrainState:
    """What happens once a batch: the regret's moments, the controller, and the critic's gate."""
    adaptive, gate = self._between_batches(state.adaptive, state.gate, rows, critic)
    return state.replace(adaptive=adaptive, gate=gate)

  @functools.partial(jax.jit, static_argnums=0)
  def _between_batches(
    self, adaptive: Adaptive, gate: GateState, rows: Trajectories, critic: Metrics
  ) -> tuple[Adaptive, GateState]:
    adaptive = self.rule.adapt(adaptive, rows.regret, rows.mask, rows.stopped)
    gate = update_gate(gate, critic['critic/loss'], critic['critic/explained_variance'], **self.gate)
    return adaptive.replace(enabled=gate.open), gate


def minibatches(seed: int, step: int, rows: int, epochs: int, count: int) -> np.ndarray:
  """Row indices `int32[epochs * count, rows / count]`: each epoch a permutation that depends on (seed, step, epoch) alone."""
  order = [np.random.default_rng([seed, step, epoch]).permutation(rows) for epoch in range(epochs)]
  return np.concatenate(order).reshape(epochs * count, rows // count).astype(np.int32)
