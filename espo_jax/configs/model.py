"""`config.model` as the shape of a decoder."""

from typing import Any

import ml_collections

from espo_jax.model import ExitHeads, Lora, ModelConfig, read_config

# What is the user's to choose beside a `model.path`, as adapters and exit heads are.
OVERRIDES = ('dtype', 'param_dtype', 'scan_layers', 'remat', 'paged_kernels')


def model_config(config: ml_collections.ConfigDict, vocab_size: int) -> ModelConfig:
  """The decoder that `config.model` describes, or the one in the directory that `config.model.path` names.

  Raises:
    ValueError: There is no such decoder; a `WeightsError` where the directory is to blame.
  """
  if config.model.path:
    return read_config(config.model.path, **model_overrides(config))
  shape = {name: value for name, value in config.model.items() if name not in ('path', 'lora')}
  return ModelConfig(vocab_size, **(shape | model_overrides(config)))


def model_overrides(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What is the user's to choose about a given model."""
  chosen = {name: config.model[name] for name in OVERRIDES}
  heads = ExitHeads(config.exits.every, config.exits.kind, config.exits.alone)
  return chosen | {'lora': Lora(**config.model.lora.to_dict()), 'exits': heads}
