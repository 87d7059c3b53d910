"""Chain arithmetic: a running sum modulo a number, in which every step is written down.

The prompt `3a+4b-7c+5=` asks for the response `a+4=7b-7=0c+5=5#5`. For each operation the response has its label, the operator,
the operand, `=` and the running result. At the end it has `#` and the answer. The labels tell a small model which step comes
next.

One wrong step makes the whole response wrong, as in a long derivation. The verifier checks every step, because the answer alone
is right by chance once in `modulus` tries, and such a lucky answer after a wrong step would reward the wrong step.

With `rechecks` a step may be written several times, `a+4=7a+4=7b-7=0...`. Such a response is right and needlessly long.
"""

import functools
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from espo_jax.tasks.registered import register
from espo_jax.tasks.task import Problem, Task, check_probability, in_test, lookup, problem_id, problem_rng
from espo_jax.tasks.tokenizer import character_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast


class ChainSettings(NamedTuple):
  """The settings of a difficulty.

  The number of operations is drawn uniformly from [min_ops, max_ops], and each operand from [1, max_operand].

  Small operands make `easy` easy to learn: a result is then close to the one before it, which helps even a model that does not
  yet read the operand. With operands from the whole range a model must read the previous result, the operator and the operand
  before any of them helps.
  """

  digits: int
  max_operand: int
  min_ops: int
  max_ops: int


_LABELS = string.ascii_letters + ''.join(map(chr, range(0x100, 0x250)))  # accented letters follow

DIFFICULTIES = {
  'easy': ChainSettings(digits=1, max_operand=3, min_ops=4, max_ops=12),
  'medium': ChainSettings(digits=1, max_operand=9, min_ops=8, max_ops=24),
  'hard': ChainSettings(digits=2, max_operand=99, min_ops=4, max_ops=16),
}


@register('chain')
@dataclass(frozen=True)
class Chain(Task):
  """Chain arithmetic modulo 10 (easy, medium) or 100 (hard), one character a token.

  Attributes:
    difficulty: 'easy', 'medium' or 'hard'.
    seed: the seed of the problems.
    noise: the probability that a step of `solution` which `habit` leaves right gets a uniformly drawn wrong result, from which
      the chain goes on. A warm start on such solutions gives a policy that makes slips.
    habit: the probability that a step of `solution` whose sum leaves 0 .. modulus - 1 gets a result that is one too large, from
      which the chain goes on. After a warm start on such solutions with a habit above a half, even the likeliest response is
      wrong wherever a sum leaves that range.
    rechecks: the most times that a step may be repeated, in any response.
    recheck_rate: the probability that a step of `solution` is repeated once more, up to `rechecks` times. A warm start on such
      solutions gives a policy that writes more than it needs.
    min_ops: the fewest operations, in place of the difficulty's.
    max_ops: the most operations, in place of the difficulty's.
  """

  difficulty: str = 'easy'
  seed: int = 0
  noise: float = 0.0
  habit: float = 0.0
  rechecks: int = 0
  recheck_rate: float = 0.5
  min_ops: int | None = None
  max_ops: int | None = None

  name = 'chain'

  def __post_init__(self) -> None:
    """Checks the settings, so that a wrong one fails at once."""
    check_probability('noise', self.noise)
    check_probability('habit', self.habit)
    check_probability('recheck_rate', self.recheck_rate)
    if self.rechecks < 0:
      raise ValueError(f'rechecks = {self.rechecks}; fix: 0 for none, or a positive number')
    if not 1 <= self.settings.min_ops <= self.settings.max_ops <= len(_LABELS):
      raise ValueError(
        f'min_ops = {self.settings.min_ops}, max_ops = {self.settings.max_ops}; '
        f'fix: choose 1 <= min_ops <= max_ops <= {len(_LABELS)}, one letter an operation'
      )

  @functools.cached_property
  def settings(self) -> ChainSettings:
    """The settings of the difficulty, with `min_ops` and `max_ops` replaced where they are given."""
    base = lookup('difficulty', self.difficulty, DIFFICULTIES)
    return base._replace(
      min_ops=base.min_ops if self.min_ops is None else self.min_ops,
      max_ops=base.max_ops if self.max_ops is None else self.max_ops,
    )

  @property
  def modulus(self) -> int:
    """The modulus of all arithmetic."""
    return 10**self.settings.digits

  @property
  def max_prompt_tokens(self) -> int:
    """The length of the longest prompt.

    A prompt is a first number, then a label, an operator and a number per operation, then `=`.
    """
    digits = self.settings.digits
    return digits + self.settings.max_ops * (2 + digits) + 1

  @property
  def max_response_tokens(self) -> int:
    """The length of the longest response.

    A response has label, operator, operand, `=` and result for each time that an operation is written, then `#`, the answer
    and the end token.
    """
    digits = self.settings.digits
    return self.settings.max_ops * (1 + self.rechecks) * (3 + 2 * digits) + 1 + digits + 1

  def problem(self, split: str, index: int) -> Problem:
    """Draws the problem at `index` of `split`, again and again until the hash of its prompt falls in the split."""
    identity = problem_id(split, index)
    rng = problem_rng(self.seed, split, index)
    while True:
      prompt = self._draw(rng)
      if in_test(prompt) == (split == 'test'):
        return Problem(identity, prompt, self._respond(prompt).rpartition('#')[2])

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Writes every step and the answer.

    With `noise` and `habit` some steps are wrong, and the steps after them are consistent with the wrong result. With
    `rechecks` some steps are repeated.
    """
    return self._respond(problem.prompt, rng)

  def verify(self, problem: Problem, response: str) -> bool:
    """Returns whether every step and the answer are right, and no step is repeated more than `rechecks` times."""
    *steps, answer = re.findall('[^-+=0-9][-+=0-9]*', self._respond(problem.prompt))
    pattern = ''.join(f'(?:{re.escape(step)}){{1,{1 + self.rechecks}}}' for step in steps)
    return re.fullmatch(pattern + answer, response) is not None

  def stated_answer(self, response: str) -> str:
    """Returns the text after the last `#`."""
    _, mark, answer = response.rpartition('#')
    return answer if mark else ''

  def size(self, split: str) -> int | None:
    """Returns None, because there is no end of problems."""
    return None

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns a tokenizer with one token per character."""
    return character_tokenizer('0123456789+-=#' + _LABELS[: self.settings.max_ops])

  def _draw(self, rng: np.random.Generator) -> str:
    ops = int(rng.integers(self.settings.min_ops, self.settings.max_ops + 1))
    first = int(rng.integers(0, self.modulus))
    operands = rng.integers(1, self.settings.max_operand + 1, ops).tolist()
    signs = rng.integers(0, 2, ops).tolist()
    parts = [self._write(first)]
    for label, sign, number in zip(_LABELS, signs, operands, strict=False):
      parts.append(label + '+-'[sign] + self._write(number))
    return ''.join(parts) + '='

  def _respond(self, prompt: str, rng: np.random.Generator | None = None) -> str:
    """Writes the response to a prompt; with an `rng`, steps go wrong and are repeated with their probabilities."""
    first, *terms = re.findall(r'[+-]?[0-9]+', prompt)
    value = int(first)
    parts = []
    for label, term in zip(_LABELS, terms, strict=False):
      total = value + int(term)
      value = total % self.modulus
      if rng is not None and self.habit and total != value and rng.random() < self.habit:
        value = (value + 1) % self.modulus
      elif rng is not None and self.noise and rng.random() < self.noise:
        value = (value + int(rng.integers(1, self.modulus))) % self.modulus
      parts.append(f'{label}{term}={self._write(value)}')
      if rng is not None and self.rechecks:
        again = int(np.argmin([*(rng.random(self.rechecks) < self.recheck_rate), False]))
        parts.append(parts[-1] * again)
    return ''.join(parts) + '#' + self._write(value)

  def _write(self, number: int) -> str:
    return f'{number:0{self.settings.digits}d}'
