"""Profiles a decode step on a CPU: traces the operations of the compiled rollout, and sums their times by purpose.

  PYTHONPATH=. python scripts/profile_rollout.py   # one minute on 2 cores

It writes experiments/benchmarks/profile.json and profile.md. Model and lengths are those of bench_rollout.py. Operations run on
several threads, so their times may add up to more than the elapsed time.
"""

import argparse
import collections
import gzip
import json
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench import forced, report, workload

from espo_jax import rollout, stops
from espo_jax.model import init
from espo_jax.types import Prompts

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = forced.qwen2_shaped()
ROWS, SLOTS, HORIZON, WIDTH, SIGMA = 256, 64, 256, 32, 0.6
KINDS = (  # an operation is of the first kind whose pattern is found in its name
  ('prefill', r'Decoder/Decoder\._trunk'),
  ('attention over the cache', r'/attention/cond/.*(dot_general|slice)'),
  ('softmax, masks and transposes of attention', r'/attention/cond/'),
  ('projections of attention', r'/attention/\w_proj/dot_general'),
  ('MLP', r'/mlp/\w+_proj/dot_general'),
  ('logits', r'Decoder\.logits'),
  ('RoPE, norms, biases, activations', r'Decoder\._trunk|Decoder\.extend'),
  ('sampling, stops, bookkeeping, refill', r'while/body'),
)


def operations(text: str) -> dict[str, str]:
  """Returns the traced name (`op_name`) of each instruction of a compiled program."""
  return dict(re.findall(r'%?([\w.-]+) = .*?op_name="([^"]*)"', text))


def kind_of(name: str) -> str:
  """Returns the purpose of an operation, one of `KINDS`."""
  return next((kind for kind, pattern in KINDS if re.search(pattern, name)), 'the rest')


def main(argv: list[str]) -> None:
  """Runs the command."""
  argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
  lengths = workload.log_normal(1000, HORIZON / 2, HORIZON, SIGMA, 0)[:ROWS]
  work = workload.make(lengths, slots=SLOTS, horizon=HORIZON, width=WIDTH, vocabulary=CONFIG.vocab_size, seed=0)
  model, rule = forced.Forced(CONFIG), stops.never()
  params = forced.with_value_head(CONFIG, init(CONFIG, jax.random.key(0)))
  prompts = Prompts(jnp.asarray(work.prompts), jnp.full(ROWS, WIDTH, jnp.int32), jnp.arange(ROWS, dtype=jnp.uint32))
  arguments = (model, params, rule, rule.init(1).adaptive, prompts, jax.random.key(0))
  options: dict[str, Any] = {'samples': 1, 'horizon': HORIZON, 'end_tokens': (workload.END,), 'slots': SLOTS}
  compiled = rollout.generate.lower(*arguments, **options).compile()
  names = operations(compiled.as_text())

  def run() -> Any:
    return jax.block_until_ready(rollout.generate(*arguments, **options))

  steps = forced.executed_steps(run())
  start = time.perf_counter()
  run()
  untraced = 1e3 * (time.perf_counter() - start) / steps
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    with jax.profiler.trace(folder):
      run()
      traced = 1e3 * (time.perf_counter() - start) / steps
    (path,) = pathlib.Path(folder).rglob('*.trace.json.gz')
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
  spent: dict[str, float] = collections.Counter()
  for event in events:
    if event.get('ph') == 'X' and event['name'] in names and not re.match(r'(while|cond|call)', event['name']):
      spent[kind_of(names[event['name']])] += event['dur'] / 1e3 / steps
  results = report.environment('PYTHONPATH=. python scripts/profile_rollout.py', argv) | {
    'steps': steps,
    'milliseconds_per_step': untraced,
    'milliseconds_per_step_traced': traced,
    'thread_milliseconds_per_step': dict(spent),
  }
  lines = [
    '# Where a decode step spends its time',
    '',
    *report.header(results),
    f'{ROWS} rows were decoded on {SLOTS} slots, with model and lengths of `bench_rollout`. A step took {untraced:.1f} ms, and '
    f'{traced:.1f} ms under the profiler. The table has the time per step, summed over all threads:',
    '',
    '| | ms |',
    '|---|---|',
    *(f'| {kind} | {spent[kind]:.2f} |' for kind in sorted(spent, key=lambda kind: -spent[kind])),
    f'| all | {np.sum(list(spent.values())):.2f} |',
  ]
  report.write(ROOT / 'experiments/benchmarks/profile', results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
