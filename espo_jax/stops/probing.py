"""What a rule needs that asks the policy for its answer on the way: where it asks, how, and what it then sees."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Probing(NamedTuple):
  """Where and how a rule asks for an answer.

  At each place the row so far is followed by the inducer, and the policy answers greedily. The row itself goes on unchanged.

  Attributes:
    inducer: The token ids that ask for the answer; at least one.
    marker: The token ids before which the rule asks, such as those of a new thought; () to ask by `every`.
    every: The number of tokens between two places; unused with a marker.
    answer_tokens: The most tokens of an answer.
    most: The most places of a row, from its beginning.
  """

  inducer: tuple[int, ...]
  marker: tuple[int, ...]
  every: int
  answer_tokens: int
  most: int

  @property
  def tokens(self) -> int:
    """The most tokens of a probe, inducer and answer."""
    return len(self.inducer) + self.answer_tokens


class ForcedAnswer(NamedTuple):
  """What the policy answered at a place, greedily, with its end token if it has one. The arrays are 0 behind it."""

  tokens: Int[Array, '*B A']
  logprobs: Float[Array, '*B A']  # of the tokens, at temperature 1
  entropy: Float[Array, '*B A']  # of the distribution that each token is the likeliest of, nats
  length: Int[Array, '*B']  # the number of tokens, the end token included
  content: Int[Array, '*B']  # the number of tokens without the end token; 0 for an answer that says nothing
