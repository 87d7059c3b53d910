"""A picture that fails costs a warning with its file and the reason; what it shows is on disk before, and the run goes on."""

import json
import logging
from unittest import mock

import pytest
from tiny import tiny_experiment

from espo_jax import monitor
from espo_jax.monitor import exit_plots, plots
from espo_jax.stages import results

ERRORS = [
  TypeError("'<' not supported between instances of 'NoneType' and 'float'"),
  ValueError('Axis limits cannot be NaN or Inf'),
  OSError(28, 'No space left on device'),
  PermissionError(13, 'Permission denied'),
  KeyError('depth'),
  IndexError('list index out of range'),
  ZeroDivisionError('division by zero'),
  MemoryError(),
  RuntimeError('Failed to process\n  string with tex'),
  ImportError('libfreetype.so.6: cannot open shared object file'),
  AssertionError(),
]
ids = [type(error).__name__ for error in ERRORS]


def evaluation(correct: int) -> dict:
  share = correct / 8
  counts = {'problems': 8, 'accuracy': share, 'correct': correct, 'greedy_accuracy': share, 'greedy_correct': correct}
  return counts | {'tokens_mean': 5.0, 'ungraded': 0}


@pytest.fixture
def workdir(tmp_path):
  """An arm's metrics and rollouts, all that a report needs."""
  with monitor.MetricWriter(tmp_path / 'arms' / 'espo', 0) as writer:
    writer.write(1, {'accuracy': 0.5, 'rollout/tokens': 100, 'rollout/rows': 10, 'stop/enabled': 1, 'stop/rate': 0.5})
  rollout = {
    'question': '1+1=',
    'tokens': ['2'],
    'regret': [0.1],
    'z': [0.2],
    'threshold': [0.3],
    'length': 1,
    'full_length': 1,
  }
  text = json.dumps([rollout | {'stop_reason': 'stopped', 'correct': True}])
  (tmp_path / 'arms' / 'espo' / 'examples.json').write_text(text)
  monitor.write_run_info(tmp_path, {'stop': {'name': 'espo'}, 'learner': {'updates': 1}})
  return tmp_path


def reported(workdir) -> dict:
  return results.report(workdir, ('espo',), {'warm_start': evaluation(2), 'espo': evaluation(4)})


def warned(caplog) -> list[str]:
  return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize('error', ERRORS, ids=ids)
def test_a_report_is_whole_when_a_picture_fails(workdir, monkeypatch, caplog, capsys, error):
  monkeypatch.setattr(plots, '_tokens_saved', mock.Mock(side_effect=error))
  assert reported(workdir) == json.loads((workdir / 'summary.json').read_text()) | {'arms': mock.ANY, 'warm_start': mock.ANY}
  (warning,) = warned(caplog)
  assert f'{workdir}/plots/tokens_saved.png' in warning and type(error).__name__ in warning and '\n' not in warning
  assert ' '.join(str(error).split()) in warning
  printed = capsys.readouterr().out
  assert '| ESPO ' in printed and 'tokens_saved' not in printed
  assert printed.index('| ESPO ') < printed.index('plots/')
  assert {path.stem for path in (workdir / 'plots').iterdir()} == {
    'accuracy_and_length',
    'stop_rate_and_beta',
    'overview',
    'regret_traces',
  }


def break_folder(workdir, monkeypatch):
  (workdir / 'plots').write_text('a file in its place')


def break_examples(workdir, monkeypatch):
  (workdir / 'arms/espo/examples.json').write_text('{"half": ')


def break_rollout(workdir, monkeypatch):
  path = workdir / 'arms/espo/examples.json'
  path.write_text(path.read_text().replace('"regret": [0.1]', '"regret": ["x"]'))


def break_library(workdir, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'espo_jax.monitor.plots', None)
  monkeypatch.delattr('espo_jax.monitor.plots')


@pytest.mark.parametrize(
  'name', ['_accuracy_and_length', '_tokens_saved', '_stop_rate_and_beta', '_overview', '_regret_traces', 'plot_all']
)
def test_each_picture_of_a_report_fails_alone(workdir, monkeypatch, caplog, name):
  monkeypatch.setattr(plots, name, mock.Mock(side_effect=ValueError('broken')))
  reported(workdir)
  assert len(warned(caplog)) == 1
  drawn = {path.stem for path in (workdir / 'plots').glob('*')}
  assert len(drawn) == (0 if name == 'plot_all' else 4) and name.removeprefix('_') not in drawn


@pytest.mark.parametrize('damage', [break_folder, break_examples, break_rollout, break_library])
def test_what_pictures_are_made_of_may_be_damaged(workdir, monkeypatch, caplog, damage):
  damage(workdir, monkeypatch)
  reported(workdir)
  assert (workdir / 'summary.json').exists() and warned(caplog)


@pytest.mark.parametrize('error', [KeyboardInterrupt(), SystemExit(143)])
def test_who_ends_a_run_ends_it_while_it_draws(workdir, monkeypatch, error):
  monkeypatch.setattr(plots, '_overview', mock.Mock(side_effect=error))
  with pytest.raises(type(error)):
    reported(workdir)


@pytest.mark.parametrize('error', ERRORS, ids=ids)
def test_the_curve_of_exits_is_written_before_it_is_drawn_and_measured_once(tmp_path, monkeypatch, caplog, error):
  exp = tiny_experiment(lambda config: config.calibration.update(levels=(0.5,)))
  measure = mock.Mock(return_value=evaluation(0) | {'depth': 1.0, 'greedy_depth': 1.0})
  monkeypatch.setattr(results, 'evaluate_params', measure)
  drawing = exit_plots.plot_exit_curve
  monkeypatch.setattr(exit_plots, 'plot_exit_curve', mock.Mock(side_effect=error))
  results.exit_curve(exp, {}, tmp_path)
  assert [point['level'] for point in json.loads((tmp_path / 'curve.json').read_text())] == [0.5, None]
  (warning,) = warned(caplog)
  assert str(tmp_path / 'curve.png') in warning and type(error).__name__ in warning

  monkeypatch.setattr(exit_plots, 'plot_exit_curve', drawing)
  results.exit_curve(exp, {}, tmp_path)  # the run goes on: the two points tie
  assert measure.call_count == 2 and (tmp_path / 'curve.png').exists() and len(warned(caplog)) == 1
