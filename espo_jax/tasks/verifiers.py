"""Problems of an environment of the package `verifiers`, which the environment of the same name plays and grades.

The options of the section `environment` say which one: `environment.load = 'NAME'` or 'FILE.py:FUNCTION', and
`environment.arguments`. A process apart loads it, and tells its rows.

The rows that the environment has for evaluations are the test split. If it has none, one row in ten is, by the hash of its
question. The question is the text of the last message of a row's prompt. Of rows with equal questions the first counts, so no
question is in both splits.
"""

import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from espo_jax.registry import loaded_plugins
from espo_jax.tasks.allocators import Stream
from espo_jax.tasks.grading.process import importing
from espo_jax.tasks.pretrained import behind_message, chat_writer, load_tokenizer, prompt_writer, with_thought
from espo_jax.tasks.registered import register
from espo_jax.tasks.task import DataError, Finding, Problem, Task, in_test, problem_id, split_bit
from espo_jax.tasks.tokenizer import byte_bpe_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_WORKER = Path(__file__).with_name('verifiers_rows.py')
_LOAD_SECONDS = 600.0  # the most time to load an environment, which may read a data set
_HELD_OUT = 10  # one row in ten is the test split where the environment has no rows for it
_VOCABULARY = 512  # the tokens of the tokenizer for a model without one
_TRAINED_ON = 1_000  # the rows that this tokenizer is trained on


class Told(NamedTuple):
  """What a process tells of an environment.

  Attributes:
    rows: the questions, messages and answers of the rows, and whether the environment has them for evaluations.
    repeats: the number of rows whose question an earlier row has.
    tools: the tools that the policy may call, as chat templates take them.
  """

  rows: list[tuple[bool, list[dict[str, str]], str]]
  repeats: int
  tools: list[dict[str, Any]]


class _Row(NamedTuple):
  question: str
  prompt: str
  answer: str


@register('verifiers')
class Verifiers(Task):
  """The rows of an environment of the package `verifiers`.

  The train rows come in epochs, each in an order of its own. Rows whose prompt is too long are left out, and listed in
  `findings`.
  """

  name = 'verifiers'

  def __init__(
    self,
    environment_load: str = '',
    environment_arguments: str = '{}',
    tokenizer_path: str = '',
    prompt: str = 'chat',
    max_prompt_tokens: int = 512,
    max_response_tokens: int = 1024,
    tags: Sequence[str] = (),
    today: str = '',
    seed: int = 0,
  ) -> None:
    """Checks the options. The environment is loaded when its rows are first needed.

    Args:
      environment_load: what `environment.load` says.
      environment_arguments: what `environment.arguments` says.
      tokenizer_path: a Hugging Face directory, or a name on the Hub; '' for a byte-level tokenizer of 512 tokens, which is
        trained on the first rows.
      prompt: how a pretrained model is asked: 'chat', 'r1' or 'plain', as in `prompt_writer`. With 'plain', and without a
        pretrained model, the messages are lines without their roles, and tools are not described.
      max_prompt_tokens: the most tokens of a prompt.
      max_response_tokens: the most tokens of a written solution with its end token.
      tags: the texts of which one is appended to each prompt. Its tokens count as tokens of the prompt.
      today: the date that a chat template writes, YYYY-MM-DD; '' for the day on which the task is made.
      seed: the seed of the shuffles.

    Raises:
      DataError: The package is not installed, or no environment is named.
    """
    self._loads = check_load(environment_load, environment_arguments), environment_arguments
    self._path, self._prompt, self._today, self._seed, self._tags = tokenizer_path, prompt, today, seed, tags or ('',)
    self._limits = max_prompt_tokens, max_response_tokens

  @property
  def max_prompt_tokens(self) -> int:
    """The most tokens of a prompt."""
    return self._limits[0]

  @property
  def max_response_tokens(self) -> int:
    """The most tokens of a written solution."""
    return self._limits[1]

  def problem(self, split: str, index: int) -> Problem:
    """Returns the problem at `index`. The train split has endless epochs. The test split is in order, without repeats."""
    row = self._row(split, index)
    return Problem(problem_id(split, index), row.prompt, row.answer)

  def question(self, problem: Problem) -> str:
    """Returns the text of the last message of the prompt."""
    return self._row('test' if problem.id & split_bit('test') else 'train', problem.id >> 1).question

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Returns the answer as the row has it.

    Raises:
      DataError: The row has no answer.
    """
    if not problem.answer:
      raise DataError(f"{self._named}: a row has no answer to learn from; fix: leave 'warm_start' out of stages")
    return problem.answer

  def verify(self, problem: Problem, response: str) -> float:
    """Raises an error, because the rubric of the environment grades conversations.

    Raises:
      DataError: The method was called, whatever the text.
    """
    raise DataError(f"{self._named}: a text alone has no grade; fix: environment.name = 'verifiers'")

  def stated_answer(self, response: str) -> str:
    """Returns '', because the package does not say where a text has its answer."""
    return ''

  def size(self, split: str) -> int | None:
    """Returns the number of rows of a split."""
    split_bit(split)
    return len(self._rows[split])

  @functools.cached_property
  def _tokenizer(self) -> 'PreTrainedTokenizerFast':
    if self._path:
      return load_tokenizer(self._path)
    rows = self._told.rows[:_TRAINED_ON]
    return byte_bpe_tokenizer([text for _, messages, answer in rows for text in (_lines(messages), answer)], _VOCABULARY)

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns the tokenizer of the model, or one that is trained on the first rows."""
    return self._tokenizer

  def findings(self) -> list[Finding]:
    """Reports the rows that were left out."""
    sizes = {split: len(rows) for split, rows in self._rows.items()}
    entries = [
      {'split': split, 'place': question[:200], 'rows': 1, 'reason': f'a prompt of {count} tokens'}
      for split, question, count in self._long
    ]
    left = f'there remain {sizes["train"]} train and {sizes["test"]} test rows'
    said = f'left out {len(entries)} rows that are longer than rollout.prompt_width = {self._limits[0]}'
    return [Finding('skipped.jsonl', f'{said}, and {self._told.repeats} with the question of an earlier row; {left}', entries)]

  @property
  def _named(self) -> str:
    return f'environment.load = {self._loads[0]!r}'

  @functools.cached_property
  def _told(self) -> Told:
    return _told(*self._loads)

  @functools.cached_property
  def _rows(self) -> dict[str, list[_Row]]:
    """The rows of both splits. Those that are too long are in `_long`, with their split and their length."""
    self._long: list[tuple[str, str, int]] = []
    found: dict[str, list[_Row]] = {'train': [], 'test': []}
    has_own = any(held_out for held_out, *_ in self._told.rows)
    for held_out, messages, answer in self._told.rows:
      row = _Row(messages[-1]['content'], self._write(messages), answer)
      split = 'test' if (held_out if has_own else in_test(row.question, _HELD_OUT)) else 'train'
      texts = [row.prompt + tag for tag in self._tags]
      count = max(map(len, self._tokenizer(texts, add_special_tokens=False)['input_ids']))
      if count > self._limits[0]:
        self._long.append((split, row.question, count))
      else:
        found[split].append(row)
    if not found['test']:  # every run is evaluated
      raise self._without('test')
    return found

  def _without(self, split: str) -> DataError:
    """Returns the error of a split without rows."""
    longest = max((count for of, _, count in self._long if of == split), default=0)
    fix = f'--config.rollout.prompt_width={longest}' if longest else 'an environment with more rows'
    limit = f'at most rollout.prompt_width = {self._limits[0]} tokens'
    return DataError(f'{self._named}: no {split} row has a prompt of {limit}; fix: {fix}')

  def _row(self, split: str, index: int) -> _Row:
    rows = self._rows[split]
    if split == 'train':
      if not rows:
        raise self._without('train')
      return rows[Stream(len(rows), self._seed).problem(index)]
    if index >= len(rows):
      raise IndexError(f'the test split has {len(rows)} rows; there is no index {index}')
    return rows[index]

  @functools.cached_property
  def _write(self) -> Callable[[list[dict[str, str]]], str]:
    """The function that turns messages into a prompt."""
    if not self._path:
      return lambda messages: f'{_lines(messages)}\n'
    line = prompt_writer(self._prompt, self._tokenizer, '', self._today)  # checks the template
    if self._prompt == 'plain':
      return lambda messages: line(_lines(messages))
    render = chat_writer(self._tokenizer, self._today, self._told.tools)

    def write(messages: list[dict[str, str]]) -> str:
      try:
        written = render(messages)
      except Exception as error:  # a template is a program, and may raise anything
        roles = [message['role'] for message in messages]
        raise DataError(
          f'model.path = {self._path!r}: its chat template cannot write messages of the roles {roles} '
          f'({type(error).__name__}: {error}); fix: --config.task.options.prompt=plain, or a template with these roles'
        ) from error
      return with_thought(written, behind_message(written, messages[-1]['content'], '')) if self._prompt == 'r1' else written

    return write


def check_load(load: str, arguments: str) -> str:
  """Returns what names an environment, with the whole path of a file, after checking it. Nothing is loaded.

  Args:
    load: The name of an environment, or `FILE.py:FUNCTION` with a file that `--plugins` names.
    arguments: The keyword arguments, as a JSON object.

  Raises:
    DataError: The package is not installed, or what is given names no environment.
  """
  if not load:
    raise DataError(
      "environment.load = '': the task 'verifiers' has the problems of an environment; fix: "
      '--config.environment.name=verifiers --config.environment.load=NAME'
    )
  try:
    given = json.loads(arguments)
  except ValueError:
    given = None
  if not isinstance(given, dict):
    raise DataError(f'environment.arguments = {arguments!r}: no JSON object; fix: such as {{"split": "train"}}')
  file, _, function = load.rpartition(':')
  whole = str(Path(file).absolute())
  if file and whole not in {plugin.path for plugin in loaded_plugins()}:  # a config must not name a program to run
    raise DataError(f'environment.load = {load!r}: a file is only run if a flag names it; fix: --plugins={file}')
  if importlib.util.find_spec('verifiers') is None:
    raise DataError(f"environment.load = {load!r}: the package verifiers is not installed; fix: pip install -e '.[verifiers]'")
  return f'{whole}:{function}' if file else load


@functools.lru_cache(maxsize=1)
def _told(load: str, arguments: str) -> Told:
  """Asks a process for the rows of an environment."""
  command = [sys.executable, '-P', str(_WORKER), load, arguments]  # -P: this folder must not shadow the package
  try:
    done = subprocess.run(
      command, env=importing(), stdin=subprocess.DEVNULL, capture_output=True, timeout=_LOAD_SECONDS, check=False
    )
    told = json.loads(done.stdout) if done.stdout else {'error': f'the process ended with exit status {done.returncode}'}
  except subprocess.TimeoutExpired:
    told = {'error': f'it took more than {_LOAD_SECONDS:.0f} seconds'}
  if 'error' in told:
    raise DataError(
      f'environment.load = {load!r} with environment.arguments = {arguments!r}: no rows ({told["error"]}); '
      "fix: the environment, its arguments, or pip install -e '.[verifiers]'"
    )
  return Told(**told)


def _lines(messages: Sequence[dict[str, str]]) -> str:
  return '\n'.join(message['content'] for message in messages)
