"""Scores of one sample from what was recorded about its tokens; a higher one is better."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from espo_jax.decoders.samples import Samples

_OF_TOKENS: dict[str, tuple[str, Callable[[Float[np.ndarray, '_']], float]]] = {
  'value': ('values', lambda values: float(values[-1])),
  'regret': ('regret', lambda regret: -float(regret.mean())),
  'logprob': ('logprobs', lambda logprobs: float(logprobs.mean())),
}


def field_of(score: str) -> str:
  """Returns the field of `Samples` that a score is computed from.

  Raises:
    ValueError: There is no such score.
  """
  if score not in _OF_TOKENS:
    raise ValueError(f'score={score}: unknown; fix: one of {", ".join(_OF_TOKENS)}')
  return _OF_TOKENS[score][0]


def scores(samples: Samples, score: str) -> Float[np.ndarray, 'G']:
  """Computes a score of each sample.

  | score | computed as |
  |---|---|
  | `value` | the value of the state before the last token |
  | `regret` | minus the mean regret of the tokens |
  | `logprob` | the mean log-probability of the tokens |
  """
  field, computed = _OF_TOKENS[score]
  return np.array([computed(row.astype(np.float64)) for row in samples.of_tokens(field)])
