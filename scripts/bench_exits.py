"""Measures the time that early exits and self-speculation save against the full model, at equal output length.

  PYTHONPATH=. python scripts/bench_exits.py [options]   # about 6 minutes on 2 cores

It writes experiments/benchmarks/exits.json and exits.md. The weights are random, and no row ends before the horizon. Sampled
exits have the same probability at every head. For drafts, the outputs of the blocks after the drafting ones are scaled up by a
factor. A larger factor makes drafts agree with the full model less often. Without it these blocks change almost no token.
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench import report

from espo_jax import exits, monitor, rollout, stops
from espo_jax.model import ActorCritic, ExitHeads, ModelConfig, Params
from espo_jax.types import Depth, Prompts

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDTH = 8  # the number of prompt tokens
BLOCKS = 12
EVERY = 2
HAZARDS = (0.1, 0.25, 0.6)  # the probability of a sampled exit at each head
_NEVER = stops.never()

Run = Callable[[int], Any]


def qwen2_shaped(hidden: int) -> ModelConfig:
  """Returns the shape of the model, with exit heads."""
  return ModelConfig(
    vocab_size=2048,
    hidden_size=hidden,
    intermediate_size=hidden * 8 // 3,
    num_layers=BLOCKS,
    num_heads=hidden // 64,
    num_kv_heads=hidden // 192,
    head_dim=64,
    qkv_bias=True,
    exits=ExitHeads(EVERY),
  )


def prompts_of(batch: int, config: ModelConfig, seed: int) -> Prompts:
  """Makes random prompts of the same length."""
  tokens = np.random.default_rng(seed).integers(2, config.vocab_size, (batch, WIDTH), dtype=np.int32)
  return jax.device_put(Prompts(tokens, np.full(batch, WIDTH, np.int32), np.arange(batch, dtype=np.uint32)))


def decoder(model: ActorCritic, params: Params, prompts: Prompts, horizon: int, policy: exits.ExitPolicy | None) -> Run:
  """Returns a function that decodes the prompts: `repeat -> trajectories`."""
  model = dataclasses.replace(model, exits=policy)
  adaptive = _NEVER.init(1).adaptive

  def run(repeat: int) -> Any:
    key, level = jax.random.key(repeat), policy.level if policy else 0.0
    return rollout.generate(
      model, params, _NEVER, adaptive, prompts, key, samples=1, horizon=horizon, end_tokens=(-1,), exit_level=level
    )

  return run


def speculator(model: ActorCritic, params: Params, prompts: Prompts, horizon: int, blocks: int, tokens: int) -> Run:
  """Returns a function that decodes the prompts by self-speculation: `repeat -> (trajectories, counts)`."""

  def run(repeat: int) -> Any:
    key = jax.random.key(repeat)
    return rollout.speculate(
      model, params, prompts, key, samples=1, horizon=horizon, end_tokens=(-1,), draft_blocks=blocks, draft_tokens=tokens
    )

  return run


def in_turn(runs: dict[str, Run], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
  """Times functions that take turns, and returns their seconds and last results. The first run of each only compiles."""
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  last = {}
  for repeat in range(repeats + 1):
    for name, run in runs.items():
      start = time.perf_counter()
      last[name] = jax.block_until_ready(run(repeat))
      if repeat:
        seconds[name].append(time.perf_counter() - start)
  return seconds, last


def ratio(seconds: dict[str, list[float]], name: str) -> dict[str, float]:
  """Returns mean and half width of the ratio of a time to the full model's time, taken within each repeat."""
  mean, half = monitor.mean_interval(np.divide(seconds[name], seconds['whole']))
  return {'mean': mean, 'half_width': half}


def depth_share(depth: Depth) -> float:
  """Returns the mean share of blocks that ran for all tokens but the first, whose state is the prompt's."""
  return float(depth.blocks[:, 1:].mean()) / BLOCKS


def with_hazard(params: Params, q: float) -> Params:
  """Returns the parameters with heads that all give the exit probability `q`."""
  policy = params['policy']
  heads = policy['exit_heads'] | {'bias': jnp.full_like(policy['exit_heads']['bias'], math.log(q / (1 - q)))}
  return params | {'policy': policy | {'exit_heads': heads}}


def louder(params: Params, blocks: int, factor: float) -> Params:
  """Returns the parameters with the outputs of all blocks from `blocks` on scaled by `factor`."""
  policy = dict(params['policy'])
  for block in range(blocks, BLOCKS):
    layer = policy[f'layer_{block}']
    scaled = {('attention', 'o_proj'), ('mlp', 'down_proj')}
    policy[f'layer_{block}'] = layer | {
      part: layer[part] | {name: jax.tree.map(lambda x: factor * x, layer[part][name])} for part, name in scaled
    }
  return params | {'policy': policy}


def measure_exits(args: argparse.Namespace, model: ActorCritic, params: Params) -> list[dict[str, Any]]:
  """Measures time against depth for each exit policy and batch size."""
  entries = []
  for batch in args.batches:
    prompts = prompts_of(batch, model.config, args.seed)
    decode = functools.partial(decoder, model, prompts=prompts, horizon=args.horizon)
    half = float(BLOCKS // 2)
    runs: dict[str, Run] = {
      'whole': decode(params, policy=None),
      'fixed, half the blocks': decode(params, policy=exits.fixed(level=half)),
      'skipdecode, down to half': decode(params, policy=exits.skipdecode(level=half, bottom=2, end=args.horizon // 2)),
    }
    for q in HAZARDS:
      runs[f'sampled, q = {q}'] = decode(with_hazard(params, q), policy=exits.sampled(level=0.05))
    seconds, last = in_turn(runs, args.repeats)
    for name in list(runs)[1:]:
      entries.append({'batch': batch, 'policy': name, 'depth': depth_share(last[name].depth), 'time': ratio(seconds, name)})
  return entries


def measure_speculation(args: argparse.Namespace, model: ActorCritic, params: Params) -> list[dict[str, Any]]:
  """Measures the speed of self-speculation against the full model's, for each factor and batch size."""
  entries = []
  for factor in args.factors:
    loud = louder(params, args.draft_blocks, factor)
    for batch in args.batches:
      prompts = prompts_of(batch, model.config, args.seed)
      runs = {
        'whole': decoder(model, loud, prompts, args.horizon, None),
        'speculative': speculator(model, loud, prompts, args.horizon, args.draft_blocks, args.draft_tokens),
      }
      seconds, last = in_turn(runs, args.repeats)
      counts = jax.device_get(last['speculative'][1])
      faster, half = monitor.mean_interval(np.divide(seconds['whole'], seconds['speculative']))
      entries.append(
        {
          'factor': factor,
          'batch': batch,
          'acceptance': float(counts.accepted / counts.drafted),
          'tokens_a_pass': float(last['speculative'][0].length.mean() / counts.rounds),
          'speed': {'mean': faster, 'half_width': half},
          'tokens_per_second': batch * args.horizon / float(np.mean(seconds['speculative'])),
        }
      )
  return entries


def page(results: dict[str, Any], args: argparse.Namespace) -> list[str]:
  """Returns the page with its tables."""
  model = results['model']
  lines = ['# Early exits and self-speculation: depth against time', '', *report.header(results)]
  lines += [
    f'Qwen2-shaped, {results["parameters"] / 1e6:.1f} million random float32 parameters: {BLOCKS} blocks of '
    f'width {model["hidden_size"]}, vocabulary {model["vocab_size"]}. Exits in front of every {EVERY}nd block. '
    f'Prompts of {WIDTH} tokens, {args.horizon} tokens of response, all rows equally long. Ratios to the full model are '
    f'taken within a repeat. ± is half the 95 % interval over {args.repeats} repeats (Student t). '
    f'Seeds: weights and prompts {args.seed}, sampling the repeat.',
    '',
    '## Time against depth',
    '',
    'A block is skipped if every row has exited. Skipped blocks still project keys and values, except under `skipdecode`.',
    'The aim is a time of at most depth + 0.05, both as shares of the full model.',
    '',
    '| policy | batch | blocks run | time | time - blocks | within 0.05 |',
    '|---|---|---|---|---|---|',
  ]
  for entry in sorted(results['exits'], key=lambda e: (e['policy'], e['batch'])):
    over = entry['time']['mean'] - entry['depth']
    cells = [entry['policy'], entry['batch'], f'{entry["depth"]:.3f}', report.number(entry['time'], 3), f'{over:+.3f}']
    lines.append('| ' + ' | '.join(map(str, [*cells, 'yes' if over <= 0.05 else 'no'])) + ' |')
  lines += [
    '',
    '## Self-speculation',
    '',
    f'{args.draft_blocks} of {BLOCKS} blocks draft up to {args.draft_tokens} tokens. '
    'The factor scales the outputs of the other blocks.',
    '',
    '| factor | batch | drafts accepted | tokens per pass | speed against the full model | tokens/s |',
    '|---|---|---|---|---|---|',
  ]
  for e in results['speculation']:
    cells = [e['factor'], e['batch'], f'{e["acceptance"]:.2f}', f'{e["tokens_a_pass"]:.2f}', report.number(e['speed'], 2)]
    lines.append('| ' + ' | '.join(map(str, [*cells, f'{e["tokens_per_second"]:.0f}'])) + ' |')
  return lines


def numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
  """Returns a parser of numbers that are separated by commas."""
  return lambda text: tuple(kind(part) for part in text.split(','))


def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batches', type=numbers(int), default=(1, 4, 16, 64))
  parser.add_argument('--factors', type=numbers(float), default=(1.0, 2.0, 4.0))
  parser.add_argument('--horizon', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--hidden_size', type=int, default=384, help='a multiple of 192')
  parser.add_argument('--draft_blocks', type=int, default=3)
  parser.add_argument('--draft_tokens', type=int, default=5)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', type=pathlib.Path, default=ROOT / 'experiments/benchmarks/exits', help='without .json')
  args = parser.parse_args(argv)
  config = qwen2_shaped(args.hidden_size)
  model = ActorCritic(config)
  params = jax.jit(model.init)(jax.random.key(args.seed))
  results = report.environment('PYTHONPATH=. python scripts/bench_exits.py', list(argv)) | {
    'model': dataclasses.asdict(config),
    'parameters': sum(x.size for x in jax.tree.leaves(params)),
    'exits': measure_exits(args, model, params),
    'speculation': measure_speculation(args, model, params),
  }
  lines = page(results, args)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
