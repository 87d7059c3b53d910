"""The measurement of signals finds what was planted in a recording, and nothing where nothing was."""

import json
import pathlib

import measure_signals
import numpy as np
import pytest

from espo_jax import monitor, replay
from espo_jax.configs import default_config

PROBLEMS, SAMPLES, WIDTH, SIZE = 120, 8, 40, 6


@pytest.fixture(scope='module')
def recording(tmp_path_factory) -> pathlib.Path:
  """Direction 0 of the state knows the problem's difficulty, direction 1 after 10 tokens the row's fate, the regret nothing."""
  folder = tmp_path_factory.mktemp('signals')
  rng = np.random.default_rng(0)
  rows = PROBLEMS * SAMPLES
  problem = np.repeat(np.arange(PROBLEMS), SAMPLES)
  hardness = np.repeat(rng.random(PROBLEMS), SAMPLES)
  wrong = rng.random(rows) < hardness
  full = rng.integers(30, WIDTH + 1, rows)
  real = np.arange(WIDTH) < full[:, None]
  states = rng.normal(size=(rows, WIDTH, SIZE))
  states[..., 0] += 5 * (hardness[:, None] - 0.5)
  states[:, 10:, 1] += 2.0 * wrong[:, None]
  arrays = {
    'regret': rng.exponential(0.2, (rows, WIDTH)) * real,
    'logprobs': -(rng.exponential(0.2, (rows, WIDTH)) + 0.1 * wrong[:, None]) * real,
    'values': np.full((rows, WIDTH), 0.5) * real,
    'entropy': rng.random((rows, WIDTH)) * real,
    'margin': rng.random((rows, WIDTH)) * real,
    'projections': (states * real[..., None]).astype(np.float16),
    'full_length': full.astype(np.int32),
    'ended': full < WIDTH,
    'correct': 1 - wrong.astype(np.float32),
    'problem': problem.astype(np.int32),
  }
  numbers = {name: x.astype(np.float32) if x.dtype == np.float64 else x for name, x in arrays.items()}
  monitor.atomic_write_arrays(folder / 'rollouts/rows.npz', numbers | {'mu': np.float32(0.2), 'var': np.float32(0.04)})
  monitor.atomic_write_text(folder / 'config.json', monitor.to_json(default_config().to_dict()))
  settings = {'problems': PROBLEMS, 'benchmark': 'gsm8k', 'samples': SAMPLES, 'temperature': 1.0, 'checkpoint': 'models/small'}
  summary = {'settings': settings | {'weights': 'abc', 'horizon': WIDTH}, 'session': None}
  monitor.atomic_write_text(folder / 'summary.json', monitor.to_json(summary))
  return folder


@pytest.fixture(scope='module')
def results(recording) -> dict:
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(measure_signals, 'TOKENS', (5, 20))
    patch.setattr(measure_signals, 'SHARES', (0.5,))
    measure_signals.main([f'--rollouts={recording}', f'--output={recording}/page.1', '--first=12'])
  return json.loads((recording / 'page.1.json').read_text())


def test_a_value_is_compared_with_those_of_the_other_answers_that_are_as_long():
  rng = np.random.default_rng(0)
  values, problem, lengths = rng.random((9, 5)), np.array([4, 4, 4, 7, 7, 2, 9, 9, 9]), np.array([5, 3, 2, 4, 1, 5, 2, 2, 5])
  real = np.arange(5) < lengths[:, None]
  found = measure_signals.above_others(values, real, problem)
  for n in range(9):
    for t in range(5):
      others = [values[m, t] for m in range(9) if m != n and problem[m] == problem[n] and lengths[m] > t]
      wanted = values[n, t] - np.mean(others) if others and t < lengths[n] else 0.0
      assert found[n, t] == pytest.approx(wanted, abs=1e-12)


def test_areas_show_what_was_planted(results):
  def area(point, signal, kind):
    return results['areas'][point][signal][kind]

  def tells_nothing(area):
    return abs(area['value'] - 0.5) < 3 / 4 * (area['high'] - area['low'])  # three standard errors

  for point in ('5 tokens', '20 tokens', '50%'):
    assert area(point, measure_signals.PROMPT, 'overall')['low'] > 0.7  # it knows the problem
    assert tells_nothing(area(point, measure_signals.PROMPT, 'within'))
    for signal in ('running mean of the regret', 'running mean of the entropy'):
      assert tells_nothing(area(point, signal, 'overall'))
  early, late = (area(point, measure_signals.STATE, 'within') for point in ('5 tokens', '20 tokens'))
  assert tells_nothing(early) and late['value'] > 0.85
  assert area('20 tokens', 'a linear critic on the frozen trunk', 'within')['value'] > 0.75
  assert area('20 tokens', 'running mean of -log-probability', 'within')['value'] > 0.7
  everything = area('20 tokens', 'a regression on all of these', 'within')['value']
  assert everything > area('20 tokens', 'a linear critic on the frozen trunk', 'within')['value']


def test_a_threshold_saves_what_was_asked_and_loses_less_if_it_knows_more(results):
  for by_saved in results['stopping'].values():
    for wanted, measured in by_saved.items():
      assert measured['held_out']['saved'] == pytest.approx(float(wanted), abs=0.08)
  blind, knowing = (
    results['stopping'][signal]['0.2']['held_out'] for signal in ('running mean of the entropy', 'a regression on all of these')
  )
  assert knowing['false_positives'] < 0.5 * blind['false_positives']
  # A number that knows nothing stops right rows as often as wrong ones.
  assert blind['false_positives'] == pytest.approx(blind['true_positives'], abs=0.12)


def test_a_prediction_does_not_see_its_own_problem():
  rng = np.random.default_rng(1)
  problem = np.repeat(np.arange(40), 10)
  inputs = np.eye(40)[problem] + 0.01 * rng.normal(size=(400, 40))  # the problem's number and nothing else
  targets = (rng.random(40) < 0.5).astype(np.float64)[problem]
  predicted = measure_signals.out_of_fold(inputs, targets, problem)
  assert abs(np.corrcoef(predicted, targets)[0, 1]) < 0.5  # 1 for a regression that saw the problem
  before = predicted[problem == 3]
  targets[problem == 3] = 1 - targets[problem == 3]
  np.testing.assert_array_equal(measure_signals.out_of_fold(inputs, targets, problem)[problem == 3], before)


def test_the_page_has_the_three_tables_and_the_command(recording, results):
  written = (recording / 'page.1.md').read_text()
  for heading in ('Over all answers', 'Among the answers to one problem', 'As a stop rule, from token 12 on'):
    assert f'## {heading}' in written
  assert 'python scripts/measure_signals.py' in written and '120 problems of gsm8k, 8 answers to each' in written


def test_a_recording_without_features_is_refused(recording, tmp_path):
  with np.load(recording / 'rollouts/rows.npz') as archive:
    kept = {name: x for name, x in archive.items() if name != 'projections'}
  monitor.atomic_write_arrays(tmp_path / 'rollouts/rows.npz', kept)
  with pytest.raises(SystemExit, match=r'no features of states; fix: evaluate with --record --features=K'):
    measure_signals.main([f'--rollouts={tmp_path}', f'--output={tmp_path}/page'])


def test_useless_inputs_tell_no_rows_of_different_problems_apart(monkeypatch):
  """A regression with an intercept would be low where the left-out targets are high: its area here is 0.44."""
  monkeypatch.setattr('espo_jax.replay.separation.RESAMPLES', 2)
  found = []
  for seed in range(30):
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(132), 8)
    solvable = (rng.random(132) < 0.2)[problem]
    targets = np.where(rng.random(len(problem)) < 0.15, ~solvable, solvable).astype(np.float64)
    predicted = measure_signals.out_of_fold(rng.normal(size=(len(problem), 20)), targets, problem)
    found.append(replay.overall(predicted, targets == 1, problem).value)
  assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / len(found) ** 0.5 < 0.03
