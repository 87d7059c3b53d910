"""An example of your own stop rule: stop at the first token whose normalised regret exceeds beta.

python -m espo_jax.train --plugins=experiments/plugins/parity.py --plugins=experiments/plugins/first_regret.py \
    --config=experiments/plugins/small.py --config.task.name=parity --workdir=runs/first_regret \
    --config.stop.name=first_regret --config.stop.first_regret.beta_0=1.5
"""

import jax.numpy as jnp

from espo_jax import stops


@stops.register('first_regret')
@stops.controlled(beta_0=2.0, beta_min=0.5)
def first_regret(*, delta: float = 1e-8):
  """Stops a row once `(g_t - mu) / sqrt(var + delta) > beta`, like ESPO without smoothing or a critic.

  Args:
    delta: The constant added to the variance.
  """

  def score(state, obs):
    return (obs.regret - state.adaptive.mu) / jnp.sqrt(state.adaptive.var + delta)

  return score, stops.at_beta
