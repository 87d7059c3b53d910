"""An example of your own exit policy: exit by the head's probability, but not within the first tokens of a response.

python -m espo_jax.train --plugins=experiments/plugins/late.py --config=experiments/early_exits.py --workdir=runs/late \
    --config.exits.policy=late --config.exits.first=16
"""

import jax
import jax.numpy as jnp

from espo_jax import exits


@exits.register('late')
def late(*, level: float = 0.5, first: int = 8):
  """Exits where the head's probability is above `level`. The first tokens run through every block.

  Args:
    level: The probability above which a token exits.
    first: The number of first tokens, which never exit early.
  """

  def hazard(obs, least):
    return jnp.where(obs.position < first, 0.0, (jax.nn.sigmoid(obs.logit) > least).astype(jnp.float32))

  return exits.ExitPolicy(level, hazard=hazard, gated=True)
