"""Grading free text: the final answer of a response against the gold answer, in worker processes where that takes algebra."""

import atexit
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from espo_jax.tasks.grading.answers import final_answer
from espo_jax.tasks.grading.equality import Undecided, same_answer, same_name
from espo_jax.tasks.grading.process import WorkerPool, WorkerProcess
from espo_jax.tasks.task import Verdict

MAX_ANSWER = 1_000  # characters: a longer prediction is wrong, a longer gold answer an error
MAX_SPELLED = 4_000  # characters of a prediction in the one spelling, where a character may become many
_WORKER = Path(__file__).with_name('worker.py')
LEAST_MEMORY_MB = 256  # of address space; the imports alone take 90


class Grader:
  """Grades on a few worker processes, started when first needed. Any thread may use it, several at once.

  A worker that is stuck or dead is replaced; its pair gets the status 'timeout' or 'error'. An 'error' also means that the gold
  answer is empty, too long, or not understood.
  """

  def __init__(self, workers: int = 2, deadline: float = 5.0, recycle_after: int = 2_000, memory_mb: int = 1_024) -> None:
    """Checks the settings; starts nothing yet.

    Args:
      workers: the number of processes.
      deadline: seconds that a worker has for a pair; then it is killed.
      recycle_after: answers after which a worker is replaced, for the algebra's caches grow.
      memory_mb: the limit of a worker's address space.

    Raises:
      ValueError: a setting out of range.
    """
    for name, value, least in (
      ('workers', workers, 1),
      ('recycle_after', recycle_after, 1),
      ('memory_mb', memory_mb, LEAST_MEMORY_MB),
    ):
      if value < least:
        raise ValueError(f'{name} = {value} is too small; fix: {name} >= {least}')
    if not 0 < deadline < math.inf:
      raise ValueError(f'deadline = {deadline} is not a number of seconds; fix: deadline > 0')
    fix = f'pip install -r requirements.txt, or memory_mb > {memory_mb}'
    worker = functools.partial(WorkerProcess, deadline=deadline, recycle_after=recycle_after, fix=fix)
    self._pool = WorkerPool([worker(_WORKER, [str(memory_mb * 2**20)]) for _ in range(workers)])

  def grade_all(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Grades (prediction, answer) pairs and returns their verdicts in order; see `grade` for what counts as equal.

    Raises:
      RuntimeError: the grader is closed, or its workers do not start at all.
    """
    if self._pool.closed:
      raise RuntimeError('the grader is closed; fix: make another, or close it after the last use')
    outcomes = [_decide(prediction, answer) for prediction, answer in pairs]
    questions = dict.fromkeys(outcome for outcome in outcomes if isinstance(outcome, Undecided))  # each once: samples repeat
    asked = {question: self._pool.submit(question) for question in questions}
    return [_verdict(*asked[outcome].result()) if isinstance(outcome, Undecided) else outcome for outcome in outcomes]

  def close(self) -> None:
    """Waits for the pairs at work and ends the processes. Closing twice is fine."""
    self._pool.close()

  def __enter__(self) -> 'Grader':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
    self.close()


def grade(prediction: str, answer: str) -> bool:
  r"""Whether the final answer of a free text equals the gold answer mathematically.

  The final answer is the last one that the text states after its reasoning, in the order that `answers` tells, with Markdown
  rendered. A response without one is wrong. Several candidates (`18 or 19`) are one answer, a list, and wrong unless the gold
  answer is that list.

  As is the custom with MATH answers, the form does not matter (`\frac{1}{2}`, `0.5`, `2/4`; factored or expanded), nor do
  units, currency, degrees, a base subscript on one side only, the case of letters, or `x =` before a value. `50\%` equals both
  `50` and `0.5`. Values are compared exactly, or with a hundred digits to spare where they are not rational. A decimal is
  exact, unless six places or more of it, and four significant digits, round or cut another value. A symbol under a root or in
  a logarithm of the gold answer is positive; elsewhere `|x|` differs from `x`. `for any constant c` may be left out. Lists are
  in any order; tuples and intervals are not, and `(1,2)` differs from `[1,2]`.

  Args:
    prediction: the text of a response; any text is safe, and none is evaluated.
    answer: the gold answer: a number, a formula, or words; may itself be in a box or follow `####`.

  Returns:
    The verdict of a grader of this process; a timeout or an error is False here. `Grader.grade_all` tells them apart.
  """
  return _shared_grader(os.getpid()).grade_all([(prediction, answer)])[0].correct == 1


@functools.lru_cache(maxsize=1)
def _shared_grader(process: int) -> Grader:
  """The grader of a process: one that was forked must not talk to its parent's workers."""
  grader = Grader()
  atexit.register(grader.close)
  return grader


def _verdict(reply: list | None, status: str) -> Verdict:
  """What a worker said of a pair, or that it said nothing."""
  return Verdict(False, status) if reply is None else Verdict(*reply)


def _decide(prediction: str, answer: str) -> Verdict | Undecided:
  """Compares what can be compared without a worker."""
  if '\\boxed' in answer or '####' in answer:
    answer = final_answer(answer)[1]
  if not answer.strip() or len(answer) > MAX_ANSWER:
    return Verdict(False, 'error')
  statement, picked = final_answer(prediction)
  if len(statement) <= MAX_ANSWER and same_name(statement, answer):
    return Verdict(True, 'ok')
  if len(picked) > MAX_ANSWER:
    return Verdict(False, 'ok')
  equal = same_answer(picked, answer)
  if isinstance(equal, bool):
    return Verdict(equal, 'ok')
  return equal if len(equal.prediction) <= MAX_SPELLED else Verdict(False, 'ok')
