"""Compare stop rules on recorded rollouts, without training: what each saves and loses, and which constants to train with.

  python -m espo_jax.replay --rollouts=runs/recorded

With `--config.rollout.record=10` espo_jax.train records the rollout of every tenth update. With `--config.stop.name=never` and
`--config.baselines="()"` the run is plain PPO. espo_jax.evaluate records the answers of any policy with `--record`.

The replay runs every registered rule's own updates, over a grid of the rule's constants and of the share of rows that it stops.
For each rule, one half of the problems is used to choose the constants: among those that stop few right rows, the ones with the
fewest expected tokens per solved problem. The other half measures them. A rule is left out if it reads what was not recorded.
The output folder then holds frontier.json, with every point of the grid, and frontier.png.

The recorded policy was not trained with the replayed rule. A replay therefore shows what the rule would have cut from these
rows, and not what training with the rule would give.
"""

import argparse
import functools
import itertools
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from espo_jax import monitor, parallel, replay
from espo_jax.commands import CommandParser, NamedValues, lower_flags, machine_errors
from espo_jax.configs import ConfigError, load_config
from espo_jax.configs.constants import typed_constant
from espo_jax.parallel.memory import READING, during

GRID = {
  'smoothing': (0.0, 0.5, 0.8, 0.9, 0.95),
  'epsilon': (0.05, 0.2, 0.5),
  'least_tokens': (8, 32, 64, 128),
  'window': (16, 64, 256, 1024),
  'segment': (32, 128, 500),
}
MOST_LOST = 0.05
RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def compare(
  folder: pathlib.Path,
  output: pathlib.Path,
  grid: Mapping[str, Sequence[float]] | None = None,
  rates: Sequence[float] = RATES,
  most_lost: float = MOST_LOST,
) -> dict[str, Any]:
  """Replay every rule, write the results and draw them.

  Args:
    folder: The folder of a run with recorded rollouts, or a part of it.
    output: The folder to write.
    grid: The values to try for each constant. A constant that is not named keeps the run's own value.
    rates: The shares of rows to stop.
    most_lost: The largest share of right rows that the chosen constants may stop.

  Returns:
    The content of frontier.json.

  Raises:
    RecordingsError: The recordings cannot be used.
    ConfigError: The run's config does not fit this version.
    DeviceError: jax finds no device.
  """
  with during(READING):
    recordings, files = replay.read_recordings(folder)
    replay.check_halves(recordings, f'--rollouts={folder}')
  config = load_config(_config_of(files[0], folder))
  parallel.find_devices()
  points = [
    point
    for candidate in replay.candidates(config, GRID if grid is None else grid, recordings)
    for point in replay.search(candidate, recordings, rates)
  ]
  best = replay.chosen(points, most_lost)
  whole = recordings.full_length.reshape(1, -1)
  odd = (recordings.weight * (recordings.problem % 2)).reshape(-1)
  unstopped = replay.measure(whole, np.zeros(whole.shape, bool), whole[0], recordings.correct.reshape(-1), odd)[0]
  values = {rule: replay.pasted_values(config, point) for rule, point in best.items() if rule != replay.REFERENCE}
  record = {
    'rollouts': [str(file) for file in files],
    'rows': int((recordings.weight > 0).sum()),
    'unstopped': unstopped._asdict(),
    'points': [replay.as_record(point) for point in points],
    'best': {rule: replay.as_record(point) for rule, point in best.items()},
    'configs': values,
  }
  monitor.atomic_write_text(output / 'frontier.json', monitor.to_json(record, indent=1) + '\n')
  print(f'{format_frontier(record)}\nwrote {output / "frontier.json"}')
  picture = output / 'frontier.png'
  with monitor.spared(picture):
    from espo_jax.monitor.frontier import plot_frontier  # matplotlib is slow to import and only needed here

    by_rule: dict[str, list[dict[str, float]]] = {}
    for point in points:
      by_rule.setdefault(point.name, []).append(point.held_out._asdict())
    marked = {rule: point.held_out._asdict() for rule, point in best.items()}
    studied = config.stop.name if config.stop.name in by_rule else 'espo'
    plot_frontier(by_rule, marked, replay.REFERENCE, studied, unstopped.tokens_per_solved, picture)
    print(f'wrote {picture}')
  return record


def format_frontier(record: Mapping[str, Any]) -> str:
  """Formats a Markdown table with one row per rule, and the flags for training with each rule."""
  heads = (
    'rule',
    'constants',
    'stopped %',
    'saved %',
    'failures stopped %',
    'solved lost %',
    'wrongly stopped %',
    'tokens/solved',
  )
  lines: list[tuple[str, ...]] = [heads, ('---', '---', *['---:'] * (len(heads) - 2))]
  for rule, constants, measured in [
    ('unstopped', '', record['unstopped']),
    *((rule, _constants(point), point['held_out']) for rule, point in record['best'].items()),
  ]:
    shares = (measured[name] for name in ('stop_rate', 'saved', 'true_positives', 'false_positives', 'wrongly_stopped'))
    lines.append((rule, constants, *_percent(shares), f'{measured["tokens_per_solved"]:.1f}'))
  heads_of_thirds = ('rule', *(f'{third}: {what} %' for third in replay.THIRDS for what in ('saved', 'solved lost')))
  by_third: list[tuple[str, ...]] = [heads_of_thirds, ('---', *['---:'] * (len(heads_of_thirds) - 1))]
  for rule, point in record['best'].items():
    shares = (point[third][name] for third in replay.THIRDS for name in ('saved', 'false_positives'))
    by_third.append((rule, *_percent(shares)))
  flags = (f'{rule}:\n  {replay.pasted_flags(values)}' for rule, values in record['configs'].items())
  return '\n'.join(
    [
      f'{len(record["rollouts"])} rollouts, {record["rows"]} rows. Constants by the even problems, figures of the odd ones.',
      '',
      _table(lines),
      '',
      'The same on the third of these problems that is solved least often (hard), the middle third, and the last third (easy):',
      '',
      _table(by_third),
      '',
      'Of the rows stopped, those wrongly stopped would have been right. To train with a rule at these constants:',
      *flags,
    ]
  )


def _table(lines: Iterable[Sequence[str]]) -> str:
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _percent(shares: Iterable[float]) -> list[str]:
  return [f'{100 * share:.1f}' if np.isfinite(share) else '' for share in shares]


def _constants(point: Mapping[str, Any]) -> str:
  return ', '.join(
    f'{name} {value:g}' for name, value in (point['constants'] | {'beta': float(f'{point["beta"]:.4g}')}).items()
  )


def _config_of(file: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  for parent in file.absolute().parents:
    if (parent / 'config.json').is_file():
      return parent / 'config.json'
  raise replay.RecordingsError(
    f'--rollouts={folder}: no config.json above {file}, which would name the constants; fix: the folder of the whole run'
  )


def _values(text: str) -> tuple[str, tuple[float, ...]]:
  name, _, values = text.partition('=')
  try:
    return name, _numbers(values)
  except ValueError as error:
    raise argparse.ArgumentTypeError(f'--grid {text}: {error}; fix: NAME=VALUES, as in smoothing=0.5,0.9') from error


def _rates(text: str) -> tuple[float, ...]:
  try:
    return _numbers(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(f'--rates={text}: {error}; fix: shares, as in --rates=0.1,0.2') from error


def _numbers(text: str) -> tuple[float, ...]:
  return tuple(float(value) for value in text.split(','))


def _check_grid(grid: Iterable[tuple[str, Sequence[float]]]) -> None:
  """Ends the command if a constant is of no rule, or if a value does not fit a rule that has it."""
  taken = replay.rules()
  known = sorted(set().union(*taken.values()))
  for name, values in grid:
    if name not in known:
      sys.exit(f'error: --grid {name}=...: no constant of a stop rule; fix: one of {", ".join(known)}')
    for rule, value in itertools.product((rule for rule, takes in taken.items() if name in takes), values):
      try:
        typed_constant(rule, name, value)
      except ValueError as error:
        sys.exit(f'error: --grid {error}')


def _lower(rates: int, phase: str) -> str:
  """Returns what to change about a replay that ran out of memory."""
  fewer = ','.join(f'{rate:g}' for rate in RATES[::2]) if rates > 1 and phase != READING else None
  return lower_flags({'rates': fewer}, '--rollouts=RUN/arms/RULE/rollouts, a folder with fewer recordings')


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command."""
  shown = ' '.join(f'{name}={",".join(map(str, values))}' for name, values in GRID.items())
  parser = CommandParser(
    prog='python -m espo_jax.replay', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--rollouts', required=True, type=pathlib.Path, help='the folder of a run or an evaluation with recorded rollouts'
  )
  parser.add_argument('--output', type=pathlib.Path, help='the folder to write; by default ROLLOUTS/replay')
  parser.add_argument(
    '--grid',
    nargs='*',
    action=NamedValues,
    type=_values,
    default=list(GRID.items()),
    metavar='NAME=VALUES',
    help=f'constants to try, by default {shown}',
  )
  parser.add_argument(
    '--rates',
    type=_rates,
    default=RATES,
    help='shares of rows to stop, as in 0.1,0.2',
  )
  parser.add_argument(
    '--most_lost',
    type=float,
    default=MOST_LOST,
    help='the share of right rows that chosen constants may stop; by default %(default)s',
  )
  args = parser.parse_args(argv)
  _check_grid(args.grid)
  if bad := [rate for rate in args.rates if not 0 < rate < 1]:
    sys.exit(f'error: --rates={bad[0]}: out of range; fix: shares in (0, 1)')
  if not 0 <= args.most_lost <= 1:
    sys.exit(f'error: --most_lost={args.most_lost}: out of range; fix: a share in [0, 1]')
  output = args.output or args.rollouts / 'replay'
  try:
    with machine_errors(functools.partial(_lower, len(args.rates))):
      compare(args.rollouts, output, dict(args.grid), args.rates, args.most_lost)
  except (replay.RecordingsError, ConfigError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
