"""Brings the summaries of several seeds together: means, 95 % intervals, paired differences against the baseline.

python scripts/summarise_seeds.py --output=experiments/results/NAME WORKDIR [WORKDIR ...]
"""

import argparse
import functools
import json
import pathlib

from espo_jax.monitor import arm_label, mean_interval, to_json


def interval(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
  """Mean and half width of the 95 % interval over seeds (Student's t)."""
  mean, half = mean_interval([scale * value for value in values])
  return f'{mean:.{digits}f} ± {half:.{digits}f}'


def _column(entries: list[dict], name: str, scale: float = 1.0) -> str:
  return interval([entry[name] for entry in entries], scale)


def table(runs: list[dict]) -> str:
  """One row an arm."""
  baseline = runs[0]['summary']['baseline']
  lines = [
    '| arm | accuracy % | difference, points | greedy % | tokens (k) | saved % | stop rate % | false positives % | seconds |',
    '|---|---|---|---|---|---|---|---|---|',
    f'| warm start | {interval([run["summary"]["warm_start"]["accuracy"] for run in runs], 100)} | | '
    f'{interval([run["summary"]["warm_start"]["greedy_accuracy"] for run in runs], 100)} | | | | | |',
  ]
  for arm in runs[0]['summary']['arms']:
    entries = [run['summary']['arms'][arm] for run in runs]
    column = functools.partial(_column, entries)
    stopped = arm != baseline
    rows = [entry['false_positives'] for entry in entries if entry['false_positives']]
    wrongly, shadows = (sum(row[name] for row in rows) for name in ('correct', 'rows'))
    cells = [
      arm_label(arm),
      column('accuracy', 100),
      column('accuracy_difference_points') if stopped else '',
      column('greedy_accuracy', 100),
      column('rollout_tokens', 1e-3),
      column('saving', 100) if stopped else '',
      column('stop_rate', 100) if stopped else '',
      f'{100 * wrongly / shadows:.1f} ({wrongly:.0f} of {shadows:.0f})' if shadows else '',
      column('wall_seconds'),
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main() -> None:
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', required=True, type=pathlib.Path)
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  arguments = parser.parse_args()
  runs = []
  for workdir in arguments.workdirs:
    read = {name: json.loads((workdir / f'{name}.json').read_text()) for name in ('summary', 'environment', 'config')}
    runs.append({'seed': read['config']['seed'], 'summary': read['summary'], 'environment': read['environment']})
  text = table(runs)
  arguments.output.parent.mkdir(parents=True, exist_ok=True)
  arguments.output.with_suffix('.json').write_text(to_json(runs, indent=1) + '\n')
  print(text)


if __name__ == '__main__':
  main()
