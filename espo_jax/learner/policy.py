"""The reinforcement learner: advantages of trajectories, minibatch updates, and the updates once per batch.

The old log-probabilities and values of an update are those that the sampler recorded. Each step a scoring pass recomputes the
log-probabilities and logs the gap as `sampler_gap/*`. With `learner.importance_cap` the recomputed ones become the old ones,
and the correction for the gap scales the advantages. Every surrogate is linear in the advantage, so the objectives do not
depend on the correction.

The reference is scored at full depth. The policy's exit log-probabilities are added to the reference's without a gradient, so
that the value of a divergence measures tokens only.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from espo_jax import objectives, rewards, stops
from espo_jax.learner.batch import Batch
from espo_jax.learner.credit import Credit, at_last, sampler_gap, scored_parts
from espo_jax.learner.decision import decision_tokens, held
from espo_jax.learner.entropies import entropy_metrics, past_entropy, with_entropies
from espo_jax.learner.gradient import gradient
from espo_jax.learner.kept import in_baseline, kept_rows, scores_differ, trained_on
from espo_jax.learner.optimizer import guarded_step
from espo_jax.learner.packing import Packing, by_part
from espo_jax.learner.scoring import Scored, score
from espo_jax.learner.state import History, TrainState, jit_update
from espo_jax.model import ActorCritic, Params, join_frozen, split_frozen
from espo_jax.objectives import (
  Estimate,
  estimated_kl,
  explained_variance,
  group_scores,
  masked_mean,
)
from espo_jax.registry import inputs
from espo_jax.stops import Adaptive, GateState, Hindsight, Observation, StopRule, unless_nan, update_gate
from espo_jax.types import Metrics, Reward, Trajectories, Verdicts, values_seen

_MILLION = 1_000_000
_whole = jax.jit(Trajectories.whole)


@dataclasses.dataclass(frozen=True, eq=False)
class Reinforcement:
  """Computes an update from trajectories. The object is static under jit, and its methods are pure functions of arrays.

  Attributes:
    model: Policy and critic.
    optimizer: The optimizer of policy and critic.
    rule: The stop rule, whose state `finish` updates.
    objective: A sum of registered objectives.
    options: The keyword arguments of the objective's parts, by name.
    advantage: The name of a registered advantage.
    advantage_options: The keyword arguments of the advantage, by name.
    reward: An expression over registered rewards.
    reward_options: The keyword arguments of the rewards, by name.
    kl: The estimate of the divergence from the reference policy that is subtracted from the reward.
    kl_coef: The weight of the divergence in the reward; 0 for none.
    stop_returns: What a stopped row returns: see `rewards.stop_reward`.
    fail_reward: `r_fail`, the reward of the token that triggered a stop under 'fail'.
    shadow_share: The share of stopped rows that decode on.
    baseline: The rows that the statistics of a group are taken over: see `Credit`.
    rows_kept: The most rows per prompt that are trained on: see `objectives.most_varied`; 0 for all.
    ragged: Whether prompts may have fewer than `samples` rows.
    samples: `G`, the number of rows per prompt.
    critic_every: The number of tokens that the sampler's critic read at a time: the stop rule saw no newer value.
    importance: What has an importance weight, and what happens to one above the cap: see `importance_weights`.
    importance_cap: The cap of the importance weights, `learner's probability / sampler's`. With a cap, ratios are relative to
      the learner's probabilities before the update; with 0 they are relative to the sampler's, unweighted.
    decision_after: The token id whose first successor in a row gets no gradient; -1 for none.
    updates: The number of updates in the whole run.
    turns: The most turns of a row; 1 without an environment.
    success_momentum: The momentum of the running success rate, which is every state's value where the model is critic-free.
    temperature: The sampler's temperature.
    logit_chunk: The number of tokens whose logits are in memory at a time.
    gate: The keyword arguments of `update_gate`.
  """

  model: ActorCritic
  optimizer: optax.GradientTransformation
  rule: StopRule
  objective: str
  options: Mapping[str, Any]
  advantage: str
  advantage_options: Mapping[str, Any]
  reward: str
  reward_options: Mapping[str, Any]
  kl: Estimate | Literal['exact']
  kl_coef: float
  stop_returns: str
  fail_reward: float
  shadow_share: float
  baseline: str
  rows_kept: int
  ragged: bool
  samples: int
  critic_every: int
  importance: str
  importance_cap: float
  decision_after: int
  updates: int
  turns: int
  success_momentum: float
  temperature: float
  logit_chunk: int
  gate: Mapping[str, Any]

  @property
  def trains_critic(self) -> bool:
    """Whether advantages come from a critic."""
    return objectives.ADVANTAGES[self.advantage].critic

  def _score(
    self,
    params: Params,
    rows: Trajectories,
    against: Params | None = None,
    packing: Packing | None = None,
    *,
    full_depth: bool = False,
  ) -> Scored:
    """Scores the rows under `params`, each token to the depth it was sampled at, or to full depth."""
    depth = None if full_depth else rows.depth
    return score(
      self.model,
      params,
      rows.prompt_tokens,
      rows.prompt_lengths,
      rows.tokens,
      temperature=self.temperature,
      chunk=self.logit_chunk,
      against=against,
      packing=packing,
      blocks=None if depth is None else depth.blocks,
      route=None if depth is None else depth.route,
      exit_level=self.model.exits.level if self.model.exits else 0.0,
    )

  def _measure(
    self,
    params: Params,
    rows: Trajectories,
    against: Params | None,
    packing: Packing | None,
    *,
    full_depth: bool = False,
  ) -> tuple[Float[Array, 'N T'], Float[Array, 'N T'], Float[Array, 'N S'], Float[Array, 'N T'] | None]:
    """Scores all rows for `prepare`, one packing at a time. Packing `j` has the rows of part `j` of `in_parts`.

    Returns:
      The joint log-probabilities of tokens and exits, the entropy, the values of the `S = T + 1` states before and after every
      token, and the divergence from `against`.
    """

    def measure(rows: Trajectories, packing: Packing | None) -> tuple[Array, Array, Array, Array | None]:
      scored = self._score(params, rows, against, packing, full_depth=full_depth)
      values = jnp.concatenate([scored.values, scored.final_values[:, None]], axis=1)
      return scored.joint_logprobs, scored.entropy, values, scored.reference_kl

    return measure(rows, None) if packing is None else by_part(measure, rows, packing, self.samples)

  @functools.partial(jax.jit, static_argnums=0)
  def graded(self, rows: Trajectories, verdicts: Verdicts, adaptive: Adaptive) -> tuple[Reward, Bool[Array, 'P'], Metrics]:
    """Returns the rewards of rows, whether the scores of each group differ, and metrics.

    A stopped row scores what it returns. Under 'value' this is the value before the token that triggered the stop, because the
    value after it is not known before `prepare`.

    Args:
      rows: The rollout's rows.
      verdicts: The verdicts on `rows`.
      adaptive: The state of the stop rule that the rollout was sampled with.
    """
    seen = rewards.observed(self.rewarded(rows), verdicts, self.samples, self.model.config.num_layers)
    value, by_name = rewards.evaluate(self.reward, self.reward_options, seen)
    per_row, dense = (value, None) if value.ndim == 2 else (jnp.zeros(value.shape[:2]), value.reshape(rows.tokens.shape))
    extras = rewards.extras(seen, self.reward_options)
    success, by_head = None, dict[str, Array]()
    if adaptive.head is not None:
      hindsight = self._hindsight(rows, verdicts.correct)
      expected = stops.forecasts(adaptive.head, hindsight)
      success = at_last(expected.success, rows)
      by_head = {f'head/{name}': x for name, x in stops.head_calibration(expected, hindsight).items()}
    per_prompt = {name: jnp.repeat(x, self.samples) for name, x in extras.items()}
    parts = None
    if 'parts' in inputs(objectives.ADVANTAGES[self.advantage].function):
      parts = rewards.evaluate_parts(self.reward, self.reward_options, seen)
      parts = parts.reshape(-1, parts.shape[-1])
    reward = Reward(per_row.reshape(-1), dense, per_prompt, parts, success)
    paid = rewards.stop_reward(self.stop_returns, self.fail_reward, at_last(rows.values, rows), success)
    placed = rewards.token_rewards(rows, reward, stopped=paid)
    scores = group_scores(placed, rows.mask, self.samples)
    told = scores[..., None] if parts is None else scored_parts(rows, parts, paid).reshape(*scores.shape, -1)
    kept, differ, of_all = dict[str, Array](), scores_differ(told, None), jnp.ones(rows.length.shape, bool)
    if self.stop_returns == 'drop' or self.rows_kept or self.ragged:
      keep = kept_rows(rows, scores, self.rows_kept)
      reward, kept = reward.replace(keep=keep.reshape(-1)), {'rollout/kept': keep.mean()}
      differ = scores_differ(told, in_baseline(rows, keep, self.baseline)) & keep.any(axis=1)
      of_all = rows.begun & ~rows.pruned
    metrics = {f'reward/{name}': masked_mean(x.reshape(-1), of_all) for name, x in by_name.items()}
    metrics['reward/mean'] = masked_mean(scores, of_all.reshape(scores.shape))
    equal = {'reward/equal_groups': 1.0 - differ.mean()} if self.samples > 1 else {}  # a row alone is compared with none
    return reward, differ, metrics | by_head | kept | equal

  @functools.partial(jax.jit, static_argnums=0)
  def prepare(
    self,
    params: Params,
    reference: Params | None,
    rows: Trajectories,
    reward: Reward,
    packing: Packing | None = None,
  ) -> tuple[Batch, Metrics]:
    """Computes rewards per token, advantages and returns, and metrics of the gap between learner and sampler.

    Args:
      params: The parameters of policy and critic.
      reference: The parameters of the reference policy; None without one.
      rows: The rollout's rows.
      reward: The rewards of `rows`.
      packing: The stacked packings of the rows. Packing `j` has the rows of part `j` of `in_parts`.
    """
    ended = rows  # as the rule ended them
    rows = trained_on(self.rewarded(rows), reward.keep)
    mask = rows.mask
    against = reference if self.kl_coef and self.kl == 'exact' else None
    logprobs, entropy, values, exact_kl = self._measure(params, rows, against, packing)
    reference_logprobs = reference_entropy = jnp.zeros_like(rows.logprobs)
    if reference is not None:
      reference_logprobs, reference_entropy, *_ = self._measure(reference, rows, None, packing, full_depth=True)
    settings = objectives.settings(self.objective, self.options)
    clips = {name: settings[name] for name in ('clip_low', 'clip_high') if name in settings}
    metrics = entropy_metrics(entropy, rows, self.turns) | sampler_gap(logprobs - rows.joint_logprobs, mask, **clips)
    kl = jnp.zeros_like(logprobs)
    if self.kl_coef:
      if self.kl == 'exact':
        assert exact_kl is not None  # `against` was given above
        kl = exact_kl
      else:
        kl = estimated_kl(self.kl, rows.logprobs, reference_logprobs, mask)
      kl = jnp.where(mask, kl, 0.0)  # nothing was measured of rows that are not trained on
      metrics['reward/kl'] = masked_mean(kl, mask)
    credit = Credit(
      advantage=self.advantage,
      options=self.advantage_options,
      reward=self.reward,
      samples=self.samples,
      stop_returns=self.stop_returns,
      fail_reward=self.fail_reward,
      shadow_share=self.shadow_share,
      baseline=self.baseline,
    )
    advantages, returns = credit.of(ended, reward, values, self.kl_coef * kl)
    if reward.weight is not None:
      advantages = advantages * reward.weight[:, None]
    old_logprobs = rows.joint_logprobs
    if self.importance_cap:
      old_logprobs = logprobs
      weight, beyond = objectives.importance_weights(
        logprobs - rows.joint_logprobs, mask, level=self.importance, cap=self.importance_cap
      )
      advantages = advantages * weight  # every surrogate is linear in the advantage
      metrics['importance/capped'] = masked_mean(beyond.astype(jnp.float32), mask)
    if self.trains_critic:
      metrics |= {
        'critic/loss': masked_mean(jnp.square(rows.values - returns), mask),
        'critic/explained_variance': explained_variance(rows.values, returns, mask),
        'critic/value_mean': masked_mean(rows.values, mask),
      }
    return Batch(
      rows, advantages, returns, old_logprobs, entropy, reference_logprobs, reference_entropy, reward.extras
    ), metrics

  def rewarded(self, rows: Trajectories) -> Trajectories:
    """Returns the rows as far as they are rewarded and trained on: under 'roulette', shadow rows up to their own end."""
    return _whole(rows) if self.stop_returns == 'roulette' else rows

  @jit_update
  def update(
    self, state: TrainState, batch: Batch, reference: Params | None, rows: Int[Array, 'parts M'], packing: Packing
  ) -> tuple[TrainState, Metrics]:
    """Makes one optimizer step on the rows of a minibatch, one micro-batch at a time.

    Args:
      state: The state before the step. Its buffers are donated.
      batch: The batch that `prepare` returned.
      reference: The parameters of the reference policy; None without one.
      rows: Row indices into the batch, one part per micro-batch.
      packing: The packing of each part's rows.
    """
    against = reference if 'reference_kl' in objectives.reads(self.objective, self.options) else None
    trained, rest = split_frozen(state.params, exits_alone=self.model.config.exits.alone)

    def loss(trained: Params, part: tuple[Int[Array, 'M'], Packing]) -> tuple[objectives.Terms, Metrics]:
      mine = jax.tree.map(lambda x: x[part[0]], batch)
      trajectories = mine.trajectories
      decision = decision_tokens(trajectories.prompt_tokens, trajectories.tokens, self.decision_after)
      scored = self._score(join_frozen(trained, rest), trajectories, against, part[1])
      # The reference gets the policy's exit log-probabilities, without a gradient, so the divergence measures tokens only.
      exits = jnp.zeros_like(mine.old_logprobs) if scored.exit_logprobs is None else scored.exit_logprobs
      arrays = {
        'logprobs': held(scored.joint_logprobs, decision),
        'entropy': held(scored.entropy, decision),
        'values': scored.values,
        'old_logprobs': mine.old_logprobs,
        'old_values': trajectories.values,
        'reference_logprobs': mine.reference_logprobs + jax.lax.stop_gradient(exits),
        'advantages': mine.advantages,
        'returns': mine.returns,
        'mask': trajectories.mask,
        'reference_kl': None if scored.reference_kl is None else held(scored.reference_kl, decision),
        'old_entropy': mine.old_entropy,
        'reference_entropy': mine.reference_entropy,
        'entropy_slope': scored.entropy_slope,
        'opening_logprobs': scored.opening_logprobs,
        'past_entropy': past_entropy(state.history, trajectories),
        'progress': state.history.updates / self.updates,
        **mine.extras,
      }
      return objectives.compose(self.objective, self.options)(arrays)

    value, grads, metrics = gradient(loss, trained, (rows, packing))
    state, step_metrics = guarded_step(state, self.optimizer, value, grads)
    return state, metrics | step_metrics

  def finish(
    self, state: TrainState, rows: Trajectories, correct: Float[Array | np.ndarray, 'N'], metrics: Metrics
  ) -> TrainState:
    """Makes the updates that happen once per batch.

    They change the running moments of the regret, the controller of the stop rule, the gate of the critic warm-up, the history,
    and the running success rate if the model is critic-free.

    Args:
      state: The state after the minibatch updates.
      rows: The batch's rows.
      correct: 1 where a row's whole text is correct.
      metrics: The batch's metrics.
    """
    params = state.params
    if self.model.critic_free:
      accuracy = metrics['accuracy']
      if self.stop_returns == 'drop':  # the rows that are left are no sample of the policy, and there may be none
        accuracy = metrics['accuracy_unstopped']
      success = self._success(params['critic']['success'], accuracy, state.adaptive.batches)
      params = params | {'critic': {'success': success}}
    adaptive, gate, history = self._between_batches(state.adaptive, state.gate, state.history, rows, correct, metrics)
    return state.replace(params=params, adaptive=adaptive, gate=gate, history=history)

  @functools.partial(jax.jit, static_argnums=0)
  def _success(self, success: Float[Array, ''], accuracy: Float[Array, ''], batches: Int[Array, '']) -> Float[Array, '']:
    """Returns the running success rate, which the first batch initialises; the old one if the accuracy is not known."""
    keep = jnp.where(batches == 0, 0.0, self.success_momentum)
    return jnp.where(jnp.isnan(accuracy), success, keep * success + (1 - keep) * accuracy)

  @functools.partial(jax.jit, static_argnums=0)
  def _between_batches(
    self,
    adaptive: Adaptive,
    gate: GateState,
    history: History,
    rows: Trajectories,
    correct: Float[Array | np.ndarray, 'N'],
    metrics: Metrics,
  ) -> tuple[Adaptive, GateState, History]:
    hindsight = self._hindsight(rows, correct)
    ended = rows.stopped | rows.settled  # a controller steers how many rows its rule ends, whatever becomes of them
    adaptive = unless_nan(self.rule.adapt(adaptive, rows.regret, rows.mask, ended, hindsight), adaptive)
    if self.trains_critic:
      gate = update_gate(gate, metrics['critic/loss'], metrics['critic/explained_variance'], **self.gate)
    rest = history.decoded[1] + metrics['rollout/tokens'] + metrics['rollout/shadow_tokens']
    decoded = jnp.stack([history.decoded[0] + rest // _MILLION, rest % _MILLION]).astype(jnp.int32)
    history = with_entropies(history, metrics, rows).replace(updates=history.updates + 1, decoded=decoded)
    return adaptive.replace(enabled=gate.open), gate, history

  def _hindsight(self, rows: Trajectories, correct: Float[Array | np.ndarray, 'N']) -> Hindsight:
    return Hindsight(
      z=rows.z,
      full_length=rows.full_length,
      correct=jnp.asarray(correct),
      weight=rows.represented(self.shadow_share),
      seen=Observation(rows.regret, values_seen(rows.values, self.critic_every), jnp.zeros_like(rows.regret), rows.logprobs),
      begins=rows.trained_from,
    )
