"""What a run writes after its stages: the result on the test split, the exit curve, the summary and the plots.

The curve of exits over thresholds is one compiled program, because the level of an exit policy is traced.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from espo_jax import exits, monitor, parallel
from espo_jax.evaluate.answers import evaluate_params
from espo_jax.exits.policy import certain
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.parallel.memory import during
from espo_jax.parallel.storage import read_json
from espo_jax.stages.loop import UNASKED, Interrupted, Interruption
from espo_jax.tasks import Task


@during('evaluation')
def evaluated(exp: Experiment, params: Params, directory: pathlib.Path, signals: Interruption = UNASKED) -> dict[str, Any]:
  """Returns the result on the test split, which is computed once and then read from `evaluation.json`."""
  path = directory / 'evaluation.json'
  if not parallel.from_first(path.exists):
    text = monitor.to_json(_evaluate(exp, params, monitor.arm_label(directory.name), signals), indent=2)
    if parallel.is_first():
      monitor.atomic_write_text(path, text)
  return parallel.from_first(lambda: read_json(path))


@during('evaluation')
def exit_curve(exp: Experiment, params: Params, directory: pathlib.Path, signals: Interruption = UNASKED) -> None:
  """Evaluates calibrated exits at each threshold level and at full depth; writes and plots accuracy against depth.

  The exits follow the config's own policy if its level is a threshold. They follow `threshold` in place of a policy that draws
  exits or has a schedule. Nothing is drafted, because drafts are verified at full depth. Results that an earlier run of the
  command wrote are kept.
  """
  path, picture, levels = directory / 'curve.json', directory / 'curve.png', exp.config.calibration.levels
  if not levels:
    return
  own = exp.model.exits
  by_threshold = own is not None and own.schedule is None and own.choice is certain
  policy = exp.config.exits.policy if by_threshold else 'threshold'
  if not parallel.from_first(path.exists):
    undrafted = _without_drafts(exp)
    by_level = undrafted if policy == exp.config.exits.policy else undrafted.with_exits(exits.threshold())
    curve = [
      {'level': level} | _evaluate(by_level, params, f'exits at {level:g}', signals, exit_level=level) for level in levels
    ]
    whole = _evaluate(undrafted.with_exits(None), params, 'full depth', signals)
    curve.append({'level': None, 'depth': 1.0, 'greedy_depth': 1.0} | whole)
    if parallel.is_first():
      monitor.atomic_write_text(path, monitor.to_json(curve, indent=2))
  if parallel.is_first() and not picture.exists():
    with monitor.spared(picture):
      from espo_jax.monitor.exit_plots import plot_exit_curve  # matplotlib is slow to import

      plot_exit_curve(read_json(path, list), picture, policy)


def _without_drafts(exp: Experiment) -> Experiment:
  config = exp.config.copy_and_resolve_references().unlock()
  config.eval.draft_blocks = 0
  return dataclasses.replace(exp, config=config.lock())


def report_data(task: Task, workdir: pathlib.Path) -> None:
  """Writes each finding about the data to a file in the run's folder, and logs a warning for it."""
  findings = task.findings()  # every process computes them, so that none waits long for another
  for finding in findings if parallel.is_first() else ():
    lines = (monitor.to_json(entry) + '\n' for entry in finding.entries)
    monitor.atomic_write_text(workdir / finding.file, ''.join(lines))
    if finding.entries:
      logging.warning('%s: %s; see %s', task.name, finding.message, workdir / finding.file)


def report(workdir: pathlib.Path, arms: tuple[str, ...], evaluations: Mapping[str, Mapping[str, Any]]) -> dict:
  """Writes `summary.json`, prints the table, draws the plots, writes the page and returns the summary."""
  summary = monitor.summarise(workdir, arms, evaluations, baseline=arms[0])
  written = monitor.write_summary(workdir, summary)
  heads, *rows = monitor.results_table(summary)
  monitor.write_table(workdir, max(arm['updates'] for arm in summary['arms'].values()), 'results', heads, rows)
  print(f'{monitor.format_table(summary)}\nwrote {written}')
  with monitor.spared(workdir / 'plots'):
    from espo_jax.monitor import plots  # matplotlib is slow to import and only needed here

    print(''.join(f'wrote {path}\n' for path in plots.plot_all(workdir, arms, arms[0])), end='')
  page = workdir / 'report.html'
  with monitor.spared(page):
    from espo_jax.report import read_runs, write_page  # only needed here

    print(f'wrote {write_page(read_runs([workdir]), page)}')
  return summary


def _evaluate(
  exp: Experiment, params: Params, name: str, signals: Interruption, exit_level: float | None = None
) -> dict[str, int | float | str]:
  """Evaluates on the test split. After an interruption by a signal, the same command starts the evaluation again."""
  name = f'evaluation of {name}'

  def heed() -> None:
    if parallel.any_process(signals.requested):
      raise Interrupted(f'{name}: stopped, and is to be begun anew; what was trained before it is saved')

  return evaluate_params(exp, params, name, exit_level=exit_level, after_batch=heed)
