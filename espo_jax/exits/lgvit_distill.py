"""LGViT's second stage: the heads of a frozen model learn from the tokens and from the model (arXiv 2308.00255)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.exits.lessons import register_lesson
from espo_jax.registry import PositiveFloat, source
from espo_jax.types import Metrics


@register_lesson('lgvit_distill')
@source('LGViT, arXiv 2308.00255', 'temperature', 'soft', 'homogeneous', 'heterogeneous')
def lgvit_distill(
  losses: Float[Array, 'F N T'],
  divergence: Callable[[float], Float[Array, 'E N T']],
  hidden: Float[Array, 'E N T D'],
  whole: Float[Array, 'N T D'],
  alike: Int[Array, 'E'],
  mean: Callable[[Float[Array, 'N T']], Float[Array, '']],
  *,
  temperature: PositiveFloat = 2.0,
  soft: float = 0.3,
  homogeneous: float = 0.01,
  heterogeneous: float = 0.01,
) -> tuple[Float[Array, ''], Metrics]:
  """Cross-entropy of the exits, their divergence from the model at a temperature, and two distances of their states.

      CE + soft temperature^2 KL + homogeneous |h - h_last|^2 + heterogeneous |h - h_model|^2, summed over the exits

  A distance is the mean over channels. `h_last` is the state of the last exit whose translator has the same form. The paper's
  early heads are convolutions over an image and its late ones sparse attention. For text, `exits.translator = 'local_global'`
  has a causal convolution in the first half and a gated recurrence in the second (ours). The policy `confidence` reads them.

  Args:
    losses: The negative log-probabilities of the responses' tokens.
    divergence: The function from a temperature to the exits' divergence from the model.
    hidden: The states that the exits are read from.
    whole: The model's own states.
    alike: The number of the last exit of the same form.
    mean: The mean over the tokens that count.
    temperature: The temperature of the divergence, whose square keeps the scale of its gradient.
    soft: The weight of the divergence.
    homogeneous: The weight of the distance from the last exit of the same form.
    heterogeneous: The weight of the distance from the model's states.
  """
  hard = losses[:-1].sum(0)
  softened = temperature**2 * divergence(temperature).sum(0)
  targets = jax.lax.stop_gradient(hidden)[alike], whole
  same, other = (jnp.square(hidden - target).mean(-1).sum(0) for target in targets)
  parts = {'tokens': hard, 'divergence': softened, 'homogeneous': same, 'heterogeneous': other}
  means = {name: mean(x) for name, x in parts.items()}
  weights = {'tokens': 1.0, 'divergence': soft, 'homogeneous': homogeneous, 'heterogeneous': heterogeneous}
  loss = sum((weights[name] * its for name, its in means.items()), jnp.zeros(()))
  return loss, {f'loss/{name}': mean for name, mean in means.items()}
