"""Environments of the package `verifiers`, which drive the conversation and grade it by a rubric."""

import functools
import json
import random
from typing import Any, Literal, NamedTuple

from espo_jax.environments.driven import Asked, Driver, Ended, Rollout
from espo_jax.environments.environment import Step
from espo_jax.environments.registered import register
from espo_jax.registry import source
from espo_jax.tasks.reasoning import after_thought, one_spelling
from espo_jax.tasks.task import Problem
from espo_jax.tasks.verifiers import check_load
from espo_jax.tasks.verifiers_rows import Message, Row, load_environment, rows_of, spoken, tools_of


class Verifiers:
  """Plays an environment of the package `verifiers`, whose rubric gives the reward of the episode's last turn.

  The package's environment asks for each turn of the model. The message that is new since its last request is the observation,
  and the policy's turn is the answer. The task 'verifiers' poses the problems of the same environment.

  If the environment has tools, the first JSON object behind the thought that names one of them is a tool call, with its
  `arguments` or `parameters`. The environment reads the text before it as the turn's content, and nothing of what follows it.
  A thought that the prompt has opened ends with its closing tag. A turn without one is read as if it had no thought.

  The conversation of the environment is that of the policy. An environment that changes earlier messages, or that answers with
  several messages at once or in another role than `speaker`, ends its episode, which counts as failed.

  Args:
    load: The name of an environment, which is an installed module with a function `load_environment`; or `FILE.py:FUNCTION`,
      where `--plugins=FILE.py` names the file as well.
    arguments: The arguments of that function, as a JSON object.
    speaker: The role in which the environment answers: 'tool' for environments of tools.
  """

  task = 'verifiers'

  def __init__(self, *, load: str = '', arguments: str = '{}', speaker: Literal['user', 'tool'] = 'user') -> None:
    """Checks the options. The package is not imported yet."""
    self.role, self._load, self._arguments = speaker, load and check_load(load, arguments), arguments

  @staticmethod
  def prepare(*, load: str, arguments: str = '{}', speaker: str = 'user') -> None:
    """Loads the environment, which takes longer than a step may."""
    _loaded(check_load(load, arguments), arguments)

  def reset(self, problem: Problem, seed: int) -> str:
    """Begins a rollout of the row whose question the problem's prompt is, and returns the question as the environment poses it.

    Raises:
      ValueError: The environment has no such row, or asks about another conversation than the task has written.
    """
    driver, rows, tools = _loaded(self._load, self._arguments)
    if problem.prompt not in rows:
      raise ValueError(
        f'environment.load = {self._load!r}: no row asks {problem.prompt[:200]!r}; fix: rows that are always the same'
      )
    row = rows[problem.prompt]
    self._seed, self._turn, self._names = seed, 0, {tool['function']['name'] for tool in tools}
    self._rollout = Rollout(driver, row.given)
    asked = self._heard(None)
    if isinstance(asked, Ended):
      raise ValueError(f'the environment ended before the first turn {asked.error}; fix: an environment that asks for a turn')
    self._messages = [*row.messages[:-1], row.messages[-1] | {'content': asked.messages[-1]['content']}]
    if asked.messages != self._messages or asked.tools != tools:
      raise ValueError('the environment asks about other messages or tools than its row has; fix: those of the row')
    return str(asked.messages[-1]['content'])

  def step(self, action: str, correct: float | None) -> Step:
    """Answers the environment's request with a turn.

    Raises:
      RuntimeError: The rollout ended with an error of the package.
      ValueError: The environment does not just append a message of the role `speaker`.
    """
    answer = _message(action, self._names)
    heard = self._heard(answer)
    if isinstance(heard, Ended):
      if heard.error and action:  # the package takes an empty turn for an error of the model
        raise RuntimeError(f'the rollout ended with {heard.error}')
      return Step('', heard.reward, True)
    self._messages.append(spoken(answer))
    kept, new = heard.messages[: len(self._messages)], heard.messages[len(self._messages) :]
    if kept != self._messages:
      place = next((i for i, pair in enumerate(zip(kept, self._messages, strict=False)) if pair[0] != pair[1]), len(kept))
      raise ValueError(
        f'the environment has changed or left out message {place} between two turns, which the policy has read as '
        f'{str(self._messages[place])[:200]}; fix: an environment that only appends messages'
      )
    if [message['role'] for message in new] != [self.role]:
      raise ValueError(
        f'environment.speaker = {self.role!r}: the environment appended messages of the roles '
        f'{[message["role"] for message in new]}; fix: one message a turn, and environment.speaker as its role'
      )
    self._messages = heard.messages
    return Step(new[0]['content'], 0.0, False)

  def _heard(self, answer: dict[str, Any] | None) -> Asked | Ended:
    """Runs the environment for a turn, with a seed of its own for Python's generator, because episodes take turns."""
    random.seed(f'{self._seed} {self._turn}')
    self._turn += 1
    return self._rollout.hear(answer)


register('verifiers')(source('ours')(Verifiers))


class _Loaded(NamedTuple):
  driver: Driver
  rows: dict[str, Row]  # by question
  tools: list[dict[str, Any]]


@functools.lru_cache(maxsize=1)
def _loaded(load: str, arguments: str) -> _Loaded:
  """Returns the environment of this process."""
  environment = load_environment(load, json.loads(arguments))
  return _Loaded(Driver(environment), rows_of(environment)[0], tools_of(environment))


def _message(action: str, names: set[str]) -> Message:
  """Returns a turn as a message of the assistant, with the first call of a tool among `names` in it."""
  text = after_thought(one_spelling(action)) if names else ''
  for start in (i for i, letter in enumerate(text) if letter == '{'):
    try:
      found = json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
      continue
    name, arguments = found.get('name'), found.get('arguments', found.get('parameters'))
    if isinstance(arguments, dict) and isinstance(name, str) and name in names:
      before = action[: len(action) - len(text) + start].rstrip().removesuffix('<tool_call>').rstrip()
      call = {'id': 'call', 'type': 'function', 'function': {'name': name, 'arguments': json.dumps(arguments)}}
      return {'role': 'assistant', 'content': before or None, 'tool_calls': [call]}
  return {'role': 'assistant', 'content': action}
