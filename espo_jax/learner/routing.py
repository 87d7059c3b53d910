"""FiRST's training (arXiv 2410.12513): routers learn beside a frozen model, and then the model learns the routes.

The task loss is the cross-entropy of responses that the whole model has sampled (ours). While the routers learn, a block
changes the stream of a response by its whole change times the probability that its router keeps it. The penalty on that
probability, and the one on its variance, are our reading. The repair decodes with hard routes, as sampling does, and trains
the policy, or its adapters alone where there are any.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from espo_jax.exits.routes import route_length, route_of
from espo_jax.learner.optimizer import guarded_step
from espo_jax.learner.scoring import score
from espo_jax.learner.state import TrainState, jit_update
from espo_jax.model import ActorCritic, Params, join_frozen, split_frozen
from espo_jax.objectives import masked_mean
from espo_jax.types import Metrics, Trajectories


@dataclasses.dataclass(frozen=True, eq=False)
class RouterTraining:
  """Trains routers, or repairs the model behind them. The object is static under jit; its methods are pure functions.

  Attributes:
    model: The model, whose exit policy has a router.
    optimizer: The stage's optimizer.
    repairs: Whether the routers are frozen and everything else learns, instead of the reverse.
    skip_weight: The weight of the mean probability that a block is kept.
    bimodal_weight: The weight of the mean of `keep (1 - keep)`, which draws the probabilities to 0 and 1.
    temperature: The temperature at which the responses were sampled.
    logit_chunk: The number of tokens whose logits are in memory at a time.
  """

  model: ActorCritic
  optimizer: optax.GradientTransformation
  repairs: bool
  skip_weight: float
  bimodal_weight: float
  temperature: float
  logit_chunk: int

  @jit_update
  def update(self, state: TrainState, rows: Trajectories) -> tuple[TrainState, Metrics]:
    """Makes one optimizer step on responses of the whole model.

    Args:
      state: The state before the step. Its buffers are donated.
      rows: The responses.
    """
    trained, held = split_frozen(state.params, exits_alone=self.model.config.exits.alone)

    def loss(trained: Params) -> tuple[Float[Array, ''], Metrics]:
      params = join_frozen(trained, held)
      params = self._of_phase(params)
      return self._repair(params, rows) if self.repairs else self._route(params, rows)

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    state, step_metrics = guarded_step(state, self.optimizer, value, grads, rests=True)
    return state, metrics | step_metrics

  def _of_phase(self, params: Params) -> Params:
    """Returns the parameters, of which only those that this phase trains have a gradient. No phase trains a critic."""

    def choose(path: tuple[Any, ...], x: Array) -> Array:
      names = {getattr(entry, 'key', '') for entry in path}
      still = names & {'critic', 'value'} or ('exit_heads' in names) == self.repairs
      return jax.lax.stop_gradient(x) if still else x

    return jax.tree_util.tree_map_with_path(choose, params)

  def _route(self, params: Params, rows: Trajectories) -> tuple[Float[Array, ''], Metrics]:
    keep = self._keep(params, rows)
    routed = keep[:, jnp.array(self.model.config.exit_blocks)]
    surprise = self._surprise(params, rows, jnp.full(rows.tokens.shape, self.model.config.num_layers), keep=keep)
    kept, undecided = routed.mean(), (routed * (1 - routed)).mean()
    value = surprise + self.skip_weight * kept + self.bimodal_weight * undecided
    return value, {'loss/imitation': surprise, 'loss/kept': kept, 'loss/undecided': undecided} | self._depth(keep)

  def _repair(self, params: Params, rows: Trajectories) -> tuple[Float[Array, ''], Metrics]:
    keep = jax.lax.stop_gradient(self._keep(params, rows))
    route = route_of(self._runs(keep))
    route = jnp.broadcast_to(route[:, None], (*rows.tokens.shape, route.shape[-1]))
    surprise = self._surprise(params, rows, route_length(route), route=route)
    return surprise, {'loss/imitation': surprise} | self._depth(keep)

  def _keep(self, params: Params, rows: Trajectories) -> Float[Array, 'N L']:
    """Returns the probabilities that the routers give to each row's prompt."""
    width = rows.prompt_tokens.shape[1]
    positions = jnp.arange(width) - (width - rows.prompt_lengths)[:, None]
    segments = (positions >= 0).astype(jnp.int32)
    return self.model.routing(params, rows.prompt_tokens, jnp.maximum(positions, 0), segments)[2][:, -1]

  def _surprise(
    self, params: Params, rows: Trajectories, blocks: Array, *, keep: Array | None = None, route: Array | None = None
  ) -> Float[Array, '']:
    """Returns the cross-entropy of the responses, in nats per token."""
    scored = score(
      self.model,
      params,
      rows.prompt_tokens,
      rows.prompt_lengths,
      rows.tokens,
      temperature=self.temperature,
      chunk=self.logit_chunk,
      blocks=blocks,
      keep=keep,
      route=route,
    )
    return -masked_mean(scored.logprobs, rows.mask)

  def _runs(self, keep: Float[Array, 'N L']) -> Array:
    policy = self.model.exits
    assert policy is not None and policy.router is not None
    return policy.router(keep, jnp.float32(policy.level))

  def _depth(self, keep: Float[Array, 'N L']) -> Metrics:
    return {'exits/depth': self._runs(keep).mean()}
