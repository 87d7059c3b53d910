"""Proximal policy optimisation: the clipped surrogate, the clipped value error, entropy and KL options."""

import flax.struct
import jax
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.terms import Term, clipped_policy, clipped_value, reference_kl, token_mean
from espo_jax.types import Metrics


class LossInputs(flax.struct.PyTreeNode):
  """What a policy objective reads. Sampled before the update, except where it says current."""

  logprobs: Float[Array, 'N T']  # current
  entropy: Float[Array, 'N T']  # current
  values: Float[Array, 'N T']  # current
  old_logprobs: Float[Array, 'N T']
  old_values: Float[Array, 'N T']
  reference_logprobs: Float[Array, 'N T']
  advantages: Float[Array, 'N T']
  returns: Float[Array, 'N T']
  mask: Bool[Array, 'N T']


def ppo(
  x: LossInputs,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  value_clip: float = 0.2,
  value_coef: float = 0.5,
  entropy_coef: float = 0.0,
  kl_coef: float = 0.0,
) -> tuple[dict[str, tuple[float, Term]], Metrics]:
  """PPO's terms with their weights; the loss is the sum of `weight * term.mean`.

  Args:
    x: The tokens.
    clip_low: How far below 1 the ratio counts.
    clip_high: How far above.
    value_clip: How far a value may move from the old one before its error stops falling.
    value_coef: Weight of the value error.
    entropy_coef: Weight of the entropy bonus.
    kl_coef: Weight of the k3 estimate of the KL to the reference policy.

  Returns:
    `(weight, term)` by name, and metrics.
  """
  policy, metrics = clipped_policy(x.logprobs, x.old_logprobs, x.advantages, x.mask, clip_low=clip_low, clip_high=clip_high)
  terms = {
    'policy': (1.0, policy),
    'value': (value_coef, clipped_value(x.values, x.old_values, x.returns, x.mask, clip=value_clip)),
    'entropy': (-entropy_coef, token_mean(x.entropy, x.mask)),
  }
  if kl_coef:
    terms['reference_kl'] = (kl_coef, reference_kl(x.logprobs, x.reference_logprobs, x.mask))
  return terms, metrics | {f'loss/{name}': jax.lax.stop_gradient(term.mean) for name, (_, term) in terms.items()}
