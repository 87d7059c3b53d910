"""Runs a stop rule over complete rows, and finds where it ends each of them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax.replay.recordings import Recordings
from espo_jax.stops import Adaptive, Observation, StopRule
from espo_jax.types import takes_numpy


class Ends(NamedTuple):
  """The ends of rows: how many tokens count, and whether the rule ended the row."""

  length: Int[Array, '*batch N']
  stopped: Bool[Array, '*batch N']


@takes_numpy
def replay(
  rule: StopRule, adaptive: Adaptive, observed: Observation, full_length: Int[Array, 'N'], ends: Bool[Array | np.ndarray, 'N T']
) -> Ends:
  """Runs the rule's own updates over the rows of a rollout, in the way of the rollout engine.

  The token that triggers a stop counts as a token of the row. An end token cannot trigger a stop, because it ends the row or
  its turn.

  Args:
    rule: The rule.
    adaptive: The state that the rule carries from batch to batch.
    observed: The observations of the rule, `[N, T]`.
    full_length: The tokens of each row up to its own end.
    ends: Whether each token is an end token.
  """

  def step(carry: tuple, seen: tuple[Array, Array, Observation]) -> tuple[tuple, None]:
    state, found = carry
    position, is_end, observation = seen
    state, stop, _ = rule.update(state, observation)
    stop = stop & ~found.stopped & ~is_end & (position < full_length)
    return (state, Ends(jnp.where(stop, position + 1, found.length), found.stopped | stop)), None

  positions = jnp.arange(observed.regret.shape[1], dtype=full_length.dtype)
  columns = positions, jnp.asarray(ends).T, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), observed)
  first = rule.init(full_length.shape[0], adaptive), Ends(full_length, jnp.zeros(full_length.shape, bool))
  (_, found), _ = jax.lax.scan(step, first, columns)
  return found


def observations(rule: StopRule, recording: Recordings, noise: Float[Array, '*F N T']) -> Observation:
  """Returns what a rule observes of recorded rows."""
  read: dict[str, Any] = {
    name: jnp.asarray(getattr(recording, name), recording.regret.dtype) for name in rule.reads
  }  # half precision becomes single
  return Observation(jnp.asarray(recording.regret), jnp.asarray(recording.values), noise, **read)


@functools.partial(jax.jit, static_argnames='rule')
def replay_all(
  rule: StopRule, betas: Float[Array, 'K'], recordings: Recordings, noise: Float[Array, 'F N T']
) -> tuple[Int[Array, 'K F N'], Bool[Array, 'K F N']]:
  """Returns the length of every recorded row at each of several thresholds, and whether the rule ended the row.

  Args:
    rule: The rule, whose controller is not used.
    betas: The values of beta, which scales the threshold.
    recordings: The recorded rollouts, each with the moments that the rule had in it.
    noise: The rule's own uniform draws.
  """

  def one(beta: Array, recording: Recordings, noise: Array) -> tuple[Array, Array]:
    fresh = rule.init(1).adaptive
    adaptive = fresh.replace(mu=recording.mu, var=recording.var, beta=beta, enabled=jnp.asarray(True))
    observed = observations(rule, recording, noise)
    ends = replay(rule, adaptive, observed, jnp.asarray(recording.full_length), recording.ends)
    return ends.length, ends.stopped

  per_file = jax.vmap(one, in_axes=(None, 0, 0))
  return jax.vmap(per_file, in_axes=(0, None, None))(betas, recordings, noise)
