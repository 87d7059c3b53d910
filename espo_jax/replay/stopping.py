"""A stop rule over rows whose every token is known: where it ends each of them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax.replay.recordings import Recordings
from espo_jax.stops import Adaptive, Observation, StopRule
from espo_jax.types import takes_numpy


class Ends(NamedTuple):
  """Where rows end: how many tokens count, and whether the rule ended the row."""

  length: Int[Array, '*batch N']
  stopped: Bool[Array, '*batch N']


@takes_numpy
def replay(
  rule: StopRule, adaptive: Adaptive, observed: Observation, full_length: Int[Array, 'N'], ended: Bool[Array | np.ndarray, 'N']
) -> Ends:
  """The rule's own updates over a rollout's rows, as the engine makes them.

  The token that triggers a stop counts; a row whose end token would trigger one has come to its end.

  Args:
    rule: The rule.
    adaptive: The state that the rule carries from batch to batch.
    observed: What it sees, `[N, T]`.
    full_length: Tokens of a row up to its own end.
    ended: Whether the last of them is an end token; the horizon cut the others.
  """

  def step(carry: tuple, seen: tuple[Array, Observation]) -> tuple[tuple, None]:
    state, ends = carry
    position, observation = seen
    state, stop, _ = rule.update(state, observation)
    stop = stop & ~ends.stopped & (position < full_length - jnp.asarray(ended, jnp.int32))
    return (state, Ends(jnp.where(stop, position + 1, ends.length), ends.stopped | stop)), None

  positions = jnp.arange(observed.regret.shape[1])
  first = rule.init(full_length.shape[0], adaptive), Ends(full_length, jnp.zeros(full_length.shape, bool))
  (_, ends), _ = jax.lax.scan(step, first, (positions, jax.tree.map(jnp.transpose, observed)))
  return ends


@functools.partial(jax.jit, static_argnames='rule')
def replay_all(
  rule: StopRule, betas: Float[Array, 'K'], recordings: Recordings, noise: Float[Array, 'F N T']
) -> tuple[Int[Array, 'K F N'], Bool[Array, 'K F N']]:
  """Where the rule ends every recorded row at each of some thresholds: lengths, and whether it did.

  Args:
    rule: The rule; its controller takes no part.
    betas: The values of beta, which scales the threshold.
    recordings: The recorded rollouts, each with the moments that the rule had in it.
    noise: The rule's own uniform draws.
  """

  def one(beta: Array, recording: Recordings, noise: Array) -> tuple[Array, Array]:
    fresh = rule.init(1).adaptive
    adaptive = fresh.replace(mu=recording.mu, var=recording.var, beta=beta, enabled=jnp.asarray(True))
    observed = Observation(jnp.asarray(recording.regret), jnp.asarray(recording.values), noise)
    ends = replay(rule, adaptive, observed, jnp.asarray(recording.full_length), recording.ended)
    return ends.length, ends.stopped

  per_file = jax.vmap(one, in_axes=(None, 0, 0))
  return jax.vmap(per_file, in_axes=(0, None, None))(betas, recordings, noise)
