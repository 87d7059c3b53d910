"""What a decoder gets and what it returns."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from espo_jax.decoders.ways import Drawing

ALWAYS = ('answers', 'ended', 'lengths')  # the fields that every evaluation has


class Samples(NamedTuple):
  """The `G` samples of one problem in the order in which they were drawn.

  An array of tokens has the sample's own length and no padding, so no result depends on how samples were batched. What was not
  recorded is None.

  Attributes:
    answers: The answer that each sample states, with one spelling for equal answers; '' states none.
    ended: Whether an end token ended the sample, or a rule that settles answers. The others were cut by the horizon or by
      another stop rule.
    lengths: The number of tokens of each sample, up to its stop if a rule stopped it.
    tokens: The tokens of each sample.
    logprobs: The log-probability of each token under the distribution that it was drawn from.
    regret: The surrogate regret of each token in nats.
    values: The value of the state that each token was drawn from, as a stop rule sees it.
    confidence: Minus the mean log-probability of the 20 likeliest tokens at each token.
    projections: The state that each token was drawn from, projected onto `K` directions.
    spent: The number of tokens that the policy wrote at the place of each sample; None where these are the sample's own.
  """

  answers: Sequence[str]
  ended: Bool[np.ndarray, 'G']
  lengths: Integer[np.ndarray, 'G']
  tokens: Sequence[Integer[np.ndarray, '_']] | None = None
  logprobs: Sequence[Float[np.ndarray, '_']] | None = None
  regret: Sequence[Float[np.ndarray, '_']] | None = None
  values: Sequence[Float[np.ndarray, '_']] | None = None
  confidence: Sequence[Float[np.ndarray, '_']] | None = None
  projections: Sequence[Float[np.ndarray, '_ K']] | None = None
  spent: Integer[np.ndarray, 'G'] | None = None

  @property
  def stated(self) -> Bool[np.ndarray, 'G']:
    """Whether each sample states an answer."""
    return np.array([bool(answer) for answer in self.answers])

  @property
  def total(self) -> int:
    """The number of tokens that all samples took."""
    return int((self.lengths if self.spent is None else self.spent).sum())

  def first(self, count: int) -> 'Samples':
    """Returns the first `count` samples."""
    return Samples._make(None if field is None else field[:count] for field in self)

  def from_place(self, start: int) -> 'Samples':
    """Returns all samples in a cycle that begins with the one at the place `start`."""
    return Samples._make(None if field is None else _turned(field, start) for field in self)

  def of_tokens(self, field: str) -> Sequence[Float[np.ndarray, '_ *K']]:
    """Returns a field with an entry per token.

    Raises:
      ValueError: The field was not recorded.
    """
    found = getattr(self, field)
    if found is None:
      raise ValueError(f'{field} is None; fix: samples in which it was recorded')
    return found


def _turned(field: Any, start: int) -> Any:
  return np.roll(field, -start) if isinstance(field, np.ndarray) else [*field[start:], *field[:start]]


class Choice(NamedTuple):
  """What a decoder made of the samples of one problem.

  Attributes:
    sample: The sample whose answer is the decoder's; None if the decoder has no answer, which counts as wrong.
    tokens: The number of tokens that the decoder let the policy write, those of samples that it did not choose included.
  """

  sample: int | None
  tokens: int


class Decoder(NamedTuple):
  """A decoder with its options.

  Attributes:
    choose: The pure function from the samples of one problem to the choice. There is at least one sample.
    reads: The fields of `Samples` that it reads.
    least_directions: The least number of directions `K` of projections with which it can tell samples apart.
    drawing: The way in which its samples are drawn; None for independent samples, which all other decoders share.
  """

  choose: Callable[[Samples], Choice]
  reads: frozenset[str]
  least_directions: int = 1
  drawing: Drawing | None = None


def out_of_range(name: str, value: Any, wanted: str) -> ValueError:
  """Returns the error for an option whose value cannot be used."""
  return ValueError(f'{name}={value}: out of range; fix: {wanted}')
