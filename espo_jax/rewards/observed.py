"""What rewards see of a rollout, by the names of their parameters."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from espo_jax.rewards.adacot import prompts_in_need
from espo_jax.types import StopReason, Trajectories, Verdicts, takes_numpy


@takes_numpy
def observed(rows: Trajectories, verdicts: Verdicts, samples: int, layers: int) -> dict[str, Any]:
  """Prompt by prompt, `[P, G]`; a stopped row is wrong, whatever its shadow went on to write.

  Returns:
    `correct`: verdicts, 0 or 1. `lengths`: tokens that count. `horizon`: the most a row can have. `ended`: it wrote an end
    token. `formatted`: it did, and its text has the form asked for. `reasoned`: its text reasons. `needed`, `[P]`: reasoning is
    needed. `levels`, `[P]`: the prompt's tag. `depth`: the share of the model's `layers` that its tokens ran through. `values`
    and `mask`, `[P, G, T]`: as in `Trajectories`.
  """

  def grouped(x: Array | np.ndarray) -> Array:
    return jnp.reshape(x, (-1, samples, *x.shape[1:]))

  correct, reasoned = grouped(jnp.where(rows.stopped, 0.0, verdicts.correct)), grouped(verdicts.reasoned)
  ended = rows.stop_reason == StopReason.EOS
  return {
    'correct': correct,
    'lengths': grouped(rows.length),
    'horizon': rows.tokens.shape[1],
    'ended': grouped(ended),
    'formatted': grouped(ended & verdicts.formatted),
    'reasoned': reasoned,
    'needed': prompts_in_need(correct, reasoned),
    'levels': grouped(verdicts.levels)[:, 0],
    'depth': grouped(rows.depth_share(layers)),
    'values': grouped(rows.values),
    'mask': grouped(rows.mask),
  }
