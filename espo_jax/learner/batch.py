"""What an update reads of a batch of trajectories."""

import flax.struct
from jaxtyping import Array, Bool, Float

from espo_jax.types import Trajectories


class Batch(flax.struct.PyTreeNode):
  """Trajectories with the other arrays that the loss reads."""

  trajectories: Trajectories
  advantages: Float[Array, 'N T']
  returns: Float[Array, 'N T']
  old_logprobs: Float[Array, 'N T']
  old_entropy: Float[Array, 'N T']
  reference_logprobs: Float[Array, 'N T']
  reference_entropy: Float[Array, 'N T']
  extras: dict[str, Bool[Array, 'N']]  # `Reward.extras`
