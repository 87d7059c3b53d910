"""Compares a learned stop rule with least squares on options whose values are known, where the best stop can be computed.

  PYTHONPATH=. python scripts/measure_option_stopping.py --output=experiments/results/option_stopping

OUTPUT.json and OUTPUT.md have what a holder is paid, on paths that neither rule has seen, when the regression of Longstaff and
Schwartz (2001) says when to exercise, when a network does, and when there is no exercise before the last date. It takes a few
minutes of two cores.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from bench import report
from bench.measure import estimate
from option_stopping import learned, least_squares, market

DEGREE, FITTED = 3, 20_000  # the polynomials of the regression, and half of its paths
FIRST_SEED = 5  # with those before it the objective was chosen
NETWORK = {'width': 32, 'steps': 400, 'pairs': 512, 'rate': 1e-2}


class Case(NamedTuple):
  """An option with a published value."""

  name: str
  option: market.Option
  steps: int | None  # of the lattice between two dates; None if the option has too many assets
  published: str
  source: str


MAX_CALL = market.Option(2, 100.0, 100.0, 0.05, 0.1, 0.2, 3.0, 9)
CASES = (
  Case(
    'put',
    market.Option(1, 36.0, 40.0, 0.06, 0.0, 0.2, 1.0, 50),
    80,
    '4.478 by finite differences, 4.472 by least squares',
    'Longstaff and Schwartz (2001)',
  ),
  Case('call on the highest of 2', MAX_CALL, 40, '13.902 by a lattice', 'Broadie and Glasserman (1997), not looked up again'),
  Case(
    'call on the highest of 5',
    MAX_CALL._replace(assets=5),
    None,
    '26.15, an estimate between two bounds',
    'the literature that github.com/konmue/american_options lists, a reproduction of arXiv 1804.05394',
  ),
)


def measure(option: market.Option, seed: int, pairs: int) -> dict[str, float]:
  """Trains both rules, and returns the mean payments of both and of none on the same new paths.

  Args:
    option: The option.
    seed: The seed of the rules' paths and of the paths that they are judged on, which are independent.
    pairs: Half of the paths that they are judged on.
  """
  fitted, judged = (np.random.default_rng([seed, place]) for place in (0, 1))
  rule = least_squares.fit(option, market.prices(option, fitted, FITTED), DEGREE)
  params = learned.train(option, jax.random.key(seed), **NETWORK)
  paths = market.prices(option, judged, pairs)
  stops = {
    'least squares': least_squares.stops(option, rule, paths, DEGREE),
    'learned': learned.stops(option, params, paths),
    'never': np.zeros(paths.shape[:2], bool),
  }
  return {name: float(market.paid(option, paths, its).mean()) for name, its in stops.items()}


def page(results: Mapping[str, Any]) -> list[str]:
  """Returns the lines of the page."""
  lines = [
    '# When to exercise an option: a learned stop rule beside least squares',
    '',
    *report.header(dict(results)),
    '',
    f"A figure is the mean over seeds {', '.join(map(str, results['seeds']))} with its 95 % interval (Student's t). Each seed "
    f'fits both rules, and judges them on the same {2 * results["pairs"]} further paths. The value of a rule is therefore not '
    'above the value of the option, save for the sampling of these paths. All options have the same network, steps, learning '
    'rate and objective, which were chosen by a look at seeds 0 to 4.',
    '',
    '| rule | what it is |',
    '|---|---|',
    f'| least squares | polynomials of degree {DEGREE} of the sorted prices, fitted date by date on {2 * FITTED} paths |',
    f'| learned | one network of two hidden layers of {NETWORK["width"]} for all dates, trained for {NETWORK["steps"]} '
    f'steps of {2 * NETWORK["pairs"]} paths on the cost of wrong decisions |',
    '| never | the last date, which is the European option |',
    '',
    '| option | value | least squares | learned | learned, % of the value | learned - least squares | never |',
    '|---|---:|---:|---:|---:|---:|---:|',
  ]
  for case in results['cases']:
    paid = {name: [by[name] for by in case['by_seed'].values()] for name in ('least squares', 'learned', 'never')}
    difference = np.subtract(paid['learned'], paid['least squares']).tolist()
    value = case['value']
    cells = [
      case['name'],
      '' if value is None else f'{value:.3f}',
      *(report.number(estimate(paid[name]), 3) for name in ('least squares', 'learned')),
      '' if value is None else report.number(estimate([100 * x / value for x in paid['learned']]), 2),
      report.number(estimate(difference), 3),
      report.number(estimate(paid['never']), 3),
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  lines += ['', 'The value is that of our binomial lattice. Published are:', '', '| option | value | source |', '|---|---|---|']
  lines += [f'| {case["name"]} | {case["published"]} | {case["source"]} |' for case in results['cases']]
  lines += ['', '| option | assets | price | strike | rate | dividend | volatility | years | dates |', '|---|' + '---:|' * 8]
  lines += ['| ' + ' | '.join([case['name'], *map(str, case['option'].values())]) + ' |' for case in results['cases']]
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  output = pathlib.Path('experiments/results/option_stopping')
  parser.add_argument('--output', type=pathlib.Path, default=output, help='the page to write, without a suffix; %(default)s')
  parser.add_argument('--seeds', type=int, default=5, help='seeds per option; by default %(default)s')
  parser.add_argument('--pairs', type=int, default=100_000, help='half of the paths that rules are judged on; %(default)s')
  args = parser.parse_args(argv)
  seeds = list(range(FIRST_SEED, FIRST_SEED + args.seeds))
  cases = [
    {
      'name': case.name,
      'option': case.option._asdict(),
      'value': case.steps and market.lattice_value(case.option, case.steps),
      'published': case.published,
      'source': case.source,
      'by_seed': {str(seed): measure(case.option, seed, args.pairs) for seed in seeds},
    }
    for case in CASES
  ]
  about = report.environment('PYTHONPATH=. python scripts/measure_option_stopping.py', argv)
  results = about | {'seeds': seeds, 'pairs': args.pairs, 'network': NETWORK, 'cases': cases}
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
