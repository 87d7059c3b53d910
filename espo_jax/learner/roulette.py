"""Roulette: shadow rows, which go on at random, are trained on to their end, so that stops do not bias the gradient.

A row that a rule stops goes on with probability `e`, drawn before the row begins. Let `S` be 1 if it did. Then the tokens up
to the stop have the advantage `A_cut + (S / e) (A_whole - A_cut)`, and those after it `(S / e) A_whole`. `A_cut` takes the stop
for the row's end, and `A_whole` knows the rest. In expectation over `S` this is `A_whole`, whatever the stop returned. This
holds for a reward per row that does not look at other rows, before advantages are whitened and ratios clipped.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.objectives import masked_mean
from espo_jax.types import Trajectories, takes_numpy

Credited = tuple[Float[Array, 'N T'], Float[Array, 'N T']]  # advantages and returns


@takes_numpy
def unbiased(rows: Trajectories, cut: Credited, complete: Credited, *, share: float, whiten: bool) -> Credited:
  """Combines the advantages and returns of rows cut at their stop with those of whole rows.

  Advantages are whitened before they are weighed, by moments in which a shadow row weighs `1 / share`. The return of a stopped
  row that did not go on is that of the cut row, which is what the critic itself expects at the stop.

  Args:
    rows: The rows as the rule ended them.
    cut: Advantages and returns of `rows`, not whitened.
    complete: Advantages and returns of `rows.whole()`, not whitened.
    share: `e`, the share of stopped rows that go on.
    whiten: Whether advantages are normalised to mean 0 and variance 1.
  """
  (a_cut, r_cut), (a_whole, r_whole) = cut, complete
  mask = rows.whole().mask
  if whiten:
    weight = jnp.broadcast_to(rows.represented(share)[:, None], mask.shape)
    count = masked_mean(weight, mask)
    mean = masked_mean(weight * a_whole, mask) / jnp.maximum(count, 1e-8)
    variance = masked_mean(weight * jnp.square(a_whole - mean), mask) / jnp.maximum(count, 1e-8)
    scale = jnp.where(count > 0, jnp.sqrt(variance + 1e-8), 1.0)  # without a row of known end there are no moments
    a_cut, a_whole = (jnp.where(where, (a - mean) / scale, 0.0) for a, where in ((a_cut, rows.mask), (a_whole, mask)))
  gone_on = (rows.shadow / share)[:, None]
  advantages = jnp.where(rows.stopped[:, None], (1 - gone_on) * a_cut + gone_on * a_whole, a_whole)
  return jnp.where(mask, advantages, 0.0), jnp.where(rows.shadow[:, None], r_whole, r_cut)
