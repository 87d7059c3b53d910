"""The early risk error of a stop rule: a failure that is noticed late costs almost as much as one that is missed."""

import numpy as np
from jaxtyping import Array, Bool, Int

from espo_jax.evaluate.measures.registered import register
from espo_jax.registry import source

_SEGMENT = 16  # tokens


@register('erde')
@source('early risk detection error, used by the SS3 classifier, arXiv 1905.08772')
def erde(
  stopped: Bool[Array | np.ndarray, 'N'],
  right: Bool[Array | np.ndarray, 'N'],
  lengths: Int[Array | np.ndarray, 'N'],
  *,
  deadline: int = 5,
) -> float:
  """Returns the mean cost of a stop rule that is to notice wrong answers, from 0 to 1.

  | answer | cost |
  |---|---|
  | right, not stopped | 0 |
  | right, stopped | the share of wrong answers, as is usual for a false alarm |
  | wrong, not stopped | 1 |
  | wrong, stopped in segment `k` | `1 - 1 / (1 + exp(k - deadline))` |

  Args:
    stopped: Whether a stop rule ended the answer.
    right: Whether the answer is right if it is decoded to its own end.
    lengths: The tokens of the answer up to its stop.
    deadline: The segment at which half of the cost is due. A segment has 16 tokens [U].
  """
  stopped, right = np.asarray(stopped), np.asarray(right)
  segments = np.ceil(np.asarray(lengths, np.float64) / _SEGMENT)
  late = 0.5 * (1 + np.tanh((segments - deadline) / 2))  # the sigmoid, without an exponential that overflows
  cost = np.where(right, np.where(stopped, (~right).mean(), 0.0), np.where(stopped, late, 1.0))
  return float(cost.mean())
