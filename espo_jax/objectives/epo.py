"""EPO: an entropy bonus, and a penalty where the entropy leaves a band around its past mean."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Term, Terms, token_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


def phase_weight(progress: Float[Array, ''], schedule: str) -> Float[Array, '']:
  """The weight of the band at a share `progress` of the run.

  Args:
    progress: The share of the run that is done, in [0, 1].
    schedule: 'release', the released code's, from 1 to 0.83 over the first half and then from 0.8 to 0.04; or 'increasing', the
      abstract's, linearly from 0 to 1 [U].
  """
  if schedule == 'increasing':
    return progress
  early = 1.0 - 0.2 * (1.0 - jnp.exp(-4.0 * progress))
  late = 0.8 * jnp.exp(-3.0 * (2.0 * progress - 1.0))
  return jnp.where(progress <= 0.5, early, late)


@register('epo_entropy')
@source('EPO, arXiv 2509.22576, its release', 'entropy_coef', 'smooth_coef', 'band_low', 'band_high', 'schedule', 'out_of_band')
def epo_entropy(
  entropy: Float[Array, 'N T'],
  past_entropy: Float[Array, 'N T'],
  progress: Float[Array, ''],
  mask: Bool[Array, 'N T'],
  *,
  entropy_coef: float = 0.001,
  smooth_coef: float = 1.0,
  band_low: float = 0.8,
  band_high: float = 1.2,
  schedule: Literal['release', 'increasing'] = 'release',
  penalty: Literal['hinge', 'indicator'] = 'hinge',
  out_of_band: float = 0.1,
) -> tuple[Terms, Metrics]:
  """An entropy bonus, and a penalty where the entropy leaves a band around its mean over past updates, `H_past`.

  In episodes `H_past` is the mean of the token's own turn.

      loss = -entropy_coef mean_t H_t + entropy_coef smooth_coef w(progress) mean_t d_t
      d_t = max(band_low H_past - H_t, 0) + max(H_t - band_high H_past, 0)

  The penalty of the released code is a comparison, whose gradient is zero, so only its bonus trains. The hinge follows the
  paper's text.

  Args:
    entropy: The entropy of the current policy, in nats.
    past_entropy: The mean entropy of each token's turn in the previous updates, in nats; nan before the first.
    progress: The share of the run's updates that is done.
    mask: True on the tokens that count.
    entropy_coef: The weight of bonus and penalty.
    smooth_coef: The further weight of the penalty.
    band_low: The lower edge of the band, as a multiple of `H_past`.
    band_high: The upper edge of the band, as a multiple of `H_past`.
    schedule: How the penalty's weight changes over the run; see `phase_weight`.
    penalty: 'hinge' for the distance to the band [U]; 'indicator' for `out_of_band` outside the band, as released.
    out_of_band: The penalty of the indicator; the default is published for ALFWorld, 0.05 for ScienceWorld.
  """
  known = ~jnp.isnan(past_entropy)
  past = jnp.where(known, past_entropy, 0.0)
  low, high = band_low * past, band_high * past
  distance = jnp.maximum(low - entropy, 0.0) + jnp.maximum(entropy - high, 0.0)
  if penalty == 'indicator':
    distance = jnp.where(distance > 0, out_of_band, 0.0)
  distance = jnp.where(known, distance, 0.0)
  band = token_mean(distance, mask)
  weighted = Term(phase_weight(progress, schedule) * band.numerator, band.denominator)
  terms: Terms = {
    'epo_entropy': (-entropy_coef, token_mean(entropy, mask)),
    'epo_band': (entropy_coef * smooth_coef, weighted),
  }
  return terms, {}
