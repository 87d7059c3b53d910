"""Measures how far the learner's log-probabilities are from the sampler's, in float32 and in bfloat16.

  PYTHONPATH=. python scripts/measure_sampler_gap.py   # two minutes on 2 cores

It writes experiments/benchmarks/sampler_gap.json and sampler_gap.md. The model is Qwen2-shaped with random weights. Rows end at
an end token or at the horizon. The learner scores them packed, as in an update.
"""

import argparse
import functools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench import forced, report

from espo_jax import rollout, stops
from espo_jax.learner import pack, score
from espo_jax.model import ActorCritic, init
from espo_jax.types import Prompts

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROMPTS, SAMPLES, WIDTH, HORIZON, SLOTS = 16, 8, 32, 192, 32


def gaps(dtype: str, seed: int) -> np.ndarray:
  """Returns the absolute difference between the two log-probabilities of each sampled token."""
  config = forced.qwen2_shaped(dtype=dtype, param_dtype=dtype)
  model, rule = ActorCritic(config), stops.never()
  params = {'policy': init(config, jax.random.key(seed), value_head=True)}
  tokens = np.random.default_rng(seed).integers(2, config.vocab_size, (PROMPTS, WIDTH), dtype=np.int32)
  prompts = Prompts(jnp.asarray(tokens), jnp.full(PROMPTS, WIDTH, jnp.int32), jnp.arange(PROMPTS, dtype=jnp.uint32))
  rows = rollout.generate(
    model,
    params,
    rule,
    rule.init(1).adaptive,
    prompts,
    jax.random.key(seed),
    samples=SAMPLES,
    horizon=HORIZON,
    end_tokens=tuple(range(16)),  # so many that one of them is sampled now and then
    slots=SLOTS,
  )
  lengths = np.asarray(rows.prompt_lengths + rows.length)[None]
  packing = pack(lengths, WIDTH + HORIZON, sizes=PROMPTS * SAMPLES, multiple=1, widths=1, cost=float)
  scored = jax.jit(functools.partial(score, model, temperature=1.0, chunk=10_000))(
    params,
    rows.prompt_tokens,
    rows.prompt_lengths,
    rows.tokens,
    packing=jax.tree.map(lambda x: jnp.asarray(x[0]), packing),
  )
  return np.abs(np.asarray(scored.logprobs - rows.logprobs)[np.asarray(rows.mask)])


def main(argv: list[str]) -> None:
  """Runs the command."""
  argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
  results: dict[str, Any] = report.environment('PYTHONPATH=. python scripts/measure_sampler_gap.py', argv) | {'gaps': {}}
  for dtype in ('float32', 'bfloat16'):
    found = gaps(dtype, seed=0)
    summary = {'tokens': found.size, 'mean': found.mean(), 'p95': np.percentile(found, 95), 'max': found.max()}
    results['gaps'][dtype] = {name: float(value) for name, value in summary.items()}
  lines = [
    '# Sampler and learner',
    '',
    *report.header(results),
    'The table has the absolute difference between the two log-probabilities of each sampled token, in nats. The model has 11 '
    f'million random weights (seed 0). {PROMPTS * SAMPLES} rows were sampled on {SLOTS} slots and packed for the learner.',
    '',
    '| activations and weights | tokens | mean | 95th percentile | largest |',
    '|---|---|---|---|---|',
  ]
  for dtype, its in results['gaps'].items():
    lines.append(f'| {dtype} | {its["tokens"]:.0f} | {its["mean"]:.1e} | {its["p95"]:.1e} | {its["max"]:.1e} |')
  report.write(ROOT / 'experiments/benchmarks/sampler_gap', results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
