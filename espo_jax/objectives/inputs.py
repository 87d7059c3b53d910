"""What a policy objective reads."""

import flax.struct
from jaxtyping import Array, Bool, Float


class LossInputs(flax.struct.PyTreeNode):
  """The tokens of some rows. Sampled before the update, except where it says current; gradients flow through the current alone.

  The learner fills every field; a caller may leave out those after `mask` that the objective at hand does not read.
  """

  logprobs: Float[Array, 'N T']  # current
  entropy: Float[Array, 'N T']  # current, nats
  values: Float[Array, 'N T']  # current
  old_logprobs: Float[Array, 'N T']
  old_values: Float[Array, 'N T']
  reference_logprobs: Float[Array, 'N T']
  advantages: Float[Array, 'N T']
  returns: Float[Array, 'N T']
  mask: Bool[Array, 'N T']
  reference_kl: Float[Array, 'N T'] | None = None  # current, of the whole distribution from the reference's, nats
  old_entropy: Float[Array, 'N T'] | None = None  # nats
  entropy_slope: Float[Array, 'N T'] | None = None  # current, of the entropy along the token's own gradient; see `scoring`
  opening_logprobs: Float[Array, 'N V'] | None = None  # current, of the first response token
  prefers_short: Bool[Array, 'N'] | None = None  # whether the prompt is served as well without reasoning
  past_entropy: Float[Array, ''] | None = None  # mean over the updates before, nan where there are none
  progress: Float[Array, ''] | None = None  # the share of the run's updates that is over
