"""Grades the final answer of a response against the gold answer, in worker processes if that needs computer algebra."""

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

MAX_ANSWER = 1_000  # the most characters; a longer prediction is wrong, and a longer gold answer an error
MAX_SPELLED = 4_000  # the most characters of a prediction in canonical spelling, which may be longer than the prediction
_WORKER = Path(__file__).with_name('worker.py')
LEAST_MEMORY_MB = 256  # address space, of which the imports take 90


class Grader:
  """Grades answers with a few worker processes, which start when they are first needed. It is thread-safe.

  A worker that exceeds the deadline or dies is replaced, and its pair gets the status 'timeout' or 'error'. The status is also
  'error' if the gold answer is empty, too long or no formula.
  """

  def __init__(self, workers: int = 2, deadline: float = 5.0, recycle_after: int = 2_000, memory_mb: int = 1_024) -> None:
    """Checks the settings. It starts no process.

    Args:
      workers: The number of processes.
      deadline: The seconds that a worker has for one pair. A worker that takes longer is killed.
      recycle_after: The number of answers after which a worker is replaced, because the caches of the algebra grow.
      memory_mb: The limit of a worker's address space in MiB.

    Raises:
      ValueError: A setting is out of range.
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
    """Grades (prediction, answer) pairs by the rules of `grade`, and returns their verdicts in order.

    Raises:
      RuntimeError: The grader is closed, or its workers do not start.
    """
    if self._pool.closed:
      raise RuntimeError('the grader is closed; fix: make another, or close it after the last use')
    outcomes = [_decide(prediction, answer) for prediction, answer in pairs]
    questions = dict.fromkeys(outcome for outcome in outcomes if isinstance(outcome, Undecided))  # without repeats
    asked = {question: self._pool.submit(question) for question in questions}
    return [_verdict(*asked[outcome].result()) if isinstance(outcome, Undecided) else outcome for outcome in outcomes]

  def close(self) -> None:
    """Waits for the running comparisons and ends the processes. A second call does nothing."""
    self._pool.close()

  def __enter__(self) -> 'Grader':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
    self.close()


def grade(prediction: str, answer: str) -> bool:
  r"""Returns whether the final answer of a free text equals the gold answer mathematically.

  The final answer is the last one that the text states after its reasoning, by the rules of `answers`. A response without a
  final answer is wrong. Several candidates, such as `18 or 19`, are a list, and wrong unless the gold answer is the same list.

  | subject | rule |
  |---|---|
  | form | The form does not matter: `\frac{1}{2}`, `0.5` and `2/4` are equal, and so are factored and expanded formulas. |
  | units | Units, currency, degrees, the case of letters, and `x =` before a value are ignored. |
  | bases | A base subscript that only one side has is ignored. |
  | percent | `50\%` equals both `50` and `0.5`. |
  | precision | Rational values are compared exactly, and others with a hundred digits more than the formulas have. |
  | decimals | A decimal is exact, or rounds or truncates another value with at least six places and four significant digits. |
  | signs | A symbol under a root or in a logarithm of the gold answer is positive. Otherwise `\|x\|` differs from `x`. |
  | constants | A remark such as `for any constant c` may be missing. |
  | order | Lists and sets may be in any order, but not tuples and intervals. `(1,2)` differs from `[1,2]`. |

  Args:
    prediction: The text of a response. Any text is safe, because no text is evaluated.
    answer: The gold answer: a number, a formula or words. It may be in a box or after `####`.

  Returns:
    The verdict. It is False after a timeout or an error, which `Grader.grade_all` reports.
  """
  return _shared_grader(os.getpid()).grade_all([(prediction, answer)])[0].correct == 1


@functools.lru_cache(maxsize=1)
def _shared_grader(process: int) -> Grader:
  """Returns the grader of a process. A forked process gets its own, because it must not use its parent's workers."""
  grader = Grader()
  atexit.register(grader.close)
  return grader


def _verdict(reply: list | None, status: str) -> Verdict:
  """Returns the verdict in a worker's reply, or a wrong one with the status if there is no reply."""
  return Verdict(False, status) if reply is None else Verdict(*reply)


def _decide(prediction: str, answer: str) -> Verdict | Undecided:
  """Returns the verdict if no worker is needed, and otherwise the question for a worker."""
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
