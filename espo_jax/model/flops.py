"""Operations that decoding a response takes, for what stops and exits save of them together."""

from espo_jax.model.config import ModelConfig


def token_flops(config: ModelConfig) -> tuple[int, int, int]:
  """Floating-point operations of a token's matrix products: of a block it runs, of a block it skips, of the rest.

  A product of matrices counts two for each of its weights. Attention's products with the cache are left out: they depend on
  where in a response a token stands. A skipped block still projects keys and values. The rest is the LM head.
  """
  width = config.hidden_size
  queries, kv = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
  block = width * (2 * queries + kv) + 3 * width * config.intermediate_size
  return 2 * block, 2 * width * kv, 2 * width * config.vocab_size
