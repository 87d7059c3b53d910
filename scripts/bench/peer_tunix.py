"""The contender tunix: its sampler on its Qwen2, which decodes a batch until all of its rows have ended."""

import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params

from bench import protocol, workload


class Forced(nnx.Module):
  """Makes the end token certain at the length that each prompt encodes and impossible before.

  The sampler calls it with tokens, positions and a cache. It reads the lengths from the prompts and keeps them in the cache.
  """

  def __init__(self, model: qwen2.Qwen2, width: int):
    """Stores the model and the prompts' width."""
    self.model, self.config, self.width = model, model.config, width

  def init_cache(self, batch: int, columns: int, dtype: Any) -> dict[str, Any]:
    """Returns empty caches in the sampler's layout, and an entry for the lengths."""
    shape = (batch, columns, self.config.num_kv_heads, self.config.head_dim)

    def layer() -> dict[str, jax.Array]:
      return {'k': jnp.zeros(shape, dtype), 'v': jnp.zeros(shape, dtype), 'end_index': jnp.zeros(batch, jnp.int32)}

    return {f'layer_{i}': layer() for i in range(self.config.num_layers)} | {'lengths': jnp.zeros(batch, jnp.int32)}

  def __call__(
    self, input_tokens: jax.Array, positions: jax.Array, cache: dict[str, Any], attention_mask: jax.Array
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the model's logits with a forced end token, and the cache."""
    lengths = workload.decode(input_tokens, 0) if input_tokens.shape[1] > 1 else cache['lengths']
    layers = {name: entry for name, entry in cache.items() if name != 'lengths'}
    logits, layers = self.model(input_tokens, positions, layers, attention_mask)
    ends = positions[:, -1] - self.width + 2 >= lengths  # whether the next token ends the row
    return logits.at[:, -1, workload.END].set(jnp.where(ends, 1e9, -1e9)), layers | {'lengths': lengths}


class Rows:
  """Replaces the tokenizer: a text is the index of a prompt."""

  def __init__(self):
    """Starts without prompts; `Tunix` sets them."""
    self.prompts = np.zeros((0, 0), np.int32)

  def encode(self, text: str) -> list[int]:
    """Returns the tokens of the prompt with this index."""
    return self.prompts[int(text)].tolist()

  def decode(self, ids: list[int]) -> str:
    """Returns an empty text, because the benchmark uses tokens only."""
    return ''

  def bos_id(self) -> int:
    """Returns 0; the prompts have no such token."""
    return 0

  def eos_id(self) -> int:
    """Returns the end token."""
    return workload.END

  def pad_id(self) -> int:
    """Returns the pad token."""
    return workload.PAD


class Tunix:
  """The contender, with the methods that the benchmark calls."""

  def load(self, model: str) -> dict[str, Any]:
    """Reads the weights."""
    written = json.loads((pathlib.Path(model) / 'config.json').read_text())
    rope = written.get('rope_parameters') or written
    self._config = qwen2.ModelConfig(
      num_layers=written['num_hidden_layers'],
      vocab_size=written['vocab_size'],
      embed_dim=written['hidden_size'],
      hidden_dim=written['intermediate_size'],
      num_heads=written['num_attention_heads'],
      num_kv_heads=written['num_key_value_heads'],
      head_dim=written.get('head_dim') or written['hidden_size'] // written['num_attention_heads'],
      rope_theta=rope['rope_theta'],
      norm_eps=written['rms_norm_eps'],
      use_tied_embedding=written['tie_word_embeddings'],
    )
    self._model = qwen2_params.create_model_from_safe_tensors(model, self._config, dtype=jnp.float32)
    self._rows, self._sampler = Rows(), None
    packages = ('google-tunix', 'jax', 'jaxlib', 'flax', 'numpy')
    return {'versions': protocol.versions(*packages), 'settings': f'float32 on {jax.devices()[0].device_kind}'}

  def logits(self, rows: str) -> dict[str, Any]:
    """Returns the logits after the first prompt."""
    prompts = jnp.asarray(workload.load(rows).prompts[:1])
    width = prompts.shape[1]
    logits, _ = self._model(prompts, jnp.arange(width)[None], None, jnp.tril(jnp.ones((1, width, width), bool)))
    return {'logits': np.asarray(logits)[0, -1].tolist()}

  def warm(self, rows: str) -> dict[str, Any]:
    """Compiles the programs that `run` runs."""
    work = workload.load(rows)
    width = work.prompts.shape[1]
    config = self._config
    cache = CacheConfig(width + work.horizon, config.num_layers, config.num_kv_heads, config.head_dim)
    start = time.perf_counter()
    self._sampler = Sampler(Forced(self._model, width), self._rows, cache)
    self._decode(work.with_lengths(np.minimum(work.lengths, 2)), 0, warming=True)
    return {'seconds': time.perf_counter() - start}

  def run(self, rows: str, seed: int) -> dict[str, Any]:
    """Decodes all rows."""
    work = workload.load(rows)
    start = time.perf_counter()
    lengths, executed = self._decode(work, seed)
    return {'seconds': time.perf_counter() - start, 'executed': executed, 'lengths': lengths.tolist()}

  def _decode(self, work: workload.Workload, seed: int, warming: bool = False) -> tuple[np.ndarray, int]:
    assert self._sampler is not None
    self._rows.prompts = work.prompts
    lengths, executed = [], 0
    batches = list(work.batches())
    for i in sorted({0, len(batches) - 1}) if warming else range(len(batches)):
      rows = range(batches[i].start, batches[i].stop)
      out = self._sampler(
        [str(row) for row in rows],
        max_generation_steps=work.horizon,
        max_prompt_length=work.prompts.shape[1],
        temperature=1.0,
        top_p=1.0,
        seed=seed * len(batches) + i,
      )
      lengths += [len(tokens) + 1 for tokens in out.tokens]  # the output lacks the end token
      executed += max(lengths[-len(rows) :]) * len(rows)
    return np.asarray(lengths), executed


if __name__ == '__main__':
  protocol.serve(Tunix)
