"""What rewards see of a rollout, by the names of their parameters."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax.rewards.adacot import prompts_in_need
from espo_jax.types import StopReason, Trajectories, takes_numpy


class Judged(flax.struct.PyTreeNode):
  """What the host has to say about rows: it alone reads text. It is on the host until the mesh gets it."""

  correct: Float[Array | np.ndarray, 'N']  # verdicts, 0 or 1
  formatted: Bool[Array | np.ndarray, 'N']  # the text matches `reward.format`
  reasoned: Bool[Array | np.ndarray, 'N']  # the text matches `reward.reasoning`
  levels: Int[Array | np.ndarray, 'N']  # which of `rollout.tags` the prompt carries


@takes_numpy
def observed(rows: Trajectories, judged: Judged, samples: int, layers: int) -> dict[str, Any]:
  """Prompt by prompt, `[P, G]`; a stopped row is wrong, whatever its shadow went on to write.

  Returns:
    `correct`: verdicts, 0 or 1. `lengths`: tokens that count. `horizon`: the most a row can have. `ended`: it wrote an end
    token. `formatted`: it did, and its text has the form asked for. `reasoned`: its text reasons. `needed`, `[P]`: reasoning is
    needed. `levels`, `[P]`: the prompt's tag. `depth`: the share of the model's `layers` that its tokens ran through. `values`
    and `mask`, `[P, G, T]`: as in `Trajectories`.
  """

  def grouped(x: Array | np.ndarray) -> Array:
    return jnp.reshape(x, (-1, samples, *x.shape[1:]))

  correct, reasoned = grouped(jnp.where(rows.stopped, 0.0, judged.correct)), grouped(judged.reasoned)
  ended = rows.stop_reason == StopReason.EOS
  return {
    'correct': correct,
    'lengths': grouped(rows.length),
    'horizon': rows.tokens.shape[1],
    'ended': grouped(ended),
    'formatted': grouped(ended & judged.formatted),
    'reasoned': reasoned,
    'needed': prompts_in_need(correct, reasoned),
    'levels': grouped(judged.levels)[:, 0],
    'depth': grouped(rows.depth_share(layers)),
    'values': grouped(rows.values),
    'mask': grouped(rows.mask),
  }
