"""Problems of the package reasoning-gym: a hundred data sets that draw problems without end, each with a scorer of its own.

`task.options.dataset = 'chain_sum'` names a data set. The data set's own options are set beside it, such as
`task.options.max_terms = 3`.

Problem `index` of a split is drawn from data sets that are seeded by (seed, split, index), until the text of a problem belongs
to the split. A hash of the text decides this. One text in eight is a test problem, and no text is in both splits. In a small
data set, the same problem can occur at several positions of a split. A separate process draws the problems. It has a fixed seed
of Python's hashes, because the problems of some data sets depend on the order of sets.

The answer is the text between the last `<answer>` and `</answer>` after the thought. The package has the same convention. A
response without both tags has no answer, and its score is 0. The scorer of the data set gives a number in [0, 1]. Many scorers
give a wrong answer of the right form more than 0. An evaluation counts only a score of 1 as right. Scorers run in processes
with a deadline, which `gym_worker` describes.
"""

import base64
import functools
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from espo_jax.tasks.grading.process import WorkerPool, WorkerProcess
from espo_jax.tasks.gym_datasets import CHUNK, dataset_config
from espo_jax.tasks.pretrained import behind_message, load_tokenizer, prompt_writer
from espo_jax.tasks.reasoning import after_thought, closing_tag, one_spelling, open_thought
from espo_jax.tasks.registered import register
from espo_jax.tasks.task import DataError, Finding, Problem, Task, Verdict, in_test, problem_id, split_bit
from espo_jax.tasks.tokenizer import byte_bpe_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

INSTRUCTION = 'Please reason step by step, and put your final answer alone between <answer> and </answer>.'
_OPENING, _CLOSING = '<answer>', '</answer>'
_WORKER = Path(__file__).with_name('gym_worker.py')
_FIX = "pip install -e '.[gym]'"
_DRAWS = 1_024  # the draws after which a problem is given up
_TRIES = 16  # the draws for a problem from one seeded data set
_DRAW_SECONDS = 120.0  # the most time of a draw
_KEPT = 4_096  # the problems kept in memory
_SAMPLE = 32  # the draws that are looked at before a run
_VOCABULARY = 512  # the tokens of the tokenizer for a model without one


class Drawn(NamedTuple):
  """A problem as the data set gives it.

  Attributes:
    question: the text of the problem.
    answer: a right answer; None if the data set states none.
    entry: the whole entry for the scorer, pickled, in base64.
  """

  question: str
  answer: str | None
  entry: str


@register('reasoning_gym')
class ReasoningGym(Task):
  """The problems of a data set of reasoning-gym, posed to a pretrained model or to a small one that is trained from scratch."""

  name = 'reasoning_gym'

  def __init__(
    self,
    dataset: str = '',
    tokenizer_path: str = '',
    prompt: str = 'chat',
    instruction: str = INSTRUCTION,
    max_prompt_tokens: int = 512,
    max_response_tokens: int = 1024,
    needs_solutions: bool = False,
    tags: Sequence[str] = (),
    today: str = '',
    grade_workers: int = 2,
    grade_deadline: float = 5.0,
    seed: int = 0,
    **options: Any,
  ) -> None:
    """Checks the data set and its options. Nothing is drawn yet, and no tokenizer is loaded.

    Args:
      dataset: the name of a data set of the package, such as 'chain_sum'.
      tokenizer_path: a Hugging Face directory, or a name on the Hub; '' for a byte-level tokenizer of 512 tokens, which is
        trained on the first problems.
      prompt: how a pretrained model is asked: 'chat', 'r1' or 'plain', as in `prompt_writer`. A model without a tokenizer gets
        the problem and a line break.
      instruction: the text that follows the problem for a pretrained model. It must ask for the answer between the tags.
      max_prompt_tokens: the most tokens of a prompt. A problem with a longer prompt is replaced by another.
      max_response_tokens: the most tokens of a written solution with its end token.
      needs_solutions: whether `solution` will be called. Then a train problem whose solution is too long is replaced as well.
      tags: the texts of which one is appended to each prompt. Its tokens count as tokens of the prompt.
      today: the date that a chat template writes, YYYY-MM-DD; '' for the day on which the task is made.
      grade_workers: the number of processes that score responses.
      grade_deadline: the seconds that a process has for one response.
      seed: the seed of the problems.
      **options: the options of the data set.

    Raises:
      DataError: The package is not installed, there is no such data set or option, or the data set refuses a value.
    """
    self._named, self._path, self._seed = f'task.options.dataset = {dataset!r}', tokenizer_path, seed
    self._config = base64.b64encode(pickle.dumps((dataset, dataset_config(dataset, options)))).decode()
    self._prompt, self._instruction, self._today = prompt, instruction, today
    self._limits, self._needs_solutions, self._tags = (max_prompt_tokens, max_response_tokens), needs_solutions, tags or ('',)
    self._workers, self._deadline = grade_workers, grade_deadline
    self._drawn = functools.lru_cache(_KEPT)(self._draw)

  @property
  def max_prompt_tokens(self) -> int:
    """The most tokens of a prompt."""
    return self._limits[0]

  @property
  def max_response_tokens(self) -> int:
    """The most tokens of a written solution."""
    return self._limits[1]

  def problem(self, split: str, index: int) -> Problem:
    """Returns the problem at `index` of `split`. Its answer is '' if the data set states none."""
    identity = problem_id(split, index)
    drawn = self._drawn(split, index)
    return Problem(identity, self._write(drawn.question), drawn.answer or '')

  def question(self, problem: Problem) -> str:
    """Returns the problem as the data set has it, without chat template and instruction."""
    return self._of(problem).question

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Returns the data set's answer between the tags. If the prompt opens a thought, the thought is closed first.

    Raises:
      DataError: The data set states no answers.
    """
    return self._solution(self._of(problem))

  def verify(self, problem: Problem, response: str) -> float:
    """Returns the score of the response's answer."""
    return float(self.verify_all([problem], [response])[0].correct)

  def verify_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
    """Scores in worker processes under a deadline.

    An answer that cannot be scored in time, or for which the scorer raises an error, has the score 0, and its status says so.
    """
    stated = [self.stated_answer(response) for response in responses]
    pairs = [(answer, self._of(problem).entry) for answer, problem in zip(stated, problems, strict=True)]
    asked = {pair: self._scorers.submit(pair) for pair in dict.fromkeys(pairs) if pair[0]}  # each once: samples repeat
    return [_verdict(*asked[pair].result()) if pair in asked else Verdict(0.0, 'ok') for pair in pairs]

  def stated_answer(self, response: str) -> str:
    """Returns the text between the last answer tags after the thought; '' if there is no such pair."""
    before, closing, _ = after_thought(one_spelling(self._opened + response)).rpartition(_CLOSING)
    _, opening, answer = before.rpartition(_OPENING)
    return answer.strip() if closing and opening else ''

  def size(self, split: str) -> int | None:
    """Returns None, because problems are drawn without end. They can repeat."""
    split_bit(split)
    return None

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns the tokenizer of the model, or one that is trained on the first problems and their answers."""
    return self._tokenizer

  def findings(self) -> list[Finding]:
    """Reports which of the first draws cannot be used, mostly because they are too long. Other problems replace them.

    Raises:
      DataError: None of them can be used.
    """
    misfits = [(0, drawn) if isinstance(drawn, str) else self._misfit('train', drawn) for drawn in self._sample]
    entries = [
      {'split': 'train', 'place': f'draw {i}', 'rows': 1, 'reason': reason} for i, (_, reason) in enumerate(misfits) if reason
    ]
    if len(entries) == len(misfits):
      raise DataError(f'{self._named}: none of the first {len(misfits)} problems drawn can be used: {max(misfits)[1]}')
    said = f'{len(entries)} of the first {len(misfits)} problems drawn cannot be used, and others replace them'
    return [Finding('skipped.jsonl', said, entries)]

  # ------------------------------------------------------------------------------------------------------------ drawing

  @functools.cached_property
  def _generator(self) -> WorkerPool:
    return self._pool('draw', 1, _DRAW_SECONDS, sys.maxsize)

  @functools.cached_property
  def _scorers(self) -> WorkerPool:
    return self._pool('score', self._workers, self._deadline, 20_000)  # the caches of computer algebra grow

  def _pool(self, work: str, workers: int, deadline: float, recycle_after: int) -> WorkerPool:
    environment = os.environ | {'PYTHONHASHSEED': '0'}
    worker = functools.partial(WorkerProcess, deadline=deadline, recycle_after=recycle_after, fix=_FIX, environment=environment)
    pool = WorkerPool([worker(_WORKER, [work, self._config]) for _ in range(workers)])
    weakref.finalize(self, pool.close)  # also at the end of the program
    return pool

  def _of(self, problem: Problem) -> Drawn:
    return self._drawn('test' if problem.id & split_bit('test') else 'train', problem.id >> 1)

  def _draw(self, split: str, index: int) -> Drawn:
    """Draws until a problem belongs to the split and fits."""
    reason = f'no text of a problem belongs to the {split} split; fix: options that allow more different problems'
    for attempt in range(_DRAWS):
      drawn = self._candidate(split, index, attempt)
      if isinstance(drawn, str):
        reason = drawn
      elif in_test(drawn.question) == (split == 'test'):
        _, reason = self._misfit(split, drawn)
        if not reason:
          return drawn
    raise DataError(f'{self._named}: {_DRAWS} draws gave no problem {index} of the {split} split: {reason}')

  def _candidate(self, split: str, index: int, attempt: int) -> Drawn | str:
    """Returns what an attempt at a problem draws, or the error that the package raised."""
    chunk, place = divmod(index, CHUNK // _TRIES)
    again, nth = divmod(attempt, _TRIES)
    seed = int(np.random.default_rng([self._seed, split_bit(split), chunk, again]).integers(2**31))
    question = [seed, place * _TRIES + nth]
    reply, status = self._generator.submit(question).result()
    if reply is None:  # what ended or stopped the process may have nothing to do with the draw
      reply, status = self._generator.submit(question).result()
    if reply is None:
      ended = f'took more than {_DRAW_SECONDS:.0f} seconds' if status == 'timeout' else 'ended the process'
      raise DataError(f'{self._named}: the draw of problem {index} of the {split} split {ended}, twice; fix: easier options')
    return f'the package raised {reply["error"]}; fix: other options' if 'error' in reply else Drawn(**reply)

  def _misfit(self, split: str, drawn: Drawn) -> tuple[int, str]:
    """Returns the tokens of a problem that is too long for the run, and a reason with the fix; (0, '') if it fits."""
    lengths = [
      ('prompt', 'rollout.prompt_width', self._limits[0], [self._write(drawn.question) + tag for tag in self._tags], 0)
    ]
    if self._needs_solutions and split == 'train':  # the end token counts, which this tokenizer may read as plain text
      lengths.append(('solution', 'rollout.horizon', self._limits[1], [self._solution(drawn)], 1))
    for what, field, limit, texts, end in lengths:
      count = max(map(len, self._tokenizer(texts, add_special_tokens=False)['input_ids'])) + end
      if count > limit:
        return count, f'{field} = {limit} is less than the {count} tokens of a {what}; fix: --config.{field}={count}'
    return 0, ''

  @functools.cached_property
  def _sample(self) -> list[Drawn | str]:
    return [self._candidate('train', index, 0) for index in range(_SAMPLE)]

  # ------------------------------------------------------------------------------------------------------------ writing

  @functools.cached_property
  def _tokenizer(self) -> 'PreTrainedTokenizerFast':
    if self._path:
      return load_tokenizer(self._path)
    drawn = [sample for sample in self._sample if isinstance(sample, Drawn)]
    return byte_bpe_tokenizer(
      [text for question, answer, _ in drawn for text in (question, _tagged(answer or ''))], _VOCABULARY
    )

  @functools.cached_property
  def _write(self) -> Callable[[str], str]:
    """The function that turns a question into a prompt."""
    if not self._path:
      return '{}\n'.format
    write = prompt_writer(self._prompt, self._tokenizer, '', self._today)
    return lambda question: write(self._asked(question))

  def _asked(self, question: str) -> str:
    return f'{question}\n{self._instruction}' if self._instruction else question

  @functools.cached_property
  def _opened(self) -> str:
    """The tag of a thought that each prompt opens; '' if prompts open none."""
    question = '1 + 1 = ?'
    return open_thought(behind_message(self._write(question), self._asked(question) if self._path else question, ''))

  def _solution(self, drawn: Drawn) -> str:
    if drawn.answer is None:
      raise DataError(f"{self._named}: the data set states no answers; fix: leave 'warm_start' out of stages")
    return f'{closing_tag(self._opened)}\n\n{_tagged(drawn.answer)}' if self._opened else _tagged(drawn.answer)


def _tagged(answer: str) -> str:
  return f'{_OPENING}{answer}{_CLOSING}'


def _verdict(score: float | None, status: str) -> Verdict:
  """Returns the verdict for a score. There is none if the process ran out of time or died, or if the scorer raised an error."""
  return Verdict(0.0, 'error' if status == 'ok' else status) if score is None else Verdict(score, 'ok')
