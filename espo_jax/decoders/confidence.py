"""DeepConf's confidences of a sample, from the confidences of its tokens."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from espo_jax.decoders.samples import out_of_range

BOTTOM = 0.1  # the part of the groups that counts as the bottom


def check_options(window: int, keep: float) -> None:
  """Raises ValueError if an option that both forms of DeepConf have is out of range."""
  if window < 1:
    raise out_of_range('window', window, 'at least 1')
  if not 0 < keep <= 1:
    raise out_of_range('keep', keep, 'above 0, at most 1')


def group_confidences(confidence: Float[np.ndarray, '_'], window: int) -> Float[np.ndarray, '_']:
  """Computes the mean confidence of every `window` tokens in a row. A sample with fewer tokens is one group."""
  window = min(window, len(confidence))
  sums = np.concatenate([np.zeros(1), np.cumsum(confidence, dtype=np.float64)])
  return (sums[window:] - sums[:-window]) / window


def _bottom(confidence: Float[np.ndarray, '_'], window: int) -> float:
  groups = np.sort(group_confidences(confidence, window))
  return float(groups[: max(1, int(BOTTOM * len(groups)))].mean())


CONFIDENCES: dict[str, Callable[[Float[np.ndarray, '_'], int], float]] = {
  'bottom': _bottom,
  'lowest': lambda confidence, window: float(group_confidences(confidence, window).min()),
  'tail': lambda confidence, window: float(confidence[-window:].astype(np.float64).mean()),
  'mean': lambda confidence, window: float(confidence.astype(np.float64).mean()),
}
