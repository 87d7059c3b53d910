"""Makes the rollout of a step: chooses problems, collects and grades responses, and samples groups dynamically."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax import monitor, parallel, tasks
from espo_jax.configs import max_draws
from espo_jax.experiment import Experiment, OnEither
from espo_jax.model import Params
from espo_jax.stages.episodes import Timer, play, verdicts_on
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Drafts, Features, Metrics, Reward, Trajectories, Verdicts, by_a_rule, values_seen


def problems_of(exp: Experiment, number: int, attempt: int) -> list[list[tasks.Problem]]:
  """Returns this process's share of the problems of a rollout, part by part.

  No two rollouts of a run use the same positions of the data.

  Args:
    exp: The experiment.
    number: The number of the update; the first is 1.
    attempt: The number of the rollout within the update; the first is 0.
  """
  c = exp.config
  position = first_position(c) + ((number - 1) * max_draws(c) + attempt) * c.rollout.prompts
  size = c.rollout.prompts // c.rollout.parts
  return [exp.my_problems('train', position + i * size, size) for i in range(c.rollout.parts)]


def first_position(config: ml_collections.ConfigDict) -> int:
  """Returns the position of the first problem of reinforcement learning, which is behind those of the warm start."""
  return config.warm_start.steps * config.warm_start.batch


def sampling_params(exp: Experiment, params: Params, timed: Timer) -> Params:
  """Returns the parameters for the rollout; with `rollout.gather_weights`, a copy that is not split along `fsdp`."""
  if not exp.config.rollout.gather_weights:
    return params
  with timed('reshard'):
    return jax.block_until_ready(exp.gather(params))


def collect(
  exp: Experiment,
  params: Params,
  rule: StopRule,
  adaptive: Adaptive,
  timed: Timer,
  problems: Sequence[Sequence[tasks.Problem]],
  key: Key[Array, ''],
  begun: Sequence[Int[np.ndarray, 'P']] | None = None,
  drafts: Sequence[Drafts] | None = None,
) -> tuple[Trajectories, Verdicts]:
  """Samples `rollout.samples` responses to each problem and grades them. The rows are in the order of the problems.

  All parts are dispatched at once, so the device decodes later parts while the host grades earlier ones. The number of parts
  changes no sample. Each process grades the rows that it holds; the result has the rows of all processes.

  Args:
    exp: The experiment.
    params: The parameters of policy and critic.
    rule: The stop rule.
    adaptive: The state that the rule carries from batch to batch.
    timed: A clock: `timed(phase)` is a context that adds to the seconds of 'rollout' (waiting for the device) or 'reward';
      with an environment, of 'environment' in place of 'reward'.
    problems: This process's share of the problems, part by part.
    key: This rollout's random key.
    begun: How many responses to each of these problems are begun, part by part; None for all.
    drafts: The last responses to each of these problems, part by part; None without reuse.
  """
  if exp.sampler.turns is not None:
    played = play(exp, exp.sampler, params, rule, adaptive, problems, key, timed, exp.config.environment.expert_budget)
    return _whole(
      exp, [(its.rows, exp.put_rows(verdicts_on(exp, part, its))) for part, its in zip(problems, played, strict=True)]
    )
  nothing = [None] * len(problems)
  with timed('rollout'):
    asked = [exp.prompts(*its) for its in zip(problems, begun or nothing, drafts or nothing, strict=True)]
    pending = [exp.sampler(params, rule, adaptive, prompts, key) for prompts in asked]
  verdicts = []
  for part, rows in zip(problems, pending, strict=True):
    with timed('rollout'):
      jax.block_until_ready(rows)
    with timed('reward'):
      verdicts.append(exp.put_rows(exp.grade(part, rows)))
  return _whole(exp, list(zip(pending, verdicts, strict=True)))


def _whole(exp: Experiment, parts: list[tuple[Trajectories, Verdicts]]) -> tuple[Trajectories, Verdicts]:
  """Returns the rows of all parts with their verdicts."""
  return parts[0] if len(parts) == 1 else _joined(parallel.over_batch(exp.mesh))(parts)


@functools.lru_cache
def _joined(sharding: jax.sharding.NamedSharding) -> Callable[[list[tuple]], tuple[Trajectories, Verdicts]]:
  return jax.jit(lambda parts: jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts), out_shardings=sharding)


class Draw(NamedTuple):
  """A rollout with its rewards and metrics.

  Attributes:
    rows: The rows to train on.
    reward: The rewards of these rows.
    differ: Whether the scores within a group differ.
    sample: The rows of an unselected sample of the policy; these are `rows` unless an allocator chose among them.
    correct: 1 where the whole text of a row of `sample` is correct.
    metrics: The metrics of `sample`, and of all rows the counts in `TOTALS`.
  """

  rows: Trajectories
  reward: Reward
  differ: Bool[Array, 'P']
  sample: Trajectories
  correct: Float[Array | np.ndarray, 'N']
  metrics: Metrics


TOTALS = (
  *('rollout/rows', 'rollout/tokens', 'rollout/shadow_tokens', 'rollout/row_steps', 'grading/timeouts', 'grading/errors'),
  *('reuse/tokens', 'reuse/scored'),  # of a training that reuses responses
)


def informative_batch(
  draw: Callable[[int], Draw], most: int, samples: int, mesh: jax.sharding.Mesh
) -> tuple[Trajectories, Reward, Draw, Metrics]:
  """Draws rollouts until the scores of every group differ: dynamic sampling (DAPO, arXiv 2503.14476).

  A group whose scores are all equal has zero advantages and gives no gradient, so a group of a later draw replaces it. There
  are at most `most` draws. Groups that could not be replaced stay in the batch.

  Args:
    draw: A function from the number of an attempt to its rollout; each attempt has other problems.
    most: The most rollouts per step.
    samples: The number of rows per group.
    mesh: The mesh that the rows are on. Every host fetches which groups have scores that differ.

  Returns:
    The rows to train on; the rewards of these rows; the first draw, which has an unselected sample of the policy; and metrics.
    The metrics in `TOTALS` are sums over all draws, dropped groups included. `rollout/draws` and `rollout/informative_groups`
    describe the sampling, and all others the first draw.
  """
  first = draw(0)
  metrics = first.metrics
  if most == 1:
    return first.rows, first.reward, first, metrics
  sharding = parallel.over_batch(mesh)
  batch = parallel.lay((first.rows, first.reward), sharding)
  said, draws = np.array(parallel.fetch(first.differ, mesh)), 1
  while draws < most and not said.all():
    more = draw(draws)
    draws += 1
    good, missing = np.flatnonzero(parallel.fetch(more.differ, mesh)), np.flatnonzero(~said)
    count = min(len(good), len(missing))
    group = np.arange(len(said))
    group[missing[:count]] = len(said) + good[:count]
    said[missing[:count]] = True
    rows = (group[:, None] * samples + np.arange(samples)).reshape(-1).astype(np.int32)
    where = parallel.put(rows, parallel.replicated(mesh))
    batch = _chosen(sharding)(batch, (more.rows, more.reward), where)
    metrics = with_totals(metrics, more.metrics)
  extra = {'rollout/draws': np.float32(draws), 'rollout/informative_groups': np.float32(said.mean())}
  return *batch, first, metrics | extra


def with_totals(metrics: Metrics, more: Metrics) -> Metrics:
  """Returns metrics in which the counts in `TOTALS` are sums with those of a further rollout."""
  return metrics | {name: metrics[name] + more[name] for name in TOTALS if name in metrics}


def whole_groups(
  pilots: tuple[Trajectories, Verdicts],
  rest: tuple[Trajectories, Verdicts],
  passed: Bool[np.ndarray, 'P'],
  first: int,
  mesh: jax.sharding.Mesh,
) -> tuple[Trajectories, Verdicts]:
  """Returns the rows of two rollouts of the same problems as one: `first` pilots of each problem, then the rest of its group.

  Args:
    pilots: The rows of the first rollout and their verdicts. In each group, the first `first` rows were begun.
    rest: The rows of the second rollout and their verdicts. Problems that did not pass have no rows in it.
    passed: Whether a problem has rows in the second rollout. The others have no rows in the result.
    first: The number of pilots.
    mesh: The mesh that the rows are on.
  """
  rows = pilots[0].length.shape[0]
  row = np.arange(rows).reshape(len(passed), -1)
  sample = np.arange(row.shape[1])
  second = rows + row[:, :1] + (sample - first) % row.shape[1]
  where = np.where(passed[:, None] & (sample < first), row, second).reshape(-1).astype(np.int32)
  sharding = parallel.over_batch(mesh)
  laid = (parallel.lay(its, sharding) for its in (pilots, rest))
  return _chosen(sharding)(*laid, parallel.put(where, parallel.replicated(mesh)))


@functools.lru_cache
def _chosen(sharding: jax.sharding.NamedSharding) -> Callable:
  """Returns the function `(old, new, rows) -> tree` that picks `rows` from `old` followed by `new`, with this sharding."""

  def choose(old: tuple, new: tuple, rows: Int[Array, 'N']) -> tuple:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b])[rows], old, new)

  return jax.jit(choose, out_shardings=sharding)


def write_rollout(
  exp: Experiment,
  rows: Trajectories,
  correct: Float[Array | np.ndarray, 'N'],
  rule: StopRule,
  adaptive: Adaptive,
  path: pathlib.Path,
) -> None:
  """Writes a rollout as a NumPy archive. A repeated step writes the same bytes.

  Args:
    exp: The experiment.
    rows: The rollout's rows.
    correct: 1 where a row's whole text is correct.
    rule: The stop rule that the rollout was sampled with.
    adaptive: The state of that rule.
    path: The path of the archive.
  """
  threshold = stop_thresholds(exp, rule, adaptive, rows)
  rows, correct, adaptive, threshold = exp.fetch((rows, correct, adaptive, threshold))
  if not parallel.is_first():
    return
  recorded = recorded_rows(exp, rows, correct)
  width = recorded['regret'].shape[1]
  of_rule = {'z': rows.z[:, :width], 'threshold': threshold[:, :width]}
  prompts = {'prompt': rows.prompt_tokens, 'prompt_length': rows.prompt_lengths}
  constants = {
    'shadow_share': np.float32(exp.config.stop.shadow_share),
    'mu': adaptive.mu,
    'var': adaptive.var,
    'samples': np.int32(exp.config.rollout.samples),
    'reset_rule': np.bool_(exp.config.environment.reset_rule),
  }
  monitor.atomic_write_arrays(path, recorded | of_rule | prompts | constants)


def stop_thresholds(exp: Experiment, rule: StopRule, adaptive: Adaptive, rows: Trajectories) -> Float[Array, 'N T']:
  """Returns what a stop rule compared the score of each token with, by the values that it saw.

  Args:
    exp: The experiment.
    rule: The stop rule that the rows were sampled with.
    adaptive: The state of that rule.
    rows: The rows.
  """
  return _thresholds(rule, exp.critic_every)(adaptive, rows.values)


@functools.lru_cache
def _thresholds(rule: StopRule, critic_every: int) -> Callable[[Adaptive, Array], Array]:
  return jax.jit(lambda adaptive, values: rule.threshold(adaptive, values_seen(values, critic_every)))


def recorded_rows(exp: Experiment, rows: Trajectories, correct: Float[Array | np.ndarray, 'N']) -> dict[str, Any]:
  """Returns the arrays of a recording with one entry per row. Token arrays have the columns of the longest row.

  Args:
    exp: The experiment.
    rows: The rows, on the host.
    correct: 1 where a row's whole text is correct.
  """
  columns = np.arange(int(rows.full_length.max()))
  last = rows.tokens[np.arange(len(rows.tokens)), rows.full_length - 1]
  return {
    'tokens': rows.tokens[:, columns],
    'logprobs': rows.logprobs[:, columns],
    'regret': rows.regret[:, columns],
    'values': values_seen(rows.values, exp.critic_every)[:, columns],
    'length': rows.length,
    'full_length': rows.full_length,
    'ended': np.isin(last, exp.end_tokens),
    'correct': correct,
    'stopped': by_a_rule(rows.stop_reason),
    'stop_reason': rows.stop_reason,
    'shadow': rows.shadow,
    **({} if rows.features is None else _recorded_features(rows.features, columns)),
    **({} if rows.turn is None else _recorded_turns(exp, rows.tokens[:, columns], rows.turn[:, columns])),
  }


def _recorded_turns(exp: Experiment, tokens: Int[OnEither, 'N C'], turn: Int[OnEither, 'N C']) -> dict[str, Any]:
  """Returns the turn of each token of an episode, -1 on observations, and where an end token ended a turn."""
  return {'turn': turn.astype(np.int16), 'ends': np.asarray(turn >= 0) & np.isin(tokens, exp.end_tokens)}


def _recorded_features(features: Features, columns: Int[np.ndarray, 'C']) -> dict[str, Any]:
  """Returns the features of the columns. Projections are half precision, because they are most of a recording."""
  assert features.margin is not None and features.confidence is not None and features.projections is not None  # no probes
  return {
    'entropy': features.entropy[:, columns],
    'margin': features.margin[:, columns],
    'confidence': features.confidence[:, columns],
    'projections': features.projections[:, columns].astype(np.float16),
  }
