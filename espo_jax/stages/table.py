"""The episodes of a process's rows between the turns of the policy: what their environments are asked, and what they answer."""

import dataclasses
import functools
import logging
import math
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax import environments, parallel, tasks
from espo_jax.configs import method_options
from espo_jax.environments import Episode, Episodes, Pending, Reply, TurnWriter, breakable, reposed, turn_writer
from espo_jax.experiment import Experiment, kind_of_turns
from espo_jax.rollout import Paused
from espo_jax.types import StopReason, by_a_rule


@functools.lru_cache(maxsize=1)
def hosted(exp: Experiment) -> 'Hosted':
  """Returns the environments of an experiment. Their processes start when they are first needed."""
  c, kind = exp.config, kind_of_turns(exp.config, exp.tokenizer)
  of = environments.traits(c.environment.name, method_options(c, 'environment'))
  return Hosted(
    episodes=Episodes(
      c.environment.name,
      method_options(c, 'environment'),
      deadline=c.environment.deadline,
      workers=c.environment.workers,
    ),
    write=turn_writer(
      exp.tokenizer, kind, c.environment.role or of.role, exp.end_tokens, c.environment.observation_horizon, c.data.today
    ),
    graded=of.graded,
    expert=of.expert,
  )


@dataclasses.dataclass(frozen=True)
class Hosted:
  """The environments of an experiment.

  Attributes:
    episodes: The processes that hold their episodes.
    write: The function that writes an observation as tokens.
    graded: Whether they get the verdict of the task's verifier on each turn.
    expert: Whether they have an expert, who writes turns.
  """

  episodes: Episodes
  write: TurnWriter
  graded: bool
  expert: bool


def seed_of(exp: Experiment, problem: tasks.Problem) -> int:
  """Returns the seed of all episodes of a problem."""
  return zlib.crc32(f'{exp.config.seed} {problem.id}'.encode())


def budget_of(tolerance: float, expert_turns: int) -> int:
  """Returns the most turns of an episode in which an expert takes `expert_turns`: `tolerance` times as many, rounded up.

  The tolerance is the decimal that the config says, because in floats `2.2 * 25` is above 55.
  """
  return math.ceil(Fraction(str(tolerance)) * expert_turns)


class Turned(NamedTuple):
  """This process's rows after a turn, on the host."""

  reason: Int[np.ndarray, 'N']
  length: Int[np.ndarray, 'N']
  shadow: Bool[np.ndarray, 'N']  # the row goes on after a stop
  tokens: Int[np.ndarray, 'N T']
  turn: Int[np.ndarray, 'N T']  # as in `Trajectories`


def lay(exp: Experiment, paused: Paused) -> tuple[Array, ...]:
  """Returns the fields of `Turned` for the rows of all processes, split over the batch axes of the mesh. It does not wait."""
  record = paused.record
  rows = record.reason, record.full_length, paused.slots.shadow, record.tokens.tokens, paused.turn
  return parallel.lay(rows, parallel.over_batch(exp.mesh))


def take(exp: Experiment, laid: tuple[Array, ...]) -> Turned:
  """Waits for a turn, and returns this process's rows.

  Args:
    exp: The experiment.
    laid: What `lay` returned.
  """
  return Turned(*(parallel.take_rows(x, exp.mesh) for x in laid))


class Table:
  """The episodes of this process's rows, between the turns of the policy.

  Attributes:
    done: Whether the environment has ended each episode, or failed.
    texts: What the policy has written in each episode, turn by turn.
  """

  def __init__(self, exp: Experiment, problems: Sequence[tasks.Problem], samples: int, expert_budget: float = 0.0):
    """Prepares an episode for each of the `samples` rows of each problem. `expert_budget` is as `play` takes it."""
    self._exp, self._host, self._problems, self._samples = exp, hosted(exp), problems, samples
    self._questions = [exp.task.question(problem) for problem in problems]
    turns = exp.sampler.turns
    assert turns is not None
    self._room = turns.observation
    count = len(problems) * samples
    numbers = self._host.episodes.numbers(count)
    self._episodes = [
      Episode(number, problem._replace(prompt=question), seed_of(exp, problem))
      for problem, question, group in zip(problems, self._questions, np.split(np.array(numbers), len(problems)), strict=True)
      for number in group.tolist()
    ]
    self._status, self._grading = ['ok'] * count, ['ok'] * count  # of the environments, and the worst of the graders'
    self._rewards: list[list[float]] = [[] for _ in range(count)]
    self._playing, self.done = np.ones(count, bool), np.zeros(count, bool)
    self._tolerance, self._budget = expert_budget, np.full(count, turns.most)
    self._turns: list[list[str]] = [[] for _ in range(count)]

  def open(self) -> dict[int, Pending]:
    """Begins all episodes: asks the environments to pose their problems."""
    return self._ask(range(len(self._episodes)))

  def pose(self, opened: dict[int, Pending]) -> list[tasks.Problem]:
    """Returns the problems with the prompts by which the environments pose them.

    The rows of a problem share its prompt. If its environment fails, or if its text is no prompt, they get the task's own.

    Args:
      opened: What `open` has asked.
    """
    special = breakable(self._exp.tokenizer)
    replies = self._answered(opened)
    posed = []
    for p, (problem, question) in enumerate(zip(self._problems, self._questions, strict=True)):
      group = range(p * self._samples, (p + 1) * self._samples)
      text = next((replies[n].observation for n in group if replies[n].status == 'ok'), question)
      asked = problem._replace(prompt=reposed(problem.prompt, question, text, special))
      if text != question and (wrong := self._no_prompt(asked)):
        asked = problem
        for n in group:
          self._fail(n, 'error', wrong)
      posed.append(asked)
    return posed

  def act(self, found: Turned) -> dict[int, Pending]:
    """Asks the environments of the rows whose turn has ended for their steps."""
    self._read(found.tokens, found.turn)
    return self._acted(np.flatnonzero(self._playing & ~self.done & (~by_a_rule(found.reason) | found.shadow)))

  def observe(
    self, found: Turned, asked: dict[int, Pending]
  ) -> tuple[Int[np.ndarray, 'N O'], Int[np.ndarray, 'N'], Bool[np.ndarray, 'N']]:
    """Waits for the environments, and returns `Observations` of this process's rows.

    Args:
      found: The rows after their turn.
      asked: What `act` has asked about them.
    """
    reason, length, _, tokens, turn = found
    replies = self._answered(asked)
    self._playing = np.zeros_like(self._playing)  # the caller has the old one
    out, counts = np.full((len(turn), self._room), self._exp.tokenizer.pad_token_id, np.int32), np.ones(len(turn), np.int32)
    for n, reply in replies.items():
      if reply.status != 'ok' or reply.done or reason[n] == StopReason.SETTLED or self._is_spent(n):
        continue
      try:
        written = self._host.write(reply.observation, tokens[n, length[n] - 1] in self._exp.end_tokens).tokens
      except ValueError as error:  # a text that the tokenizer cannot write
        self._fail(n, 'error', str(error))
        continue
      if not written:
        self._fail(n, 'error', 'the observation is empty, so that nothing tells the policy to go on; fix: a text')
      elif length[n] + len(written) < turn.shape[1]:
        out[n, : len(written)], counts[n], self._playing[n] = written, len(written), True
    return out, counts, self._playing

  @property
  def texts(self) -> list[str]:
    """What the policy has written in each episode, turn by turn."""
    return ['\n'.join(turns) for turns in self._turns]

  def graded(self) -> list[tasks.Verdict]:
    """Returns the verdict on each episode: the sum of its rewards, in [0, 1]; 0 if its environment failed.

    A turn that the task's verifier could not grade counts as wrong, and the worst status of the turns is that of the episode.
    """
    return [
      tasks.Verdict(min(max(math.fsum(rewards), 0.0), 1.0), graded) if status == 'ok' else tasks.Verdict(0.0, status)
      for rewards, status, graded in zip(self._rewards, self._status, self._grading, strict=True)
    ]

  def paid(self, turn: Int[np.ndarray, 'N T']) -> Float[np.ndarray, 'N T']:
    """Returns the reward of each turn on the turn's last token."""
    found = np.zeros(turn.shape, np.float32)
    for n, rewards in enumerate(self._rewards):
      for number, reward in enumerate(rewards if self._status[n] == 'ok' else []):
        found[n, np.flatnonzero(turn[n] == number)[-1]] = reward
    return found

  def _read(self, tokens: Int[np.ndarray, 'N T'], turn: Int[np.ndarray, 'N T']) -> None:
    """Decodes the newest turn of the rows that played it."""
    (rows,) = np.nonzero(self._playing)
    newest = turn[rows] == np.array([len(self._turns[n]) for n in rows])[:, None]
    for n, texts in zip(rows, self._exp.decode_turns(tokens[rows], np.where(newest, 0, -1)), strict=True):
      self._turns[n] += texts

  def _acted(self, rows: Int[np.ndarray, 'M']) -> dict[int, Pending]:
    """Adds the newest turn of each row to its episode, and asks the environments."""
    texts = [self._turns[n][-1] for n in rows]
    correct: list[float | None] = [None] * len(rows)
    if self._host.graded:
      verdicts = self._verified(rows, texts)
      correct = [float(verdict.correct) for verdict in verdicts]
      for n, verdict in zip(rows, verdicts, strict=True):
        self._grading[n] = max(self._grading[n], verdict.status, key=tasks.STATUSES.index)
    for n, *action in zip(rows, texts, correct, strict=True):
      self._episodes[n] = self._episodes[n]._replace(actions=(*self._episodes[n].actions, tuple(action)))
    return self._ask(rows.tolist())

  def _verified(self, rows: Int[np.ndarray, 'M'], texts: Sequence[str]) -> list[tasks.Verdict]:
    """Returns the task's verdicts on the newest turns. The prompt's tag stands before the first turn alone."""
    asked = [self._problems[n // self._samples] for n in rows]
    tagged = zip(rows, texts, self._exp.turns(asked, texts), strict=True)
    return self._exp.verify(asked, [behind_tag if len(self._turns[n]) == 1 else text for n, text, behind_tag in tagged])

  def _ask(self, rows: Sequence[int]) -> dict[int, Pending]:
    return dict(zip(rows, self._host.episodes.ask([self._episodes[n] for n in rows]), strict=True))

  def _answered(self, asked: dict[int, Pending]) -> dict[int, Reply]:
    """Waits for the environments' answers to the rows, and keeps rewards and ends."""
    replies = {n: pending.result() for n, pending in asked.items()}
    for n, reply in replies.items():
      if reply.status != 'ok':
        self._fail(n, reply.status, reply.message)
      elif self._episodes[n].actions:
        self._rewards[n].append(reply.reward)
        self.done[n] = reply.done
      elif self._tolerance and reply.expert_turns is not None:
        self._budget[n] = min(self._budget[n], budget_of(self._tolerance, reply.expert_turns))
    return replies

  def _is_spent(self, row: int) -> bool:
    """Returns whether an episode has used up its budget of turns, or repeats itself. It then counts as cut by the horizon."""
    limit, turns = self._exp.config.environment.repeats, self._turns[row]
    repeats = limit > 0 and len(turns) >= limit and len(set(turns[-limit:])) == 1
    return repeats or len(turns) >= int(self._budget[row])

  def _fail(self, row: int, status: str, message: str) -> None:
    """Ends an episode whose environment failed. Its row finishes the turn that it is in."""
    if self._status.count('ok') == len(self._status):  # one line per rollout
      told = message or ('it took longer than environment.deadline' if status == 'timeout' else 'its process died')
      logging.warning('environment.name = %r: %s', self._exp.config.environment.name, told)
    self._status[row], self.done[row] = status, True

  def _no_prompt(self, problem: tasks.Problem) -> str:
    """Returns why a problem cannot be posed; '' if it can."""
    try:
      tasks.encode_prompts(self._exp.tokenizer, self._exp.tagged([problem]), self._exp.config.rollout.prompt_width)
    except ValueError as error:
      return str(error)
    return ''
