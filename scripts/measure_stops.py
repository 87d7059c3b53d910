"""Measures what stop rules save at inference, alone and with a majority vote, on recorded answers to a real model's problems.

  PYTHONPATH=. python scripts/measure_stops.py --rollouts=evaluations/recorded --output=evaluations/stops

It reads answers that were recorded by `espo_jax.evaluate --record` with several samples per problem. Each rule has its default
constants. One half of the problems chooses the threshold of a rule. It loses at most a point of accuracy there, and of such
thresholds it saves the most tokens. It is measured on the other half, and then the halves change places. OUTPUT.json and
OUTPUT.md have the tokens saved and the accuracy lost, for one answer and for the vote of all. The control of a vote is the
vote of fewer answers.
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

from espo_jax import monitor, replay
from espo_jax.configs import load_config
from espo_jax.replay.search import informed
from espo_jax.replay.stopping import replay_all

RATES = tuple(np.linspace(0.05, 0.8, 16).round(2).tolist())
MOST_LOST = 0.01  # of accuracy, on the half that chooses
DRAWS = 200  # random subsets of answers per size of a smaller vote


class Votes(NamedTuple):
  """The answers to `P` problems of `G` samples, as they were recorded."""

  spelled: list[list[str]]
  right: Bool[np.ndarray, 'P G']
  tokens: Int[np.ndarray, 'P G']

  def vote(self, counts: Bool[np.ndarray, 'P G']) -> Float[np.ndarray, 'P']:
    """Returns the probability that the vote of the answers that count is right, problem by problem."""
    problems = zip(self.spelled, self.right, counts, strict=True)
    return np.array(
      [monitor.majority([a if n else '' for a, n in zip(its, n, strict=True)], right) for its, right, n in problems]
    )


def read_votes(folder: pathlib.Path) -> Votes:
  """Reads the answers of an evaluation with several samples per problem."""
  rows = list(monitor.read_samples(folder))
  samples = 1 + max(row['sample'] for row in rows)
  grouped = [rows[i : i + samples] for i in range(0, len(rows), samples)]
  return Votes(
    [[row['answer'] for row in group] for group in grouped],
    np.array([[row['correct'] for row in group] for group in grouped]),
    np.array([[row['length'] for row in group] for group in grouped]),
  )


def smaller_votes(votes: Votes, seed: int = 0) -> Float[np.ndarray, 'P G']:
  """Returns the mean accuracy of votes of 1, 2, ... `G` random answers to each problem."""
  problems, samples = votes.right.shape
  rng = np.random.default_rng(seed)
  orders = rng.permuted(np.broadcast_to(np.arange(samples), (DRAWS, problems, samples)), axis=2)
  by_size = []
  for size in range(1, samples + 1):
    by_size.append(np.mean([votes.vote(order < size) for order in orders[: 1 if size == samples else DRAWS]], axis=0))
  return np.stack(by_size, axis=1)


class Ended(NamedTuple):
  """What is left of the answers under each of `K` thresholds, problem by problem."""

  tokens: Float[np.ndarray, 'K P']
  alone: Float[np.ndarray, 'K P']  # the accuracy of one answer
  vote: Float[np.ndarray, 'K P']  # that of the vote of the answers that were not stopped


def ended(candidate: Any, betas: list[float], recordings: replay.Recordings, votes: Votes, fold: int) -> Ended:
  """Ends the answers at each threshold. The head of a rule is fitted to the problems whose number modulo 2 is `fold`."""
  on_device = jax.tree.map(jnp.asarray, recordings)
  noise = jnp.asarray(np.random.default_rng(0).random(recordings.regret.shape, np.float32))
  weight = jnp.asarray(recordings.weight * (recordings.problem % 2 == fold))
  rule = informed(candidate.rule, on_device, weight, noise)
  length, stopped = jax.device_get(replay_all(rule, jnp.asarray(betas, jnp.float32), on_device, noise))
  shape = len(betas), *votes.right.shape
  length, goes_on = length.reshape(shape), ~stopped.reshape(shape)
  return Ended(length.sum(axis=2), (votes.right & goes_on).mean(axis=2), np.stack([votes.vote(its) for its in goes_on]))


def held_out(candidate: Any, recordings: replay.Recordings, votes: Votes, what: str) -> dict[str, Any]:
  """Measures a rule whose threshold loses at most `MOST_LOST` on the half of the problems that chooses it.

  Args:
    candidate: The rule.
    recordings: The recorded rows.
    votes: The same answers.
    what: 'alone' or 'vote', the accuracy that is kept.
  """
  betas = [point.beta for point in replay.search(candidate, recordings, RATES)] or [candidate.bounds[1]]
  problems = len(votes.spelled)
  full = votes.tokens.sum(axis=1)
  base = votes.right.mean(axis=1) if what == 'alone' else votes.vote(np.ones_like(votes.right))
  smaller = smaller_votes(votes)
  saved, lost, ahead = np.zeros(problems), np.zeros(problems), np.zeros(problems)
  for fold in (0, 1):
    found = ended(candidate, betas, recordings, votes, fold)
    accuracy = getattr(found, what)
    choose, measure = (np.arange(problems) % 2 == side for side in (fold, 1 - fold))
    kept = accuracy[:, choose].mean(axis=1) >= base[choose].mean() - MOST_LOST
    if not kept.any():
      continue
    best = min(np.flatnonzero(kept), key=lambda k: found.tokens[k, choose].sum())
    saved[measure] = full[measure] - found.tokens[best, measure]
    lost[measure] = accuracy[best, measure] - base[measure]
    size = votes.right.shape[1] * (1 - saved[measure].sum() / full[measure].sum())
    at_equal_tokens = [np.interp(size, np.arange(1, smaller.shape[1] + 1), its) for its in smaller[measure]]
    ahead[measure] = accuracy[best, measure] - at_equal_tokens
  columns = np.stack([100 * saved / full.mean(), 100 * lost, 100 * ahead], axis=1)
  intervals = monitor.bootstrap_intervals(columns)
  names = ('saved', 'lost', 'ahead')
  return {n: {'mean': float(x), 'interval': i.tolist()} for n, x, i in zip(names, columns.mean(axis=0), intervals, strict=True)}


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
    'The control of a vote is the vote of as many random whole answers as have the same tokens.',
    '',
    '| rule | one answer: tokens saved, % | accuracy, points | vote: tokens saved, % | points | ahead of fewer votes |',
    '|---|---|---|---|---|---|',
  ]
  for rule, found in results['rules'].items():
    cells = [found['alone']['saved'], found['alone']['lost'], *(found['vote'][name] for name in ('saved', 'lost', 'ahead'))]
    told = (f'{c["mean"]:.1f} [{c["interval"][0]:.1f}, {c["interval"][1]:.1f}]' for c in cells)
    lines.append(f'| `{rule}` | {" | ".join(told)} |')
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rollouts', type=pathlib.Path, required=True, help='the folder of a recorded evaluation')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the page to write, without a suffix')
  args = parser.parse_args(argv)
  try:
    recordings, _ = replay.read_recordings(args.rollouts)
  except replay.RecordingsError as error:
    raise SystemExit(f'error: {error}') from error
  votes, config = read_votes(args.rollouts), load_config(args.rollouts / 'config.json')
  # A recording's own numbers of problems count from its batch on; those of the answers are the problems.
  recordings = recordings._replace(problem=np.arange(recordings.correct.size).reshape(1, -1) // votes.right.shape[1])
  rules = {}
  for candidate in replay.candidates(config, {}, recordings):
    rules[candidate.name] = {what: held_out(candidate, recordings, votes, what) for what in ('alone', 'vote')}
    print(candidate.name, flush=True)
  results = report.environment('PYTHONPATH=. python scripts/measure_stops.py', argv) | {
    'problems': len(votes.spelled),
    'samples': votes.right.shape[1],
    'alone': float(votes.right.mean()),
    'vote': float(votes.vote(np.ones_like(votes.right)).mean()),
    'rules': rules,
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
