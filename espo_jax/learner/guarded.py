"""An optimizer step that a non-finite loss or gradient cannot poison: it is skipped and counted."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from espo_jax.learner.state import TrainState
from espo_jax.model import Params
from espo_jax.types import Metrics


def guarded_step(
  state: TrainState, optimizer: optax.GradientTransformation, loss: Float[Array, ''], grads: Params
) -> tuple[TrainState, Metrics]:
  """Apply the gradients where loss and gradients are finite; otherwise leave parameters and optimizer as they were."""
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  before = jax.device_put(state.opt_state, jax.memory.Space.Device)  # from the host's, where it is offloaded
  updates, opt_state = optimizer.update(grads, before, state.params)
  params = optax.apply_updates(state.params, updates)

  def keep(new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

  state = state.replace(
    params=keep(params, state.params),
    opt_state=keep(opt_state, before),
    bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
    skipped=state.skipped + ~finite,
  )
  return state, {'loss/total': loss, 'grad_norm': norm}
