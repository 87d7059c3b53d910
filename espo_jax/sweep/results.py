"""Computes the results of a comparison: means over seeds, 95 % intervals, and differences from the baseline paired by seed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from espo_jax.monitor import holm, mean_interval, mean_p_value, read_metrics
from espo_jax.monitor.report import WARM_START
from espo_jax.parallel.storage import read_json
from espo_jax.sweep.columns import Column, Counts, Outcome
from espo_jax.sweep.plan import Run
from espo_jax.sweep.running import ENDED, Status
from espo_jax.sweep.spec import START, Sweep

Outcomes = dict[str, dict[int, Outcome]]  # by arm, the start among them, then by seed


def collect(sweep: Sweep, runs: Sequence[Run]) -> Outcomes:
  """Reads the results of the finished runs."""
  outcomes: Outcomes = {START: {}, **{arm: {} for arm in sweep.arms}}
  peers: dict[int, dict[str, Outcome]] = {seed: {} for seed in sweep.seeds}
  for run in runs:
    if not run.arms or Status.of(run).state != 'done':
      continue
    summary = read_json(run.workdir / 'summary.json')
    start = summary[WARM_START]
    outcomes[START].setdefault(run.seed, Outcome('', run.seed, start, start, [], {}))
    for arm, rule in run.arms.items():
      metrics = read_metrics(run.workdir / 'arms' / rule)
      outcome = Outcome(arm, run.seed, summary['arms'][rule], start, metrics, peers[run.seed])
      outcomes[arm][run.seed] = peers[run.seed][arm] = outcome
  return outcomes


def compare(sweep: Sweep, outcomes: Outcomes) -> dict[str, dict[str, Any]]:
  """Returns the measurements by arm and column. The start is one of the arms.

  A `Column` has `values` by seed, their `mean`, and the `half` width of its 95 % interval (Student's t; None for one seed).
  Its entry `against` has the same for the differences or savings. `Counts` have the `cases` and `trials` over all seeds. An
  entry is None if no run has the number.
  """
  return {
    arm: {column.label: _measured(column, by_seed, outcomes[sweep.baseline]) for column in sweep.columns}
    for arm, by_seed in outcomes.items()
  }


def _measured(
  column: Column | Counts, by_seed: Mapping[int, Outcome], baseline: Mapping[int, Outcome]
) -> dict[str, Any] | None:
  if isinstance(column, Counts):
    found = [counts for outcome in by_seed.values() if outcome.arm and (counts := column.value(outcome))]
    return {'cases': sum(x for x, _ in found), 'trials': sum(n for _, n in found)} if found else None
  values = {seed: value for seed, outcome in by_seed.items() if (value := column.of(outcome)) is not None}
  if not values:
    return None
  measured = _statistics(values)
  is_baseline = any(outcome is baseline.get(seed) for seed, outcome in by_seed.items())
  if column.against and not is_baseline:
    theirs = {seed: value for seed, other in baseline.items() if (value := column.of(other)) is not None}
    both = sorted(values.keys() & theirs.keys())
    if both and column.against == 'difference':
      measured['against'] = _statistics({seed: values[seed] - theirs[seed] for seed in both})
    elif both and all(theirs[seed] for seed in both):
      measured['against'] = _statistics({seed: 100 * (1 - values[seed] / theirs[seed]) for seed in both})
  return measured


def _statistics(values: Mapping[int, float]) -> dict[str, Any]:
  mean, half = mean_interval(list(values.values()))
  return {'mean': mean, 'half': half if math.isfinite(half) else None, 'values': {str(seed): x for seed, x in values.items()}}


def p_values(sweep: Sweep, compared: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """Returns for each arm but the baseline the p-value of its differences in the primary column, and the corrected one.

  The tests are Student's, paired by seed and two-sided. Holm's method corrects them for their number.
  """
  found = {}
  for arm in sweep.arms:
    entry = compared[arm].get(sweep.primary)
    if entry and 'against' in entry:
      found[arm] = mean_p_value(list(entry['against']['values'].values()))
  corrected = holm(found)
  return {arm: {'p': p, 'holm': corrected[arm]} for arm, p in found.items()}


def told_apart(sweep: Sweep, compared: Mapping[str, Mapping[str, Any]], level: float = 0.05) -> str:
  """Says which arms are ahead of the baseline in the primary column and which are behind it."""
  corrected = {arm: its['holm'] for arm, its in p_values(sweep, compared).items()}
  kinds: dict[str, list[str]] = {'ahead': [], 'behind': [], 'not told apart': []}
  for arm, p in corrected.items():
    sure = p <= level  # nan is not
    ahead = compared[arm][sweep.primary]['against']['mean'] > 0
    kinds[('ahead' if ahead else 'behind') if sure else 'not told apart'].append(f'`{arm}`')
  said = '; '.join(f'{kind}: {", ".join(arms) or "none"}' for kind, arms in kinds.items())
  return (
    f'In "{sweep.primary}", compared with `{sweep.baseline}` by two-sided t-tests paired by seed, at the level of {level:g} '
    f"after Holm's correction for {sum(not math.isnan(p) for p in corrected.values())} arms: {said}."
  )


def format_comparison(sweep: Sweep, compared: Mapping[str, Mapping[str, Any]], states: Mapping[str, Sequence[Status]]) -> str:
  """Formats a Markdown table with a row for the start and a row per arm.

  Args:
    sweep: The comparison.
    compared: The measurements that `compare` returned.
    states: The final states of each arm's runs, by arm.
  """
  heads = ['arm']
  for column in sweep.columns:
    heads.append(column.label)
    if isinstance(column, Column) and column.against:
      heads.append(
        f'difference from {sweep.baseline}' if column.against == 'difference' else f'saved against {sweep.baseline}, %'
      )
  rows = []
  for arm, measured in compared.items():
    cells = []
    for column in sweep.columns:
      entry = measured[column.label]
      cells.append(_cell(column, entry))
      if isinstance(column, Column) and column.against:
        sign = '+' if column.against == 'difference' else ''
        cells.append(_interval((entry or {}).get('against'), column.digits if column.against == 'difference' else 1, sign))
    if any(cells) or arm in states:
      rows.append([arm + _ended(states.get(arm, ())), *cells])
  lines = [heads, ['---', *['---:'] * (len(heads) - 1)], *rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def format_search(search: Mapping[str, Any]) -> str:
  """Formats a Markdown table of the arms that a search proposed, the best first, and says why arms cannot run.

  Args:
    search: The record of `Growing.record`.
  """
  fields, tried = list(search['space']), search['tried']
  heads = ' | '.join(f'`{field}`' for field in fields)
  lines = [f'| arm | {heads} | training accuracy at the end |', '|---' * (len(fields) + 2) + '|']
  valued = sorted((arm for arm in tried if tried[arm]['value'] is not None), key=lambda arm: tried[arm]['value'], reverse=True)
  for arm in (*valued, *(arm for arm in tried if arm not in valued)):
    its = tried[arm]
    cells = ' | '.join(_setting(its['settings'][field]) for field in fields)
    lines.append(f'| {arm} | {cells} | {_height(its)} |')
  refused = [f'{arm} cannot run: {its["refused"]}.' for arm, its in tried.items() if its['refused']]
  return '\n'.join([*lines, *(['', *refused] if refused else [])])


def _setting(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)


def _height(its: Mapping[str, Any]) -> str:
  """Describes what an arm came to."""
  if its['value'] is None:
    return 'cannot run' if its['refused'] else 'failed'
  return f'{its["value"]:.3f}' + ('' if its['whole'] else f', ended at update {its["updates"]}')


def _cell(column: Column | Counts, entry: Mapping[str, Any] | None) -> str:
  if entry is None:
    return ''
  if isinstance(column, Counts):
    share = f'{100 * entry["cases"] / entry["trials"]:.1f} ' if entry['trials'] else ''
    return f'{share}({entry["cases"]:.0f} of {entry["trials"]:.0f})'
  return _interval(entry, column.digits)


def _interval(entry: Mapping[str, Any] | None, digits: int, sign: str = '') -> str:
  if entry is None:
    return ''
  half = '' if entry['half'] is None else f' ± {entry["half"]:.{digits}f}'
  return f'{entry["mean"]:{sign}.{digits}f}{half}'


def _ended(states: Sequence[Status]) -> str:
  """Describes how many runs of an arm were ended early or failed, because the arm's means are over the other runs only."""
  counts = {state: sum(status.state == state for status in states) for state in (ENDED, 'failed')}
  said = ', '.join(f'{count} of {len(states)} {state}' for state, count in counts.items() if count)
  return f' ({said})' if said else ''
