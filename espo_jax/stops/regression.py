"""Regressions that are fitted a batch at a time by Newton steps, and the heads that they make."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.types import takes_numpy

FEATURES = 21  # `F`, the features of `evidence.features`
LONGEST = 20.0  # the bound on the logarithm of a Poisson mean
_RIDGE = 1e-2
_PRIOR = 5.0  # the curvature of a regression that has seen nothing, per feature


class Regression(flax.struct.PyTreeNode):
  """A generalised linear model, with the curvature of the batches that it has seen, which they leave behind as its memory."""

  weights: Float[Array, 'F']
  curvature: Float[Array, 'F F']


class Head(flax.struct.PyTreeNode):
  """The state of the head between batches. It is a part of `Adaptive`: constant during a rollout, and checkpointed."""

  success: Regression  # logistic
  remaining: Regression  # Poisson with a logarithmic link: the mean, which least squares on logarithms would miss
  platt: Regression  # logistic, of the logit of `success` and 1: slope and intercept of Platt's scaling
  batches: Int[Array, '']  # the number of batches that it was fitted to


def new_head() -> Head:
  """Returns a head that has seen nothing: it expects the same of all rows."""
  blank, identity = jnp.zeros(FEATURES), jnp.asarray([1.0, 0.0])
  success, remaining, platt = (new_regression(weights) for weights in (blank, blank, identity))
  return Head(success, remaining, platt, jnp.zeros((), jnp.int32))


def new_regression(weights: Float[Array, 'F']) -> Regression:
  """Returns a regression with these weights that has seen nothing."""
  return Regression(weights, _PRIOR * jnp.eye(weights.size))


class Hazard(flax.struct.PyTreeNode):
  """The state of the hazard's head between batches. It is a part of `Adaptive`."""

  failure: Regression  # logistic, of the features of the evidence after a token: whether the row ends wrong with this token
  batches: Int[Array, '']  # the number of batches that it was fitted to


def new_hazard() -> Hazard:
  """Returns a head that has seen nothing."""
  return Hazard(new_regression(jnp.zeros(FEATURES)), jnp.zeros((), jnp.int32))


@takes_numpy
def newton(
  model: Regression,
  x: Float[Array, 'M F'],
  target: Float[Array, 'M'],
  weight: Float[Array, 'M'],
  *,
  poisson: bool = False,
  memory: float,
  steps: int,
) -> Regression:
  """Fits a regression to a batch by Newton steps towards its likeliest weights, where earlier batches are the prior.

  The prior is a normal distribution about the weights before the batch, `b_0`, whose precision is `memory H` for the curvature
  `H` that earlier batches left. A step is `b += (memory H + X'WX + 0.01 I)^-1 (X'w (y - mean) - memory H (b - b_0))`, of norm 1
  at most. Afterwards `H <- memory H + X'WX`. So more steps come closer to the same weights, and forget nothing.

  Args:
    model: The regression before the batch.
    x: The features of `M` samples.
    target: The value that the regression is fitted to.
    weight: The weight of each sample.
    poisson: Whether the mean is `exp(x b)` instead of `sigmoid(x b)`.
    memory: The factor by which earlier curvature decays.
    steps: The number of steps.
  """
  prior = memory * model.curvature
  weights, total = model.weights, model.curvature
  for _ in range(steps):
    linear = x @ weights
    mean = jnp.exp(jnp.minimum(linear, LONGEST)) if poisson else jax.nn.sigmoid(linear)
    variance = mean if poisson else mean * (1 - mean)
    total = prior + (x * (weight * jnp.maximum(variance, 1e-4))[:, None]).T @ x
    ridge = _RIDGE + 1e-6 * jnp.diagonal(total).max()  # well above rounding, also where features are collinear
    gradient = x.T @ (weight * (target - mean)) - prior @ (weights - model.weights)
    move = jnp.linalg.solve(total + ridge * jnp.eye(x.shape[1]), gradient)
    weights = weights + move / jnp.maximum(jnp.linalg.norm(move), 1.0)
  return Regression(weights, total)
