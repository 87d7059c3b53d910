"""Compares our LoRA adapters with those of qwix by the time of a gradient of the same decoder.

  pip install qwix==0.1.8
  PYTHONPATH=. python scripts/measure_lora.py

qwix adds its adapters by patching `jax.lax.dot_general`. The patch affects `nn.Dense` and not our `x @ W`, so qwix's decoder is
built of `nn.Dense`.
"""

import argparse
import sys
import time
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix

from espo_jax.model import Decoder, Lora, ModelConfig
from espo_jax.model.config import PROJECTIONS

RANK, REPEATS = 8, 10
SHAPE = {'hidden_size': 384, 'intermediate_size': 1024, 'num_layers': 6, 'num_heads': 6, 'num_kv_heads': 2, 'head_dim': 64}
TOKENS = jnp.ones((8, 128), jnp.int32)
INPUTS = (TOKENS, jnp.broadcast_to(jnp.arange(128), TOKENS.shape), jnp.ones_like(TOKENS))


def dense(config: ModelConfig, features: int, axes: Any, use_bias: bool = False, scale: float = 1.0, *, name: str) -> nn.Dense:
  """Makes the `nn.Dense` that replaces `Projection`, for qwix to add adapters to."""
  del config, axes, scale
  return nn.Dense(features, use_bias=use_bias, name=name)


def step(model: Any) -> tuple[Any, Any]:
  """Returns a jitted gradient of a decoder whose base is frozen, and the decoder's parameters."""
  params = nn.unbox(model.init(jax.random.key(0), *INPUTS)['params'])

  def loss(params: Any) -> jax.Array:
    held = jax.tree_util.tree_map_with_path(lambda path, x: x if adapts(path) else jax.lax.stop_gradient(x), params)
    return model.apply({'params': held}, *INPUTS)[0].sum()

  return jax.jit(jax.grad(loss)), params


def adapts(path: Any) -> bool:
  """Returns whether a parameter belongs to an adapter, by our names or by qwix's."""
  return 'lora' in jax.tree_util.keystr(path)


def adapters(params: Any) -> int:
  """Counts the parameters of the adapters."""
  return sum(x.size for path, x in jax.tree_util.tree_leaves_with_path(params) if adapts(path))


def main(argv: list[str]) -> None:
  """Runs the command."""
  argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
  for scan in (False, True):
    ours = step(Decoder(ModelConfig(4096, **SHAPE, scan_layers=scan, lora=Lora(rank=RANK))))
    with mock.patch('espo_jax.model.layers.Projection', dense):
      provider = qwix.LoraProvider(module_path=f'.*({"|".join(PROJECTIONS)})', rank=RANK, alpha=16.0)
      theirs = step(qwix.apply_lora_to_model(Decoder(ModelConfig(4096, **SHAPE, scan_layers=scan)), provider))
      jax.block_until_ready(theirs[0](theirs[1]))  # traces under the patch
    jax.block_until_ready(ours[0](ours[1]))
    seconds: dict[str, list[float]] = {'ours': [], 'qwix': []}
    for _ in range(REPEATS):
      for name, (gradient, params) in {'ours': ours, 'qwix': theirs}.items():
        start = time.perf_counter()
        jax.block_until_ready(gradient(params))
        seconds[name].append(time.perf_counter() - start)
    for name, (_, params) in {'ours': ours, 'qwix': theirs}.items():
      print(
        f'scan_layers={scan} {name}: {min(seconds[name]):.3f} s at best of {REPEATS}, {adapters(params):,} adapter parameters'
      )


if __name__ == '__main__':
  main(sys.argv[1:])
