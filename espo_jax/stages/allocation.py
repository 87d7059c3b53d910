"""Chooses the problems of an update's rollouts and how many rows each has, and remembers what the rollouts showed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax import parallel, tasks
from espo_jax.configs import method_options
from espo_jax.experiment import Experiment
from espo_jax.learner import Batch, TrainState
from espo_jax.stages.drafts import drafts_of, next_drafts, no_drafts, put_rows
from espo_jax.stages.metrics import Clock
from espo_jax.stages.rollouts import first_position, problems_of
from espo_jax.tasks.allocators import Allocator, Seen, Stream, make_allocator
from espo_jax.types import Drafts, Trajectories

_POSITION = 'position'  # where the stream of problems goes on; kept beside what the allocator remembers


class Asked(NamedTuple):
  """What a rollout asks.

  Attributes:
    problems: This process's share of the problems, part by part.
    rows: The number of rows of each of these problems, part by part; None where each has `rollout.samples`.
    weights: The factor of the advantages of each row of this process; None for 1.
    chosen: All processes' problems, as indices into the pool; None without a pool.
    factors: The factor of the advantages of each of them.
    drafts: The last responses to this process's problems, part by part; None without reuse.
  """

  problems: list[list[tasks.Problem]]
  rows: list[Int[np.ndarray, 'P']] | None = None
  weights: Float[np.ndarray, 'N'] | None = None
  chosen: Int[np.ndarray, 'P'] | None = None
  factors: Float[np.ndarray, 'P'] | float = 1.0
  drafts: list[Drafts] | None = None


class Rest(NamedTuple):
  """The second rollout of the problems that passed the first one.

  Attributes:
    passed: Whether each of all processes' problems passed.
    first: The rows that each problem had in the first rollout.
    rows: The further rows of each of this process's problems, part by part.
  """

  passed: Bool[np.ndarray, 'P']
  first: int
  rows: list[Int[np.ndarray, 'P']]


def allocator_of(config: ml_collections.ConfigDict) -> Allocator:
  """Returns the allocator that a config describes."""
  return make_allocator(config.allocation.name, **method_options(config, 'allocation'))


def first_memory(config: ml_collections.ConfigDict) -> dict[str, Array] | None:
  """Returns what is remembered of the pool before the first rollout; None without a pool."""
  if not config.allocation.pool:
    return None
  memory = allocator_of(config).init(config.allocation.pool)
  return {name: jnp.asarray(x) for name, x in memory.items()} | {_POSITION: jnp.zeros((), jnp.int32)}


def first_drafts(exp: Experiment) -> Drafts | None:
  """Returns the drafts of a pool before the first rollout; None without reuse."""
  c, reuse = exp.config, exp.sampler.reuse
  if reuse is None:
    return None
  return no_drafts(reuse, c.allocation.pool, c.rollout.samples, c.rollout.horizon, exp.model.config.vocab_size)


class Plan:
  """The problems of one update: `ask` before each rollout, `saw` after it, `remember` at the end."""

  def __init__(self, exp: Experiment, state: TrainState, number: int, clock: Clock):
    """Reads what is remembered.

    Args:
      exp: The experiment.
      state: The state before the update.
      number: The number of the update; the first is 1.
      clock: The clock of the update. With drafts it has the phase 'drafts': they are read, fetched and copied on the host.
    """
    self._exp, self._number, self._clock, c = exp, number, clock, exp.config
    self._memory: dict[str, np.ndarray] | None = None
    self._drafts, self._owned = state.drafts, False
    if state.allocation is not None:
      self._memory = {name: np.array(x) for name, x in exp.fetch(state.allocation).items()}
      self._allocator, self._stream = allocator_of(c), Stream(c.allocation.pool, c.seed)
      self._position = int(self._memory.pop(_POSITION))
      self._seen: list[tuple[Asked, Trajectories, Any]] = []

  def ask(self, attempt: int) -> Asked:
    """Returns the problems of the next rollout. Without a pool no two rollouts of a run have the same.

    Args:
      attempt: The number of the rollout within the update; the first is 0.
    """
    exp, r = self._exp, self._exp.config.rollout
    if self._memory is None:
      return Asked(problems_of(exp, self._number, attempt))
    chosen, self._position = self._allocator.choose(self._memory, self._stream, self._position, r.prompts)
    begin = first_position(exp.config)
    problems = [[exp.task.problem('train', begin + int(i)) for i in part] for part in self._mine(chosen)]
    if self._allocator.share_out is None:
      return Asked(problems, chosen=chosen, drafts=self._drafts_of(chosen))
    rows, factors = self._allocator.share_out(self._memory, chosen, r.samples)
    weights = np.repeat(np.concatenate(self._mine(factors.astype(np.float32))), r.samples)
    return Asked(problems, self._mine(rows.astype(np.int32)), weights, chosen, factors)

  def commit(self, asked: Asked, rows: Trajectories, correct: Float[Array | np.ndarray, 'N']) -> Rest | None:
    """Returns which problems get the rest of their rows in a second rollout; None if the first one is all.

    Args:
      asked: What the first rollout was asked.
      rows: The rows of that rollout.
      correct: 1 where a row's whole text is correct.
    """
    if self._memory is None or self._allocator.commit is None:
      return None
    assert asked.rows is not None  # who commits has shared out the pilots
    samples, pilots = self._exp.config.rollout.samples, int(asked.rows[0][0])
    right, _ = self._exp.fetch(_known(rows, correct))
    passed = self._allocator.commit(right.reshape(-1, samples))
    return Rest(passed, pilots, self._mine(np.where(passed, samples - pilots, 0).astype(np.int32)))

  def _drafts_of(self, chosen: Int[np.ndarray, 'P']) -> list[Drafts] | None:
    """Returns the drafts of this process's share of the problems, part by part."""
    if self._drafts is None:
      return None
    with self._clock('drafts'):
      return [drafts_of(self._drafts, part) for part in self._mine(chosen)]

  def _mine(self, of_problems: np.ndarray) -> list[np.ndarray]:
    """Returns this process's share, part by part, of what all processes know of each problem."""
    parts = of_problems.reshape(self._exp.config.rollout.parts, -1)
    mine = parallel.my_rows(self._exp.mesh, parts.shape[1])
    return [part[mine] for part in parts]

  def saw(self, asked: Asked, rows: Trajectories, correct: Float[Array | np.ndarray, 'N']) -> None:
    """Keeps what a rollout showed.

    Args:
      asked: What it was asked.
      rows: The rollout's rows.
      correct: 1 where a row's whole text is correct.
    """
    if self._memory is None:
      return
    if self._drafts is not None:
      with self._clock('drafts'):
        self._keep_drafts(asked, rows)
    self._seen.append((asked, rows.ordinary(), correct))

  def _keep_drafts(self, asked: Asked, rows: Trajectories) -> None:
    """Keeps the rows as drafts of the next ones."""
    assert self._drafts is not None and asked.chosen is not None  # there is a pool
    r = self._exp.config.rollout
    found = next_drafts(rows, self._exp.fetch, form=r.reuse.form, samples=r.samples)
    # The first copy spares the drafts of the state before the update, from which a checkpoint may still be written.
    drafts = self._drafts if self._owned else jax.tree.map(np.copy, self._drafts)
    put_rows(drafts, asked.chosen, found)
    self._drafts, self._owned = drafts, True

  def remember(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, float]]:
    """Returns the state with what the update's rollouts showed, and metrics.

    Args:
      state: The state after the update.
      batch: The batch that was trained on.
    """
    if self._memory is None:
      return state, {}
    exp, memory, samples = self._exp, self._memory, self._exp.config.rollout.samples
    for asked, rows, correct in self._seen:
      right, lengths, signal = (x.reshape(-1, samples) for x in exp.fetch((*_known(rows, correct), _signal(batch))))
      if len(self._seen) > 1:  # the rows that were trained on are of several rollouts
        signal = np.full_like(signal, np.nan)
      assert asked.chosen is not None  # there is a pool
      signal = signal / np.reshape(asked.factors, (-1, 1))
      memory = self._allocator.observe(memory, Seen(asked.chosen, right, lengths, signal, self._memory))
    kept = exp.put({**memory, _POSITION: np.asarray(self._position, np.int32)})
    return state.replace(allocation=kept, drafts=self._drafts), {'allocation/epochs': self._position / self._stream.pool}


@jax.jit
def _known(rows: Trajectories, correct: Float[Array, 'N']) -> tuple[Float[Array, 'N'], Float[Array, 'N']]:
  """Returns correctness and length of each row; nan where there is nothing to know."""
  whole = rows.begun & ~rows.pruned
  right = jnp.where(rows.stopped, 0.0, correct)
  return _where_known(right, whole), _where_known(rows.length, whole)


@jax.jit
def _signal(batch: Batch) -> Float[Array, 'N']:
  """Returns the advantage of each row times the log-probability of its tokens; nan for rows that are not trained on."""
  mask = batch.trajectories.mask
  advantage = jnp.where(mask, batch.advantages, 0.0).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)
  return _where_known(advantage * jnp.where(mask, batch.old_logprobs, 0.0).sum(axis=1), mask.any(axis=1))


def _where_known(x: Array, known: Bool[Array, 'N']) -> Float[Array, 'N']:
  return jnp.where(known, x, jnp.nan).astype(jnp.float32)
