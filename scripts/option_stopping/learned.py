"""A learned rule: a network gives the probability of stopping at each date, and ascends the expected payoff.

The expectation over the stops of a path is exact: with the probability `p_t` of stopping at date `t`, unless it stopped before,

    value = sum_t payoff_t p_t prod_{s < t} (1 - p_s),

so no stop is sampled in training. The trained rule stops where the probability is above a half and exercising pays.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from option_stopping.market import Option

Params = list[dict[str, Array]]

RARELY = -3.0  # the first logit of stopping: a rule that stops at once sees no later date
PATIENT = 0.05  # the first weights of the last layer, of their usual size


def init(option: Option, key: PRNGKeyArray, width: int) -> Params:
  """Returns the first parameters of a network of two hidden layers of a width."""
  sizes = [option.assets + 2, width, width, 1]
  layers = []
  for draw, inputs, outputs in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True):
    last = outputs == 1
    scale = (PATIENT if last else 1.0) / np.sqrt(inputs)
    layers.append({'w': scale * jax.random.normal(draw, (inputs, outputs)), 'b': jnp.full(outputs, RARELY if last else 0.0)})
  return layers


def logits(option: Option, params: Params, paths: Float[Array, 'N dates assets']) -> Float[Array, 'N dates']:
  """Returns the logits of stopping. The network reads the date, the sorted prices and the payoff."""
  time = jnp.broadcast_to(jnp.linspace(-1, 1, option.dates)[:, None], (*paths.shape[:-1], 1))
  pays = _payoffs(option, paths)[..., None] / (option.strike * option.volatility)
  x = jnp.concatenate([time, jnp.sort(jnp.log(paths / option.strike), axis=-1) / option.volatility, pays], axis=-1)
  for layer in params[:-1]:
    x = jnp.tanh(x @ layer['w'] + layer['b'])
  return (x @ params[-1]['w'] + params[-1]['b'])[..., 0]


def expected(option: Option, params: Params, paths: Float[Array, 'N dates assets']) -> Float[Array, '']:
  """Returns the mean value today of paths that stop with the network's probabilities, and at the last date at the latest."""
  score = logits(option, params, paths)[:, :-1]
  survived = jnp.cumsum(jax.nn.log_sigmoid(-score), axis=1)
  before = jnp.pad(survived, ((0, 0), (1, 0)))
  chance = jnp.exp(before + jnp.pad(jax.nn.log_sigmoid(score), ((0, 0), (0, 1))))
  return (chance * _payoffs(option, paths) * option.discounts).sum(axis=1).mean()


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
    gradient = jax.grad(lambda params: -expected(option, params, _paths(option, key, pairs)) / option.strike)(params)
    change, state = optimizer.update(gradient, state)
    return (optax.apply_updates(params, change), state), None

  params = init(option, first, width)
  return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]


def stops(option: Option, params: Params, paths: Float[np.ndarray, 'N dates assets']) -> Bool[np.ndarray, 'N dates']:
  """Returns at which dates the rule exercises, the last of which it leaves to the caller."""
  score = jax.jit(logits, static_argnums=0)(option, params, jnp.asarray(paths, jnp.float32))
  return np.asarray((score > 0) & (_payoffs(option, jnp.asarray(paths)) > 0))


def _payoffs(option: Option, paths: Float[Array, '*rest assets']) -> Float[Array, '*rest']:
  gain = option.strike - paths[..., 0] if option.assets == 1 else paths.max(axis=-1) - option.strike
  return jnp.maximum(gain, 0.0)


def _paths(option: Option, key: PRNGKeyArray, pairs: int) -> Float[Array, 'N dates assets']:
  normal = jax.random.normal(key, (pairs, option.dates, option.assets))
  changes = option.drift + option.step * jnp.concatenate([normal, -normal])
  return option.start * jnp.exp(changes.cumsum(axis=1))
