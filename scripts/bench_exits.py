"""What early exits and self-speculation save in time, against the whole model at equal output length.

  PYTHONPATH=. python scripts/bench_exits.py [options]   # about 6 minutes on 2 cores

Writes experiments/benchmarks/exits.json and exits.md. The weights are random, and no row ends before the horizon. Drawn exits
have the same probability at every head. To measure drafts, the outputs of the blocks behind the drafting ones are scaled up, so
that drafts agree with the model more or less often. As initialised, these blocks add too little to change a draft.
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
WIDTH = 8  # prompt tokens
BLOCKS = 12
EVERY = 2
HAZARDS = (0.1, 0.25, 0.6)  # of a drawn exit at each head
_NEVER = stops.never()

Run = Callable[[int], Any]


def qwen2_shaped(hidden: int) -> ModelConfig:
  """The model."""
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
  """Random prompts."""
  tokens = np.random.default_rng(seed).integers(2, config.vocab_size, (batch, WIDTH), dtype=np.int32)
  return jax.device_put(Prompts(tokens, np.full(batch, WIDTH, np.int32), np.arange(batch, dtype=np.uint32)))


def decoder(model: ActorCritic, params: Params, prompts: Prompts, horizon: int, policy: exits.ExitPolicy | None) -> Run:
  """`repeat -> trajectories`."""
  model = dataclasses.replace(model, exits=policy)
  adaptive = _NEVER.init(1).adaptive

  def run(repeat: int) -> Any:
    key, level = jax.random.key(repeat), policy.level if policy else 0.0
    return rollout.generate(
      model, params, _NEVER, adaptive, prompts, key, samples=1, horizon=horizon, end_tokens=(-1,), exit_level=level
    )

  return run


def speculator(model: ActorCritic, params: Params, prompts: Prompts, horizon: int, blocks: int, tokens: int) -> Run:
  """`repeat -> (trajectories, counts)`."""

  def run(repeat: int) -> Any:
    key = jax.random.key(repeat)
    return rollout.speculate(
      model, params, prompts, key, samples=1, horizon=horizon, end_tokens=(-1,), draft_blocks=blocks, draft_tokens=tokens
    )

  return run


def in_turn(runs: dict[str, Run], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
  """The seconds of each, taking turns, after a run each that compiles; and what each gave last."""
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
  """The time against the whole model's, within each repeat."""
  mean, half = monitor.mean_interval(np.divide(seconds[name], seconds['whole']))
  return {'mean': mean, 'half_width': half}


def depth_share(depth: Depth) -> float:
  """The share of the blocks that the states behind the prompts' ran through: the first token of a row has the prompt's."""
  return float(depth.blocks[:, 1:].mean()) / BLOCKS


def with_hazard(params: Params, q: float) -> Params:
  """The parameters with heads that all say `q`."""
  policy = params['policy']
  heads = policy['exit_heads'] | {'bias': jnp.full_like(policy['exit_heads']['bias'], math.log(q / (1 - q)))}
  return params | {'policy': policy | {'exit_heads': heads}}


def louder(params: Params, blocks: int, factor: float) -> Params:
  """The parameters with all that the blocks from `blocks` on add scaled."""
  policy = dict(params['policy'])
  for block in range(blocks, BLOCKS):
    layer = policy[f'layer_{block}']
    scaled = {('attention', 'o_proj'), ('mlp', 'down_proj')}
    policy[f'layer_{block}'] = layer | {
      part: layer[part] | {name: jax.tree.map(lambda x: factor * x, layer[part][name])} for part, name in scaled
    }
  return params | {'policy': policy}


def measure_exits(args: argparse.Namespace, model: ActorCritic, params: Params) -> list[dict[str, Any]]:
  """Time against depth, batch by batch."""
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
  """Tokens a second against the whole model's, by how much the later blocks have to say."""
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
  """The tables."""
  model = results['model']
  lines = ['# Early exits and self-speculation: depth against time', '', *report.header(results)]
  lines += [
    f'Qwen2-shaped, {results["parameters"] / 1e6:.1f} million random float32 parameters: {BLOCKS} blocks of '
    f'width {model["hidden_size"]}, vocabulary {model["vocab_size"]}. Exits in front of every {EVERY}nd block. '
    f'Prompts of {WIDTH} tokens, {args.horizon} tokens of response, all rows equally long. Ratios against the whole '
    f'model within a repeat; ± is half the 95 % interval over {args.repeats} repeats (Student t). '
    f'Seeds: weights and prompts {args.seed}, sampling the repeat.',
    '',
    '## Time against depth',
    '',
    'Blocks are skipped once every row has left; skipped blocks still project keys and values, but for `skipdecode`.',
    'Aim: time no more than depth + 0.05.',
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
    f'{args.draft_blocks} of {BLOCKS} blocks draft up to {args.draft_tokens} tokens. The factor scales what the others add.',
    '',
    '| factor | batch | drafts accepted | tokens a pass | speed against the whole model | tokens/s |',
    '|---|---|---|---|---|---|',
  ]
  for e in results['speculation']:
    cells = [e['factor'], e['batch'], f'{e["acceptance"]:.2f}', f'{e["tokens_a_pass"]:.2f}', report.number(e['speed'], 2)]
    lines.append('| ' + ' | '.join(map(str, [*cells, f'{e["tokens_per_second"]:.0f}'])) + ' |')
  return lines


def numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
  """A parser of numbers with commas."""
  return lambda text: tuple(kind(part) for part in text.split(','))


def main(argv: Sequence[str]) -> None:
  """The command."""
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
