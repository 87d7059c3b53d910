"""Diagnostics of a training: their arithmetic, their false alarms, and that a resumed training warns alike."""

import functools

import numpy as np
import pytest
import scipy.stats

from espo_jax import monitor
from espo_jax.monitor import diagnostics
from espo_jax.stages.loop import UNASKED, Stage, run_stage

UPDATES = 200


def autoregressive(memory: float | np.ndarray, seed: int) -> np.ndarray:
  """A series `x[t] = memory[t] x[t - 1] + noise` from its stationary distribution on."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=UPDATES + 100)
  memories = np.concatenate([np.full(100, np.atleast_1d(memory)[0]), np.broadcast_to(memory, UPDATES)])
  series = [0.0]
  for m, e in zip(memories, noise, strict=True):
    series.append(m * series[-1] + e)
  return np.array(series[101:])


def warned_at(series: np.ndarray) -> int | None:
  return next((n for n in range(10, len(series) + 1, 10) if diagnostics.slows(series[:n].tolist())), None)


@functools.cache
def warned(memory: float, count: int) -> int:
  """The number of stationary series in which a warning comes."""
  return sum(warned_at(autoregressive(memory, 1000 + seed)) is not None for seed in range(count))


# the shares that the docstring of `early_warning` has; a count beyond this quantile has a probability of one in a thousand
@pytest.mark.parametrize(('memory', 'share'), [(0.0, 0.01), (0.5, 0.03), (0.8, 0.08)])
def test_false_alarms_of_stationary_series_are_as_rare_as_is_said(memory, share):
  assert warned(memory, 60) <= scipy.stats.binom.ppf(0.999, 60, share)


def test_a_series_that_slows_down_is_often_warned_of_before_it_tips():
  slow = [warned_at(autoregressive(np.linspace(0.2, 0.95, UPDATES), seed)) for seed in range(40)]
  assert sum(at is not None for at in slow) >= 10  # of 40 stationary ones without memory more than 4 have a chance of 1e-5
  assert all(at is None or 60 <= at <= UPDATES for at in slow)


def test_a_jump_without_slowing_is_not_foreseen():
  """A documented miss: the series is noise until it jumps."""
  for seed in range(5):
    series = autoregressive(0.0, seed)
    assert warned_at(series[:150]) is None
    series[150:] += 50.0
    assert not any(diagnostics.slows(series[:n].tolist()) for n in range(10, 151, 10))


def test_trends_are_kendalls():
  values = np.random.default_rng(0).normal(size=50) + 0.03 * np.arange(50)
  assert diagnostics.kendall(values) == pytest.approx(scipy.stats.kendalltau(np.arange(50), values).statistic, rel=1e-12)
  assert diagnostics.kendall(np.arange(9.0)) == 1 and diagnostics.kendall(-np.arange(9.0)) == -1


def test_slowing_is_measured_in_windows_of_what_the_trend_leaves():
  values = autoregressive(0.5, 3)[:80] + 0.1 * np.arange(80)
  time = np.arange(80)
  rest = [values[t] - np.average(values, weights=scipy.stats.norm.pdf(time, t, 30.0)) for t in time]
  windows = [np.array(rest[i : i + 20]) for i in range(61)]
  memory = []
  for window in windows:
    x = window - window.mean()
    memory.append(sum(x[t] * x[t - 1] for t in range(1, 20)) / sum(x * x))
  found = diagnostics.slowing(values)
  variance = [np.var(window) for window in windows]
  assert found.variance == pytest.approx(scipy.stats.kendalltau(range(61), variance).statistic, rel=1e-9)
  assert found.memory == pytest.approx(scipy.stats.kendalltau(range(61), memory).statistic, rel=1e-9)
  assert found.growth == pytest.approx(variance[-1] / variance[0], rel=1e-9)


def test_a_series_that_is_constant_short_or_unknown_is_not_warned_of():
  rising = autoregressive(np.linspace(0.2, 0.95, UPDATES), next(s for s in range(40) if _warns(s))).tolist()
  assert diagnostics.slowing(np.full(80, 0.3)) == (0.0, 0.0, 1.0)
  at = warned_at(np.array(rising))
  assert (
    diagnostics.slows(rising[:at]) and diagnostics.slows([*rising[:at], 0.0]) and not diagnostics.slows(rising[at - 59 : at])
  )
  assert not diagnostics.slows([*rising[: at - 1], float('nan')])


def _warns(seed: int) -> bool:
  return warned_at(autoregressive(np.linspace(0.2, 0.95, UPDATES), seed)) is not None


def test_early_warning_names_the_metric_that_slows():
  seed = next(s for s in range(40) if _warns(s))
  rising = autoregressive(np.linspace(0.2, 0.95, UPDATES), seed)
  rising = rising[: warned_at(rising)].tolist()
  flat = [0.5] * len(rising)
  assert diagnostics.early_warning(flat, flat, rising, flat).startswith('variance and autocorrelation of entropy rise')
  assert diagnostics.early_warning(flat, flat, flat, flat) == ''


def cut_without_turns(truncated):
  return diagnostics.all_truncated(truncated, [float('nan')] * len(truncated))


@pytest.mark.parametrize(
  ('diagnostic', 'values', 'warns'),
  [
    (cut_without_turns, [0.2, 1.0], True),
    (cut_without_turns, [1.0, 0.99], False),
    (cut_without_turns, [1.0, float('nan')], False),
    (lambda truncated: diagnostics.all_truncated(truncated, [2.0, 2.0]), [1.0, 1.0], False),  # episodes out of turns
    (diagnostics.equal_groups, [0.5, 1.0], True),
    (diagnostics.equal_groups, [1.0, 0.9], False),
    (diagnostics.equal_groups, [float('nan')], False),
    (diagnostics.entropy_collapse, [1.0] * 5 + [0.09] * 5, True),
    (diagnostics.entropy_collapse, [1.0] * 5 + [0.11] * 5, False),
    (diagnostics.entropy_collapse, [1.0] * 5 + [0.01] * 4, False),  # two parts of five do not exist yet
    (diagnostics.entropy_collapse, [1.0] * 5 + [float('nan')] * 5, False),
  ],
)
def test_a_plain_warning_begins_and_ends_with_its_cause(diagnostic, values, warns):
  assert bool(diagnostic(values)) == warns


# ------------------------------------------------------------------------------------------------------------- in a training


SHARES = [0.5, 1.0, 1.0, 0.5, 1.0, 1.0]  # rows that the horizon cuts


def trained(directory, first: int, last: int, caplog) -> tuple[list[dict], list[str]]:
  """Runs the updates `first + 1` to `last` of a stage without a model, and returns its metrics and what was logged."""
  stage = Stage(
    name='arm',
    directory=directory,
    first=first,
    last=last,
    step=lambda state, n: (state, {'rollout/truncated_rate': SHARES[n - 1], 'bad_steps': 0, 'accuracy': 0.0}),
    checkpoint_every=100,
    keep_last=1,
    keep_best=0,
    max_bad_steps=5,
    diagnose=diagnostics.Diagnosis('ESPO', directory),
    watch=lambda step, accuracy: seen.append((step, accuracy, len(monitor.read_metrics(directory)))),
  )
  seen: list[tuple] = []
  caplog.clear()
  run_stage(stage, {'x': np.zeros(1)}, UNASKED)
  assert seen == [(n, 0.0, n) for n in range(first + 1, last)]  # written before it is watched; the last one ends nothing
  return monitor.read_metrics(directory), [
    record.getMessage() for record in caplog.records if 'truncated' in record.getMessage()
  ]


def test_a_training_warns_when_a_cause_begins_and_alike_after_an_interruption(tmp_path, caplog):
  rows, told = trained(tmp_path / 'through', 0, 6, caplog)
  assert [row['warning/all_truncated'] for row in rows] == [0, 1, 1, 0, 1, 1]
  assert [text.split(':')[0] for text in told] == ['ESPO, update 2', 'ESPO, update 5']
  assert 'fix: a longer rollout.horizon' in told[0]
  assert {f'warning/{name}' for name in diagnostics.REGISTRY} <= rows[0].keys()
  trained(tmp_path / 'first', 0, 2, caplog)
  (tmp_path / 'second').mkdir()
  (tmp_path / 'second' / 'metrics.jsonl').write_bytes((tmp_path / 'first' / 'metrics.jsonl').read_bytes())
  resumed, told = trained(tmp_path / 'second', 2, 6, caplog)  # the warning of update 2 goes on and is not told again
  assert [row['warning/all_truncated'] for row in resumed] == [0, 1, 1, 0, 1, 1]
  assert [text.split(':')[0] for text in told] == ['ESPO, update 5']


def test_a_diagnostic_that_raises_is_told_once_and_ends_nothing(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr('espo_jax.monitor.diagnostics.asking.REGISTRY', {'hasty': lambda accuracy: accuracy[-3]})
  (tmp_path / 'metrics.jsonl').touch()
  asked = diagnostics.Diagnosis('ESPO', tmp_path)
  found = [asked(step, {'accuracy': 0.5})['warning/hasty'] for step in (1, 2)]
  assert np.isnan(found).all()
  assert [record.getMessage().split(': ', 1)[1] for record in caplog.records] == ['hasty: IndexError: list index out of range']
