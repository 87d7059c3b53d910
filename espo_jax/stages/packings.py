"""How the rows of a rollout and those of a supervised batch are packed into sequences under a config."""

import functools
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Integer

from espo_jax import parallel
from espo_jax.experiment import Experiment
from espo_jax.learner import Groups, Packing, pack, put_packing
from espo_jax.model import ModelConfig, column_flops, fused
from espo_jax.types import SupervisedBatch


def shares_prompts(c: ml_collections.ConfigDict, shape: ModelConfig, device: jax.sharding.AbstractDevice) -> bool:
  """Returns whether packed sequences share the prompts of groups.

  They do not where the networks of exits remember tokens, because these read the prompt directly before a response.

  Args:
    c: The config of the experiment.
    shape: The shape of the decoder.
    device: The kind of the devices.
  """
  wanted = c.learner.share_prompts and c.learner.pack_sizes > 1 and c.rollout.samples > 1 and not shape.exits.memories
  return wanted and fused.takes_shared(shape.attention, shape.dtype, shape.head_dim, device)


def pack_rows(
  exp: Experiment,
  lengths: Integer[np.ndarray, 'N'],
  prompts: Integer[np.ndarray, 'N'],
  rows: Integer[np.ndarray, 'parts M'],
) -> Packing:
  """Packs rows of a rollout into sequences. All processes compute the same packing.

  Args:
    exp: The experiment.
    lengths: The number of tokens of every row of the rollout, prompt included; 0 for a row that is not trained on.
    prompts: The number of tokens of every row's prompt.
    rows: The indices of the rows of each part.
  """
  shared = shares_prompts(exp.config, exp.model.config, exp.mesh.abstract_mesh.abstract_device)
  return _pack(exp, lengths[rows], Groups(rows // exp.config.rollout.samples, prompts[rows]) if shared else None)


def pack_batch(exp: Experiment, batch: SupervisedBatch) -> Packing | None:
  """Packs the rows of a supervised batch into sequences, which share no prompts.

  Args:
    exp: The experiment.
    batch: The rows, on the mesh.

  Returns:
    The packing on the mesh, a stack of one; None with `learner.pack_sizes = 1`, which is one sequence per row.
  """
  if exp.config.learner.pack_sizes == 1:
    return None
  prompts, responses = exp.fetch((batch.prompt_lengths, batch.response_lengths))
  return put_packing(_pack(exp, (prompts + responses)[None], None), exp.mesh)


def _pack(exp: Experiment, lengths: Integer[np.ndarray, 'parts M'], groups: Groups | None) -> Packing:
  c = exp.config
  return pack(
    lengths,
    width=c.rollout.prompt_width + c.rollout.horizon,
    sizes=c.learner.pack_sizes,
    widths=c.learner.pack_widths,
    multiple=parallel.batch_shards(exp.mesh),
    cost=functools.partial(column_flops, exp.model.config),
    groups=groups,
  )


def packing_metrics(packing: Packing, lengths: np.ndarray) -> dict[str, Any]:
  """Returns the metrics of a packing of rows with so many tokens."""
  return {
    'pad_fraction': 1.0 - packing.real.mean(),
    'shared_fraction': 1.0 - packing.real.sum() / lengths.sum() if lengths.any() else 0.0,
  }
