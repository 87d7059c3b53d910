"""One functional decoder for all model families, with its cache and critic. It knows nothing of reinforcement learning."""

from espo_jax.model.actor_critic import ActorCritic, Caches, States, picked_rows, refill_rows, spread_rows
from espo_jax.model.cache import Cache, caches_of_samples, init_cache
from espo_jax.model.candidates import likeliest, logits_among
from espo_jax.model.config import ExitHeads, Lora, ModelConfig, RopeScaling, answer_flops, column_flops, token_flops
from espo_jax.model.decoder import Decoder, Params, apply, init
from espo_jax.model.depth import Deciding, Forced
from espo_jax.model.exit_heads import is_local
from espo_jax.model.families import read_config
from espo_jax.model.gguf import load_gguf, rewrite_gguf
from espo_jax.model.gguf_file import GgufFile, open_gguf
from espo_jax.model.huggingface import load_hf, read_end_tokens, save_hf
from espo_jax.model.loading import complete
from espo_jax.model.lora import frozen, join_frozen, merge, split_frozen
from espo_jax.model.prefill import prefill_columns
from espo_jax.model.weights import WeightsError

__all__ = [
  'ActorCritic',
  'Cache',
  'Caches',
  'Deciding',
  'Decoder',
  'ExitHeads',
  'Forced',
  'GgufFile',
  'Lora',
  'ModelConfig',
  'Params',
  'RopeScaling',
  'States',
  'WeightsError',
  'answer_flops',
  'apply',
  'caches_of_samples',
  'column_flops',
  'complete',
  'frozen',
  'init',
  'init_cache',
  'is_local',
  'join_frozen',
  'likeliest',
  'load_gguf',
  'load_hf',
  'logits_among',
  'merge',
  'open_gguf',
  'picked_rows',
  'prefill_columns',
  'read_config',
  'read_end_tokens',
  'refill_rows',
  'rewrite_gguf',
  'save_hf',
  'split_frozen',
  'spread_rows',
  'token_flops',
]
