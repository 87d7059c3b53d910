"""A run is mirrored to trackers: each line once, over resumes, by stubs that record the calls and by the trackers offline."""

import json
import logging
import math
import sys
import threading
import time
import types

import pytest
from run_folder import HOSTILE, example, write_run

from espo_jax import monitor
from espo_jax.monitor import mirror


class Tracker(types.ModuleType):
  """A tracker that records what it is given."""

  def __init__(self, name, fails_at=None):
    super().__init__(name)
    self.runs, self.given, self.finished, self.fails_at = [], [], [], fails_at
    self.Settings = lambda **options: options
    self.Table = lambda columns, data: {'columns': columns, 'data': data}

  def init(self, **options):
    self.runs.append(options)
    return types.SimpleNamespace(log=self.log, finish=lambda: self.finished.append(options['name']))

  def log(self, values, step=None):
    if len(self.given) == self.fails_at:
      raise ConnectionError('no network')
    self.given.append((self.runs[-1]['name'], step, values))


@pytest.fixture(params=monitor.TRACKERS)
def tracker(request, monkeypatch):
  stub = Tracker(request.param)
  monkeypatch.setitem(sys.modules, request.param, stub)
  return stub


def steps(tracker):
  return [(name.split()[0], step) for name, step, values in tracker.given if 'rollouts' not in values]


def test_each_line_is_given_once_also_over_resumes(tmp_path, tracker):
  run = write_run(tmp_path / 'mine', updates=3, examples=[example('ab')])
  with monitor.mirrored(run, [tracker.__name__], {'stop': {'name': 'espo'}}):
    pass
  arms = ['mine/arms/espo', 'mine/arms/never']
  assert steps(tracker) == [(arm, step) for arm in arms for step in (1, 2, 3)]
  assert [name.split()[0] for name in tracker.finished] == arms
  assert all(options['config'] == {'stop': {'name': 'espo'}} and options['group'] == 'mine' for options in tracker.runs)
  lines = monitor.read_metrics(run / 'arms/espo')
  known = {name: value for name, value in lines[2].items() if name != 'step' and math.isfinite(value)}
  assert tracker.given[2][2] == known and 'accuracy_unstopped' not in known  # which is missing in update 3
  write_run(run, updates=5, examples=[example('ab')])
  with monitor.mirrored(run, [tracker.__name__], {}):
    pass
  assert steps(tracker)[6:] == [(arm, step) for arm in arms for step in (4, 5)]
  first, again = ([options[key] for options in tracker.runs if 'espo' in options['name']] for key in ('name', 'resume'))
  assert len(set(first)) == 1 and set(again) == {'allow'} and len(first) == 2
  if tracker.__name__ == 'wandb':
    assert len({options['id'] for options in tracker.runs}) == 2


def test_rollouts_are_a_table_that_is_given_once(tmp_path, tracker):
  run = write_run(tmp_path / 'run', updates=2, examples=[example([text], question=text) for text in HOSTILE[:4]])
  for _ in range(2):
    with monitor.mirrored(run, [tracker.__name__], {}):
      pass
  ((_, step, values),) = [given for given in tracker.given if 'rollouts' in given[2]]
  table = values['rollouts']
  assert step is None and [row[:2] for row in table['data']] == [[text, text] for text in HOSTILE[:4]]
  assert table['columns'][2:] == ['stop_reason', 'answer', 'correct', 'length', 'full_length']
  assert table['data'][0][2:] == ['eos', '2', True, 1, 1]


def test_an_extended_run_gives_its_new_rollouts(tmp_path, tracker):
  for updates in (2, 4, 4):
    run = write_run(tmp_path / 'run', arms=('espo',), updates=updates, examples=[example([f'after {updates}'])])
    with monitor.mirrored(run, [tracker.__name__], {}):
      pass
  tables = [values['rollouts']['data'] for _, _, values in tracker.given if 'rollouts' in values]
  assert [table[0][1] for table in tables] == ['after 2', 'after 4']


def test_a_config_is_given_without_infinite_numbers(tmp_path, tracker):
  run = write_run(tmp_path / 'run', arms=('espo',), updates=2)
  with monitor.mirrored(run, [tracker.__name__], {'gate': {'low': float('-inf'), 'patience': 3}}):
    pass
  assert tracker.runs[0]['config'] == {'gate': {'low': None, 'patience': 3}}


def test_a_tracker_that_hangs_does_not_hold_the_run(tmp_path, tracker, caplog, monkeypatch):
  monkeypatch.setattr(mirror, '_PATIENCE', 0.1)
  goes_on = threading.Event()
  tracker.log = lambda values, step=None: goes_on.wait(30)
  run = write_run(tmp_path / 'run', arms=('espo',), updates=2)
  with monitor.mirrored(run, [tracker.__name__], {}):
    pass
  goes_on.set()
  assert f'{tracker.__name__}: do not answer, and the run ends without them' in caplog.text


def test_lines_are_given_while_the_run_goes_on(tmp_path, tracker, monkeypatch):
  monkeypatch.setattr(mirror, '_EVERY', 0.02)
  run = tmp_path / 'run'
  with monitor.mirrored(run, [tracker.__name__], {}):
    for count in (1, 2, 4):
      write_run(run, arms=('espo',), updates=count, done=False)
      until = time.monotonic() + 20
      while len(tracker.given) < count:
        assert time.monotonic() < until
        time.sleep(0.01)
  assert [step for _, step in steps(tracker)] == [1, 2, 3, 4]


@pytest.mark.parametrize('fails_at', [0, 2])
def test_a_tracker_that_fails_costs_a_warning_and_gets_the_rest_next_time(tmp_path, tracker, caplog, fails_at):
  run = write_run(tmp_path / 'run', arms=('espo',), updates=4)
  tracker.fails_at = fails_at
  with caplog.at_level(logging.WARNING), monitor.mirrored(run, [tracker.__name__], {}):
    pass
  assert f'{tracker.__name__}: is given nothing more, and the run goes on (ConnectionError: no network)' in caplog.text
  assert len(tracker.given) == fails_at
  tracker.fails_at = None
  with monitor.mirrored(run, [tracker.__name__], {}):
    pass
  assert [step for _, step in steps(tracker)] == [1, 2, 3, 4]


def test_without_a_tracker_nothing_is_written(tmp_path):
  run = write_run(tmp_path / 'run', updates=2)
  with monitor.mirrored(run, [], {}):
    pass
  assert not (run / 'trackers.json').exists()


# ---------------------------------------------------------------------------------------------------------- the trackers


def records(file: bytes):
  """The records of wandb's file: a log as LevelDB writes it, in blocks of 32 KiB, behind a head of 7 bytes."""
  at, parts = 7, b''
  while at + 7 <= len(file):
    if (room := 32768 - at % 32768) < 7:
      at += room  # padding
      continue
    size, kind = int.from_bytes(file[at + 4 : at + 6], 'little'), file[at + 6]
    parts += file[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # a whole record, or its last part
      yield parts
      parts = b''


def test_wandb_has_the_run_offline(tmp_path, monkeypatch, caplog):
  pytest.importorskip('wandb', reason='wandb is not installed')
  from wandb.proto import wandb_internal_pb2

  own = {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'WANDB_CONFIG_DIR': str(tmp_path / 'settings')}
  patient = {'WANDB__SERVICE_WAIT': '300', 'WANDB_INIT_TIMEOUT': '300'}  # its process starts slowly on a busy machine
  for name, value in (own | patient).items():
    monkeypatch.setenv(name, value)
  run = write_run(tmp_path / 'mine', arms=('espo',), updates=3, examples=[example([HOSTILE[0]])])
  with monitor.mirrored(run, ['wandb'], {'stop': {'name': 'espo'}}):
    pass
  assert not caplog.records
  (path,) = run.glob('wandb/offline-run-*/run-*.wandb')
  found, until = {}, time.monotonic() + 120
  while not {1, 2, 3} <= found.keys() and time.monotonic() < until:  # its own process writes the file
    time.sleep(0.1)
    for data in records(path.read_bytes()):
      record = wandb_internal_pb2.Record.FromString(data)
      if record.WhichOneof('record_type') == 'history':
        row = {item.key or '/'.join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        found.setdefault(row['_step'], {}).update(row)
  for line in monitor.read_metrics(run / 'arms/espo'):
    for name, value in line.items():
      if name != 'step' and math.isfinite(value):
        assert found[line['step']][name] == value
  (table,) = run.glob('wandb/offline-run-*/files/media/table/*.table.json')
  assert json.loads(table.read_text())['data'] == [['1+1?', HOSTILE[0], 'eos', '2', True, 1, 1]]


def test_trackio_has_the_run_on_disk(tmp_path, monkeypatch):
  monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
  trackio = pytest.importorskip('trackio', reason='trackio is not installed')
  from trackio import sqlite_storage, utils

  for module in (sqlite_storage, utils):
    monkeypatch.setattr(module, 'TRACKIO_DIR', tmp_path / 'trackio')
  run = write_run(tmp_path / 'mine', arms=('espo',), updates=3, examples=[example(['ab'])])
  with monitor.mirrored(run, ['trackio'], {'stop': {'name': 'espo'}}):
    pass
  (name,) = sqlite_storage.SQLiteStorage.get_runs('espo_jax')
  logs = {row['step']: row for row in sqlite_storage.SQLiteStorage.get_logs('espo_jax', name) if 'rollouts' not in row}
  for line in monitor.read_metrics(run / 'arms/espo'):
    for metric, value in line.items():
      if metric != 'step' and math.isfinite(value):
        assert logs[line['step']][metric] == value
  assert trackio and name.startswith('mine/arms/espo ')
