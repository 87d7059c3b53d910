"""What drawing the samples of a decoder returns."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Drawn(NamedTuple):
  """The `N` samples of a batch, group-major, on the host.

  Attributes:
    tokens: The tokens of each sample.
    length: The number of these tokens.
    written: The number of these tokens that the policy wrote. The others were inserted.
    reason: How each sample ended, a `StopReason`.
    spent: The number of tokens that the policy wrote at the place of each sample.
  """

  tokens: Int[np.ndarray, 'N T']
  length: Int[np.ndarray, 'N']
  written: Int[np.ndarray, 'N']
  reason: Int[np.ndarray, 'N']
  spent: Int[np.ndarray, 'N']
