"""AdamW with a linear warm-up, an optional linear decay and a global-norm clip. Policy and critic have separate learning rates.

Frozen parameters have neither gradients nor an optimizer state. A step with a non-finite loss or gradient is skipped and
counted.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from espo_jax.learner.state import TrainState
from espo_jax.model import Params, split_frozen
from espo_jax.types import Metrics


def make_optimizer(
  learning_rate: float,
  critic_learning_rate: float,
  *,
  exit_learning_rate: float = 0.0,
  exits_alone: bool = False,
  warmup_steps: int,
  decay_steps: int = 0,
  weight_decay: float,
  max_grad_norm: float,
  b1: float,
  b2: float,
  before: Sequence[optax.GradientTransformation] = (),
) -> optax.GradientTransformation:
  """Returns the optimizer of a stage.

  Args:
    learning_rate: The policy's learning rate after the warm-up.
    critic_learning_rate: The learning rate of the separate critic or of the value head.
    exit_learning_rate: The learning rate of the exit heads.
    exits_alone: Whether the exit heads are the only trained parameters of the policy.
    warmup_steps: The number of optimizer steps over which the learning rates rise linearly to their peak.
    decay_steps: The number of optimizer steps after the warm-up over which the rates fall to 0; 0 keeps them constant.
    weight_decay: The weight decay of matrices; norms and biases have none.
    max_grad_norm: The bound on the global gradient norm of policy and critic together.
    b1: Adam's decay rate of the first moment.
    b2: Adam's decay rate of the second moment.
    before: Transformations of the gradients of the trained parameters, which come before the clip.
  """

  def adamw(peak: float) -> optax.GradientTransformation:
    rise = optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
    fall = optax.linear_schedule(peak, 0.0, decay_steps) if decay_steps else optax.constant_schedule(peak)
    schedule = optax.join_schedules([rise, fall], [warmup_steps])
    return optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=_matrices)

  rates = {'policy': learning_rate, 'critic': critic_learning_rate, 'exits': exit_learning_rate}
  each = optax.partition({name: adamw(rate) for name, rate in rates.items()}, _labels)
  return of_trained(optax.chain(*before, optax.clip_by_global_norm(max_grad_norm), each), exits_alone=exits_alone)


def of_trained(optimizer: optax.GradientTransformation, *, exits_alone: bool = False) -> optax.GradientTransformation:
  """Returns the optimizer of all parameters that updates the trained ones alone; see `split_frozen`.

  Args:
    optimizer: The optimizer of the trained parameters.
    exits_alone: Whether the exit heads are the only trained parameters of the policy.
  """

  def trained(params: Params) -> Params:
    return split_frozen(params, exits_alone=exits_alone)[0]

  return optax.GradientTransformation(
    lambda params: optimizer.init(trained(params)),
    lambda grads, state, params=None: optimizer.update(grads, state, trained(params)),
  )


def guarded_step(
  state: TrainState, optimizer: optax.GradientTransformation, loss: Float[Array, ''], grads: Params, *, rests: bool = False
) -> tuple[TrainState, Metrics]:
  """Applies the gradients if loss and gradients are finite, and otherwise leaves parameters and optimizer state unchanged.

  Args:
    state: The state before the step.
    optimizer: The optimizer of all parameters.
    loss: The loss.
    grads: The gradients of the trained parameters; None in the places of frozen ones.
    rests: Whether an array without any gradient stays as it is, with its moments. Else momentum and weight decay move it.
  """
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  before = jax.device_put(state.opt_state, jax.memory.Space.Device)  # an offloaded state is in host memory
  updates, opt_state = optimizer.update(grads, before, state.params)

  def moved(update: Array | None, old: Array) -> Array:
    return old if update is None else jnp.where(finite, (old + update).astype(old.dtype), old)

  params = jax.tree.map(moved, updates, state.params, is_leaf=lambda x: x is None)
  opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), opt_state, before)
  if rests:
    params, opt_state = _where_moved(grads, (params, opt_state), (state.params, before))
  state = state.replace(
    params=params,
    opt_state=opt_state,
    bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
    skipped=state.skipped + ~finite,
  )
  return state, {'loss/total': loss, 'grad_norm': norm}


def _where_moved(grads: Params, after: PyTree[Array], before: PyTree[Array]) -> Any:
  """Returns `after`, with the arrays without any gradient and their moments as in `before`."""
  resting = {_keys(path): ~(grad != 0).any() for path, grad in jax.tree_util.tree_leaves_with_path(grads)}

  def kept(path: tuple[Any, ...], new: Array, old: Array) -> Array:
    keys = _keys(path)  # those of a moment end with those of its parameter
    for name, rests in resting.items():
      if keys[-len(name) :] == name:
        return jnp.where(rests, old, new)
    return new

  return jax.tree_util.tree_map_with_path(kept, after, before)


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))


def _matrices(params: Params) -> PyTree[bool]:
  """Which parameters are matrices. Scales and biases of stacked layers and exits have two axes, and are none."""

  def is_matrix(path: tuple[Any, ...], x: Array) -> bool:
    name = _keys(path)[-1]
    return x.ndim > 1 and name != 'scale' and not name.endswith('bias')

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def _labels(params: Params) -> PyTree[str]:
  def label(path: tuple, _: Array) -> str:
    names = {entry.key for entry in path}
    return 'critic' if names & {'critic', 'value'} else 'exits' if 'exit_heads' in names else 'policy'

  return jax.tree_util.tree_map_with_path(label, params)
