"""Our two contenders: the engine, and a masked scan to the horizon, which refills no slots."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bench import protocol, workload
from bench.forced import Forced, executed_steps, generate, read_model, stop_where_announced
from espo_jax import stops
from espo_jax.model import ActorCritic, Params, refill_rows
from espo_jax.rollout.sampling import draw, row_keys, token_noise
from espo_jax.types import StopReason

_NEVER_REACHED = 1e9  # a threshold above every score


@functools.partial(jax.jit, static_argnames=('model', 'horizon'))
def masked_scan(
  model: Forced, params: Params, prompts: Array, key: Array, *, horizon: int
) -> tuple[Array, Array, Array, Array]:
  """Decodes to the horizon, and returns tokens, log-probabilities, values and regrets, each of shape `[T, B]`.

  A row that has ended goes on with padding.
  """
  rows, width = prompts.shape
  keys = row_keys(key, jnp.arange(rows, dtype=jnp.uint32), 1)
  everyone = jnp.arange(rows)
  states, caches = model.prefill(params, prompts, jnp.full(rows, width, jnp.int32))
  room = model.init_caches(rows, width + horizon)
  states, caches = refill_rows(states, room, (states, caches), everyone, everyone)

  def step(carry: tuple, position: Array) -> tuple[tuple, tuple[Array, Array, Array, Array]]:
    states, caches, done = carry
    noise = token_noise(keys, jnp.full(rows, position))
    values = model.values(params, states)
    logits = model.logits(params, states)
    tokens, logprobs = draw(logits, noise[:, 0], jnp.asarray(False))
    regret = stops.surrogate_regret(logits, tokens)
    tokens = jnp.where(done, workload.PAD, tokens)
    columns = jnp.asarray(width + horizon)
    states, caches = model.extend_policy(params, tokens[:, None], jnp.ones_like(tokens), states, caches, columns)
    return (states, caches, done | (tokens == workload.END)), (tokens, logprobs, values, regret)

  return jax.lax.scan(step, (states, caches, everyone < 0), jnp.arange(horizon))[1]


@functools.partial(jax.jit, static_argnames='model')
def _logits(model: ActorCritic, params: Params, prompts: Array) -> Array:
  states, _ = model.prefill(params, prompts, jnp.full(prompts.shape[0], prompts.shape[1]))
  return model.logits(params, states)


class Ours:
  """One of our contenders, with the methods that the benchmark calls."""

  def __init__(self, kind: str):
    """Stores the kind, `espo_jax` or `masked_scan`."""
    self._kind = kind

  def load(self, model: str) -> dict[str, Any]:
    """Reads the weights."""
    self._config, self._params = read_model(model)
    packages = ('jax', 'jaxlib', 'flax', 'numpy')
    return {'versions': protocol.versions(*packages), 'settings': f'float32 on {jax.devices()[0].device_kind}'}

  def logits(self, rows: str) -> dict[str, Any]:
    """Returns the logits after the first prompt."""
    prompts = workload.load(rows).prompts[:1]
    return {'logits': np.asarray(_logits(ActorCritic(self._config), self._params, prompts))[0].tolist()}

  def warm(self, rows: str, rule: str = 'never') -> dict[str, Any]:
    """Compiles the programs that `run` runs."""
    work = workload.load(rows)
    start = time.perf_counter()
    self._decode(work.with_lengths(np.minimum(work.lengths, 2)), 0, rule, warming=True)
    return {'seconds': time.perf_counter() - start}

  def run(self, rows: str, seed: int, rule: str = 'never') -> dict[str, Any]:
    """Decodes all rows."""
    work = workload.load(rows)
    start = time.perf_counter()
    lengths, executed = self._decode(work, seed, rule)
    return {'seconds': time.perf_counter() - start, 'executed': executed, 'lengths': lengths.tolist()}

  def _decode(self, work: workload.Workload, seed: int, rule: str, warming: bool = False) -> tuple[np.ndarray, int]:
    if self._kind == 'masked_scan':
      return self._masked(work, seed, warming)
    model = Forced(self._config, announces_stop=rule == 'announced')
    result = jax.block_until_ready(generate(model, self._params, _rule(rule), work, seed))
    lengths = np.asarray(result.length)
    stopped = np.asarray(result.stop_reason) == StopReason.STOPPED
    ended = workload.lengths_of(np.asarray(result.tokens))
    if not (stopped | (lengths == ended)).all():
      raise ValueError('a row that no rule stopped does not end at its end token')
    return lengths, executed_steps(result) * work.slots

  def _masked(self, work: workload.Workload, seed: int, warming: bool) -> tuple[np.ndarray, int]:
    model, lengths = Forced(self._config), []
    batches = list(work.batches())
    for i in sorted({0, len(batches) - 1}) if warming else range(len(batches)):
      key = jax.random.fold_in(jax.random.key(seed), i)
      out = masked_scan(model, self._params, jnp.asarray(work.prompts[batches[i]]), key, horizon=work.horizon)
      lengths.append(workload.lengths_of(np.asarray(out[0]).T))
    return np.concatenate(lengths), work.rows * work.horizon


@functools.cache  # jit compares rules by identity, so a second one would compile again
def _rule(name: str) -> stops.StopRule:
  """Returns the rule with a name: `never`, `espo` with a threshold that is never reached, or `announced`."""
  if name == 'espo':
    return stops.espo(beta_0=_NEVER_REACHED, beta_max=_NEVER_REACHED)
  return {'never': stops.never, 'announced': stop_where_announced}[name]()


if __name__ == '__main__':
  protocol.serve(Ours)
