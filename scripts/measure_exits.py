"""Measures early exits on a real model whose weights stay frozen: accuracy over depth, agreement, speed, and self-speculation.

  PYTHONPATH=. python scripts/measure_exits.py --checkpoint=models/hf-0.5b --train=gsm8k_train.jsonl --data=gsm8k_test.jsonl
    --output=evaluations/exits

The checkpoint is a Hugging Face directory; `python -m espo_jax.convert` makes one of a GGUF file. Each recipe trains the
networks of its exits on the model's own responses to the training problems. Then each of its policies answers the test
problems greedily at several levels. OUTPUT.json and OUTPUT.md have for each level

- how many more answers than the whole model's are right, in points, and the share of the blocks that a token ran through,
- how often the policy's likeliest token is the model's, along the model's own answers,
- the time of a token as a share of the whole model's, in one run in which both take turns.

At last the model drafts for itself from the exits of each recipe. A page with all recipes takes hours on two cores.
"""

import argparse
import functools
import hashlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from bench import report
from bench.measure import estimate
from bench_exits import decoder, in_turn, numbers, ratio, speculator
from jaxtyping import Array, Float

from espo_jax import exits, monitor, rollout, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.evaluate.answers import Answer, sample_answers
from espo_jax.evaluate.policies import RequestError, open_policy
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.learner import init_state
from espo_jax.learner.chunks import by_chunk
from espo_jax.model import ActorCritic, Deciding, Decoder, Params, States, caches_of_samples
from espo_jax.stages.calibration import calibration_optimizer, calibration_step
from espo_jax.tasks import DataError
from espo_jax.types import Prompts, Trajectories

NEVER = stops.never()
SHARES = (0.5, 0.75)  # of the blocks, for the policies whose level is a number of blocks
COLUMNS = ('accuracy', 'depth', 'agreement')
DRAFT_TOKENS = 5


class Recipe(NamedTuple):
  """The networks of exits, what they learn, and the levels of the policies that read them."""

  exits: dict[str, Any]
  lesson: str | None  # None trains nothing; '' is self-distillation
  policies: dict[str, tuple[float, ...]]
  upper: bool = False  # whether exits stand in the second half of the blocks alone
  phases: int = 0  # the turns in which the parts of the networks learn; 0 where the lesson has none


RECIPES = {
  'untrained': Recipe(
    {},
    None,
    {
      'mue_similarity': (0.9, 0.95, 0.98, 0.99),
      'calm_cosine': (0.9, 0.95, 0.99),
      'calm_margin': (0.5, 0.8, 0.9),
      'confidence': (0.5, 0.8, 0.9),
      'fixed': SHARES,
      'skipdecode': SHARES,
    },
  ),
  'self-distillation': Recipe(
    {},
    '',
    {'sampled': (0.1, 0.3, 0.5), 'threshold': (0.5, 0.7, 0.9), 'ponder_q': (0.5, 0.7, 0.9), 'dynamax': (0.5, 0.7, 0.9)},
  ),
  'jei_gates': Recipe({'kind': 'statistics', 'translator': 'token'}, 'jei_gates', {'jei_gates': (0.3, 0.5, 0.7)}, phases=10),
  'lgvit_distill': Recipe({'translator': 'local_global'}, 'lgvit_distill', {'confidence': (0.5, 0.8, 0.9)}),
  'dynamax_distill': Recipe({'kind': 'recurrence'}, 'dynamax_distill', {'dynamax': (0.5, 0.7, 0.9)}, upper=True),
  'specee': Recipe({'kind': 'candidates'}, 'specee', {'specee': (0.3, 0.5, 0.7)}),
}


def experiment_of(args: argparse.Namespace, recipe: Recipe) -> Experiment:
  """Makes the experiment in which a recipe is trained and its policies answer the test problems.

  Raises:
    RequestError: There is no Hugging Face directory.
    ConfigError: The model's shape has no place for the exits.
    DataError: The problems cannot be read.
  """
  c: ml_collections.ConfigDict = open_policy(args.checkpoint).config.copy_and_resolve_references().unlock()
  c.stages = ('calibration',)
  c.data.update(benchmark='gsm8k', path=str(args.train), eval_path=str(args.data))
  c.rollout.update(horizon=args.horizon, prompt_width=args.prompt_width, slots=0)
  c.eval.update(problems=args.problems, batch=args.batch)
  c.exits.update(every=args.every, alone=True, policy=next(iter(recipe.policies)), learning_rate=args.learning_rate)
  c.exits.update(recipe.exits)
  c.calibration.update(steps=args.steps, prompts=args.prompts, warmup_steps=min(10, args.steps // 10))
  c.lesson.name = recipe.lesson or ''
  if recipe.upper:
    c.exits.first_block = make_experiment(c).model.config.num_layers // 2
  if recipe.phases:
    c.lesson.phase = max(1, args.steps // recipe.phases)
  validate(c)
  return make_experiment(c)


def calibrated(exp: Experiment, params: Params, steps: int) -> Params:
  """Returns the parameters after `steps` steps of calibration, of which only the exits' networks differ."""
  state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), calibration_optimizer(exp), NEVER))
  step = calibration_step(exp, params)
  for number in range(1, steps + 1):
    state, metrics = step(state, number)
    if number == steps or number % 10 == 0:
      print(f'step {number} of {steps}: loss {float(metrics["loss/total"]):.4f}', file=sys.stderr)
  return state.params


def answered(exp: Experiment, params: Params, level: float | None) -> list[Answer]:
  """Answers the test problems greedily."""
  problems = exp.test_problems(exp.config.eval.problems)
  batches = sample_answers(exp, params, problems, exp.config.eval.batch, 1, 0.0, exit_level=level)
  return [answer for batch in batches for answer in batch.answers]


def own_rows(exp: Experiment, params: Params) -> Iterator[tuple[Prompts, Trajectories]]:
  """Yields the whole model's greedy answers to the test problems, batch by batch."""
  problems, batch = exp.test_problems(exp.config.eval.problems), exp.config.eval.batch
  sampler = exp.with_exits(None).sampler.plain(samples=1, temperature=0.0)
  for first in range(0, len(problems), batch):
    prompts = exp.prompts(problems[first : first + batch])
    yield prompts, sampler(params, NEVER, NEVER.init(1).adaptive, prompts, exp.key('evaluation', 0))


@functools.partial(jax.jit, static_argnames=('model', 'chunk'))
def agreement(
  model: ActorCritic, params: Params, prompts: Prompts, rows: Trajectories, level: Array, *, chunk: int
) -> tuple[Float[Array, 'N'], Float[Array, 'N']]:
  """Computes how many of each answer's tokens a policy finds likeliest, and how many have a choice of depth.

  The policy decides the depth of every token of a given answer, in one pass behind the cached prompt.

  Args:
    model: The model with the policy.
    params: Its parameters.
    prompts: The prompts.
    rows: The whole model's answers to them.
    level: The policy's level.
    chunk: The number of tokens whose logits are in memory at a time.
  """
  count, width = rows.tokens.shape
  _, caches = rollout.setup.prefill(model, params, prompts)
  cache = caches_of_samples(caches.policy, 1, prompts.tokens.shape[1] + width)
  given = rows.tokens[:, :-1]
  live = jnp.arange(1, width) < rows.length[:, None]
  noise = jax.random.uniform(jax.random.key(0), given.shape)
  deciding = Deciding(jnp.broadcast_to(jnp.arange(1, width), given.shape), noise, live, level)
  longest = (prompts.lengths + width - 1).max()
  trunk, own = Decoder(model.config, exits=model.exits), {'params': params['policy']}
  hidden: Any = trunk.apply(own, given, jnp.full(count, width - 1), cache, longest, deciding, method='extend')[0]

  def likeliest(hidden: Array) -> Array:
    return model.logits(params, States(hidden, hidden)).argmax(-1)

  same = live & (by_chunk(likeliest, chunk, hidden) == rows.tokens[:, 1:])
  return same.sum(1).astype(jnp.float32), live.sum(1).astype(jnp.float32)


def agreed(exp: Experiment, params: Params, level: float, answers: list[tuple[Prompts, Trajectories]]) -> dict[str, Any]:
  """Returns the share of the tokens of the model's answers that a policy finds likeliest, with its interval."""
  find = functools.partial(agreement, exp.model, params, chunk=exp.logit_chunk)
  found = [jax.device_get(find(prompts, rows, jnp.float32(level))) for prompts, rows in answers]
  same, tokens = (np.concatenate(each) for each in zip(*found, strict=True))
  return with_interval(same[tokens > 0] / tokens[tokens > 0])


def with_interval(values: np.ndarray) -> dict[str, Any]:
  """Returns the mean of a value per problem and its 95 % bootstrap interval, in percent."""
  values = 100 * np.asarray(values, np.float64)
  return {'value': float(values.mean()), 'interval': monitor.bootstrap_intervals(values[:, None])[0].tolist()}


def prompts_of(exp: Experiment, batch: int) -> Prompts:
  """Returns the prompts of the first test problems, which are repeated where there are too few."""
  problems = exp.test_problems(exp.config.eval.problems)
  return exp.prompts([problems[i % len(problems)] for i in range(batch)])


class Whole(NamedTuple):
  """The answers of the whole model, which all recipes leave as it is."""

  right: Float[np.ndarray, 'P']
  rows: list[tuple[Prompts, Trajectories]]


def measured(
  args: argparse.Namespace, exp: Experiment, params: Params, name: str, levels: tuple[float, ...], whole: Whole
) -> list[dict]:
  """Measures one policy at its levels, beside the whole model."""
  blocks = exp.model.config.num_layers
  policy = exits.get(name)()
  deep = exp.with_exits(policy)
  levels = levels if policy.schedule is None else tuple(float(round(blocks * level)) for level in levels)
  entries = []
  for level in levels:
    found = answered(deep, params, level)
    gained = np.array([answer.correct for answer in found]) - whole.right
    entries.append(
      {
        'policy': name,
        'level': level,
        'correct': sum(answer.correct for answer in found),
        'accuracy': with_interval(gained),
        'depth': with_interval(np.array([answer.depth for answer in found])),
        'agreement': agreed(deep, params, level, whole.rows),
        'time': {},
      }
    )
  for batch in args.batches:
    decode = functools.partial(decoder, exp.model, params, prompts_of(exp, batch), args.timed_tokens)
    runs: dict[str, Callable[[int], Any]] = {'whole': decode(None)}
    for level in levels:
      runs[str(level)] = decode(policy._replace(level=level))
    seconds, last = in_turn(runs, args.repeats)
    for entry in entries:
      timed, ran = ratio(seconds, str(entry['level'])), last[str(entry['level'])].depth.blocks[:, 1:]
      entry['time'][str(batch)] = timed | {
        'depth': float(ran.mean()) / blocks,
        'seconds': float(np.mean(seconds[str(entry['level'])])) / args.timed_tokens,
        'whole_seconds': float(np.mean(seconds['whole'])) / args.timed_tokens,
      }
  return entries


def drafted(args: argparse.Namespace, exp: Experiment, params: Params) -> list[dict]:
  """Measures self-speculation from the first, the middle and the last exit, beside the whole model."""
  places, entries = exp.model.config.exit_blocks, []
  for batch in args.batches:
    prompts = prompts_of(exp, batch)
    runs: dict[str, Callable[[int], Any]] = {'whole': decoder(exp.model, params, prompts, args.timed_tokens, None)}
    chosen = sorted({places[0], places[len(places) // 2], places[-1]})
    for blocks in chosen:
      runs[str(blocks)] = speculator(exp.model, params, prompts, args.timed_tokens, blocks, DRAFT_TOKENS)
    seconds, last = in_turn(runs, args.repeats)
    for blocks in chosen:
      rows, counts = jax.device_get(last[str(blocks)])
      entries.append(
        {
          'blocks': blocks,
          'batch': batch,
          'acceptance': float(counts.accepted / max(counts.drafted, 1)),
          'tokens_a_pass': float(rows.length.mean() / max(counts.rounds, 1)),
          'speed': estimate(np.divide(seconds['whole'], seconds[str(blocks)]).tolist()),
        }
      )
  return entries


def digest_of(checkpoint: pathlib.Path) -> str:
  """Returns the SHA-256 of the weights, over all files in the order of their names."""
  whole = hashlib.sha256()
  for path in sorted(checkpoint.glob('*.safetensors')):
    with path.open('rb') as file:
      whole.update(hashlib.file_digest(file, 'sha256').digest())
  return whole.hexdigest()


def page(results: dict[str, Any], args: argparse.Namespace) -> list[str]:
  """Returns the lines of the page."""
  left_out = sorted(set(exits.REGISTRY) - {'never'} - {name for its in results['recipes'].values() for name in its['levels']})
  lines = [
    '# Early exits on a real model',
    '',
    *report.header(results),
    '',
    f'SHA-256 of the weights: {results["weights"]}. The model is frozen. Exits stand before every {args.every}th block of '
    f'{results["blocks"]}. Each recipe took {args.steps} steps of {args.prompts} responses. {results["problems"]} test '
    f'problems were answered greedily in at most {args.horizon} tokens. The whole model has {results["whole"]} right. Accuracy '
    'is the difference from it in points, depth the share of its blocks, and agreement the share of tokens of its own answers '
    'that a policy finds likeliest. Intervals are 95 % bootstrap intervals over problems. A time is a share of the whole '
    f"model's, of which ± is half the 95 % interval over {args.repeats} repeats (Student t) of {args.timed_tokens} tokens.",
    '',
    f'Policies without a recipe here: {", ".join(f"`{name}`" for name in left_out) or "none"}.',
  ]
  times = ' | '.join(f'time at batch {batch} | blocks run' for batch in args.batches)
  for name, its in results['recipes'].items():
    lines += ['', f'## {name}', '', f'| policy | level | accuracy | depth, % | agreement, % | {times} |']
    lines.append('|---' * (5 + 2 * len(args.batches)) + '|')
    for entry in its['policies']:
      cells = [f'`{entry["policy"]}`', f'{entry["level"]:g}']
      cells += ['{:.1f} [{:.1f}, {:.1f}]'.format(entry[key]['value'], *entry[key]['interval']) for key in COLUMNS]
      for timed in entry['time'].values():
        cells += [report.number(timed, 3), f'{timed["depth"]:.3f}']
      lines.append(f'| {" | ".join(cells)} |')
    lines += [
      '',
      '| drafting blocks | batch | drafts accepted | tokens per pass | speed against the whole model |',
      '|---|---|---|---|---|',
    ]
    for e in its['drafts']:
      cells = [
        str(e['blocks']),
        str(e['batch']),
        f'{e["acceptance"]:.2f}',
        f'{e["tokens_a_pass"]:.2f}',
        report.number(e['speed'], 2),
      ]
      lines.append(f'| {" | ".join(cells)} |')
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--checkpoint', type=pathlib.Path, required=True, help='a Hugging Face directory')
  parser.add_argument('--train', type=pathlib.Path, required=True, help='GSM8K problems, to whose answers exits are fitted')
  parser.add_argument('--data', type=pathlib.Path, required=True, help='the GSM8K problems that are answered')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the page to write, without a suffix')
  parser.add_argument('--recipes', type=lambda text: text.split(','), default=list(RECIPES), help=', '.join(RECIPES))
  parser.add_argument('--every', type=int, default=4, help='blocks between two exits')
  parser.add_argument('--steps', type=int, default=200, help='steps of calibration')
  parser.add_argument('--prompts', type=int, default=8, help='responses per step')
  parser.add_argument('--learning_rate', type=float, default=1e-3)
  parser.add_argument('--problems', type=int, default=64)
  parser.add_argument('--batch', type=int, default=16, help='problems that are answered at a time')
  parser.add_argument('--horizon', type=int, default=320)
  parser.add_argument('--prompt_width', type=int, default=288)
  parser.add_argument('--batches', type=numbers(int), default=(1, 16), help='batch sizes that are timed')
  parser.add_argument('--timed_tokens', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args(argv)
  if unknown := [name for name in args.recipes if name not in RECIPES]:
    raise SystemExit(f'error: --recipes={unknown[0]}: no such recipe; fix: some of {", ".join(RECIPES)}')
  if args.problems % args.batch:
    raise SystemExit(f'error: --problems={args.problems} is no multiple of --batch={args.batch}; fix: one of both')
  results, whole = report.environment('PYTHONPATH=. python scripts/measure_exits.py', argv) | {'recipes': {}}, None
  results['weights'] = digest_of(args.checkpoint)
  try:
    for name in args.recipes:
      recipe = RECIPES[name]
      exp = experiment_of(args, recipe)
      params = exp.init_params()
      if whole is None:
        answers = answered(exp.with_exits(None), params, None)
        whole = Whole(np.array([answer.correct for answer in answers], np.float64), list(own_rows(exp, params)))
        results |= {'blocks': exp.model.config.num_layers, 'problems': len(answers), 'whole': int(whole.right.sum())}
      if recipe.lesson is not None:
        params = calibrated(exp, params, args.steps)
      results['recipes'][name] = {
        'levels': {policy: list(levels) for policy, levels in recipe.policies.items()},
        'policies': [e for its in recipe.policies.items() for e in measured(args, exp, params, *its, whole)],
        'drafts': drafted(args, exp.with_exits(None), params),
      }
      report.write(args.output, results, page(results, args))
  except (RequestError, ConfigError, DataError, monitor.OutputError) as error:
    raise SystemExit(f'error: {error}') from error
  print('\n'.join(page(results, args)))


if __name__ == '__main__':
  main(sys.argv[1:])
