"""The shape of a decoder as data. A model family is a set of `ModelConfig` fields, not a branch in the forward pass."""

import dataclasses

import jax.numpy as jnp

from espo_jax.exits.policy import ExitPolicy

# The RoPE types, each with the fields of `RopeScaling` that it reads. A type without fields is RoPE as published.
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
  'default': (),
  'linear': ('factor',),
  'llama3': ('factor', 'original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor'),
  'yarn': (
    'factor',
    'original_max_position_embeddings',
    'beta_fast',
    'beta_slow',
    'attention_factor',
    'mscale',
    'mscale_all_dim',
    'truncate',
  ),
}
PROJECTIONS = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
REMAT = ('none', 'dots', 'full')
ATTENTION = ('auto', 'chunked', 'splash', 'cudnn')
EXIT_HEADS = ('linear', 'mlp', 'statistics', 'candidates', 'recurrence')  # what the gate of an exit reads, and how
TRANSLATORS = ('none', 'token', 'local_global')  # what the stream of a token that exits goes through


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How a model family extends RoPE beyond the context length of pretraining.

  The names are those of Hugging Face's `rope_parameters`. `ROPE_FIELDS` lists the fields that each type reads.
  """

  rope_type: str = 'default'
  factor: float = 1.0
  original_max_position_embeddings: int = 0
  low_freq_factor: float = 1.0  # llama3
  high_freq_factor: float = 4.0  # llama3
  beta_fast: float = 32.0  # yarn
  beta_slow: float = 1.0  # yarn
  attention_factor: float = 0.0  # yarn; 0 derives it from `factor`, `mscale` and `mscale_all_dim`
  mscale: float = 0.0  # yarn; used only together with mscale_all_dim
  mscale_all_dim: float = 0.0  # yarn
  truncate: bool = True  # yarn; rounds the band of dimensions to integers

  def __post_init__(self):
    if self.rope_type not in ROPE_FIELDS:
      raise ValueError(f'rope_type = {self.rope_type!r} is not supported; fix: one of {", ".join(ROPE_FIELDS)}')
    for field in dataclasses.fields(self)[1:]:
      value = getattr(self, field.name)
      if field.name not in ROPE_FIELDS[self.rope_type] and value != field.default:
        raise ValueError(f'rope {field.name} = {value} means nothing to rope_type = {self.rope_type!r}; fix: leave it out')
    for name in ('factor', 'beta_fast', 'beta_slow'):
      if not getattr(self, name) > 0:
        raise ValueError(f'rope {name} = {getattr(self, name)} must be above 0')
    for name in ('attention_factor', 'mscale', 'mscale_all_dim'):
      if not getattr(self, name) >= 0:
        raise ValueError(f'rope {name} = {getattr(self, name)} must be 0 (not set) or positive')
    if self.rope_type in ('llama3', 'yarn') and self.original_max_position_embeddings <= 0:
      raise ValueError(f'rope_type = {self.rope_type!r} needs original_max_position_embeddings, the context before stretching')
    if self.rope_type == 'llama3' and not self.high_freq_factor > self.low_freq_factor:
      raise ValueError(
        f'rope high_freq_factor = {self.high_freq_factor} must be above low_freq_factor = {self.low_freq_factor}'
      )


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters on named projections (Hu et al. 2021). With adapters the rest of the decoder is frozen."""

  rank: int = 0  # 0 for no adapters
  alpha: float = 16.0  # the update is `alpha / rank * A B`
  targets: tuple[str, ...] = PROJECTIONS

  def __post_init__(self):
    object.__setattr__(self, 'targets', tuple(self.targets))
    if self.rank < 0:
      raise ValueError(f'lora.rank = {self.rank} must be 0 (no adapters) or positive')
    if unknown := [name for name in self.targets if name not in PROJECTIONS]:
      raise ValueError(f'lora.targets = {unknown[0]!r}: no such projection; fix: some of {", ".join(PROJECTIONS)}')
    if self.rank and not self.targets:
      raise ValueError(f'lora.targets is empty while lora.rank = {self.rank}; fix: some of {", ".join(PROJECTIONS)}')


@dataclasses.dataclass(frozen=True)
class ExitHeads:
  """The networks of exits, which stand before each `every`-th block except the first (arXiv 2603.21376).

  The gate of an exit scores each token, or the prompt where the exit policy has a router. A translator maps the stream of a
  token that leaves there.
  """

  every: int = 0  # number of blocks between two exits; 0 for no exits
  kind: str = 'linear'  # what the gate reads: the stream, also with earlier tokens ('recurrence'), or the exit's logits
  alone: bool = False  # whether the rest of the decoder, adapters included, is frozen
  first_block: int = 0  # the first block that may have an exit
  translator: str = 'none'  # 'token' is low-rank; 'local_global' also mixes tokens, by a convolution or by a recurrence
  width: int = 64  # channels of a recurrence, the hidden layer of a gate of candidates, and the rank of a translator
  candidates: int = 4  # tokens that gates of the kind 'candidates' read

  def __post_init__(self):
    if self.every < 0:
      raise ValueError(f'exits.every = {self.every} must be 0 (no exits) or positive')
    if self.kind not in EXIT_HEADS:
      raise ValueError(f'exits.kind = {self.kind!r}: no such head; fix: {" or ".join(EXIT_HEADS)}')
    if self.translator not in TRANSLATORS:
      raise ValueError(f'exits.translator = {self.translator!r}: no such translator; fix: {" or ".join(TRANSLATORS)}')
    if self.candidates < 1:
      raise ValueError(f'exits.candidates = {self.candidates}: gates need tokens to read; fix: 1 or more')

  @property
  def memories(self) -> int:
    """The number of vectors per token that the networks of an exit remember."""
    return (self.kind == 'recurrence') + (self.translator == 'local_global')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The shape of a decoder with RMSNorm, RoPE, grouped-query attention and SwiGLU, without dropout."""

  vocab_size: int
  hidden_size: int = 128
  intermediate_size: int = 256
  num_layers: int = 3
  num_heads: int = 4
  num_kv_heads: int = 2
  head_dim: int = 32
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling = RopeScaling()
  rms_norm_eps: float = 1e-6
  tie_word_embeddings: bool = True
  qkv_bias: bool = False  # on the query, key and value projections
  out_bias: bool = False  # on the attention's output projection
  mlp_bias: bool = False
  qk_norm: bool = False  # RMSNorm of every query and key head before RoPE
  sliding_window: int = 0  # tokens that a windowed layer attends to, the query's included; 0 for no windowed layers
  windowed_from: int = 0  # the first windowed layer
  lora: Lora = Lora()
  exits: ExitHeads = ExitHeads()
  scan_layers: bool = False  # one compiled layer, scanned; unrolled is faster on a CPU
  # What the backward pass recomputes: nothing ('none'), each layer except matrix products ('dots'), or each layer ('full').
  remat: str = 'none'
  attention: str = 'auto'  # the form of attention over whole sequences; 'auto' picks by the device (`model/fused.py`)
  paged_kernels: bool = False  # decode by jax's paged attention kernels on TPU and GPU; no effect elsewhere
  dtype: str = 'float32'  # the dtype of activations and matrix products
  param_dtype: str = 'float32'
  family: str = 'llama'  # the format that `save_hf` writes; not read by the forward pass
  max_position_embeddings: int = 32_768  # written by `save_hf`; not read by the forward pass

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'model.num_heads = {self.num_heads} must be a multiple of model.num_kv_heads = {self.num_kv_heads}: '
        'every key-value head serves the same number of query heads.'
      )
    if self.head_dim % 2:
      raise ValueError(f'model.head_dim = {self.head_dim} must be even: RoPE rotates pairs of channels.')
    if self.remat not in REMAT:
      raise ValueError(f'model.remat = {self.remat!r} is no such policy; fix: one of {", ".join(REMAT)}')
    if self.attention not in ATTENTION:
      raise ValueError(f'model.attention = {self.attention!r} is no such form; fix: one of {", ".join(ATTENTION)}')
    if self.scan_layers and any(self.windowed) and not all(self.windowed):
      raise ValueError(
        f'model.scan_layers = True scans one layer, but only layers {self.windowed_from}.. have sliding_window = '
        f'{self.sliding_window}; fix: model.scan_layers = False'
      )

    if self.paged_kernels and any(self.windowed):
      raise ValueError(
        f'model.paged_kernels = True: the kernels know no window, and model.sliding_window = {self.sliding_window}; '
        'fix: model.paged_kernels = False'
      )

    if self.exits.every and not self.exit_blocks:
      raise ValueError(
        f'exits.every = {self.exits.every} and exits.first_block = {self.exits.first_block} leave no block to exit at among '
        f'model.num_layers = {self.num_layers}; fix: both below {self.num_layers}'
      )
    if self.exits.kind == 'candidates' and self.exits.candidates > self.vocab_size:
      raise ValueError(f'exits.candidates = {self.exits.candidates} exceeds the vocabulary of {self.vocab_size}; fix: fewer')

  @property
  def exit_blocks(self) -> tuple[int, ...]:
    """The blocks at which a token may exit. A token that exits at block `l` runs through `l` blocks."""
    return exit_blocks(self.exits.every, self.exits.first_block, self.num_layers)

  @property
  def windowed(self) -> tuple[bool, ...]:
    """Whether each layer has a sliding window."""
    return tuple(self.sliding_window > 0 and i >= self.windowed_from for i in range(self.num_layers))

  @property
  def activation_dtype(self) -> jnp.dtype:
    """The dtype of the activations as a NumPy dtype."""
    return jnp.dtype(self.dtype)


def exit_blocks(every: int, first_block: int, layers: int) -> tuple[int, ...]:
  """Returns the blocks before which there is an exit: each `every`-th one from `first_block` on; none if `every` is 0."""
  return tuple(b for b in range(every, layers, every) if b >= first_block) if every else ()


def token_flops(config: ModelConfig, exits: ExitPolicy | None = None) -> tuple[int, int, int]:
  """Floating-point operations of a token's matrix products: in a block that runs, in a skipped block, and in the LM head.

  A matrix product counts two operations per weight. Attention's products with the cache are left out, because they depend on
  the token's position. A skipped block costs what the exit policy still computes of it: its attention, or the projection of
  keys and values, or nothing.
  """
  width = config.hidden_size
  queries, kv = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
  attention, ffn = width * (2 * queries + kv), 3 * width * config.intermediate_size
  skipped = 0
  if exits is not None and exits.part == 'ffn':
    skipped = attention
  elif exits is not None and exits.kv_fill == 'recompute':
    skipped = width * kv
  return 2 * (attention + ffn), 2 * skipped, 2 * width * config.vocab_size


def column_flops(config: ModelConfig, width: int) -> float:
  """Floating-point operations of a token in a sequence of `width` columns, of which attention computes all scores."""
  block, _, rest = token_flops(config)
  return config.num_layers * (block + 4 * width * config.num_heads * config.head_dim) + rest


def answer_flops(config: ModelConfig, prompt: int, length: int) -> float:
  """Floating-point operations of writing `length` tokens behind a prompt, of which each attends to what stands before it.

  The last token is not read, and only the tokens that are written have logits. Attention is why one long answer costs more than
  several short ones with as many tokens.
  """
  block, _, rest = token_flops(config)
  read = prompt + length - 1
  scores = 4 * config.num_heads * config.head_dim * read * (read + 1) / 2
  return config.num_layers * (block * read + scores) + rest * length
