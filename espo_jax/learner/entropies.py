"""The mean entropy of each turn: its metrics, and its mean over past updates. Without an environment a row is one turn."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.learner.state import History
from espo_jax.objectives import masked_mean
from espo_jax.types import Metrics, Trajectories

_WHOLE, _TURN = 'entropy', 'turns/entropy_'  # metrics; the number of a turn follows, and the first is 1


def entropy_metrics(entropy: Float[Array, 'N T'], rows: Trajectories, turns: int) -> Metrics:
  """Returns the mean entropy of all tokens that count and, with an environment, of those of each turn.

  Args:
    entropy: The entropy of each token's distribution, in nats.
    rows: The rows.
    turns: `K`, the most turns of a row. A turn that no row has is nan.
  """
  metrics = {_WHOLE: masked_mean(entropy, rows.mask)}
  for turn in range(turns) if rows.turn is not None else ():
    its = rows.mask & (rows.turn == turn)
    metrics[f'{_TURN}{turn + 1}'] = jnp.where(its.any(), masked_mean(entropy, its), jnp.nan)
  return metrics


def past_entropy(history: History, rows: Trajectories) -> Float[Array, 'N T']:
  """Returns the mean entropy of each token's turn over the updates so far, in nats; nan where there is none."""
  past = history.entropy
  return jnp.broadcast_to(past[0], rows.mask.shape) if rows.turn is None else past[jnp.maximum(rows.turn, 0)]


def with_entropies(history: History, metrics: Metrics, rows: Trajectories) -> History:
  """Returns a history whose means count one more update, with the metrics of `entropy_metrics` on its rows."""
  turns = range(1, history.entropy.size + 1)
  found = jnp.stack([metrics[_WHOLE]] if rows.turn is None else [metrics[f'{_TURN}{turn}'] for turn in turns])
  known = jnp.isfinite(found)
  measured = history.measured + known
  past = jnp.where(history.measured > 0, history.entropy, 0.0)
  return history.replace(entropy=jnp.where(known, past + (found - past) / measured, history.entropy), measured=measured)
