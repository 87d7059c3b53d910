"""The benchmark's rows: prompts that carry the length their response is forced to. Needs numpy alone, in every environment."""

import dataclasses
import heapq
from collections.abc import Iterator

import numpy as np

PAD, END = 0, 1
FIRST = 2  # the first id that is neither
BASE = 64  # a number takes two prompt tokens, its digits to this base


@dataclasses.dataclass(frozen=True)
class Workload:
  """Rows, and how many are decoded at a time."""

  prompts: np.ndarray  # [N, L], all of one length; they begin with the row's length and its stop, see `decode`
  lengths: np.ndarray  # [N] tokens up to and with the end token
  stops: np.ndarray  # [N] the token at which a stop rule ends the row; past its length: none does
  slots: int
  horizon: int
  samples: int  # rows a prompt, one behind the other: all that prompts carry is theirs together

  @property
  def rows(self) -> int:
    """How many."""
    return len(self.lengths)

  @property
  def ends(self) -> np.ndarray:
    """Tokens of each row, whatever ends it."""
    return np.minimum(self.lengths, self.stops)

  def batches(self) -> Iterator[slice]:
    """The rows in their order, as many at a time as there are slots."""
    return (slice(i, min(i + self.slots, self.rows)) for i in range(0, self.rows, self.slots))

  def with_lengths(self, lengths: np.ndarray, stops: np.ndarray | None = None) -> 'Workload':
    """The same prompts, but for the numbers they carry."""
    stops = lengths + 1 if stops is None else stops
    numbers = [FIRST + digit for number in (lengths, stops) for digit in (number // BASE, number % BASE)]
    prompts = self.prompts.copy()
    prompts[:, : len(numbers)] = np.stack(numbers, axis=1)
    return dataclasses.replace(self, prompts=prompts, lengths=lengths, stops=stops)

  def save(self, path: str) -> str:
    """Write it to a file; returns the path."""
    np.savez(path, **dataclasses.asdict(self))
    return path


def load(path: str) -> Workload:
  """What `save` wrote."""
  with np.load(path) as file:
    return Workload(
      file['prompts'], file['lengths'], file['stops'], *(int(file[name]) for name in ('slots', 'horizon', 'samples'))
    )


def make(
  lengths: np.ndarray, *, slots: int, horizon: int, width: int, vocabulary: int, seed: int, samples: int = 1
) -> Workload:
  """Random prompts of `width` tokens, one for each of these lengths, and `samples` rows a prompt."""
  highest = FIRST + (horizon + 1) // BASE
  if width < 4 or vocabulary <= max(highest, FIRST + BASE):
    raise ValueError(f'prompts of {width} tokens of {vocabulary} cannot carry a horizon of {horizon}; fix: more of either')
  prompts = np.random.default_rng(seed).integers(FIRST, vocabulary, (len(lengths), width), dtype=np.int32)
  prompts, lengths = np.repeat(prompts, samples, axis=0), np.repeat(lengths, samples)
  return Workload(prompts, lengths, lengths, slots, horizon, samples).with_lengths(lengths)


def log_normal(rows: int, mean: float, longest: int, sigma: float, seed: int) -> np.ndarray:
  """Lengths by a log-normal law of this mean, then clipped to `1 .. longest`."""
  drawn = np.random.default_rng(seed).lognormal(np.log(mean) - sigma**2 / 2, sigma, rows)
  return np.clip(np.round(drawn), 1, longest).astype(np.int32)


def decode(prompts, number: int):
  """The first (0) or second (1) number that prompts carry; the arrays may be anybody's."""
  return (prompts[:, 2 * number] - FIRST) * BASE + prompts[:, 2 * number + 1] - FIRST


def lengths_of(tokens: np.ndarray) -> np.ndarray:
  """Tokens of each row up to and with the first end token; one more than there are columns where it has none."""
  ended = tokens == END
  return np.where(ended.any(axis=1), ended.argmax(axis=1), tokens.shape[1]) + 1


def list_scheduling(lengths: np.ndarray, slots: int) -> int:
  """Decode steps when each slot takes the next row the moment it is free: the least without knowing lengths beforehand."""
  busy_until = [0] * slots
  for length in lengths.tolist():
    heapq.heapreplace(busy_until, busy_until[0] + length)
  return max(busy_until)
