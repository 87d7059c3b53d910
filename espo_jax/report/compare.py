"""Compares two runs, two arms, or the same seeds of two groups of runs, in a table of paired differences."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espo_jax import monitor
from espo_jax.configs import run_of
from espo_jax.parallel.storage import read_json
from espo_jax.report.runs import Arm, ReportError, Run, read_runs

_ARMS = 'arms'
_HEADS = ('', 'first', 'second', 'second - first', '95 % interval', 'pairs')
_NONE = '-'
_SHARES = (('test accuracy %', 'accuracy', 'sampled_right'), ('greedy accuracy %', 'greedy_accuracy', 'greedy_right'))


class Side(NamedTuple):
  """One arm of one run.

  Attributes:
    run: The run.
    arm: The arm.
    evaluation: The content of its `evaluation.json`; empty before the evaluation.
  """

  run: Run
  arm: Arm
  evaluation: Mapping[str, Any]


class _Row(NamedTuple):
  name: str
  value: Callable[[Side], float | None]
  scale: float = 1.0
  relative: bool = False  # whether the difference is a share of the first value


_COSTS = (
  _Row('decoded tokens (k)', lambda side: _last(side, 'rollout/decoded'), 1e-3, True),
  _Row('tokens per row', lambda side: side.arm.results['tokens_per_rollout'], 1.0, True),
  _Row('stop rate %', lambda side: side.arm.results['stop_rate'], 100.0),
  _Row('seconds', lambda side: side.arm.results['wall_seconds'], 1.0, True),
)


def comparison(first: Path, second: Path) -> str:
  """Returns the table that compares two folders, as Markdown.

  A folder is that of a run, whose main arm counts, or that of an arm, `RUN/arms/NAME`. It may also hold runs of several seeds.
  Two single arms are paired by test problem if both had the same problems. Groups of runs are paired by seed.

  Raises:
    ReportError: A folder has no run or no such arm, a group has a seed twice, or no seed is in both groups.
  """
  sides = _sides(first), _sides(second)
  if len(sides[0]) == len(sides[1]) == 1:
    pairs = [(sides[0][0], sides[1][0])]
  else:
    seeds = [_by_seed(folder, its) for folder, its in zip((first, second), sides, strict=True)]
    both = sorted(seeds[0].keys() & seeds[1].keys())
    if not both:
      told = ' and '.join(str(sorted(its)) for its in seeds)
      raise ReportError(f'--compare {first} {second}: no common seed, there are {told}; fix: runs of the same seeds')
    pairs = [(seeds[0][seed], seeds[1][seed]) for seed in both]
  lines = [_share(pairs, *names) for names in _SHARES] + [_cost(pairs, row) for row in _COSTS]
  table = [f'| {" | ".join(cells)} |' for cells in (_HEADS, ('---', *['---:'] * 4, '---'), *lines)]
  return '\n'.join([f'first: {_named(first, pairs, 0)}', f'second: {_named(second, pairs, 1)}', '', *table])


def _named(folder: Path, pairs: Sequence[tuple[Side, Side]], which: int) -> str:
  labels = dict.fromkeys(pair[which].arm.label for pair in pairs)
  going = sum(not pair[which].evaluation for pair in pairs)
  note = f', {going} of {len(pairs)} not finished' if going else ''
  return f'{folder} ({", ".join(labels)}{note})'


def _sides(folder: Path) -> list[Side]:
  run, arm = run_of(folder)
  if arm is not None:
    return [_side(read_runs([run], '--compare')[0], arm)]
  return [_side(run, str(run.config.get('stop.name'))) for run in read_runs([folder], '--compare')]


def _side(run: Run, name: str) -> Side:
  arm = next((arm for arm in run.arms if arm.name == name), None)
  if arm is None:
    begun = ', '.join(str(run.folder / _ARMS / arm.name) for arm in run.arms) or 'none'
    raise ReportError(f'--compare {run.folder}: has no arm {name!r}; fix: one of its arms, which are: {begun}')
  path = arm.folder / 'evaluation.json'
  return Side(run, arm, read_json(path) if path.is_file() else {})


def _by_seed(folder: Path, sides: Sequence[Side]) -> dict[Any, Side]:
  found: dict[Any, Side] = {}
  for side in sides:
    seed = side.run.config.get('seed')
    if seed in found:
      raise ReportError(
        f'--compare {folder}: {found[seed].run.folder} and {side.run.folder} both have the seed {seed}; '
        'fix: a folder with one run per seed'
      )
    found[seed] = side
  return found


def _share(pairs: Sequence[tuple[Side, Side]], name: str, key: str, right: str) -> tuple[str, ...]:
  """Returns the row of a share of the test problems."""
  if len(pairs) > 1:
    return _cost(pairs, _Row(name, lambda side: side.arm.results.get(key), 100.0))
  first, second = pairs[0]
  if not all(key in side.evaluation for side in pairs[0]):
    known = (_number(100 * side.evaluation[key]) if key in side.evaluation else _NONE for side in pairs[0])
    return (name, *known, _NONE, _NONE, _NONE)
  values = [100 * side.evaluation[key] for side in pairs[0]]
  told = name, *map(_number, values), _signed(values[1] - values[0])
  digests = [side.evaluation.get('problems_digest') for side in pairs[0]]
  if None in digests:
    return (*told, _NONE, 'problems not recorded')
  if digests[0] != digests[1]:
    return (*told, _NONE, 'other test problems')
  outcomes = list(zip(first.evaluation[right], second.evaluation[right], strict=True))
  low, high = monitor.paired_shares(outcomes.count(('1', '0')), outcomes.count(('0', '1')), len(outcomes))
  return (*told, _interval(100 * low, 100 * high), f'{len(outcomes)} problems')


def _cost(pairs: Sequence[tuple[Side, Side]], row: _Row) -> tuple[str, ...]:
  """Returns the row of a number per run."""
  values = [(row.value(first), row.value(second)) for first, second in pairs]
  known = [(first, second) for first, second in values if first is not None and second is not None]
  if not known:
    return (row.name, *[_NONE] * 5)
  means = [row.scale * sum(values) / len(known) for values in zip(*known, strict=True)]
  if row.relative and not all(first for first, _ in known):
    return (row.name, *map(_number, means), *[_NONE] * 3)
  changes = [100 * (second / first - 1) if row.relative else row.scale * (second - first) for first, second in known]
  mean, half = monitor.mean_interval(changes)
  unit = ' %' if row.relative else ''
  interval = _interval(mean - half, mean + half, unit) if math.isfinite(half) else _NONE
  return (row.name, *map(_number, means), _signed(mean) + unit, interval, f'{len(known)} seeds' if len(pairs) > 1 else _NONE)


def _last(side: Side, name: str) -> float | None:
  values = [row[name] for row in side.arm.metrics if math.isfinite(row.get(name, math.nan))]
  return values[-1] if values else None


def _number(value: float) -> str:
  return f'{value:,.1f}'


def _signed(value: float) -> str:
  return f'{value:+,.1f}'


def _interval(low: float, high: float, unit: str = '') -> str:
  return f'[{low:+,.1f}, {high:+,.1f}]{unit}'
