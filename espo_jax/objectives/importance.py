"""Importance weights for the gap between the sampler's probabilities and the learner's."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.types import takes_numpy

LEVELS = ('token', 'sequence', 'sequence_masked')


@takes_numpy
def importance_weights(
  difference: Float[Array, 'N T'], mask: Bool[Array, 'N T'], *, level: str, cap: float
) -> tuple[Float[Array, 'N T'], Bool[Array, 'N T']]:
  """Returns the weight of each token, and where a weight is above the cap.

  | level | weight of a token |
  |---|---|
  | token | `min(w_t, cap)`, where `w_t` is the ratio of the token's probabilities |
  | sequence | `min(w, cap)`, where `w` is the product of the `w_t` of the row: unbiased but for the cap |
  | sequence_masked | `w`, or 0 for the whole row where `w > cap` |

  The first is after Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training". The two others
  are after Liu, Li et al. 2025, "When Speed Kills Stability". Masked rows still count in the loss's mean.

  Args:
    difference: The learner's log-probability of each token minus the sampler's.
    mask: True on the tokens that count.
    level: One of `LEVELS`.
    cap: The highest weight, above 0.
  """
  log = jnp.where(mask, difference, 0.0)
  if level != 'token':
    log = jnp.broadcast_to(log.sum(axis=1, keepdims=True), log.shape)
  beyond = log > jnp.log(cap)
  capped = 0.0 if level == 'sequence_masked' else cap
  return jnp.where(beyond, capped, jnp.exp(jnp.where(beyond, 0.0, log))), beyond & mask
