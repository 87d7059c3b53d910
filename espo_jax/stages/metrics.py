"""The metrics of a step: its rollout, the stop rule, the depth of its tokens, and the seconds of each phase."""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from espo_jax import parallel
from espo_jax.exits import ExitPolicy
from espo_jax.experiment import Experiment
from espo_jax.learner import TrainState
from espo_jax.model import ModelConfig, prefill_columns, token_flops
from espo_jax.objectives import masked_mean
from espo_jax.parallel.memory import during
from espo_jax.rollout import Serial, row_steps
from espo_jax.types import Metrics, Reused, Trajectories, Verdicts


@functools.partial(jax.jit, static_argnames=('samples', 'parts', 'slots', 'shadow_share', 'shards', 'serial'))
def rollout_metrics(
  rows: Trajectories,
  verdicts: Array,
  *,
  samples: int,
  parts: int,
  slots: int,
  shadow_share: float,
  shards: int = 1,
  serial: Serial | None = None,
) -> Metrics:
  """Returns counts of the rollout, and a checksum of its tokens by which two runs can be compared.

  Only sampled tokens are counted, not those that a row keeps of its draft. Accuracy, length and truncation are means over full
  responses. The early exits of a serial rollout are left out of them and have metrics of their own.

  `accuracy` counts a stopped row as wrong; a pruned row counts neither in it nor in the mean length. `accuracy_unstopped`
  estimates without bias the share of rows that are right if none is stopped, so it is comparable between stop rules. In it
  each shadow row represents `1 / shadow_share` stopped rows. Without shadow rows it is nan as soon as a row is stopped.

  Args:
    rows: The rows of all parts.
    verdicts: 1 where a row is correct.
    samples: The number of rows per prompt.
    parts: The number of rollouts that the rows come from, which ran one after another.
    slots: The number of rows decoded at a time; 0 for all rows of a part.
    shadow_share: The share of stopped rows that decode on.
    shards: The number of devices that prompts are split over.
    serial: The options of the early exits; None for a rollout without them.
  """
  right = jnp.where(rows.stopped, 0.0, verdicts)
  unstopped = verdicts * rows.represented(shadow_share) if shadow_share else jnp.where(rows.stopped, jnp.nan, verdicts)
  kept = 0 if rows.reused is None else rows.reused.kept
  generated = jnp.maximum(rows.sizes - rows.trained_from - kept, 0)  # a row may have stopped within its draft
  if serial is None:
    steps = _slot_steps(rows.started + rows.full_length - kept, parts, slots)
  else:
    steps = row_steps(rows, parts=parts, samples=samples, slots=slots, inducer=len(serial.inducer))
  early = rows.trained_from > 0
  whole = rows.begun & ~early & ~rows.pruned
  prompts = rows.prompt_lengths[::samples]
  columns = jax.vmap(lambda x: prefill_columns(x, rows.prompt_tokens.shape[1]))(prompts.reshape(parts, shards, -1)).sum()

  def mean(x: Array, of: Array) -> Array:
    return masked_mean(x.astype(jnp.float32), of)

  of_exits = {
    'serial/accuracy': mean(right, early),
    'serial/kept_mean': mean(rows.trained_from, early),  # tokens before an answer, including the inducer
    'serial/answer_mean': mean(generated, early),
  }
  positions = jnp.arange(rows.tokens.size, dtype=jnp.uint32).reshape(rows.tokens.shape)
  return (of_exits if serial else {}) | {
    'accuracy': mean(right, whole),
    'accuracy_unstopped': mean(unstopped, rows.begun & ~early),
    'rollout/rows': rows.begun.sum(),
    'rollout/tokens': generated.sum(),
    'rollout/shadow_tokens': (_written(rows) - jnp.maximum(rows.sizes, kept)).sum(),
    'rollout/row_steps': steps,  # executed slot steps; those that gave a token were useful
    'rollout/utilisation': generated.sum() / jnp.maximum(steps, 1),  # all drafts may be kept whole
    'rollout/prefill_pad': 1.0 - prompts.sum() / columns,
    'rollout/length_mean': mean(rows.sizes, whole),
    'rollout/truncated_rate': mean(rows.truncated, whole),
    # The Weyl factors make the order matter. The value is below 2^24, so a float32 holds it exactly.
    'rollout/checksum': ((rows.tokens.astype(jnp.uint32) + 1) * (positions * jnp.uint32(2654435761) | 1)).sum() >> 8,
  }


def _written(rows: Trajectories) -> Array:
  """Returns the number of tokens of each row that the policy wrote, those of a shadow row after its stop included."""
  return rows.full_length if rows.turn is None else (rows.turn >= 0).sum(axis=1)


@jax.jit
def turn_metrics(rows: Trajectories) -> Metrics:
  """Returns how many turns the episodes have, and how much of them their environments wrote."""
  assert rows.turn is not None
  return {
    'turns/mean': (rows.turn.max(axis=1) + 1).mean(),
    'turns/observed': 1.0 - _written(rows).sum() / jnp.maximum(rows.full_length.sum(), 1),
  }


@jax.jit
def reuse_metrics(reused: Reused) -> Metrics:
  """Returns how much of their drafts the rows keep, and how much of them the policy read."""
  kept = reused.kept.sum()
  return {
    'reuse/tokens': kept,
    'reuse/share': kept / jnp.maximum(reused.drafted.sum(), 1),
    'reuse/scored': reused.scored.sum(),
  }


def _slot_steps(ends: Array, parts: int, slots: int) -> Array:
  """Returns the executed slot steps of `parts` rollouts, from the decode step at which each row ended."""
  taken = ends.reshape(parts, -1)
  return taken.max(axis=1).sum() * min(slots or taken.shape[1], taken.shape[1])


@jax.jit
def stop_metrics(state: TrainState, rows: Trajectories, verdicts: Array) -> Metrics:
  """Returns the metrics of the stop rule, and the share of its shadow rows that became correct after the stop."""
  success = state.params.get('critic', {}).get('success')
  return ({} if success is None else {'stop/success': success}) | {
    'stop/enabled': state.adaptive.enabled,
    'stop/rate': rows.stopped.sum() / rows.begun.sum(),
    'stop/beta': state.adaptive.beta,
    'stop/mu': state.adaptive.mu,
    'stop/sigma': jnp.sqrt(state.adaptive.var),
    'stop/shadow_rows': rows.shadow.sum(),
    'stop/shadow_correct': jnp.where(rows.shadow, verdicts, 0.0).sum(),
  }


@functools.partial(jax.jit, static_argnames=('config', 'policy'))
def depth_metrics(rows: Trajectories, *, config: ModelConfig, policy: ExitPolicy | None) -> Metrics:
  """Returns the operations of the tokens that count, by `token_flops`; with exits, also the depth of these tokens."""
  count, layers = rows.mask.sum(), config.num_layers
  blocks = count * layers
  exits = {}
  if rows.depth is not None:
    blocks = jnp.where(rows.mask, rows.depth.blocks, 0).sum()
    early = jnp.where(rows.mask, rows.depth.blocks < layers, False).sum()
    exits = {'exits/depth': blocks / (layers * count), 'exits/rate': early / count}
  run, skipped, rest = (x * 1e-9 for x in token_flops(config, policy))
  return exits | {'rollout/gflops': blocks * run + (count * layers - blocks) * skipped + count * rest}


def sample_metrics(exp: Experiment, state: TrainState, rows: Trajectories, verdicts: Verdicts) -> Metrics:
  """Returns the metrics of a rollout: those of the policy, of the stop rule and of the grader.

  Args:
    exp: The experiment.
    state: The state that the rollout was sampled from.
    rows: The rollout's rows.
    verdicts: The verdicts on `rows`.
  """
  r = exp.config.rollout
  counted = {'samples': r.samples, 'parts': r.parts, 'slots': r.slots, 'serial': exp.serial}
  counted['shadow_share'] = float(exp.config.stop.shadow_share)
  shards = parallel.batch_shards(exp.mesh)
  settled = {'stop/settled': _settled(rows)} if exp.config.stop.returns == 'graded' else {}
  return (
    settled
    | rollout_metrics(rows, verdicts.correct, shards=shards, **counted)
    | stop_metrics(state, rows, verdicts.correct)
    | ({} if rows.reused is None else reuse_metrics(rows.reused))
    | ({} if rows.turn is None else turn_metrics(rows))
    | depth_metrics(rows, config=exp.model.config, policy=exp.model.exits)
    | {'grading/timeouts': _count(verdicts.timeout), 'grading/errors': _count(verdicts.error)}
  )


def mean_metrics(parts: Sequence[Metrics]) -> dict[str, float]:
  """Returns the mean of each metric over the optimizer steps of an update."""
  fetched = jax.device_get(list(parts))
  return {name: float(np.mean([part[name] for part in fetched])) for name in fetched[0]}


def state_metrics(state: TrainState, metrics: Mapping[str, Any], clock: 'Clock') -> dict[str, Any]:
  """Returns the seconds of an update's phases, its tokens per second, and the counters in the state.

  Args:
    state: The state after the update.
    metrics: The update's metrics so far, which include the token counts.
    clock: The clock of the update.
  """
  generated = sum(int(jax.device_get(metrics[f'rollout/{name}tokens'])) for name in ('', 'shadow_'))
  seconds = {f'seconds/{phase}': taken for phase, taken in clock.seconds.items()}
  millions, rest = jax.device_get(state.history.decoded)
  counts = {'bad_steps': state.bad_steps, 'skipped_steps': state.skipped, 'gate_open': state.gate.open}
  counts['rollout/decoded'] = np.float64(millions) * 1e6 + rest  # of this update and all before it
  return seconds | counts | {'tokens_per_second': generated / clock.seconds['rollout']}


class Clock:
  """Seconds by phase: `with clock('rollout'): ...` adds the elapsed time to the phase 'rollout'.

  An out-of-memory error inside a phase is reported with the name of the phase.
  """

  def __init__(self) -> None:
    """Starts with no phases."""
    self.seconds: dict[str, float] = {}

  @contextmanager
  def __call__(self, phase: str) -> Iterator[None]:
    """Adds the time of the body to a phase."""
    start = time.perf_counter()
    with during(phase):
      yield
    self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@jax.jit
def _settled(rows: Trajectories) -> Array:
  return rows.settled.sum()


@jax.jit
def _count(flags: Array) -> Array:
  return flags.sum()
