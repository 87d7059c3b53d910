"""Answers that try to hang, crash, bloat or trick the grader, from the main thread and from another one.

Towers of powers, a megabyte of braces, deep nesting, runs on which a careless pattern takes exponential time, matrices, units,
fractions of thousands of digits, code, control characters and halves of characters, drawn from a seed. A case is one answer. It
holds if its verdict is wrong or an error, and comes within the deadline and a slack. The slowest answer of a batch
decides for its whole batch. After all of them this process may have grown by 50 MB, each worker that was lost must have been
replaced, and the grader must still grade.
"""

import contextlib
import pathlib
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from drills.record import Case
from espo_jax.tasks import Grader
from espo_jax.tasks.grading import grader as grading
from espo_jax.tasks.grading import process

COUNT = 2_000
DEADLINE, SLACK = 1.0, 1.0  # seconds; the slack is for a busy machine
GROWTH = 50  # MB
WORKERS, BATCH = 2, 50
AIM = (
  f'each is answered within {DEADLINE + SLACK:g} s, where the deadline is {DEADLINE:g} s and the slowest of a batch of {BATCH} '
  f'decides for all of them, this process grows by less than {GROWTH} MB, lost workers are replaced'
)
GOLDS = ('170141183', r'2\sqrt{3} + x', r'\frac{355}{113}', r'x^2 + 3x - 7', '(1, 2, 5)')


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Grades `count` hostile answers.

  Args:
    folder: An empty folder, which stays empty.
    count: The number of answers.
    seed: The seed that they are drawn from.
    figures: The dict that gets the numbers of verdicts by status, of workers, and the growth of this process.
  """
  rng = random.Random(seed)
  statuses, started, slowest = dict.fromkeys(('ok', 'timeout', 'error'), 0), list[Any](), 0.0
  start, ask, lost = process.WorkerProcess._start, process.WorkerProcess.ask, list[bool]()

  def counted(self: Any) -> Any:
    started.append(self)
    return start(self)

  def asked(self: Any, question: Any) -> Any:
    reply, status = ask(self, question)
    lost.append(status != 'ok')
    return reply, status

  replaced = mock.patch.multiple(process.WorkerProcess, _start=counted, ask=asked)
  with replaced, Grader(WORKERS, DEADLINE, recycle_after=10**9) as grader:
    grader.grade_all([(r'\boxed{\sqrt{8}}', r'2\sqrt{2}')] * 4)
    before = _peak()
    for first in range(0, count, BATCH):
      texts = [_answer(rng) for _ in range(min(BATCH, count - first))]
      pairs = [(text, GOLDS[i % len(GOLDS)]) for i, text in enumerate(texts)]
      with _timed(process, '_exchange', time.monotonic) as waited, _timed(grading, '_decide', time.thread_time) as thought:
        verdicts = _graded(grader, pairs, in_thread=bool(first // BATCH % 2))
      slow = max([0.0, *waited, *thought])
      slowest = max(slowest, slow)
      for (text, _), verdict in zip(pairs, verdicts, strict=True):
        statuses[verdict.status] += 1
        right = slow <= DEADLINE + SLACK and not verdict.correct
        note = 'it was called right' if verdict.correct else f'an answer of its batch took {slow:.1f} s'
        yield Case(f'{text[:40]!r}', right, '' if right else note)
    grown = (_peak() - before) / 1e3
    grades = grader.grade_all([(r'\boxed{\sqrt{8}}', r'2\sqrt{2}'), ('18', '18')])
  again = len(started) - len(set(started))  # a worker that is not needed is never started
  yield Case('this process stays small', grown < GROWTH, f'it grew by {grown:.0f} MB')
  yield Case('each lost worker is replaced', again == sum(lost), f'{again} started again, {sum(lost)} lost')
  yield Case('the grader still grades', all(verdict == (True, 'ok') for verdict in grades), str(grades))
  yield Case('nothing was executed', not list(folder.iterdir()) and not pathlib.Path('hacked').exists())
  figures.update(statuses | {'workers replaced': again, 'MB grown': round(grown, 1), 'slowest s': round(slowest, 2)})


def _graded(grader: Grader, pairs: list[tuple[str, str]], in_thread: bool) -> list[Any]:
  found: list[Any] = []

  def grade() -> None:
    found.extend(grader.grade_all(pairs))

  if in_thread:
    thread = threading.Thread(target=grade)
    thread.start()
    thread.join()
  else:
    grade()
  return found


@contextlib.contextmanager
def _timed(module: Any, name: str, clock: Callable[[], float]) -> Iterator[list[float]]:
  """Lists the seconds of each call of a module's function."""
  function, seconds = getattr(module, name), list[float]()

  def called(*args: Any) -> Any:
    start = clock()
    try:
      return function(*args)
    finally:
      seconds.append(clock() - start)

  with mock.patch.object(module, name, called):
    yield seconds


def _peak() -> int:
  """Returns the most memory that this process has had, in kilobytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ------------------------------------------------------------------------------------------------------------- the answers


def _answer(rng: random.Random) -> str:
  made = rng.choice(_KINDS)(rng)
  around = rng.choice(
    ['%s', r'\boxed{%s}', r'The answer is $\boxed{%s}$.', '#### %s', '<answer>%s</answer>', '$$%s$$', '%s units']
  )
  return around.replace('%s', made)


def _tower(rng: random.Random) -> str:
  levels, base = rng.randrange(3, 9), rng.choice(['9', '(9!)', '10', 'x', r'\pi', '2.5', '(1+x)'])
  tower = '^{'.join([base] * levels) + '}' * (levels - 1)
  around = rng.choice(['%s', '(%s)!', r'\frac{%s}{%s}', r'\sqrt{%s}', r'\sin(%s)', '%s = 18', r'%s \pmod{7}'])
  return around.replace('%s', tower)


def _nested(rng: random.Random) -> str:
  depth = rng.choice([50, 150, 300, 3_000, 20_000])
  opening, closing = rng.choice([
    (r'\frac{1}{', '}'), (r'\sqrt{', '}'), ('(', ')'), ('{', '}'), (r'\left(', r'\right)'), ('|', '|'), (r'\boxed{', '}'),
    ('[', ']'), ('-', ''), ('2^', ''), (r'\text{', '}'), (r'\lfloor ', r'\rfloor '),
  ])  # fmt: skip
  return opening * depth + '7' + closing * rng.choice([depth, depth - 1, 0])


def _long(rng: random.Random) -> str:
  unit = rng.choice([
    '{', '}', '{}', '\\', '$', '9', '9,', 'a', ' ', '\n', '\\frac', '9!', '²', ' 9', 'a-', '*', '**a', '<b>', '= ',
    'answer is ', '\\boxed{', '(a', '\ud800', '\0', '`', '~~a', '- *a\n', ', or 9', '٣', '\u202e',
  ])  # fmt: skip
  size = rng.choice([900, 3_000, 50_000, 1_000_000])
  return (unit * (size // len(unit) + 1))[:size] + rng.choice(['', ' 18', '!', '}'])


def _number(rng: random.Random) -> str:
  digits = ''.join(rng.choice('0123456789') for _ in range(rng.choice([300, 990, 5_000])))
  return rng.choice([
    f'{digits}!', f'0.{digits}', rf'\frac{{{digits}}}{{{digits[::-1]}1}}', f'{digits}^{digits[:50]}', f'1e{digits[:9]}',
    f'-{digits}.{digits}%', rf'\sqrt[{digits[:12]}]{{2}}', rf'\binom{{{digits[:11]}}}{{{digits[:10]}}}',
    rf'\log_{{{digits}}}({digits})', f'{digits[:200]}/{digits[:199]}',
  ])  # fmt: skip


def _symbolic(rng: random.Random) -> str:
  power = rng.choice(['10^9', '100000', '200', '10^{10}', '7'])
  return rng.choice([
    rf'(x+1)^{{{power}}}', rf'(x+y+z+w)^{{{power}}} - (x+y)^{{{power}}}', rf'\int_0^1 x^{{x^{{{power}}}}} dx',
    rf'\sum_{{n=1}}^{{{power}}} \frac{{1}}{{n}}', rf'\prod_{{n=1}}^{{{power}}} n',
    rf'\det\begin{{pmatrix}} x & 1 \\ 1 & x^{{{power}}} \end{{pmatrix}}', rf'\operatorname{{eye}}({power})',
    rf'\lim_{{x \to \infty}} x^{{x^{{{power}}}}}', rf'\int e^{{\sin(\cos(\tan(x^{{{power}}})))}} dx',
    rf'\gcd({power}, 3^{{{power}}})', r'\frac{1}{0}', r'0^{-1}', rf'\sin({power})^{{\cos({power})^{{\tan({power})}}}}',
    r'\infty - \infty',
  ])  # fmt: skip


def _code(rng: random.Random) -> str:
  return rng.choice([
    "__import__('os').system('touch hacked')", '().__class__.__bases__[0].__subclasses__()', 'lambda: 18',
    'open("hacked", "w")', '$(touch hacked)', r'\write18{touch hacked}', r'\def\x{\x}\x', r'\input{/etc/passwd}',
    'import sys; sys.exit(0)', '[True, "ok"]\n' * rng.randrange(1, 9), '{"correct": true}', 'x.func', 'DROP TABLE x',
    '{{ x.__class__ }}', '%s%s%n' * 50, r'\operatorname{eval}(18)', '18 if True else 19', '\x1b]0;x\x07',
  ])  # fmt: skip


def _units(rng: random.Random) -> str:
  units = ['m', 'km/h', r'\text{ cm}^2', r'^\circ', r'\$', '%', 'dollars', r'\text{kg}\cdot m^{-3}', 'µs', '"']
  return ' '.join(f'{rng.randrange(10**6)}{rng.choice(units)}' for _ in range(rng.choice([1, 5, 200])))


def _matrix(rng: random.Random) -> str:
  side, entry = rng.choice([3, 8, 15]), rng.choice(['x', '1', 'x^{x}', r'\frac{1}{x}', '9^{9^9}'])
  rows = r' \\ '.join(' & '.join([entry] * side) for _ in range(side))
  return rf'\begin{{pmatrix}} {rows} \end{{pmatrix}}' + rng.choice(['', '^{-1}', '^{1000}', '^T'])


def _noise(rng: random.Random) -> str:
  alphabet = '0123456789+-*/^_!(){}[]\\$%.,=<>|&~\'"`#@ \n\0abcxπ√²½𝟙٣\ud800\u202e\u2066\ufeff🙂'
  return ''.join(rng.choice(alphabet) for _ in range(rng.randrange(1, 400)))


_KINDS = (_tower, _nested, _long, _number, _symbolic, _code, _units, _matrix, _noise)
