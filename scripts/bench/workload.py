"""Makes the benchmark's rows: each prompt encodes the forced length of its response.

This module needs only numpy, because it runs in every contender's environment.
"""

import dataclasses
import heapq
from collections.abc import Iterator

import numpy as np

PAD, END = 0, 1
FIRST = 2  # the first id of an ordinary token
BASE = 64  # two prompt tokens encode a number as its digits in this base


@dataclasses.dataclass(frozen=True)
class Workload:
  """The rows to decode, and the number of slots.

  Attributes:
    prompts: The prompts `[N, L]`, all of the same length. Each begins with the row's length and stop, see `decode`.
    lengths: The number of tokens of each row, the end token included, `[N]`.
    stops: The number of the token at which a stop rule ends each row, `[N]`; more than the row's length if none does.
    slots: The number of rows that are decoded at a time.
    horizon: The most tokens of a response.
    samples: The number of rows per prompt. They are adjacent, and have the same length and stop.
  """

  prompts: np.ndarray
  lengths: np.ndarray
  stops: np.ndarray
  slots: int
  horizon: int
  samples: int

  @property
  def rows(self) -> int:
    """The number of rows."""
    return len(self.lengths)

  @property
  def ends(self) -> np.ndarray:
    """The number of tokens of each row up to its end or its stop."""
    return np.minimum(self.lengths, self.stops)

  def batches(self) -> Iterator[slice]:
    """Yields the rows in order, as slices of at most `slots` rows."""
    return (slice(i, min(i + self.slots, self.rows)) for i in range(0, self.rows, self.slots))

  def with_lengths(self, lengths: np.ndarray, stops: np.ndarray | None = None) -> 'Workload':
    """Returns the workload with other lengths and stops, encoded in the same prompts."""
    stops = lengths + 1 if stops is None else stops
    numbers = [FIRST + digit for number in (lengths, stops) for digit in (number // BASE, number % BASE)]
    prompts = self.prompts.copy()
    prompts[:, : len(numbers)] = np.stack(numbers, axis=1)
    return dataclasses.replace(self, prompts=prompts, lengths=lengths, stops=stops)

  def save(self, path: str) -> str:
    """Writes the workload to a file, and returns the path."""
    np.savez(path, **dataclasses.asdict(self))
    return path


def load(path: str) -> Workload:
  """Reads a workload that `save` wrote."""
  with np.load(path) as file:
    return Workload(
      file['prompts'], file['lengths'], file['stops'], *(int(file[name]) for name in ('slots', 'horizon', 'samples'))
    )


def make(
  lengths: np.ndarray, *, slots: int, horizon: int, width: int, vocabulary: int, seed: int, samples: int = 1
) -> Workload:
  """Makes a random prompt of `width` tokens for each of these lengths, with `samples` rows per prompt."""
  highest = FIRST + (horizon + 1) // BASE
  if width < 4 or vocabulary <= max(highest, FIRST + BASE):
    raise ValueError(f'prompts of {width} tokens of {vocabulary} cannot carry a horizon of {horizon}; fix: more of either')
  prompts = np.random.default_rng(seed).integers(FIRST, vocabulary, (len(lengths), width), dtype=np.int32)
  prompts, lengths = np.repeat(prompts, samples, axis=0), np.repeat(lengths, samples)
  return Workload(prompts, lengths, lengths, slots, horizon, samples).with_lengths(lengths)


def log_normal(rows: int, mean: float, longest: int, sigma: float, seed: int) -> np.ndarray:
  """Draws lengths from a log-normal distribution with this mean, and clips them to `1 .. longest`."""
  drawn = np.random.default_rng(seed).lognormal(np.log(mean) - sigma**2 / 2, sigma, rows)
  return np.clip(np.round(drawn), 1, longest).astype(np.int32)


def decode(prompts, number: int):
  """Reads the first (0) or second (1) number that each prompt encodes; the array is of any library."""
  return (prompts[:, 2 * number] - FIRST) * BASE + prompts[:, 2 * number + 1] - FIRST


def lengths_of(tokens: np.ndarray) -> np.ndarray:
  """Counts the tokens of each row up to its first end token; without one, the count is the number of columns plus 1."""
  ended = tokens == END
  return np.where(ended.any(axis=1), ended.argmax(axis=1), tokens.shape[1]) + 1


def list_scheduling(lengths: np.ndarray, slots: int) -> int:
  """Counts the decode steps if each slot takes the next row as soon as it is free (greedy list scheduling)."""
  busy_until = [0] * slots
  for length in lengths.tolist():
    heapq.heapreplace(busy_until, busy_until[0] + length)
  return max(busy_until)
