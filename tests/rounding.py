"""How far rounding puts two computations apart that are equal in exact arithmetic: bounds from the computation itself.

Every result of an operation is off by a relative error of at most the unit roundoff `u`. Of `n` such errors in a row, zero on
average, at most `gamma(n) = exp(lambda sqrt(n) u) - 1` comes, but with probability `2 exp(-lambda^2 / 2)`, in whatever order a
machine adds (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). So a sum of `n` terms is off by at most `gamma(n)` of the sum of
their magnitudes, which is the whole story of cancellation: see `of_sum`. A program is off by at most `gamma(n)` of what its
outputs move when its inputs move, relative to their size: rounding in a product is the exact product of perturbed factors. That
movement is measured, a thousand roundings wide: see `of_program`.

The same bounds hold in float64, whose `u` is 2^-29 of float32's: there an identity is tight. A test that takes the fixture
`precision` runs in both.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from espo_jax.learner import score
from espo_jax.model import ActorCritic, ModelConfig, Params

LAMBDA = 8.0  # 2 exp(-32) = 3e-14: for the millions of numbers that a run of the tests compares
STEP = 2.0**-10  # relative; far above float32's roundoff, far below where a decoder bends


def unit(dtype) -> float:
  """The largest relative error of an operation."""
  return float(jnp.finfo(dtype).eps) / 2


def gamma(roundings: float, dtype=np.float32) -> float:
  """The relative error of a number behind so many roundings, of which one follows the other."""
  return math.expm1(LAMBDA * math.sqrt(roundings) * unit(dtype))


def of_sum(terms, axis=None, *, before: float = 1.0, dtype=np.float32) -> np.ndarray:
  """The error of a sum in any order: its terms may cancel, their roundings do not.

  Args:
    terms: What is added.
    axis: The axis it is added over.
    before: Roundings in each term.
    dtype: What it is computed in.
  """
  terms = np.abs(np.asarray(terms, np.float64))
  count = terms.size if axis is None else terms.shape[axis]
  return gamma(count + before, dtype) * terms.sum(axis=axis)


def of_program(function: Callable, *inputs, roundings: float, seed: int = 0):
  """How far two computations of `function(*inputs)` may be apart: a tree of numbers, one for all elements of an output.

  Args:
    function: A program of arrays; what it gives apart from floats is left out of the tree as 0.
    *inputs: Trees, of which floating-point leaves are moved: three times at random, and once all up.
    roundings: Roundings on the longest way from an input to an output.
    seed: Draws the movements.
  """
  rng = np.random.default_rng(seed)
  here = jax.device_get(function(*inputs))

  def moved(signs: Callable, x):
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      return x
    there = np.asarray(x) * (
      1 + STEP * signs(np.shape(x))
    )  # on the host: on a device every shape would be a program of its own
    return jax.device_put(there.astype(np.asarray(x).dtype), x.sharding if isinstance(x, jax.Array) and x.committed else None)

  moves = [lambda shape: rng.choice([-1.0, 1.0], shape)] * 3 + [np.ones]
  most = jax.tree.map(lambda _: 0.0, here)
  for signs in moves:
    there = jax.device_get(function(*jax.tree.map(functools.partial(moved, signs), inputs)))
    most = jax.tree.map(lambda so_far, a, b: max(so_far, _largest(a, b)), most, here, there)
  return jax.tree.map(lambda movement, x: 2 * gamma(roundings, _float_of(x)) * movement / STEP, most, here)


def of_scores(model: ActorCritic, params: Params, length: int, *, temperature: float = 1.0) -> float:
  """How far two programs may be apart that score the same rows of so many tokens, or draw them: a log-probability, a value.

  It is measured on random rows of random prompts.
  """
  rows = jnp.asarray(np.random.default_rng(0).integers(0, model.config.vocab_size, (8, length)), jnp.int32)
  lengths = jnp.full(8, 2, jnp.int32)

  def scored(params):
    found = score(model, params, rows[:, :2], lengths, rows[:, 2:], temperature=temperature, chunk=8 * length)
    return found.logprobs, found.values

  return max(of_program(jax.jit(scored), params, roundings=2 * of_decoder(model.config, length)))


def of_decoder(config: ModelConfig, length: int) -> int:
  """Roundings from the weights of a decoder to the log-probabilities of a row: an operation each, a term of a sum each.

  A position is rounded to a part of itself, so that the angle of position 40 is off by as much as 40 roundings in step, or 1600
  that follow each other at random.
  """
  c, norm = config, config.hidden_size + 5
  attention = norm + c.hidden_size + 6 + c.head_dim + 2 * (length + 5) + c.num_heads * c.head_dim + 1
  mlp = norm + c.hidden_size + 6 + c.intermediate_size + 1
  return c.num_layers * (attention + mlp) + norm + c.hidden_size + c.vocab_size + 5 + length**2


def assert_within(got, wanted, bounds) -> None:
  """Trees of the same shape are as close as the bounds: for each leaf a number, or an array of its shape."""
  paths = jax.tree_util.tree_leaves_with_path(wanted)
  for (path, b), a, bound in zip(paths, jax.tree.leaves(got), jax.tree.leaves(bounds), strict=True):
    a, b, bound = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (a, b, bound)))
    bound = np.where(np.isfinite(b), bound, 0.0)  # what is infinite is so exactly
    wrong = ~np.isclose(a, b, rtol=0, atol=bound, equal_nan=True) | np.isinf(bound)
    found = f'{a[wrong][:4]}, wanted {b[wrong][:4]} within {bound[wrong][:4]}'
    assert not wrong.any(), f'{jax.tree_util.keystr(path)}: {wrong.sum()} of {wrong.size} are off: {found}'


def assert_close(got, wanted, *, roundings: float, size=None) -> None:
  """An array is what a formula gives in float64, but for so many roundings in a row, each of its own precision.

  Args:
    got: The array. Its dtype says how far it may be off: a Python float counts as float64.
    wanted: What it has to be.
    roundings: Roundings of which one follows the other.
    size: Magnitudes of what is rounded, where they are larger than what comes out; `wanted` by default.
  """
  wanted = np.asarray(wanted, np.float64)
  assert_within(got, wanted, gamma(roundings, _float_of(got)) * np.abs(wanted if size is None else size))


def assert_computes(function: Callable, inputs: tuple, wanted, *, roundings: float, size=None):
  """`function(*inputs)` is what a formula gives in float64, but for the movement that `of_program` measures.

  Args:
    function: A program of arrays.
    inputs: Trees, in the precision that it is to be run in.
    wanted: What it has to give, a tree of arrays.
    roundings: Roundings on the longest way from an input to an output.
    size: Magnitudes of what is rounded on the way without being moved by the inputs, an array as `wanted` or a number for all;
      `wanted` by default, for constants are rounded too.

  Returns:
    What it gave.
  """
  got = function(*inputs)
  moved = of_program(function, *inputs, roundings=roundings)
  sizes = wanted if size is None else jax.tree.map(lambda _: size, wanted)
  own = [gamma(roundings, _float_of(x)) * np.abs(y) for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(sizes), strict=True)]
  assert_within(got, wanted, [a + b for a, b in zip(jax.tree.leaves(moved), own, strict=True)])
  return got


def cached(function: Callable) -> Callable:
  """`functools.cache`, apart for each precision."""
  kept = functools.cache(lambda _, *arguments, **named: function(*arguments, **named))
  return functools.wraps(function)(lambda *arguments, **named: kept(precision(), *arguments, **named))


def precision() -> str:
  """What the package computes in: float32, or float64 inside of `computed_in('float64')`."""
  return np.dtype(jnp.float32).name


@contextlib.contextmanager
def computed_in(dtype: str):
  """Whatever is traced inside computes in this precision: the package names its own as `jnp.float32`."""
  if dtype == 'float32':
    yield
    return
  with jax.enable_x64(True), mock.patch.object(jnp, 'float32', jnp.float64):
    yield


def _largest(a, b) -> float:
  a = np.asarray(a)
  if not np.issubdtype(a.dtype, np.floating) or not a.size:
    return 0.0
  return float(np.max(np.abs(a.astype(np.float64) - np.asarray(b, np.float64))))


def _float_of(x):
  return np.asarray(x).dtype if np.issubdtype(np.asarray(x).dtype, np.floating) else np.float32
