"""What is known of rows that are not finished: how far each is, what is recorded of its tokens, and what a draft gave it."""

from typing import NamedTuple

import flax.struct
from jaxtyping import Array, Bool, Float, Int

from espo_jax.stops import StopState
from espo_jax.types import Candidates, Depth, Features


class Row(flax.struct.PyTreeNode):
  """The row that each slot decodes, and its progress."""

  index: Int[Array, 'S']  # the row's index in the output; the number of rows if the slot has none
  length: Int[Array, 'S']  # number of tokens that count
  full_length: Int[Array, 'S']  # number of tokens, with those of a shadow row after its stop
  reason: Int[Array, 'S']
  started: Int[Array, 'S']  # the decode step at which the row took the slot
  alive: Bool[Array, 'S']


class TokenRecord(NamedTuple):
  """The arrays recorded for each token, by slot and decode step or by row and column."""

  tokens: Int[Array, '...']
  logprobs: Float[Array, '...']
  values: Float[Array, '...']
  regret: Float[Array, '...']
  z: Float[Array, '...']
  depth: Depth | None  # of the state that the token was drawn from
  features: Features | None  # of the same state; None unless they are recorded
  candidates: Candidates | None  # of the distribution that the token was drawn from; None unless they are recorded


class Correction(flax.struct.PyTreeNode):
  """The token that replaces a refused draft token, with its column; -1 in both where no token does."""

  column: Int[Array, 'S']
  token: Int[Array, 'S']


class Verified(flax.struct.PyTreeNode):
  """How far each row is with the kept part of its draft. A row that is not alive has ended in it."""

  row: Row
  stop: StopState  # without the state between batches
  correction: Correction
  record: TokenRecord  # [N, T]
