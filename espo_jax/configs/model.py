"""Turns `config.model` into the shape of a decoder, and checks it against the tokenizer and the memory of logits."""

from typing import Any

import ml_collections

from espo_jax import objectives
from espo_jax.configs.fields import ConfigError
from espo_jax.configs.methods import method_options
from espo_jax.model import ExitHeads, Lora, ModelConfig, read_config

# The fields of `model` that a user may set beside a `model.path`. Adapters and exit heads may be set too.
OVERRIDES = ('dtype', 'param_dtype', 'scan_layers', 'remat', 'attention', 'paged_kernels')

_MARKED = {'candidate_answer', 'duet_settled'}  # the rules that wait for given tokens


def model_config(config: ml_collections.ConfigDict, vocab_size: int) -> ModelConfig:
  """Returns the shape of the decoder that `config.model` describes, or of the one in the directory `config.model.path`.

  Raises:
    ValueError: There is no such decoder. The error is a `WeightsError` if the cause is in the directory.
  """
  if config.model.path:
    return read_config(config.model.path, **model_overrides(config))
  shape = {name: value for name, value in config.model.items() if name not in ('path', 'lora')}
  return ModelConfig(vocab_size, **(shape | model_overrides(config)))


def model_overrides(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the settings that a user may choose for a given model."""
  chosen = {name: config.model[name] for name in OVERRIDES}
  x = config.exits
  heads = ExitHeads(x.every, x.kind, x.alone, x.first_block, x.translator, x.width, x.candidates)
  return chosen | {'lora': Lora(**config.model.lora.to_dict()), 'exits': heads}


def check_tokens(config: ml_collections.ConfigDict, tokens: int, shape: ModelConfig) -> None:
  """Checks that the decoder embeds every token of the tokenizer, and that the tokenizer has the tokens that fields name.

  Args:
    config: The config of the experiment.
    tokens: The number of tokens of the tokenizer.
    shape: The shape of the decoder.

  Raises:
    ConfigError: The tokenizer has more tokens than the embedding, or lacks one that the config names.
  """
  if tokens > shape.vocab_size:
    told = f'its tokenizer has {tokens} tokens, its embedding {shape.vocab_size}'
    raise ConfigError([f'model.path = {config.model.path!r}: {told}; fix: tokenizer and weights of one model'])
  if not -1 <= (token := config.learner.decision_after) < tokens:
    raise ConfigError([f'learner.decision_after = {token}: no token of {tokens}; fix: a token id, or -1 for none'])
  if 'rl' not in config.stages:
    return
  named = {f'stop.{rule}.marker': config.stop[rule].marker for rule in _MARKED & {config.stop.name, *config.baselines}}
  if 'mode_margin' in objectives.parts(config.objective.name):
    options = objectives.settings(config.objective.name, method_options(config, 'objective'))
    named |= {f'objective.{option}': (options[option],) for option in ('long_token', 'short_token')}
  for field, ids in named.items():
    if strange := [token for token in ids if not 0 <= token < tokens]:
      raise ConfigError([f'{field} has {strange[0]}: no token of {tokens}; fix: ids from 0 to {tokens - 1}'])


_LOGITS_BYTES = 2**28  # of a chunk on a device, in float32, where the config leaves its size open


def logit_chunk(config: ml_collections.ConfigDict, vocab_size: int, shards: int) -> int:
  """Returns the number of tokens whose logits are in memory at a time, on all devices together.

  Args:
    config: The config of the experiment.
    vocab_size: The number of logits of a token.
    shards: The number of devices that sequences are split over.
  """
  return shards * (config.learner.logit_chunk or max(1, _LOGITS_BYTES // (4 * vocab_size)))
