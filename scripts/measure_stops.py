"""Measures what stop rules save at inference, alone and with a majority vote, on recorded answers to a real model's problems.

  PYTHONPATH=. python scripts/measure_stops.py --rollouts=evaluations/recorded --output=evaluations/stops

It reads answers that were recorded by `espo_jax.evaluate --record` with several samples per problem. Each rule has its default
constants. One half of the problems chooses the threshold of a rule. It loses at most a point of accuracy there, and of such
thresholds it saves the most tokens. It is measured on the other half, and then the halves change places. OUTPUT.json and
OUTPUT.md have the tokens saved and the accuracy lost, for one answer and for the vote of all. The control of a vote is the
vote of fewer answers with as many tokens.
"""

import argparse
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bench import report
from jaxtyping import Bool, Float, Int

from espo_jax import decoders, monitor, replay
from espo_jax.configs import ConfigError, load_config
from espo_jax.evaluate.decoding import chosen_by_count
from espo_jax.evaluate.equal_tokens import leads
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.reading import Graded, read_graded
from espo_jax.parallel.storage import DamagedFile
from espo_jax.replay.search import Candidate, informed
from espo_jax.replay.stopping import replay_all

RATES = tuple(np.linspace(0.05, 0.8, 16).round(2).tolist())
MOST_LOST = 0.01  # of accuracy, on the half that chooses
VOTE = decoders.REGISTRY['majority']()


class Measured(NamedTuple):
  """Accuracies and tokens, problem by problem: `alone` of one answer, `vote` of the vote of all; tokens are those of all."""

  alone: Float[np.ndarray, 'P']
  vote: Float[np.ndarray, 'P']
  tokens: Float[np.ndarray, 'P']


def measured(graded: Graded) -> Measured:
  """Measures answers."""
  right, tokens = chosen_by_count([VOTE], graded, [len(graded.correct[0])])
  return Measured(np.array([its.mean() for its in graded.correct]), right[:, 0, 0], tokens[:, 0, 0])


def cut(graded: Graded, length: Int[np.ndarray, 'P G'], stopped: Bool[np.ndarray, 'P G']) -> Graded:
  """Returns answers that a rule has ended. A stopped one is wrong, and states nothing."""
  problems = [
    its._replace(answers=['' if stop else answer for answer, stop in zip(its.answers, gone, strict=True)], lengths=left)
    for its, left, gone in zip(graded.problems, length, stopped, strict=True)
  ]
  return Graded(graded.settings, problems, [right & ~gone for right, gone in zip(graded.correct, stopped, strict=True)])


def at_thresholds(candidate: Candidate, recordings: replay.Recordings, graded: Graded, fold: int) -> list[Measured]:
  """Measures a rule at several thresholds. They and its head know the problems whose number modulo 2 is `fold` alone."""
  recordings = recordings._replace(problem=recordings.problem + fold)  # a search looks at even numbers alone
  betas = [point.beta for point in replay.search(candidate, recordings, RATES)]
  on_device = jax.tree.map(jnp.asarray, recordings)
  noise = jnp.asarray(np.random.default_rng(0).random(recordings.regret.shape, np.float32))
  weight = jnp.asarray(recordings.weight * (recordings.problem % 2 == 0))
  rule = informed(candidate.rule, on_device, weight, noise)
  ends = jax.device_get(replay_all(rule, jnp.asarray(betas, jnp.float32), on_device, noise))
  length, stopped = (x.reshape(len(betas), len(graded.problems), len(graded.correct[0])) for x in ends)
  return [measured(cut(graded, *each)) for each in zip(length, stopped, strict=True)]


def held_out(by_fold: list[list[Measured]], free: Measured, what: str) -> Measured:
  """Returns the measures of each problem at the threshold that the problems of the other half choose.

  Args:
    by_fold: The measures at each threshold of a rule that knows one half of the problems, for both halves.
    free: The measures without a rule, which stand where every threshold loses too much.
    what: 'alone' or 'vote', the accuracy of which at most `MOST_LOST` may be lost.
  """
  columns = [np.array(each) for each in free]
  for fold, measures in enumerate(by_fold):
    half = np.arange(len(free.tokens)) % 2 == fold
    least = getattr(free, what)[half].mean() - MOST_LOST
    kept = [its for its in measures if getattr(its, what)[half].mean() >= least]
    best = min(kept, key=lambda its: its.tokens[half].sum(), default=free)
    for column, values in zip(columns, best, strict=True):
      column[~half] = values[~half]
  return Measured(*columns)


def compared(found: Measured, free: Measured, what: str) -> dict[str, Any]:
  """Returns the share of tokens saved and the accuracy gained, in percent and points, with their intervals."""
  saved = (free.tokens - found.tokens) / free.tokens.mean()
  columns = 100 * np.stack([saved, getattr(found, what) - getattr(free, what)], axis=1)
  pairs = zip(columns.mean(axis=0), monitor.bootstrap_intervals(columns), strict=True)
  return {name: {'value': v, 'interval': i.tolist()} for name, (v, i) in zip(('saved', 'accuracy'), pairs, strict=True)}


def page(results: dict[str, Any]) -> list[str]:
  """Returns the lines of the page."""
  lines = [
    '# What stop rules save at inference',
    '',
    *report.header(results),
    '',
    f'{results["problems"]} problems with {results["samples"]} answers each. {100 * results["alone"]:.1f} % of the answers and '
    f'{100 * results["vote"]:.1f} % of the votes of all answers are right. A stopped answer is wrong, and has no vote. The '
    'rules have their default constants. Half of the problems choose a threshold, which loses at most a point there and saves '
    'most. The figures are of the other half, for both halves in turn. Intervals are 95 % bootstrap intervals over problems. '
    'The control of a vote is the vote of fewer whole answers that have as many tokens.',
    '',
    '| rule | one answer: tokens saved, % | accuracy, points | vote: tokens saved, % | points | ahead of fewer votes |',
    '|---|---|---|---|---|---|',
  ]
  for rule, its in results['rules'].items():
    cells = [its[what][name] for what in ('alone', 'vote') for name in ('saved', 'accuracy')] + [its['ahead']]
    lines.append(f'| `{rule}` | {" | ".join("{:.1f} [{:.1f}, {:.1f}]".format(c["value"], *c["interval"]) for c in cells)} |')
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rollouts', type=pathlib.Path, required=True, help='the folder of a recorded evaluation')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the page to write, without a suffix')
  args = parser.parse_args(argv)
  try:
    recordings, _ = replay.read_recordings(args.rollouts)
    graded, config = read_graded(args.rollouts, ()), load_config(args.rollouts / 'config.json')
  except (replay.RecordingsError, RequestError, ConfigError, DamagedFile, monitor.OutputError) as error:
    raise SystemExit(f'error: {error}') from error
  free, rules, votes = measured(graded), dict[str, Any](), list[Measured]()
  for candidate in replay.candidates(config, {}, recordings):
    by_fold = [at_thresholds(candidate, recordings, graded, fold) for fold in (0, 1)]
    chosen = {what: held_out(by_fold, free, what) for what in ('alone', 'vote')}
    rules[candidate.name] = {what: compared(its, free, what) for what, its in chosen.items()}
    votes.append(chosen['vote'])
  samples = len(graded.correct[0])
  fewer = chosen_by_count([VOTE], graded, range(1, samples + 1))
  columns = (np.stack([getattr(its, name) for its in votes], axis=1) for name in ('vote', 'tokens'))
  for entry, lead in zip(rules.values(), leads(*columns, *(each[:, 0] for each in fewer)), strict=True):
    entry['ahead'] = {'value': 100 * lead['value'], 'interval': [100 * end for end in lead['interval']]}
  results = report.environment('PYTHONPATH=. python scripts/measure_stops.py', argv) | {
    'problems': len(graded.problems),
    'samples': samples,
    'alone': float(free.alone.mean()),
    'vote': float(free.vote.mean()),
    'rules': rules,
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
