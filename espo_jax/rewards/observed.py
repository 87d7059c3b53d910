"""The arrays that rewards read of a rollout, by the names of their parameters."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from espo_jax.registry import chosen
from espo_jax.rewards.adacot import prompts_in_need
from espo_jax.rewards.adr_modes import short_serves
from espo_jax.types import StopReason, Trajectories, Verdicts, takes_numpy


@takes_numpy
def observed(rows: Trajectories, verdicts: Verdicts, samples: int, layers: int) -> dict[str, Any]:
  """Returns the arrays that `SEEN` lists, by name, and `scores`, the values of rewards that read text.

  A stopped row counts as wrong.

  Args:
    rows: The rows of all prompts.
    verdicts: The verdicts on `rows`.
    samples: `G`, the number of rows per prompt.
    layers: The number of the model's blocks.
  """

  def grouped(x: Array | np.ndarray) -> Array:
    return jnp.reshape(x, (-1, samples, *x.shape[1:]))

  right = jnp.where(rows.stopped, 0.0, verdicts.correct)
  correct, reasoned = grouped(right), grouped(verdicts.reasoned)
  last = jnp.arange(rows.tokens.shape[1]) == rows.length[:, None] - 1
  paid = jnp.where(last, right[:, None], 0.0) if verdicts.paid is None else verdicts.paid
  ended = (rows.stop_reason == StopReason.EOS) | (rows.stop_reason == StopReason.SETTLED)
  return {
    'correct': correct,
    'lengths': grouped(rows.sizes),
    'horizon': rows.tokens.shape[1],
    'ended': grouped(ended),
    'formatted': grouped(ended & verdicts.formatted),
    'reasoned': reasoned,
    'needed': prompts_in_need(correct, reasoned),
    'levels': grouped(verdicts.levels)[:, 0],
    'depth': grouped(rows.depth_share(layers)),
    'values': grouped(rows.values),
    'mask': grouped(rows.mask),
    'turn': grouped(jnp.where(rows.mask, 0, -1) if rows.turn is None else rows.turn),
    'paid': grouped(paid),
    'scores': {name: grouped(x) for name, x in verdicts.scores.items()},
  }


def extras(seen: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Bool[Array, 'P']]:
  """Returns the arrays per prompt that objectives may read besides the learner's, by name.

  Args:
    seen: The arrays that `observed` returns.
    options: The options of the rewards by name. `delta` is that of `adr_modes`, so that reward and loss prefer the same mode.
  """
  return {'prefers_short': short_serves(seen['correct'], seen['reasoned'], **chosen(short_serves, dict(options)))}
