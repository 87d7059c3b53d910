"""Measures which numbers tell early that an answer will be wrong: regret, log-probability, entropy, a critic, the state.

  PYTHONPATH=. python scripts/measure_signals.py --rollouts=evaluations/recorded --output=evaluations/signals

It reads answers that were recorded by `espo_jax.evaluate --record --features=K` with several samples per problem, and writes
OUTPUT.json and OUTPUT.md. The first table has areas under ROC curves over all answers. The second has them over the pairs of a
right and a wrong answer to one problem. The third has what each number saves and loses as a stop rule. Numbers that are fitted
are measured on other problems.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bench import report
from jaxtyping import Bool, Float, Int

from espo_jax import replay, stops
from espo_jax.configs import load_config
from espo_jax.experiment import make_rule

TOKENS = (16, 32, 64, 128, 192, 256)
SHARES = (0.1, 0.25, 0.5, 0.75)
SAVED = (0.1, 0.2, 0.3)
FOLDS = 5
PENALTIES = 10.0 ** np.arange(-4, 3)  # of a ridge regression, in units of the mean variance of an input
HEAD_INPUTS = 128  # the first directions, which a head reads that is fitted on the answers at one token
STATE = 'a linear head on the state, fitted at this token'
PROMPT = "the same on the state at the prompt's end"


class Rows(NamedTuple):
  """Recorded answers."""

  arrays: Mapping[str, np.ndarray]  # [N, T] per token, and [N]
  real: Bool[np.ndarray, 'N T']
  wrong: Bool[np.ndarray, 'N']
  problem: Int[np.ndarray, 'N']


def read(folder: pathlib.Path) -> Rows:
  """Reads the recorded answers of an evaluation."""
  with np.load(folder / 'rollouts/rows.npz') as archive:
    arrays = dict(archive)
  if 'projections' not in arrays:
    raise SystemExit(f'error: --rollouts={folder}: no features of states; fix: evaluate with --record --features=K')
  real = np.arange(arrays['regret'].shape[1]) < arrays['full_length'][:, None]
  return Rows(arrays, real, arrays['correct'] == 0, arrays['problem'])


def smoothed_regret(folder: pathlib.Path, rows: Rows) -> Float[np.ndarray, 'N T']:
  """Computes ESPO's smoothed statistic z with the constants of the evaluation's config."""
  rule = make_rule(load_config(folder / 'config.json'), 'espo')
  state = stops.adaptive(rule, mu=jnp.asarray(rows.arrays['mu']), var=jnp.asarray(rows.arrays['var']))
  count = len(rows.wrong)

  def step(state: Any, seen: stops.Observation) -> tuple[Any, Any]:
    state, _, z = rule.update(state, seen)
    return state, z

  regret, values = (jnp.asarray(rows.arrays[name].T) for name in ('regret', 'values'))
  _, z = jax.lax.scan(step, rule.init(count, state), stops.Observation(regret, values, jnp.zeros_like(regret)))
  return np.asarray(z).T


def out_of_fold(
  inputs: Float[np.ndarray, 'M K'], targets: Float[np.ndarray, 'M'], problem: Int[np.ndarray, 'M']
) -> Float[np.ndarray, 'M']:
  """Predicts how far targets are from their mean, by ridge regressions that saw no row of the problem they predict.

  Each regression chooses its penalty by leaving out one more fold of problems. None has an intercept: it would be low for the
  folds whose targets are high, so that useless inputs would seem to tell rows of different folds apart.
  """
  fold = problem % FOLDS
  x = (inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-6)
  parts = [(x[fold == k], targets[fold == k]) for k in range(FOLDS)]
  grams = np.stack([part.T @ part for part, _ in parts])
  moments = np.stack([part.T @ wanted for part, wanted in parts])
  sums = np.stack([part.sum(axis=0) for part, _ in parts])

  def fitted(left_out: list[int]) -> tuple[Float[np.ndarray, 'L K'], float]:
    """Returns the weights for each penalty, and the mean of the targets that they were fitted on."""
    used = np.setdiff1d(np.arange(FOLDS), left_out)
    mean = float(np.concatenate([parts[k][1] for k in used]).mean())
    values, vectors = np.linalg.eigh(grams[used].sum(axis=0))
    penalties = PENALTIES[:, None] * np.mean(values)
    moment = moments[used].sum(axis=0) - mean * sums[used].sum(axis=0)
    return (vectors.T @ moment / (np.maximum(values, 0) + penalties)) @ vectors.T, mean

  predicted = np.empty(len(targets))
  for k in range(FOLDS):
    errors = np.zeros(len(PENALTIES))
    for j in set(range(FOLDS)) - {k}:
      weights, mean = fitted([k, j])
      errors += ((weights @ parts[j][0].T - (parts[j][1] - mean)) ** 2).sum(axis=1)
    predicted[fold == k] = parts[k][0] @ fitted([k])[0][errors.argmin()]
  return predicted


def above_others(
  values: Float[np.ndarray, 'N T'], real: Bool[np.ndarray, 'N T'], problem: Int[np.ndarray, 'N']
) -> Float[np.ndarray, 'N T']:
  """Returns by how much each value exceeds the mean of the problem's other answers at the same token; 0 if no other has it.

  A training cannot read this, because its other rows may not be so far yet.
  """
  _, index = np.unique(problem, return_inverse=True)
  sums, counts = np.zeros((2, index.max() + 1, real.shape[1]))
  np.add.at(sums, index, np.where(real, values, 0.0))
  np.add.at(counts, index, real)
  others = counts[index] - real
  return np.where(real & (others > 0), values - (sums[index] - np.where(real, values, 0.0)) / np.maximum(others, 1), 0.0)


def running(folder: pathlib.Path, rows: Rows) -> dict[str, Float[np.ndarray, 'N T']]:
  """Computes the numbers that are known after each token. A higher one is meant to tell a wrong answer."""
  arrays, real = rows.arrays, rows.real
  count = np.arange(1, real.shape[1] + 1)

  def mean(x: np.ndarray) -> np.ndarray:
    return np.cumsum(np.where(real, x, 0), axis=1, dtype=np.float64) / count

  z = smoothed_regret(folder, rows)
  found = {
    'z, the smoothed regret': z,
    'running maximum of z': np.maximum.accumulate(z, axis=1),
    'running mean of the regret': mean(arrays['regret']),
    'running mean of -log-probability': mean(-arrays['logprobs']),
    'running mean of the entropy': mean(arrays['entropy']),
    'running mean of -margin': mean(-arrays['margin']),
  }
  right = np.broadcast_to(~rows.wrong[:, None], real.shape)[real].astype(np.float64)
  problem = np.broadcast_to(rows.problem[:, None], real.shape)[real]
  critic = out_of_fold(arrays['projections'][real].astype(np.float32), right, problem)
  found['a linear critic on the frozen trunk'] = _spread(-critic, real)
  together = np.stack([x[real] for x in found.values()], axis=1)
  together = np.concatenate([together, together * np.log(np.broadcast_to(count, real.shape)[real])[:, None]], axis=1)
  found['a regression on all of these'] = _spread(-out_of_fold(together, right, problem), real)
  surprise = 'running mean of -log-probability'
  found[f"{surprise}, above that of the problem's other answers"] = above_others(found[surprise], real, rows.problem)
  return found


def _spread(values: Float[np.ndarray, 'M'], real: Bool[np.ndarray, 'N T']) -> Float[np.ndarray, 'N T']:
  spread = np.zeros(real.shape)
  spread[real] = values
  return spread


def areas(rows: Rows, signals: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Computes the areas under the ROC curves at every point, over the rows that are longer than that.

  At a given share of the answers all rows count. Such a share is not known while an answer is written.
  """
  lengths = rows.arrays['full_length']
  points = {f'{token} tokens': np.full(len(lengths), token) for token in TOKENS}
  points |= {f'{share:.0%}': np.maximum(1, (share * lengths).astype(int)) for share in SHARES}
  found: dict[str, Any] = {}
  for name, point in points.items():
    row = np.flatnonzero(lengths > point) if 'tokens' in name else np.arange(len(lengths))
    at = {signal: values[row, point[row] - 1] for signal, values in signals.items()}
    right = (~rows.wrong[row]).astype(np.float64)
    for head, column in ((STATE, point[row]), (PROMPT, np.zeros_like(row))):
      column = np.minimum(column, lengths[row] - 1)
      states = rows.arrays['projections'][row, column, :HEAD_INPUTS].astype(np.float64)
      at[head] = -out_of_fold(states, right, rows.problem[row])
    found[name] = {'rows': len(row)} | {
      signal: {
        'overall': replay.overall(score, rows.wrong[row], rows.problem[row])._asdict(),
        'within': replay.within_problems(score, rows.wrong[row], rows.problem[row])._asdict(),
      }
      for signal, score in at.items()
    }
  return found


def stopping(rows: Rows, signals: Mapping[str, np.ndarray], first: int) -> dict[str, Any]:
  """Measures each number as a stop rule with one threshold from token `first` on.

  The threshold saves a given share of the tokens of the even problems. The odd problems are measured, also by thirds.
  """
  lengths, correct = rows.arrays['full_length'], 1.0 - rows.wrong
  last = lengths - rows.arrays['ended']  # an end token ends the row itself
  columns = np.arange(rows.real.shape[1])
  allowed = (columns >= first - 1) & (columns < last[:, None])
  odd = (rows.problem % 2).astype(np.float64)
  parts = {'held_out': odd} | {
    name: odd * third[0]
    for name, third in zip(replay.THIRDS, replay.thirds(correct[None], rows.problem[None], odd[None]), strict=True)
  }
  found: dict[str, Any] = {}
  for signal, values in signals.items():
    highest = np.maximum.accumulate(np.where(allowed, values, -np.inf), axis=1)

    def ends(threshold: float, highest: np.ndarray = highest) -> tuple[np.ndarray, np.ndarray]:
      crossed = highest > threshold
      stopped = crossed.any(axis=1)
      return np.where(stopped, crossed.argmax(axis=1) + 1, lengths), stopped

    thresholds = np.unique(highest[(1 - odd).astype(bool)][:, -1])
    found[signal] = {}
    for wanted in SAVED:
      low, high = 0, len(thresholds) - 1  # the saved share falls as the threshold rises
      while low < high:
        middle = (low + high) // 2
        (seen,) = replay.measure(*ends(thresholds[middle]), lengths, correct, 1 - odd)
        low, high = (low, middle) if seen.saved <= wanted else (middle + 1, high)
      ended = ends(thresholds[low])
      found[signal][f'{wanted:g}'] = {'threshold': float(thresholds[low])} | {
        name: replay.measure(*ended, lengths, correct, weight)[0]._asdict() for name, weight in parts.items()
      }
  return found


def page(results: Mapping[str, Any]) -> list[str]:
  """Returns the page of the results."""
  about, points = results['evaluation']['settings'], results['areas']
  lines = ['# Which numbers tell a wrong answer early', '', *report.header(dict(results)), '']
  lines += [
    f'{about["problems"]} problems of {about["benchmark"]}, {about["samples"]} answers to each at temperature '
    f'{about["temperature"]:g} by {about["checkpoint"]}: '
    f'{100 * results["right"]:.1f} % right, {results["tokens_mean"]:.0f} tokens on average, {100 * results["cut"]:.1f} % cut '
    f'at {about["horizon"]}.',
    '',
    'The probability that a wrong answer has the higher number than a right one, with a 95 % bootstrap interval over problems.',
    'At a number of tokens, only the answers that are longer count.',
  ]
  for kind, title in (('overall', 'Over all answers'), ('within', 'Among the answers to one problem')):
    lines += ['', f'## {title}', '', '| | ' + ' | '.join(points) + ' |', '|---|' + '---:|' * len(points)]
    lines.append('| answers | ' + ' | '.join(str(its['rows']) for its in points.values()) + ' |')
    lines.append('| pairs | ' + ' | '.join(str(its[PROMPT][kind]['pairs']) for its in points.values()) + ' |')
    for signal in next(iter(points.values())):
      if signal != 'rows':
        lines.append(f'| {signal} | ' + ' | '.join(_area(its[signal][kind]) for its in points.values()) + ' |')
  lines += [
    '',
    f'## As a stop rule, from token {results["first"]} on',
    '',
    'One threshold, set on the even problems so that it saves 10, 20 or 30 % of their tokens. The figures are those of the odd '
    'problems in %: tokens saved / right answers lost / right among the stopped answers. The thirds hold the odd problems by '
    'their share of right answers, at 20 %: saved / lost.',
    '',
    '| | 10 % | 20 % | 30 % | ' + ' | '.join(replay.THIRDS) + ' |',
    '|---|' + '---|' * (3 + len(replay.THIRDS)),
  ]
  for signal, by_saved in results['stopping'].items():
    cells = [_percent(its['held_out'], 'saved', 'false_positives', 'wrongly_stopped') for its in by_saved.values()]
    cells += [_percent(by_saved['0.2'][third], 'saved', 'false_positives') for third in replay.THIRDS]
    lines.append(f'| {signal} | ' + ' | '.join(cells) + ' |')
  return lines


def _area(area: Mapping[str, float]) -> str:
  return f'{area["value"]:.2f} [{area["low"]:.2f}, {area["high"]:.2f}]'


def _percent(measured: Mapping[str, float], *names: str) -> str:
  return ' / '.join('-' if np.isnan(measured[name]) else f'{100 * measured[name]:.1f}' for name in names)


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rollouts', type=pathlib.Path, required=True, help='the folder of an evaluation with --features')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the page to write, without a suffix')
  parser.add_argument(
    '--first', type=int, default=64, help='the first token at which a threshold stops; by default %(default)s'
  )
  args = parser.parse_args(argv)
  rows = read(args.rollouts)
  signals = running(args.rollouts, rows)
  summary = json.loads((args.rollouts / 'summary.json').read_text())
  results = report.environment('PYTHONPATH=. python scripts/measure_signals.py', argv) | {
    'evaluation': {
      'settings': summary['settings'] | {'checkpoint': pathlib.Path(summary['settings']['checkpoint']).name},
      'session': summary['session'],
    },
    'right': float(1 - rows.wrong.mean()),
    'tokens_mean': float(rows.arrays['full_length'].mean()),
    'cut': float(1 - rows.arrays['ended'].mean()),
    'first': args.first,
    'areas': areas(rows, signals),
    'stopping': stopping(rows, signals, args.first),
  }
  report.write(args.output, results, page(results))
  print('\n'.join(page(results)))


if __name__ == '__main__':
  main(sys.argv[1:])
