"""Tokens on all sides of all clips, in rows of all lengths."""

import jax
import jax.numpy as jnp
import numpy as np

from espo_jax import objectives, registry
from espo_jax.types import Trajectories

N, T, V = 7, 12, 5
LENGTHS = np.array([12, 1, 5, 0, 11, 8, 3])
MASK = np.arange(T)[None] < LENGTHS[:, None]
CURRENT = ('logprobs', 'entropy', 'values', 'reference_kl', 'opening_logprobs')  # where a gradient may flow


def loss_arrays(seed=0, dtype=np.float32, spread=0.3, per_row=False) -> dict[str, np.ndarray]:
  """Every array of `objectives.ARRAYS` but the mask; with `per_row`, one advantage a row, as group-relative ones are."""
  rng = np.random.default_rng(seed)
  old = -rng.exponential(1.0, (N, T))
  arrays = {
    'logprobs': old + rng.normal(0, spread, (N, T)),
    'entropy': rng.exponential(1.0, (N, T)),
    'values': rng.normal(0, 1, (N, T)),
    'old_logprobs': old,
    'reference_logprobs': old + rng.normal(0, 0.5, (N, T)),
    'advantages': np.broadcast_to(rng.normal(0, 1, (N, 1)), (N, T)) if per_row else rng.normal(0, 1, (N, T)),
    'returns': rng.normal(0, 1, (N, T)),
    'reference_kl': rng.exponential(0.1, (N, T)),
    'old_entropy': rng.exponential(1.0, (N, T)),
    'entropy_slope': rng.normal(0, 1, (N, T)),
    'opening_logprobs': np.log(rng.dirichlet(np.ones(V), N)),
    'past_entropy': np.full((N, T), 1.1),
    'progress': np.array(0.3),
  }
  arrays['reference_entropy'] = rng.exponential(1.0, (N, T))
  arrays['old_values'] = arrays['values'] + rng.normal(0, 0.4, (N, T))
  return {name: np.asarray(x, dtype) for name, x in arrays.items()} | {'prefers_short': rng.random(N) < 0.5}


def loss_inputs(arrays, mask=MASK) -> dict[str, jax.Array]:
  return jax.tree.map(jnp.asarray, arrays) | {'mask': jnp.asarray(mask)}


def applied(name, x, **options):
  """The terms and metrics of an objective, which takes what it names of `x`."""
  function = objectives.get(name)
  return function(*(x[array] for array in registry.inputs(function)), **options)


def total(terms):
  """The loss."""
  return sum(weight * term.mean for weight, term in terms.values())


def trajectories(lengths, reasons, full_lengths=None, width=T) -> Trajectories:
  """Rows of which a reward only reads lengths and reasons."""
  count = len(lengths)
  flat, wide = jnp.zeros(count, jnp.int32), jnp.zeros((count, width))
  full = lengths if full_lengths is None else full_lengths
  return Trajectories(
    prompt_tokens=jnp.zeros((count, 2), jnp.int32),
    prompt_lengths=flat,
    tokens=jnp.zeros((count, width), jnp.int32),
    **dict.fromkeys(('logprobs', 'values', 'regret', 'z'), wide),
    trained_from=flat,
    length=jnp.asarray(lengths, jnp.int32),
    full_length=jnp.asarray(full, jnp.int32),
    stop_reason=jnp.asarray([int(r) for r in reasons], jnp.int32),
    started=flat,
    shadow=jnp.asarray(np.asarray(full) > np.asarray(lengths)),
  )
