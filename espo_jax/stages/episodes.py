"""Plays the episodes of a rollout: turns of the policy on the device, answers of the environments on the host.

The rows of a part of a rollout decode a turn at once. Then each process asks the environments of its own rows, and the part's
next turn begins when all have answered. Meanwhile the device decodes the other parts. A row that waits keeps its slot. An
environment that fails ends its own row, which counts as failed.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Key

from espo_jax import tasks
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Observations, Paused, Sampler
from espo_jax.stages.table import Table, hosted, lay, take
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Prompts, Trajectories, Verdicts

Timer = Callable[[str], contextlib.AbstractContextManager[None]]


def _untimed(phase: str) -> contextlib.AbstractContextManager[None]:
  """Takes no time of a phase."""
  return contextlib.nullcontext()


class Played(NamedTuple):
  """The rows of all processes, and what the episodes of this process's rows came to."""

  rows: Trajectories
  graded: list[tasks.Verdict]  # on each episode
  texts: list[str]  # what the policy has said in each
  paid: Float[np.ndarray, 'N T']  # the reward of each turn on its last token


def check_writer(exp: Experiment) -> None:
  """Raises DataError if an experiment has an environment whose observations cannot be written; see `turn_writer`."""
  if exp.sampler.turns is not None:
    hosted(exp)


def posed_width(exp: Experiment, problems: Sequence[tasks.Problem]) -> int:
  """Returns the number of tokens of the longest prompt, as the environment poses the problems if there is one."""
  asked = problems
  if exp.sampler.turns is not None:
    table = Table(exp, problems, 1)
    asked = table.pose(table.open())
  texts = [problem.prompt for problem in exp.tagged(asked)]
  return max(map(len, exp.tokenizer(texts, add_special_tokens=False)['input_ids']))


def play(
  exp: Experiment,
  sampler: Sampler,
  params: Params,
  rule: StopRule,
  adaptive: Adaptive,
  parts: Sequence[Sequence[tasks.Problem]],
  key: Key[Array, ''],
  timed: Timer = _untimed,
  expert_budget: float = 0.0,
) -> list[Played]:
  """Plays an episode for each row of each part. The number of parts changes no row.

  Args:
    exp: The experiment, which has an environment.
    sampler: The sampler of turns.
    params: The parameters of policy and critic.
    rule: The stop rule.
    adaptive: The state that the rule carries from batch to batch.
    parts: This process's share of the problems, part by part.
    key: This rollout's random key.
    timed: A clock: `timed(phase)` is a context that adds to the seconds of 'rollout' (waiting for the device) or 'environment'
      (waiting for environments). By default none runs.
    expert_budget: The most turns of an episode, as a multiple of its expert's; 0 for no such bound. Training alone has one,
      because it would hide from a test what the policy does after it.
  """
  with timed('environment'):
    tables = [Table(exp, problems, sampler.samples, expert_budget) for problems in parts]
    opened = [table.open() for table in tables]
  playing = []
  for table, begun in zip(tables, opened, strict=True):
    with timed('environment'):
      prompts = exp.prompts(table.pose(begun))
    with timed('rollout'):
      playing.append(_Part(exp, table, prompts, sampler.begin(params, rule, adaptive, prompts, key)))
  everyone = tuple(playing)
  number = 1  # of the turn that comes next; the first was 0
  while playing:
    for part in playing:
      part.read(timed)
    asked, playing = playing, []
    for part in asked:
      with timed('environment'):
        observed = part.observe()
      if exp.fetch(observed.goes_on).any():  # of all processes
        with timed('rollout'):
          part.decode(sampler.go_on(params, rule, part.paused, part.prompts, observed, number))
        playing.append(part)
    number += 1
  return [part.finish(sampler) for part in everyone]


class _Part:
  """A part of a rollout."""

  def __init__(self, exp: Experiment, table: Table, prompts: Prompts, paused: Paused):
    self._exp, self._table, self.prompts = exp, table, prompts
    self.decode(paused)

  def decode(self, paused: Paused) -> None:
    """Keeps the rows of a turn that the device is to decode."""
    self.paused, self._laid = paused, lay(self._exp, paused)

  def read(self, timed: Timer) -> None:
    """Waits for the turn, and asks the environments."""
    with timed('rollout'):
      self._found = take(self._exp, self._laid)
    with timed('environment'):
      self._asked = self._table.act(self._found)

  def observe(self) -> Observations:
    """Waits for the environments."""
    return Observations(*self._exp.put_rows(self._table.observe(self._found, self._asked)))

  def finish(self, sampler: Sampler) -> Played:
    """Returns the rows once all episodes have ended."""
    table = self._table
    rows = sampler.finished(self.paused, self.prompts, self._exp.put_rows(table.done))
    return Played(rows, table.graded(), table.texts, table.paid(self._found.turn))


def verdicts_on(exp: Experiment, problems: Sequence[tasks.Problem], played: Played) -> Verdicts:
  """Returns what training finds out about this process's rows, with the scores of rewards that read text."""
  return exp.verdicts(problems, played.rows, played.texts, played.graded).replace(paid=played.paid)
