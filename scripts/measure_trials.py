"""Measures what early ends save and lose, by replaying them on the curves of a comparison whose runs all came to their ends.

  PYTHONPATH=. python scripts/measure_trials.py --comparison=experiments/results/returns --output=experiments/results/trials

COMPARISON.json has the test accuracy of each run, and COMPARISON_curves.json its training accuracy after each update. With
--runs=DIR the second file is written first, from the runs of the comparison. OUTPUT.json and OUTPUT.md have, for each early
end, the updates that it would have saved, and how much worse the best arm is that is left. An early end depends on the order of
the arms, so each seed is replayed in many orders.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from bench import report
from jaxtyping import Float

from espo_jax import monitor
from espo_jax.sweep import ends

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
  ('perf_predict', {}),
  ('perf_predict', {'confidence': 0.99}),
  ('lc_powerlaw', {}),
  ('lc_powerlaw', {'threshold': 0.05}),
  ('median', {}),
  ('median', {'first': 30}),
  ('successive_halving', {}),
  ('successive_halving', {'least': 20}),
  ('hyperband', {}),
  ('hyperband', {'least': 20}),
)
CONTROL = 'by lot'
LOT = 20  # the update at which the control ends half of the runs
ACCURACY = 'accuracy %'


class Run(NamedTuple):
  """A run that came to its end."""

  arm: str
  settings: Mapping[str, Any]
  curve: Float[np.ndarray, 'T']  # the training accuracy after each update
  result: float  # the test accuracy at the end, in per cent


def read_curves(comparison: Mapping[str, Any], folder: pathlib.Path) -> dict[str, dict[str, list[float]]]:
  """Reads the curves of a comparison's runs by arm and seed, and checks that they are the runs of its page."""
  found: dict[str, dict[str, list[float]]] = {}
  for run in comparison['runs']:
    for arm, rule in run['arms'].items():
      rows = monitor.read_metrics(folder / f'seed_{run["seed"]}' / run['name'] / 'arms' / rule)
      seed, decoded = str(run['seed']), comparison['columns'][arm]['decoded tokens (k)']['values'][str(run['seed'])]
      if not np.isclose(rows[-1]['rollout/decoded'], 1e3 * decoded, rtol=1e-9):
        raise SystemExit(f'error: --runs={folder}: seed {seed} of {arm} is not the run of the page; fix: the runs of the page')
      found.setdefault(arm, {})[seed] = [round(monitor.policy_accuracy(row), 4) for row in rows]
  return found


def runs_of(comparison: Mapping[str, Any], curves: Mapping[str, Mapping[str, Sequence[float]]], seed: str) -> list[Run]:
  """Returns the runs of a seed in the order of the arms."""
  results = comparison['columns']
  return [
    Run(arm, fields, np.array(curves[arm][seed]), results[arm][ACCURACY]['values'][seed])
    for arm, fields in comparison['arms'].items()
  ]


def replay(end: ends.EarlyEnd, runs: Sequence[Run], baseline: str, seed: int) -> list[int]:
  """Returns the number of updates that each run trains for, in the order in which they are run."""
  earlier: list[ends.Trial] = []
  for run in runs:
    total = len(run.curve)
    judge = end(ends.Trials(seed, max(len(other.curve) for other in runs), run.settings, tuple(earlier)))
    before = enumerate(run.curve[: total - 1].tolist(), 1)  # a run that is over is not ended
    ended = (u for u, y in before if np.isfinite(y) and run.arm != baseline and judge(u, y))
    kept = next(ended, total)
    known = np.flatnonzero(np.isfinite(run.curve[:kept]))
    whole = kept == total
    earlier.append(ends.Trial(run.settings, known + 1, run.curve[known], whole))
  return [int(trial.updates[-1]) for trial in earlier]


def by_lot(trials: ends.Trials) -> ends.Judge:
  """The control: an early end that reads no curve and ends every other run, drawn by the seed and the place of the run."""
  drawn = np.random.default_rng([trials.seed, len(trials.earlier)]).random() < 0.5
  return lambda update, accuracy: 'by lot' if drawn and update >= LOT else ''


def measure(
  comparison: Mapping[str, Any], curves: Mapping[str, Mapping[str, Sequence[float]]], orders: int
) -> Iterator[dict[str, Any]]:
  """Yields what each early end saves and loses, as means over seeds, each the mean over orders of the arms."""
  for name, options in (*CASES, (CONTROL, {})):
    end = ends.sparing_the_best(by_lot if name == CONTROL else ends.REGISTRY[name](**options))
    by_seed: dict[str, list[list[float]]] = {}
    for seed in map(str, comparison['seeds']):
      runs, rng = runs_of(comparison, curves, seed), np.random.default_rng(int(seed))
      for _ in range(orders):
        order = [runs[i] for i in rng.permutation(len(runs))]
        trained = replay(end, order, comparison['baseline'], int(seed))
        whole = [run.result for run, updates in zip(order, trained, strict=True) if updates == len(run.curve)]
        best = max(run.result for run in runs)
        saved = 100 * (1 - sum(trained) / sum(len(run.curve) for run in runs))
        by_seed.setdefault(seed, []).append([saved, len(runs) - len(whole), best == max(whole), best - max(whole)])
    means = {seed: np.mean(rows, axis=0).tolist() for seed, rows in by_seed.items()}
    columns = dict(zip(('saved', 'ended', 'kept', 'lost'), zip(*means.values(), strict=True), strict=True))
    yield {
      'early_end': name,
      'options': options,
      'by_seed': means,
      **{
        column: dict(zip(('mean', 'half'), monitor.mean_interval(list(values)), strict=True))
        for column, values in columns.items()
      },
    }


def page(results: Mapping[str, Any]) -> list[str]:
  """Returns the lines of the page."""
  arms, seeds = results['arms_compared'], len(results['seeds'])
  lines = [
    '# What early ends of runs save and lose',
    '',
    *report.header(results),
    '',
    f'The curves are those of [{results["comparison"]}]({results["comparison"]}.md): {arms} arms, {seeds} seeds, '
    f'{results["updates"]} updates. Each seed is replayed in {results["orders"]} orders of the arms. A figure is the mean over '
    "seeds with its 95 % interval (Student's t). No option was tuned on these curves.",
    '',
    '| column | meaning |',
    '|---|---|',
    '| updates saved | the updates that are not trained, as a share of those of all runs |',
    '| best arm kept | orders in which the arm of the highest test accuracy came to its end |',
    f'| more than {CONTROL} | the same minus that of the control, paired by seed |',
    '| accuracy lost | the test accuracy of the best arm minus that of the best arm which came to its end |',
    '',
    f'The control `{CONTROL}` ends half of the runs at update {LOT} without a look at their curves. Like all others it spares '
    'the baseline and the best run so far.',
    '',
    f'| early end | options | updates saved, % | runs ended, of {arms} | best arm kept, % | more than {CONTROL} '
    '| accuracy lost, points |',
    '|---|---|---:|---:|---:|---:|---:|',
  ]
  (control,) = (case['by_seed'] for case in results['cases'] if case['early_end'] == CONTROL)
  for case in results['cases']:
    kept = [100 * rows[2] for rows in case['by_seed'].values()]
    more = [100 * (rows[2] - control[seed][2]) for seed, rows in case['by_seed'].items()]
    options = ', '.join(f'`{name} = {value}`' for name, value in case['options'].items()) or 'defaults'
    shares = ['{:.0f} ± {:.0f}'.format(*monitor.mean_interval(values)) for values in (kept, more)]
    cells = [_cell(case['saved'], 1), _cell(case['ended'], 1), *shares, _cell(case['lost'], 2)]
    lines.append(f'| `{case["early_end"]}` | {options} | ' + ' | '.join(cells) + ' |')
  return lines


def _cell(measured: Mapping[str, float], digits: int) -> str:
  return f'{measured["mean"]:.{digits}f} ± {measured["half"]:.{digits}f}'


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--comparison', type=pathlib.Path, required=True, help='a page of espo_jax.sweep, without its suffix')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the page to write, without a suffix')
  parser.add_argument('--runs', type=pathlib.Path, help='the folder of the runs, to write the curves from')
  parser.add_argument('--orders', type=int, default=10, help='orders of the arms per seed; by default %(default)s')
  args = parser.parse_args(argv)
  comparison = json.loads(monitor.ending(args.comparison, '.json').read_text())
  file = monitor.ending(args.comparison.with_name(f'{args.comparison.name}_curves'), '.json')
  if args.runs:
    curves = {'metric': 'training accuracy after each update', 'commits': comparison['commits']}
    curves['curves'] = read_curves(comparison, args.runs)
    monitor.atomic_write_text(file, json.dumps(curves) + '\n')
  curves = json.loads(file.read_text())['curves']
  results = report.environment('PYTHONPATH=. python scripts/measure_trials.py', argv) | {
    'comparison': args.comparison.name,
    'arms_compared': len(comparison['arms']),
    'seeds': comparison['seeds'],
    'updates': max(len(curve) for by_seed in curves.values() for curve in by_seed.values()),
    'orders': args.orders,
    'cases': list(measure(comparison, curves, args.orders)),
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
