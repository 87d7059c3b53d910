"""Summaries, tables, plots, progress and files of a run."""

import io
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espo_jax.monitor import (
  MetricWriter,
  Progress,
  atomic_write_text,
  describe,
  format_table,
  policy_accuracy,
  summarise,
  to_json,
  wilson,
  write_run_info,
  write_summary,
)
from espo_jax.monitor.examples import choose, read_examples
from espo_jax.monitor.plots import plot_all

pytestmark = pytest.mark.quick


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
  path = tmp_path / 'deep' / 'file.json'
  atomic_write_text(path, 'old')

  def broken(*_):
    raise OSError('disk')

  monkeypatch.setattr(os, 'fsync', broken)
  with pytest.raises(OSError, match='disk'):
    atomic_write_text(path, 'new')
  assert path.read_text() == 'old'


def test_json_is_strict():
  value = {'a': [np.float32('nan'), np.int64(3), (1, float('-inf'))], 'b': np.arange(2), 'c': Path('x'), 1: True}
  assert json.loads(to_json(value)) == {'a': [None, 3, [1, None]], 'b': [0, 1], 'c': 'x', '1': True}


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_writes_few_lines_into_a_log(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('espo', total=5000, initial=1000) as progress:
    for step in range(1001, 5001):
      progress.update(step, {'accuracy': 0.412, 'tokens_per_second': 12345.0, 'stop/beta': float('nan'), 'loss/value': 3.0})
  lines = stream.getvalue().splitlines()
  assert 2 <= len(lines) <= 4
  assert '\r' not in stream.getvalue()
  assert lines[0].startswith('espo  20% 1000/5000')
  assert lines[-1].startswith('espo 100% 5000/5000')
  assert lines[-1].endswith('accuracy 41.2%, tok/s 12.3k]')


def test_progress_draws_a_bar_on_a_terminal(monkeypatch):
  stream = _Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('espo', total=10) as progress:
    progress.update(10, {'stop/rate': 0.25, 'stop/beta': 6.9})
  assert '10/10' in stream.getvalue()
  assert '\r' in stream.getvalue()
  assert 'stopped 25.0%, beta 6.90' in stream.getvalue()


def _evaluation(correct, greedy):
  return {
    'accuracy': correct / 200,
    'correct': correct,
    'problems': 200,
    'greedy_accuracy': greedy / 200,
    'greedy_correct': greedy,
    'tokens_mean': 20.0,
  }


EVALUATIONS = {'warm_start': _evaluation(60, 70), 'never': _evaluation(120, 130), 'espo': _evaluation(124, 128)}


def _write_arms(workdir, updates=12):
  """Rollouts of 100 rows; PPO pays 2000 tokens an update, ESPO 2000 during two updates of warm-up and 1500 after."""
  with MetricWriter(workdir / 'arms' / 'never', 0) as writer:
    for step in range(1, updates + 1):
      line = {
        'accuracy': step / 100,
        'rollout/tokens': 2000,
        'rollout/rows': 100,
        'rollout/length_mean': 20.0,
        'stop/enabled': 0,
      }
      writer.write(step, {**line, 'seconds/rollout': 2.0, 'seconds/update': 1.0})
  with MetricWriter(workdir / 'arms' / 'espo', 0) as writer:
    for step in range(1, updates + 1):
      on = step > 2
      line = {'accuracy': step / 50, 'rollout/tokens': 1500 if on else 2000, 'rollout/rows': 100, 'stop/enabled': on}
      line |= {'rollout/shadow_tokens': 40 * on, 'stop/rate': 0.2 + 0.01 * step if on else 0.0, 'stop/beta': 7 - 0.01 * step}
      line |= {'stop/shadow_rows': 5 * on, 'stop/shadow_correct': int(step == 5), 'rollout/length_mean': 15.0 if on else 20.0}
      writer.write(step, {**line, 'seconds/rollout': 1.5, 'seconds/score': 0.5, 'seconds/update': 1.0})


def test_summary_of_hand_made_metrics(tmp_path):
  _write_arms(tmp_path)
  summary = summarise(tmp_path, ['never', 'espo'], EVALUATIONS, baseline='never')
  ppo, espo = summary['arms']['never'], summary['arms']['espo']
  assert espo['rollout_tokens'] == 2 * 2000 + 10 * 1500
  assert espo['shadow_tokens'] == 400
  assert espo['tokens_per_rollout'] == pytest.approx(19000 / 1200)
  assert espo['saving'] == pytest.approx(1 - 19000 / 24000)
  assert espo['stop_rate'] == pytest.approx(0.2 + 0.01 * np.mean(range(3, 13)))
  assert espo['false_positives'] == {'rate': 0.02, 'interval': wilson(1, 50), 'correct': 1, 'rows': 50}
  assert espo['final_training_accuracy'] == pytest.approx(np.mean(range(3, 13)) / 50)
  assert espo['seconds'] == {'rollout': 18.0, 'score': 6.0, 'update': 12.0}
  assert espo['wall_seconds'] == 36.0
  assert espo['gain_over_warm_start_points'] == pytest.approx(32.0)
  assert espo['accuracy_difference_points'] == pytest.approx(2.0)
  assert espo['accuracy_interval'] == wilson(124, 200)
  assert espo['greedy_interval'] == wilson(128, 200)
  assert (ppo['saving'], ppo['stop_rate'], ppo['false_positives'], ppo['shadow_tokens']) == (0.0, None, None, 0.0)
  path = write_summary(tmp_path, summary)
  assert json.loads(path.read_text())['arms']['espo']['false_positives']['interval'] == list(wilson(1, 50))


def test_summary_without_costs_does_not_invent_a_saving(tmp_path):
  for arm in ('never', 'espo'):
    with MetricWriter(tmp_path / 'arms' / arm, 0) as writer:
      writer.write(1, {'accuracy': 0.5})
  entry = summarise(tmp_path, ['never', 'espo'], EVALUATIONS, baseline='never')['arms']['espo']
  assert (entry['rollout_tokens'], entry['saving'], entry['tokens_per_rollout'], entry['wall_seconds']) == (None,) * 4
  with pytest.raises(ValueError, match='baseline'):
    summarise(tmp_path, ['espo'], EVALUATIONS, baseline='never')


def test_table_is_aligned_and_has_the_numbers(tmp_path):
  _write_arms(tmp_path)
  text = format_table(summarise(tmp_path, ['never', 'espo'], EVALUATIONS, baseline='never'))
  table = [line for line in text.splitlines() if line.startswith('|')]
  assert len({len(line) for line in table}) == 1
  cells = {row[1]: row[2:-1] for row in ([cell.strip() for cell in line.split('|')] for line in table)}
  assert list(cells)[2:] == ['warm start', 'PPO', 'ESPO']
  assert cells['ESPO'] == [
    '62.0 [55.1, 68.4]',
    '64.0 [57.1, 70.3]',
    '19.0',
    '15.8',
    '20.8',
    '27.5',
    '2.0 [0.4, 10.5] (1/50)',
    '36.0',
  ]
  assert cells['PPO'][2:] == ['24.0', '20.0', '0.0', '-', '-', '36.0']
  assert 'different numbers of updates' not in text


def test_table_warns_when_totals_do_not_compare(tmp_path):
  _write_arms(tmp_path)
  with MetricWriter(tmp_path / 'arms' / 'espo', resume_step=6):
    pass
  text = format_table(summarise(tmp_path, ['never', 'espo'], EVALUATIONS, baseline='never'))
  assert 'different numbers of updates, so the totals do not compare: PPO 12, ESPO 6' in text


def _example(length, full_length, stop_reason, correct):
  t = np.arange(full_length) / full_length
  return {
    'prompt': 'What is $3 + 4$?\n',
    'response': '',
    'tokens': [*'3+4=7;'][:1] * full_length,
    'regret': (3 * t).tolist(),
    'z': (2 * t).tolist(),
    'threshold': [None, *(2 - t[1:])],
    'values': (1 - t).tolist(),
    'length': length,
    'full_length': full_length,
    'stop_reason': stop_reason,
    'correct': correct,
  }


EXAMPLES = [_example(8, 8, 'eos', True), _example(12, 20, 'stopped', False), _example(60, 60, 'length', False), {'prompt': 'x'}]


def _size(path):
  data = path.read_bytes()
  assert data.startswith(b'\x89PNG')
  return struct.unpack('>II', data[16:24])


@pytest.mark.filterwarnings('error::UserWarning')
def test_plots(tmp_path):
  _write_arms(tmp_path)
  (tmp_path / 'arms' / 'espo' / 'examples.json').write_text(json.dumps(EXAMPLES))
  paths = plot_all(tmp_path, ['never', 'espo'], 'never')
  assert {path.name for path in paths} == {
    'accuracy_and_length.png',
    'tokens_saved.png',
    'stop_rate_and_beta.png',
    'regret_traces.png',
    'overview.png',
  }
  for path in paths:
    width, height = _size(path)
    assert 1000 < width < 2500
    assert 500 < height < 2500
    assert path.stat().st_size > 10_000


@pytest.mark.filterwarnings('error::UserWarning')
def test_plots_skip_what_is_missing_and_say_so(tmp_path, caplog):
  with MetricWriter(tmp_path / 'arms' / 'never', 0) as writer:
    writer.write(1, {'accuracy': 0.5})
  with MetricWriter(tmp_path / 'arms' / 'espo', 0):
    pass
  paths = plot_all(tmp_path, ['never', 'espo', 'absent'], 'never')
  assert 'regret_traces.png' not in {path.name for path in paths}
  assert len(paths) == 4
  assert 'absent' in caplog.text
  assert 'examples.json' in caplog.text


def test_examples_are_read_chosen_and_named(tmp_path):
  path = tmp_path / 'examples.json'
  path.write_text(json.dumps(EXAMPLES))
  examples = read_examples(path)
  assert len(examples) == 3
  assert math.isnan(examples[0].threshold[0])
  assert [example.outcome for example in choose(examples, 4)] == [
    'Stopped at token 12 of 20, would have been wrong',
    'Right, ended after 8 tokens',
    'Wrong, cut at the horizon',
  ]


def test_run_info(tmp_path):
  write_run_info(tmp_path, {'lr': 1e-6, 'stop': {'name': 'espo', 'tau': 0.25}}, device_kind='abacus')
  assert json.loads((tmp_path / 'config.json').read_text()) == {'lr': 1e-6, 'stop': {'name': 'espo', 'tau': 0.25}}
  environment = json.loads((tmp_path / 'environment.json').read_text())
  assert environment['versions'] == describe()['versions']
  assert environment['versions']['numpy'] == np.__version__
  assert environment['device_kind'] == 'abacus'
  assert environment['git'] is None or set(environment['git']) == {'commit', 'dirty'}


def test_git_state_is_that_of_the_checkout_the_code_is_tracked_in(tmp_path, monkeypatch):
  from espo_jax.monitor import environment

  def git(*arguments):
    identity = ['-c', 'user.name=a', '-c', 'user.email=a@b']
    subprocess.run(['git', '-C', tmp_path, *identity, *arguments], check=True, capture_output=True)

  source = tmp_path / 'code.py'
  source.write_text('')
  monkeypatch.setattr(environment, '__file__', str(source))
  git('init')
  assert describe()['git'] is None
  git('add', '.')
  git('commit', '-m', 'x')
  clean = describe()['git']
  assert len(clean['commit']) == 40
  assert not clean['dirty']
  source.write_text('x = 1')
  assert describe()['git'] == {**clean, 'dirty': True}


@pytest.mark.parametrize(
  ('metrics', 'wanted'),
  [
    ({'accuracy': 0.3, 'accuracy_unstopped': 0.5}, 0.5),
    ({'accuracy': 0.3, 'accuracy_unstopped': np.nan}, 0.3),  # no stopped row decoded on
    ({'accuracy': 0.3}, 0.3),
    ({'accuracy': np.float32(0.0), 'accuracy_unstopped': np.float32(0.0)}, 0.0),
    ({'loss': 1.0}, np.nan),
  ],
  ids=str,
)
def test_updates_are_compared_by_accuracy_without_stops_where_it_is_known(metrics, wanted):
  np.testing.assert_equal(policy_accuracy(metrics), wanted)
