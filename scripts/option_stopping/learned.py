"""A learned rule: one network for all dates learns at which prices waiting pays less than exercising.

With the payment `g` of exercising at a date, the payment `Y` of following the rule from the next date on, and the network's
logit `l` of stopping, a date of a path costs

    max(g - Y, 0) softplus(-l) + max(Y - g, 0) softplus(l).

At given prices the least expected cost is at `l = log(E max(g - Y, 0) / E max(Y - g, 0))`, which is positive where `E g > E Y`.
A wrong decision has a gradient however sure the network is of it. The expected payment itself has none where the network has
come to believe that stopping never pays.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from option_stopping.market import Option, payoffs

Params = list[dict[str, Array]]


def init(option: Option, key: PRNGKeyArray, width: int) -> Params:
  """Returns the first parameters of a network of two hidden layers of a width."""
  sizes = [option.assets + 2, width, width, 1]
  return [
    {'w': jax.random.normal(draw, (inputs, outputs)) / np.sqrt(inputs), 'b': jnp.zeros(outputs)}
    for draw, inputs, outputs in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True)
  ]


def logits(option: Option, params: Params, paths: Float[Array, 'N dates assets']) -> Float[Array, 'N dates']:
  """Returns the logits of stopping. The network reads the date, the sorted prices and the payoff."""
  time = jnp.broadcast_to(jnp.linspace(-1, 1, option.dates)[:, None], (*paths.shape[:-1], 1))
  pays = payoffs(option, paths) / (option.strike * option.volatility)
  x = jnp.concatenate([time, jnp.sort(jnp.log(paths / option.strike), axis=-1) / option.volatility, pays[..., None]], axis=-1)
  for layer in params[:-1]:
    x = jnp.tanh(x @ layer['w'] + layer['b'])
  return (x @ params[-1]['w'] + params[-1]['b'])[..., 0]


def cost(option: Option, params: Params, paths: Float[Array, 'N dates assets']) -> Float[Array, '']:
  """Returns the mean cost of the decisions at all dates but the last, at prices at which exercising pays."""
  score, pays = logits(option, params, paths)[:, :-1], payoffs(option, paths) * option.discounts
  gain = pays[:, :-1] - waiting(score, pays)
  lost = jnp.maximum(gain, 0.0) * jax.nn.softplus(-score) + jnp.maximum(-gain, 0.0) * jax.nn.softplus(score)
  return jnp.where(pays[:, :-1] > 0, lost, 0.0).mean() / option.strike


def waiting(score: Float[Array, 'N early'], pays: Float[Array, 'N dates']) -> Float[Array, 'N early']:
  """Returns what each path pays if it is not exercised at a date, but by the rule behind it. It has no gradient.

  Args:
    score: The logits of stopping at all dates but the last.
    pays: What exercising at each date is worth today.
  """

  def earlier(later: Float[Array, 'N'], at: tuple[Array, Array]) -> tuple[Float[Array, 'N'], Float[Array, 'N']]:
    score, pay = at
    return jnp.where((score > 0) & (pay > 0), pay, later), later

  return jax.lax.stop_gradient(jax.lax.scan(earlier, pays[:, -1], (score.T, pays[:, :-1].T), reverse=True)[1].T)


@functools.partial(jax.jit, static_argnames=('option', 'width', 'steps', 'pairs', 'rate'))
def train(option: Option, key: PRNGKeyArray, *, width: int, steps: int, pairs: int, rate: float) -> Params:
  """Trains a rule with Adam, on new paths at each step.

  Args:
    option: The option.
    key: The source of parameters and paths.
    width: The width of the hidden layers.
    steps: The number of steps.
    pairs: The paths of a step, and as many mirrored ones.
    rate: The first learning rate, which falls to zero along a cosine.
  """
  first, key = jax.random.split(key)
  optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

  def step(carry: tuple[Params, optax.OptState], key: PRNGKeyArray) -> tuple[tuple[Params, optax.OptState], None]:
    params, state = carry
    gradient = jax.grad(lambda params: cost(option, params, _paths(option, key, pairs)))(params)
    change, state = optimizer.update(gradient, state)
    return (optax.apply_updates(params, change), state), None

  params = init(option, first, width)
  return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]


def stops(option: Option, params: Params, paths: Float[np.ndarray, 'N dates assets']) -> Bool[np.ndarray, 'N dates']:
  """Returns at which dates the rule exercises, the last of which it leaves to the caller."""
  score = jax.jit(logits, static_argnums=0)(option, params, jnp.asarray(paths, jnp.float32))
  return np.asarray((score > 0) & (payoffs(option, paths) > 0))


def _paths(option: Option, key: PRNGKeyArray, pairs: int) -> Float[Array, 'N dates assets']:
  normal = jax.random.normal(key, (pairs, option.dates, option.assets))
  changes = option.drift + option.step * jnp.concatenate([normal, -normal])
  return option.start * jnp.exp(changes.cumsum(axis=1))
