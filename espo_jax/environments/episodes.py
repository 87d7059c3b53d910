"""Plays episodes in worker processes with deadlines, so that a stuck or hostile environment harms one episode."""

import concurrent.futures
import itertools
import json
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espo_jax.registry import loaded_plugins
from espo_jax.tasks.grading.process import WorkerProcess, importing
from espo_jax.tasks.task import Problem

_WORKER = Path(__file__).with_name('worker.py')


class Episode(NamedTuple):
  """An episode up to the last turn of the policy."""

  number: int  # no other episode of a run has it
  problem: Problem
  seed: int
  actions: tuple[tuple[str, float | None], ...] = ()  # the text of each turn, and its verdict where turns are graded


class Reply(NamedTuple):
  """What an environment answered, and how that went: 'ok', 'timeout', or 'error' if it raised or its process died.

  Only a reply that is 'ok' has an observation and a reward. `message` says what an environment raised, and where. The first
  reply of an episode says how many turns an expert takes, if the environment knows it.
  """

  status: str
  observation: str = ''
  reward: float = 0.0
  done: bool = True
  message: str = ''
  expert_turns: int | None = None


Pending = concurrent.futures.Future[Reply]


class Episodes:
  """Worker processes that hold the episodes of one environment. They start when they are first needed.

  An episode always goes to the same process. A process that exceeds the deadline or dies is replaced. Its other episodes are
  then played again from their actions, each step under the deadline of its own.
  """

  def __init__(self, name: str, options: Mapping[str, Any], *, deadline: float, workers: int):
    """Sets up the workers without starting processes.

    Args:
      name: The name of a registered environment.
      options: The options of that environment.
      deadline: The seconds that an environment has for each step.
      workers: The number of processes.
    """
    arguments = [name, json.dumps(dict(options)), *(plugin.path for plugin in loaded_plugins())]
    self._workers = [
      WorkerProcess(
        _WORKER,
        arguments,
        deadline=deadline,
        recycle_after=sys.maxsize,
        fix='the files of --plugins and the options of the section environment',
        environment=importing(),
      )
      for _ in range(workers)
    ]
    self._threads = [concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='environment') for _ in range(workers)]
    self._next = itertools.count()
    self._closing = weakref.finalize(self, _close, self._threads, self._workers)  # also at the end of the program

  def numbers(self, count: int) -> list[int]:
    """Returns the numbers of so many new episodes."""
    return [next(self._next) for _ in range(count)]

  def ask(self, episodes: Sequence[Episode]) -> list[Pending]:
    """Asks each environment to answer the last turn of its episode; without turns, to pose the problem.

    The environments step while the caller goes on. The `result` of a pending reply waits for it, and raises RuntimeError if no
    process starts.
    """
    places = [episode.number % len(self._threads) for episode in episodes]
    return [self._threads[place].submit(self._play, place, episode) for place, episode in zip(places, episodes, strict=True)]

  def close(self) -> None:
    """Waits for the running steps, drops those that wait, and ends the processes. A second call does nothing."""
    self._closing()

  def _play(self, place: int, episode: Episode) -> Reply:
    reply, status = self._asked(place, episode, len(episode.actions))
    if reply is not None and 'lost' in reply:
      for turn in range(len(episode.actions) + 1):
        reply, status = self._asked(place, episode, turn)
        if reply is None or 'error' in reply:
          break
    if reply is None:
      return Reply(status)
    if 'lost' in reply:
      told = 'played again, the episode ended before its last turn; fix: an environment that is pure given problem and seed'
      return Reply('error', message=told)
    return Reply('error', message=reply['error']) if 'error' in reply else Reply('ok', **reply)

  def _asked(self, place: int, episode: Episode, turn: int) -> tuple[Any, str]:
    asked = [episode.problem, episode.seed] if turn == 0 else episode.actions[turn - 1]
    return self._workers[place].ask([episode.number, turn, asked])


def _close(threads: Sequence[concurrent.futures.ThreadPoolExecutor], workers: Sequence[WorkerProcess]) -> None:
  for thread in threads:
    thread.shutdown(cancel_futures=True)  # after a failure, steps are asked for that nobody will read
  for worker in workers:
    worker.stop()
