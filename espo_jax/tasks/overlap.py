"""Finds evaluation problems that are also in the training set, by the runs of words that they share.

Texts are compared as words of lower-case letters and digits, without LaTeX commands, punctuation and space. A problem overlaps
if it shares 13 words in a row with a training problem, because ordinary phrases are shorter. A problem with fewer words
overlaps if a training problem has exactly the same words. The share of its runs that a training problem has is 1 for a copy,
and small for a common opening.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from espo_jax.tasks.benchmarks import Row

WORDS = 13

_COMMAND = re.compile(r'\\[a-z]+')
_WORD = re.compile(r'[^\W_]+')


class Overlap(NamedTuple):
  """An evaluation problem and the training problem that shares the most runs of words with it.

  Attributes:
    test: the evaluation row.
    train: the training row.
    share: the share of the evaluation problem's runs that the training row also has.
  """

  test: Row
  train: Row
  share: float


def words_of(problem: str) -> list[str]:
  """Returns the words of a problem in the form in which they are compared."""
  return _WORD.findall(_COMMAND.sub(' ', unicodedata.normalize('NFKC', problem).lower()))


def find_overlaps(train: Sequence[Row], test: Sequence[Row]) -> list[Overlap]:
  """Returns the evaluation rows that overlap with training rows, in their order. The time is linear in the size of both."""
  runs_of = [set(_runs(words_of(row.problem))) for row in test]
  holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
  for i, runs in enumerate(runs_of):
    for run in runs:
      holders[run].append(i)
  best: dict[int, tuple[int, Row]] = {}
  for row in train:
    shared = Counter(i for run in set(_runs(words_of(row.problem))) for i in holders.get(run, ()))
    for i, count in shared.items():
      if i not in best or count > best[i][0]:
        best[i] = count, row
  return [Overlap(test[i], row, count / len(runs_of[i])) for i, (count, row) in sorted(best.items(), key=lambda item: item[0])]


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
  """Returns all runs of `WORDS` words, or a single run of all words if there are fewer."""
  return [tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))] if words else []
