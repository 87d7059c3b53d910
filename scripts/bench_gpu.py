"""Measures one accelerator against its own limits: decoding, the update, and a step of ESPO against one of PPO.

  PYTHONPATH=. python scripts/bench_gpu.py   # about 20 minutes on one 80 GB GPU

It writes experiments/benchmarks/gpu.json and gpu.md. The weights are random. The limits are measured in the same run. The rate
at which decoding reads weights and filled cache is compared with the bandwidth of a copy. The gradient's rate of operations is
compared with that of a large matrix product.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench import forced, report, workload

from espo_jax.configs import default_config
from espo_jax.experiment import make_experiment
from espo_jax.learner import in_parts, init_state, minibatches, pack, put_packing, score
from espo_jax.model import ActorCritic, Caches, ModelConfig, Params, States, column_flops, init
from espo_jax.rollout.sampling import draw, row_keys, token_noise
from espo_jax.stages import rl
from espo_jax.types import Reward

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPES = {  # hidden, intermediate, layers, heads, key-value heads, head size, vocabulary, tied; the first three are Qwen2.5
  '0.5B': (896, 4864, 24, 14, 2, 64, 151_936, True),
  '1.5B': (1536, 8960, 28, 12, 2, 128, 151_936, True),
  '7B': (3584, 18_944, 28, 28, 4, 128, 152_064, False),
  'tiny': (64, 128, 2, 4, 2, 16, 512, True),
}
DECODE_STEPS = 32
STOPPED, STOPPED_AT = 0.4, 0.5  # the share of rows that ESPO's arm stops, and the share of their length at the stop


def shape(name: str, **overrides: Any) -> ModelConfig:
  """Returns a decoder shape of `SHAPES` in bfloat16, by default with scanned layers."""
  hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, tied = SHAPES[name]
  return ModelConfig(
    vocab_size=vocabulary,
    hidden_size=hidden,
    intermediate_size=intermediate,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    tie_word_embeddings=tied,
    qkv_bias=True,
    dtype='bfloat16',
    param_dtype='bfloat16',
    family='qwen2',
    **({'scan_layers': True} | overrides),
  )


def best(run: Callable[[], Any], repeats: int) -> float:
  """Returns the seconds of the fastest run, after one that compiles."""
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def limits(repeats: int, size: int) -> dict[str, float]:
  """Measures the bytes per second that a copy reads and writes, and the operations per second of a bfloat16 product."""
  array = jnp.ones(size * size * 4, jnp.bfloat16)
  copy = jax.jit(lambda x: x + 1)
  matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
  product = jax.jit(lambda x: x @ x)
  return {
    'copy_bytes_per_second': 2 * array.nbytes / best(lambda: copy(array), repeats),
    'matmul_flops_per_second': 2 * size**3 / best(lambda: product(matrix), repeats),
  }


def decode(name: str, batches: list[int], context: int, peak: dict[str, float], repeats: int) -> Iterator[dict[str, Any]]:
  """Times decode steps with a cache of `context` tokens per row, by plain XLA and by the paged kernels."""
  for kernels in (False, True):
    config = shape(name, paged_kernels=kernels, scan_layers=not kernels)  # a kernel copies stacked layers
    params = {'policy': init(config, jax.random.key(0), value_head=True)}
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    model = ActorCritic(config)
    for batch in batches:
      caches = model.init_caches(batch, context + DECODE_STEPS)
      lengths = jnp.full(batch, context, jnp.int32)
      caches = Caches(caches.policy.replace(lengths=lengths), None)
      live = 2 * config.num_layers * config.num_kv_heads * config.head_dim * context * batch * config.activation_dtype.itemsize
      run = functools.partial(
        _decode, model, params, caches, row_keys(jax.random.key(0), jnp.arange(batch, dtype=jnp.uint32), 1)
      )
      try:
        seconds = best(run, repeats) / DECODE_STEPS
      except Exception as error:  # out of memory, or a kernel that this device does not support
        yield {'shape': name, 'kernels': kernels, 'batch': batch, 'failed': str(error).splitlines()[0][:200]}
        continue
      yield {
        'shape': name,
        'kernels': kernels,
        'batch': batch,
        'milliseconds_per_step': 1e3 * seconds,
        'tokens_per_second': batch / seconds,
        'bytes_per_step': weights + live,
        'share_of_copy_bandwidth': (weights + live) / seconds / peak['copy_bytes_per_second'],
      }


@functools.partial(jax.jit, static_argnums=0)
def _decode(model: ActorCritic, params: Params, caches: Caches, keys: jax.Array) -> jax.Array:
  def step(carry: tuple[States, Caches], position: jax.Array) -> tuple[tuple[States, Caches], jax.Array]:
    states, caches = carry
    noise = token_noise(keys, jnp.full(keys.shape, position))
    tokens, logprobs = draw(model.logits(params, states), noise[:, 0], jnp.asarray(False))
    longest = caches.policy.lengths.max() + 1
    states, caches = model.extend_policy(params, tokens[:, None], jnp.ones_like(tokens), states, caches, longest)
    return (states, caches), logprobs + model.values(params, states)

  hidden = jnp.zeros((keys.shape[0], model.config.hidden_size), model.config.activation_dtype)
  return jax.lax.scan(step, (States(hidden, hidden), caches), jnp.arange(DECODE_STEPS))[1]


def update(name: str, rows: int, horizon: int, peak: dict[str, float], repeats: int) -> dict[str, Any]:
  """Times the gradient of a policy loss without padding. It counts six operations per weight and token, and attention's."""
  config = shape(name)
  model = ActorCritic(config)
  params = {'policy': init(config, jax.random.key(0), value_head=True)}
  matrices = sum(x.size for x in jax.tree.leaves(params)) - (
    0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
  )
  tokens = jax.random.randint(jax.random.key(1), (rows, horizon), 0, config.vocab_size)

  @jax.jit
  def gradient(params: Params) -> Params:
    def loss(params: Params) -> jax.Array:
      prompts, lengths = tokens[:, :1], jnp.ones(rows, jnp.int32)
      return score(model, params, prompts, lengths, tokens, temperature=1.0, chunk=128).logprobs.mean()

    return jax.grad(loss)(params)

  seconds = best(lambda: gradient(params), repeats)
  # Per token; causal attention has half of the pairs.
  attention = 12 * config.num_layers * config.num_heads * config.head_dim * horizon / 2
  flops = rows * horizon * (6 * matrices + attention)
  return {
    'shape': name,
    'rows': rows,
    'horizon': horizon,
    'milliseconds': 1e3 * seconds,
    'flops': flops,
    'share_of_matmul_peak': flops / seconds / peak['matmul_flops_per_second'],
  }


def step_times(name: str, rows: int, horizon: int, slots: int, repeats: int) -> dict[str, Any]:
  """Times a whole step, rollout and update, on the same rows without a stop rule and with one that stops some rows."""
  config = shape(name)
  c = default_config()
  c.rollout.update(samples=4, prompts=rows // 4, prompt_width=32, horizon=horizon)
  c.learner.update(minibatches=2, micro_batches=max(1, rows // 8), logit_chunk=128)
  model = ActorCritic(config)
  params = {'policy': init(config, jax.random.key(0), value_head=True)}
  lengths = workload.log_normal(rows, horizon / 2, horizon, 0.6, 0)
  chosen = np.random.default_rng(0).random(rows) < STOPPED
  ends = np.where(chosen, np.maximum(np.round(STOPPED_AT * lengths), 1), lengths + 1).astype(np.int32)
  work = workload.make(lengths, slots=slots, horizon=horizon, width=32, vocabulary=config.vocab_size, seed=0)
  arms = {'ppo': work, 'espo': work.with_lengths(lengths, ends)}
  rule = forced.stop_where_announced()
  exp = dataclasses.replace(make_experiment(c), model=model)
  learner, mesh = rl.reinforcement_learner(exp, rule), exp.mesh
  state = init_state(params, learner.optimizer, rule)
  results: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
  for repeat in range(repeats + 1):
    for arm, its in arms.items():
      start = time.perf_counter()
      out = jax.block_until_ready(forced.generate(forced.Forced(config, announces_stop=True), state.params, rule, its, repeat))
      rolled = time.perf_counter()
      state = _update(c, learner, state, out, mesh)
      jax.block_until_ready(state.params)
      done = time.perf_counter()
      if repeat:  # the first repeat compiles
        results[arm].append({'rollout': rolled - start, 'update': done - rolled, 'tokens': float(its.ends.sum())})
  mean = {arm: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]} for arm, runs in results.items()}
  whole = {arm: its['rollout'] + its['update'] for arm, its in mean.items()}
  saved = {key: 100 * (1 - mean['espo'][key] / mean['ppo'][key]) for key in ('tokens', 'rollout', 'update')}
  return {
    'shape': name,
    'rows': rows,
    'arms': mean,
    'saved_percent': saved | {'step': 100 * (1 - whole['espo'] / whole['ppo'])},
  }


def _update(c: Any, learner: Any, state: Any, rows: Any, mesh: jax.sharding.Mesh) -> Any:
  """Makes the update of one step like `espo_jax.stages.rl`, with random rewards."""
  count = rows.length.shape[0]
  lengths = np.asarray(rows.prompt_lengths + rows.length)
  width, parts = rows.prompt_tokens.shape[1] + rows.tokens.shape[1], c.learner.minibatches * c.learner.micro_batches
  options = {'sizes': c.learner.pack_sizes, 'widths': c.learner.pack_widths, 'multiple': 1}
  packed = functools.partial(pack, width=width, cost=functools.partial(column_flops, learner.model.config), **options)
  dealt = lengths[in_parts(count, parts, c.rollout.samples)]
  reward = Reward(jax.random.uniform(jax.random.key(0), (count,)))
  batch, _ = learner.prepare(state.params, None, rows, reward, put_packing(packed(dealt), mesh))
  for chosen in minibatches(0, 1, count, 1, c.learner.minibatches):
    chosen = chosen.reshape(c.learner.micro_batches, -1)
    state, _ = learner.update(state, batch, None, jnp.asarray(chosen), put_packing(packed(lengths[chosen]), mesh))
  return state


def page(results: dict[str, Any]) -> list[str]:
  """Returns the page."""
  peak, stepped = results['limits'], results['step']
  lines = [
    '# One accelerator against its limits',
    '',
    f'    {results["command"]}',
    '',
    f'Commit {(results["git"] or {}).get("commit", "unknown")[:12]}; {results["device"]}. Random weights, seed 0. Times are '
    f'the best of {results["repeats"]} runs, and means for the step.',
    f'Limits: {peak["copy_bytes_per_second"] / 1e9:.0f} GB/s for a copy, {peak["matmul_flops_per_second"] / 1e12:.1f} TFLOP/s '
    'for a matrix product.',
    '',
    f'Decoding with {results["context"]} tokens per row in the cache:',
    '',
    '| shape | attention | rows | ms per step | tokens/s | share of the copy bandwidth |',
    '|---|---|---|---|---|---|',
  ]
  for its in results['decode']:
    cells = [its['shape'], 'paged kernels' if its['kernels'] else 'XLA', str(its['batch'])]
    if 'failed' in its:
      cells += [its['failed'], '', '']
    else:
      cells += [
        f'{its["milliseconds_per_step"]:.2f}',
        f'{its["tokens_per_second"]:.0f}',
        f'{its["share_of_copy_bandwidth"]:.2f}',
      ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  lines += ['', '| gradient of | rows | tokens per row | ms | share of the matrix peak |', '|---|---|---|---|---|']
  for its in results['update']:
    share = f'{its["milliseconds"]:.1f} | {its["share_of_matmul_peak"]:.2f}'
    lines.append(f'| {its["shape"]} | {its["rows"]} | {its["horizon"]} | {share} |')
  saved = stepped['saved_percent']
  lines += [
    '',
    f'A step of {stepped["rows"]} rows, {stepped["shape"]}, {100 * STOPPED:.0f} % of them stopped at {100 * STOPPED_AT:.0f} %: '
    + ', '.join(f'{key} {value:.1f} %' for key, value in saved.items())
    + ' less than without stops.',
  ]
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--shapes', default='1.5B,7B', help=f'to decode, of {", ".join(SHAPES)}')
  parser.add_argument('--batches', default='1,8,32,128,512')
  parser.add_argument('--context', type=int, default=1024)
  parser.add_argument('--update_shape', default='1.5B', choices=SHAPES)
  parser.add_argument('--update_rows', type=int, default=4)
  parser.add_argument('--step_shape', default='0.5B', choices=SHAPES)
  parser.add_argument('--step_rows', type=int, default=256)
  parser.add_argument('--step_slots', type=int, default=128)
  parser.add_argument('--horizon', type=int, default=1024, help='of the update and the step')
  parser.add_argument('--matrix', type=int, default=8192, help='of the peak measurements')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--output', type=pathlib.Path, default=ROOT / 'experiments/benchmarks/gpu', help='without .json')
  args = parser.parse_args(argv)
  peak = limits(args.repeats, args.matrix)
  batches = [int(batch) for batch in args.batches.split(',')]
  about = report.environment('PYTHONPATH=. python scripts/bench_gpu.py', argv)
  results = about | {
    'device': jax.devices()[0].device_kind,
    'repeats': args.repeats,
    'context': args.context,
    'shapes': {name: dataclasses.asdict(shape(name)) for name in {*args.shapes.split(','), args.update_shape, args.step_shape}},
    'limits': peak,
    'decode': [point for name in args.shapes.split(',') for point in decode(name, batches, args.context, peak, args.repeats)],
    'update': [update(args.update_shape, args.update_rows, args.horizon, peak, args.repeats)],
    'step': step_times(args.step_shape, args.step_rows, args.horizon, args.step_slots, args.repeats),
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
