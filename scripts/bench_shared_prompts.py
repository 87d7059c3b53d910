"""Measures what shared prompts save in an update: tokens, columns and seconds, on prompts of a data set.

  PYTHONPATH=. python scripts/bench_shared_prompts.py --model=models/SmolLM2-135M-Instruct --problems=data/gsm8k_train.jsonl

It writes experiments/benchmarks/shared_prompts.json and shared_prompts.md. The update is that of experiments/gsm8k.py:adapters,
with one minibatch and without a stop rule. Prompts are those of the first problems, and responses are random tokens of
log-normal lengths. The update that is timed has fewer prompts and a model of the given shape with fewer blocks, whose weights
are random. Its seconds are those of all cores together, because other programs may run beside this one.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench import report
from bench.measure import estimate

from espo_jax import stops
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.learner import Packing, init_state, minibatches, put_packing
from espo_jax.model import column_flops
from espo_jax.stages import packings, rl
from espo_jax.types import Reward, StopReason, Trajectories
from experiments.gsm8k import get_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
MEAN, SPREAD = 150, 0.4  # the mean length of a response, and the deviation of its logarithm
FORMS = {'apart': False, 'shared': True}


def experiments(args: argparse.Namespace) -> dict[str, Experiment]:
  """Returns the experiment of each form."""
  c = get_config('adapters')
  c.model.path, c.data.path = args.model, args.problems
  c.rollout.update(prompts=args.counted, samples=args.samples, horizon=args.horizon)
  c.learner.update(minibatches=1, micro_batches=1, pack_sizes=4)
  exp, found = make_experiment(c), {}
  for name, share in FORMS.items():
    config = exp.config.copy_and_resolve_references()
    config.learner.share_prompts = share
    found[name] = dataclasses.replace(exp, config=config)
  return found


def rows_of(exp: Experiment, problems: int) -> Trajectories:
  """Returns rows of the first problems with random responses."""
  r, rng = exp.config.rollout, np.random.default_rng(0)
  prompts = exp.prompts(exp.my_problems('train', 0, problems))
  count = problems * r.samples
  lengths = rng.lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD, count)
  lengths = jnp.asarray(np.clip(np.round(lengths), 1, r.horizon), jnp.int32)
  shape = (count, r.horizon)
  zeros = jnp.zeros(shape, jnp.float32)
  return Trajectories(
    prompt_tokens=jnp.repeat(prompts.tokens, r.samples, axis=0),
    prompt_lengths=jnp.repeat(jnp.asarray(prompts.lengths), r.samples),
    tokens=jnp.asarray(rng.integers(0, exp.model.config.vocab_size, shape), jnp.int32),
    logprobs=zeros - 1.0,
    values=zeros,
    regret=zeros,
    z=zeros,
    trained_from=jnp.zeros(count, jnp.int32),
    length=lengths,
    full_length=lengths,
    stop_reason=jnp.full(count, StopReason.EOS, jnp.int32),
    started=jnp.zeros(count, jnp.int32),
    shadow=jnp.zeros(count, bool),
  )


def packed(exp: Experiment, rows: Trajectories, chosen: np.ndarray) -> Packing:
  """Returns the packing of a minibatch."""
  lengths, prompts = exp.fetch((rows.prompt_lengths + rows.length, rows.prompt_lengths))
  return packings.pack_rows(exp, lengths, prompts, np.sort(chosen)[None])


def sizes(exp: Experiment, rows: Trajectories, parts: int, together: int) -> dict[str, float]:
  """Returns the tokens, the columns, and the forward pass's operations of a pass.

  Args:
    exp: The experiment.
    rows: All rows of the pass.
    parts: The number of minibatches.
    together: The number of neighbours that are in the same minibatch.
  """
  found = np.zeros(3)
  for chosen in minibatches(0, 1, rows.length.size, 1, parts, None, together):
    packing = packed(exp, rows, chosen)
    columns = packing.row.size
    operations = columns * column_flops(exp.model.config, packing.row.shape[-1])
    found += packing.real.sum(), columns, operations / 1e12
  return dict(zip(('tokens', 'columns', 'teraflops'), found.tolist(), strict=True))


def seconds(args: argparse.Namespace, experiments: dict[str, Experiment]) -> dict[str, list[float]]:
  """Times updates of both forms in turn.

  Args:
    args: The options of the command.
    experiments: The experiment of each form.

  Returns:
    The seconds of each update on all cores together, by form.
  """
  updates, state = {}, None
  for name, exp in experiments.items():
    shape = dataclasses.replace(exp.model.config, num_layers=args.blocks)
    exp = dataclasses.replace(exp, model=dataclasses.replace(exp.model, config=shape))
    learner, rows = rl.reinforcement_learner(exp, stops.never()), rows_of(exp, args.prompts)
    state = state or init_state(exp.model.init(jax.random.key(0)), learner.optimizer, stops.never())
    packing = put_packing(packed(exp, rows, np.arange(rows.length.size)), exp.mesh)
    reward = Reward(jax.random.uniform(jax.random.key(0), rows.length.shape))
    batch, _ = learner.prepare(state.params, None, rows, reward, packing)
    chosen = exp.put(np.arange(rows.length.size, dtype=np.int32)[None])
    updates[name] = learner, (batch, None, chosen, packing)
  found: dict[str, list[float]] = {name: [] for name in FORMS}
  for repeat in range(args.repeats + 1):
    for name in list(FORMS)[:: -1 if repeat % 2 else 1]:  # each form is as often the first of a pair
      start = time.process_time()
      learner, its = updates[name]
      state, _ = jax.block_until_ready(learner.update(state, *its))
      if repeat:  # the first one compiles
        found[name].append(time.process_time() - start)
  return found


def page(results: dict[str, Any]) -> list[str]:
  """Returns the lines of the page."""
  found, times = results['sizes'], results['seconds']
  lines = [
    '# Shared prompts',
    '',
    *report.header(results),
    f'Tokens, columns and operations are those of {results["counted"]} prompts with {results["samples"]} rows each: on average '
    f'{results["prompt_tokens"]:.0f} tokens of a prompt and {results["response_tokens"]:.0f} of a response. The seconds are '
    f'those of {results["prompts"] * results["samples"]} rows and {results["blocks"]} blocks, on all cores together, with 95 % '
    f'intervals over {results["repeats"]} pairs. The model has adapters and is in float32.',
    '',
    '| a pass | prompts apart | shared | saved |',
    '|---|---|---|---|',
  ]
  for case, forms in found.items():
    for name, text, digits in (
      ('tokens', 'tokens', 0),
      ('columns', 'columns', 0),
      ('teraflops', '10^12 operations, forward', 2),
    ):
      apart, shared = (forms[form][name] for form in FORMS)
      lines.append(f'| {case}: {text} | {apart:.{digits}f} | {shared:.{digits}f} | {100 * (1 - shared / apart):.1f} % |')
  cells = [report.number(times[form]) for form in FORMS]
  return [*lines, f'| CPU seconds | {cells[0]} | {cells[1]} | {report.number(results["saved_percent"])} % |']


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', default='models/SmolLM2-135M-Instruct', help='a folder of a Hugging Face model')
  parser.add_argument(
    '--problems', default='data/gsm8k_train.jsonl', help='problems in the format of GSM8K, a file of JSON lines'
  )
  parser.add_argument('--samples', type=int, default=8)
  parser.add_argument('--horizon', type=int, default=400)
  parser.add_argument('--counted', type=int, default=64, help='prompts of the pass whose tokens are counted')
  parser.add_argument('--minibatches', type=int, default=8, help='of that pass, beside a single one')
  parser.add_argument('--prompts', type=int, default=1, help='of the update that is timed')
  parser.add_argument('--blocks', type=int, default=6, help='of the model that is timed')
  parser.add_argument('--repeats', type=int, default=6)
  output = ROOT / 'experiments/benchmarks/shared_prompts'
  parser.add_argument('--output', type=pathlib.Path, default=output, help='without .json')
  args = parser.parse_args(argv)
  about = report.environment('PYTHONPATH=. python scripts/bench_shared_prompts.py', argv)
  both = experiments(args)
  rows = rows_of(both['apart'], args.counted)
  cases = {
    'one minibatch': (1, 1),
    f'{args.minibatches} minibatches of rows': (args.minibatches, 1),
    f'{args.minibatches} minibatches of whole groups': (args.minibatches, args.samples),
  }
  times = seconds(args, both)
  results = about | {
    **{name: getattr(args, name) for name in ('counted', 'prompts', 'samples', 'blocks', 'repeats')},
    'prompt_tokens': float(rows.prompt_lengths.mean()),
    'response_tokens': float(rows.length.mean()),
    'sizes': {case: {form: sizes(exp, rows, *its) for form, exp in both.items()} for case, its in cases.items()},
    'seconds': {form: estimate(its) for form, its in times.items()},
    'saved_percent': estimate([100 * (1 - b / a) for a, b in zip(times['apart'], times['shared'], strict=True)]),
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
