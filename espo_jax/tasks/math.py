"""Mathematical word problems of a benchmark, posed to a pretrained model in its own prompt format and graded as free text."""

import atexit
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from espo_jax.tasks.benchmarks import Row
from espo_jax.tasks.grading import Grader
from espo_jax.tasks.grading.pooling import pooled_answer
from espo_jax.tasks.overlap import WORDS, find_overlaps
from espo_jax.tasks.own import find_benchmark
from espo_jax.tasks.pretrained import INSTRUCTION, behind_message, load_tokenizer, prompt_writer, special_tokens
from espo_jax.tasks.reasoning import closing_tag, one_spelling, open_thought
from espo_jax.tasks.registered import register
from espo_jax.tasks.sources import Rows, read_rows
from espo_jax.tasks.task import DataError, Finding, Problem, Task, Verdict, in_test, problem_id, split_bit

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_SAMPLE = '1 + 1 = ?'
HELD_OUT = 10  # one row in ten is the test split where there is no test data


@register('math')
class Math(Task):
  """The problems of a benchmark, in epochs.

  Train index i is row `order[i % n]` of epoch `i // n`, where the order is shuffled per (seed, epoch). Rows of the train split
  that are too long are left out, counted and listed in `findings`. A prompt of the test split that is too long and will be used
  is an error, because leaving it out would change the benchmark.
  """

  name = 'math'

  def __init__(
    self,
    tokenizer_path: str,
    benchmark: str = '',
    path: str = '',
    eval_benchmark: str = '',
    eval_path: str = '',
    problem_field: str = '',
    answer_field: str = '',
    solution_field: str = '',
    on_error: str = 'raise',
    prompt: str = 'chat',
    instruction: str = INSTRUCTION,
    max_prompt_tokens: int = 512,
    max_response_tokens: int = 1024,
    needs_solutions: bool = False,
    test_problems: int | None = None,
    tags: Sequence[str] = (),
    today: str = '',
    grade_workers: int = 2,
    grade_deadline: float = 5.0,
    seed: int = 0,
  ) -> None:
    """Loads the tokenizer, reads and checks the data, and writes the prompts.

    Args:
      tokenizer_path: a Hugging Face directory, or a name on the Hub.
      benchmark: the benchmark of the train split, a name in `BENCHMARKS`, or 'jsonl' for records of one's own.
      path: the train split: a file, a prepared directory, or the benchmark's name on the Hub. '' together with an `eval_path`
        means no train split, which an evaluation does not need.
      eval_benchmark: the benchmark of the test split; by default that of the train split.
      eval_path: the place of the test split; by default one row in ten of `path`, by the hash of its problem.
      problem_field: where the benchmark is 'jsonl', the field that holds the problem, as in `find_benchmark`.
      answer_field: the field that holds the final answer.
      solution_field: the field that holds a written solution, read where solutions are needed.
      on_error: what to do with a malformed row: 'raise', or 'skip' and list it.
      prompt: how a problem is asked: 'chat', 'r1' or 'plain', as in `prompt_writer`.
      instruction: the text that follows the problem in a chat.
      max_prompt_tokens: the most tokens of a prompt.
      max_response_tokens: the most tokens of a written solution with its end token.
      needs_solutions: whether `solution` will be called. Then a train row whose solution is too long is left out as well.
      test_problems: the number of test rows that will be used, from the first on; None for all. The limits apply to these rows.
      tags: the texts of which one is appended to each prompt. Its tokens count as tokens of the prompt.
      today: the date that a chat template writes, YYYY-MM-DD; '' for the day on which the task is made.
      grade_workers: the number of processes that grade responses.
      grade_deadline: the seconds that a worker has for one response.
      seed: the seed of the shuffles.

    Raises:
      DataError: The tokenizer or the data cannot be used; the message says why and what to do.
      ValueError: The benchmark or the prompt is unknown.
    """
    self._seed, self._limits = seed, (max_prompt_tokens, max_response_tokens)
    self._tokenizer = load_tokenizer(tokenizer_path)
    self._write = prompt_writer(prompt, self._tokenizer, instruction, today)
    self._tags = tags or ('',)
    self._opened = open_thought(behind_message(self._write(_SAMPLE), _SAMPLE, instruction))
    self._workers, self._deadline = grade_workers, grade_deadline

    special = special_tokens(self._tokenizer)
    found = Rows([], [], 0)
    if path or not eval_path:
      source = find_benchmark(benchmark, problem_field, answer_field, solution_field if needs_solutions else '')
      if needs_solutions and not source.has_solutions:
        raise DataError(f"data.benchmark = {benchmark!r}: has no written solutions; fix: leave 'warm_start' out of stages")
      found = read_rows(source, path, 'train', 'data.path', on_error, special)
    self._left_out = _left_out(found, 'train', path)
    if eval_path:
      held_out = find_benchmark(eval_benchmark or benchmark, problem_field, answer_field)
      held = read_rows(held_out, eval_path, 'test', 'data.eval_path', on_error, special)
      self._left_out += _left_out(held, 'test', eval_path)
      train, test = found.rows, held.rows
    else:
      train = [row for row in found.rows if not in_test(row.problem, HELD_OUT)]
      test = [row for row in found.rows if in_test(row.problem, HELD_OUT)]
      if found.rows and not test:
        raise DataError(
          f'data.path = {path!r}: none of its {len(train)} rows falls into the test split, one in {HELD_OUT} by the hash of '
          'the problem; fix: --config.data.eval_path=FILE, or more rows'
        )
    self._rows = {'train': self._that_fit(train, needs_solutions), 'test': self._all_fit(test, test_problems)}
    if path and not self._rows['train']:
      raise DataError(
        f'data.path = {path!r}: none of {len(train)} train rows fits max_prompt_tokens = {max_prompt_tokens} and '
        f'max_response_tokens = {max_response_tokens}; fix: raise rollout.prompt_width and rollout.horizon, or add rows'
      )

  @property
  def max_prompt_tokens(self) -> int:
    """The most tokens of a prompt."""
    return self._limits[0]

  @property
  def max_response_tokens(self) -> int:
    """The most tokens of a written solution."""
    return self._limits[1]

  def problem(self, split: str, index: int) -> Problem:
    """Returns the problem at `index`. The train split has endless epochs. The test split is in file order, without repeats."""
    identity = problem_id(split, index)
    row = self._row(split, index)
    return Problem(identity, self._write(row.problem), row.answer)

  def question(self, problem: Problem) -> str:
    """Returns the problem as the benchmark has it, without chat template and instruction."""
    return self._row_of(problem).problem

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Returns the written solution. If the prompt opens a thought, the thought is closed and the answer repeated in a box.

    Raises:
      DataError: The benchmark has no written solutions.
    """
    row = self._row_of(problem)
    if row.solution is None:
      raise DataError(f"{row.place}: no written solution; fix: leave 'warm_start' out of stages, or another data.benchmark")
    return self._response(row)

  def verify(self, problem: Problem, response: str) -> bool:
    """Returns whether the response's final answer equals the problem's mathematically."""
    return bool(self.verify_all([problem], [response])[0].correct)

  def verify_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
    """Grades in worker processes under a deadline.

    A response that cannot be graded in time counts as wrong, and its status says so.
    A response that ends inside a thought has no answer yet, whether the prompt or the response opened the thought.
    """
    pairs = [(self._turn(response), problem.answer) for problem, response in zip(problems, responses, strict=True)]
    return self._grader.grade_all(pairs)

  def stated_answer(self, response: str) -> str:
    """Returns the final answer of the text; '' if the text ends inside a thought. Equal answers mostly have one spelling."""
    return pooled_answer(self._turn(response))

  def size(self, split: str) -> int | None:
    """Returns the number of rows of a split."""
    split_bit(split)
    return len(self._rows[split])

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns the tokenizer of the model."""
    return self._tokenizer

  def findings(self) -> list[Finding]:
    """Reports the rows that were left out, and the test problems that are also in the train split."""
    sizes = {split: len(rows) for split, rows in self._rows.items()}
    left_out = sum(entry['rows'] for entry in self._left_out)
    overlaps = find_overlaps(self._rows['train'], self._rows['test'])
    return [
      Finding(
        'skipped.jsonl',
        f'left out {left_out} rows that are malformed, too long or repeats; there remain {sizes["train"]} train and '
        f'{sizes["test"]} test rows',
        self._left_out,
      ),
      Finding(
        'overlap.jsonl',
        f'{len(overlaps)} of {sizes["test"]} test problems share {WORDS} words in a row with a train problem, '
        f'{sum(overlap.share == 1 for overlap in overlaps)} of them all their words',
        [
          {
            'share': round(share, 4),
            'test': {'place': test.place, 'problem': test.problem},
            'train': {'place': train.place, 'problem': train.problem},
          }
          for test, train, share in overlaps
        ],
      ),
    ]

  @functools.cached_property
  def _grader(self) -> Grader:
    grader = Grader(self._workers, self._deadline)
    atexit.register(grader.close)
    return grader

  def _row_of(self, problem: Problem) -> Row:
    return self._row('test' if problem.id & split_bit('test') else 'train', problem.id >> 1)

  def _row(self, split: str, index: int) -> Row:
    rows = self._rows[split]
    if split == 'train':
      if not rows:
        raise IndexError('there is no train split; fix: set data.path')
      epoch, position = divmod(index, len(rows))
      return rows[_order(self._seed, epoch, len(rows))[position]]
    if index >= len(rows):
      raise IndexError(f'the test split has {len(rows)} rows; there is no index {index}')
    return rows[index]

  def _turn(self, response: str) -> str:
    """Puts the tag that the prompt left open in front of the response, and spells all tags as the grader reads them."""
    return one_spelling(self._opened + response)

  def _response(self, row: Row) -> str:
    if not self._opened:
      return str(row.solution)
    return f'{row.solution}\n{closing_tag(self._opened)}\n\n\\boxed{{{row.answer}}}'

  def _that_fit(self, rows: list[Row], with_solutions: bool) -> list[Row]:
    """Returns the train rows within the limits, and adds the others to the list of rows left out."""
    lengths = [('prompt', 'rollout.prompt_width', self._limits[0], self._prompt_tokens(rows))]
    if with_solutions:  # the end token counts
      responses = [count + 1 for count in self._count([self._response(row) for row in rows])]
      lengths.append(('solution', 'rollout.horizon', self._limits[1], responses))
    kept = []
    for i, row in enumerate(rows):
      reasons = [f'{what} of {n[i]} tokens, more than {field} = {limit}' for what, field, limit, n in lengths if n[i] > limit]
      if reasons:
        self._left_out.append({'split': 'train', 'place': row.place, 'rows': 1, 'reason': '; '.join(reasons)})
      else:
        kept.append(row)
    return kept

  def _all_fit(self, rows: list[Row], asked: int | None) -> list[Row]:
    """Returns the test rows after checking that none of the rows that will be used exceeds the limit."""
    counts, limit = self._prompt_tokens(rows[:asked]), self._limits[0]
    long = [i for i, count in enumerate(counts) if count > limit]
    if long:
      longest = max(long, key=counts.__getitem__)
      fewer = f', or eval.problems <= {long[0]}' if long[0] else ''
      raise DataError(
        f'{rows[longest].place}: a prompt of {counts[longest]} tokens, the longest of {len(long)} in the test split with more '
        f'than rollout.prompt_width = {limit}; fix: rollout.prompt_width >= {counts[longest]}, or take such rows out{fewer}'
      )
    return rows

  def _prompt_tokens(self, rows: list[Row]) -> list[int]:
    """Counts the tokens of each row's prompt with the tag that makes the prompt longest."""
    prompts = [self._write(row.problem) for row in rows]
    return [max(counts) for counts in zip(*(self._count([text + tag for text in prompts]) for tag in self._tags), strict=True)]

  def _count(self, texts: list[str]) -> list[int]:
    return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)['input_ids']] if texts else []


def _left_out(found: Rows, split: str, path: str) -> list[dict[str, Any]]:
  """Lists the malformed rows one by one. Repeated rows, which may be a million, are one entry."""
  entries = [{'split': split, 'place': place, 'rows': 1, 'reason': reason} for place, reason in found.skipped]
  if found.repeats:
    entries.append({'split': split, 'place': path, 'rows': found.repeats, 'reason': 'repeats of earlier rows'})
  return entries


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(rows)
