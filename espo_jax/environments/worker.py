"""Runs as a process that holds episodes of an environment; `episodes.Episodes` starts this file.

The arguments are the seconds after which it ends itself, the name and the options of the environment as JSON, and the users'
files to load. The process communicates by lines of JSON. When it is ready it writes `{}` or `{"error": ...}`. Then it answers
questions `[episode, turn, asked]`:

| turn | asked | reply |
|---|---|---|
| 0 | `[problem, seed]` | `{"observation": ..., "reward": 0, "done": false, "expert_turns": ...}` |
| 1, 2, ... | `[action, correct]` | the environment's `Step` alike; `{"lost": true}` if the turn before is not known |

An environment that raises is told as `{"error": ...}`.
"""

import functools
import json
import runpy
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SERVER = Path(__file__).parents[1] / 'tasks' / 'grading' / 'worker.py'
_MOST_TEXT = 100_000  # the most characters of an observation that leave the process
_MOST_REWARD = (2 - 2**-23) * 2.0**127  # the greatest number of float32
_MOST_EPISODES = 4_096  # episodes that are held; the one that waited longest is forgotten, and played again if it goes on


def main() -> None:
  """Serves questions until the input ends."""
  seconds, name, options, *files = sys.argv[1:]
  load = functools.partial(_load, name, json.loads(options), files)
  runpy.run_path(str(_SERVER))['serve'](int(seconds), load)  # by path: signals are ignored before the imports


def _load(name: str, options: dict[str, Any], files: list[str]) -> Callable[[Any], object]:
  """Imports the environments and the users' files, and returns the function from a question to its reply."""
  from espo_jax.environments import REGISTRY
  from espo_jax.registry import load_plugin

  for file in files:
    load_plugin(file)
  make = REGISTRY.find(name)
  getattr(make, 'prepare', lambda **_: None)(**options)
  held: OrderedDict[int, tuple[int, Any]] = OrderedDict()  # by episode: the last turn, and the environment

  def answer(question: tuple[int, int, list[Any]]) -> dict[str, Any]:
    episode, turn, asked = question
    last, environment = held.pop(episode, (None, None))
    if turn > 0 and last != turn - 1:
      return {'lost': True}
    try:
      if turn == 0:
        environment = make(**options)
        step = _posed(environment, *asked)
      else:
        assert environment is not None  # turn 0 has made it
        step = environment.step(*asked)
      reply = _checked(*step)
      if turn == 0:
        reply['expert_turns'] = _expert(environment)
    except BaseException as error:  # a user's code may raise anything, SystemExit among it
      frame = traceback.extract_tb(error.__traceback__)[-1]
      return {'error': f'{frame.filename}:{frame.lineno}: {type(error).__name__}: {str(error)[:500]}'}
    if not reply['done']:
      held[episode] = turn, environment
      if len(held) > _MOST_EPISODES:
        held.popitem(last=False)
    return reply

  return answer


def _posed(environment: Any, problem: list[Any], seed: int) -> tuple[str, float, bool]:
  from espo_jax.tasks.task import Problem

  return environment.reset(Problem(*problem), seed), 0.0, False


def _expert(environment: Any) -> int | None:
  """Returns the turns that an expert takes; None if the environment does not say so.

  Raises:
    TypeError: They are no number of turns.
  """
  turns = getattr(environment, 'expert_turns', None)
  if turns is not None and (type(turns) is not int or turns < 1):
    raise TypeError(f'expert_turns is {turns!r}; fix: a whole number of at least 1')
  return turns


def _checked(observation: Any, reward: Any, done: Any) -> dict[str, Any]:
  """Returns a step as JSON has it.

  Raises:
    TypeError: It is no step.
  """
  if not isinstance(observation, str):
    raise TypeError(f'the observation is a {type(observation).__name__}; fix: a text')
  if not isinstance(reward, float | int) or not abs(reward) <= _MOST_REWARD:
    raise TypeError(f'the reward is {reward!r}; fix: a number that is finite in float32')
  if not isinstance(done, bool):
    raise TypeError(f'done is {done!r}; fix: True or False')
  return {'observation': observation[:_MOST_TEXT], 'reward': float(reward), 'done': done}


if __name__ == '__main__':
  main()
