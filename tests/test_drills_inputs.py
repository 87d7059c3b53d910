"""The drills of inputs and storage in short forms: a few cases of each hold, and a drill finds the fault that it is for."""

import json
import shutil
import subprocess
import threading

import drill
import pytest
from absl import logging
from drills import answers, damaged, full, fuzz, opened, poisoned, reader
from drills.jobs import ROOT

from espo_jax.learner import checkpoint


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
  monkeypatch.chdir(tmp_path_factory.mktemp('here'))


def held(cases):
  """Returns the number of cases, all of which must hold."""
  found = list(cases)
  assert [(case.name, case.note) for case in found if not case.passed] == []
  return len(found)


def test_damaged_checkpoints_are_restored_as_they_were_saved_or_refused(tmp_path):
  figures = {}
  assert held(damaged.run(tmp_path, 8, 0, figures, commands='no')) >= 8
  assert figures['an older one'] > 3


def test_the_drill_of_damage_finds_a_run_that_looks_at_no_checksum(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, 'saved_checksums', lambda folder: {})
  wrong = [case.note for case in damaged.run(tmp_path, 30, 0, {}, commands='no') if not case.passed]
  assert wrong and all('is not the saved one' in note for note in wrong)


def test_a_command_that_ends_well_and_leaves_an_older_checkpoint_is_a_failed_case(tmp_path, monkeypatch):
  ended = subprocess.CompletedProcess('train', 0, '', '')
  monkeypatch.setattr(damaged.subprocess, 'run', lambda *args, **kwargs: ended)  # it trains nothing
  way = damaged.Way('the newest removed', lambda folder: shutil.rmtree(folder / '5'), command=True)
  assert 'an older one was restored' in damaged._gone_on(tmp_path / 'again', way, damaged._runs(tmp_path))


def test_a_traceback_that_a_thread_prints_or_a_command_logs_is_an_error_though_the_command_ends_well(tmp_path, monkeypatch):
  monkeypatch.setattr(threading, 'excepthook', threading.__excepthook__)  # not that of pytest

  def threaded():
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()

  def logged():
    try:
      1 // 0  # noqa: B018
    except ZeroDivisionError:
      logging.exception('a picture')

  for command in (threaded, logged):
    assert 'ZeroDivisionError' in full._judged(full._told(command), tmp_path)
  assert full._judged(full._told(lambda: logging.error('a picture cannot be drawn')), tmp_path) == ''


def test_a_kind_of_attempts_that_is_not_known_is_refused(tmp_path):
  with pytest.raises(SystemExit, match='--kind=rooms: there is no such kind; fix: one of quota, modes, room'):
    next(full.run(tmp_path, 10, 0, {}, kind='rooms'))


def test_a_run_whose_folder_may_not_be_written_ends_with_one_line_and_goes_on(tmp_path):
  figures = {}
  assert held(full.run(tmp_path, 5, 0, figures, kind='modes')) == 1


def test_hostile_answers_are_graded_in_time(tmp_path):
  figures = {}
  assert held(answers.run(tmp_path, 40, 0, figures)) == 44
  assert figures['ok'] > 10


def test_malformed_inputs_are_read_or_refused(tmp_path):
  figures = {}
  assert held(fuzz.run(tmp_path, 18, 0, figures)) == 19
  assert figures['refused'] > 3


def test_an_error_names_a_file_a_field_or_a_flag_and_no_other_word_counts(tmp_path):
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model/config.json').touch()
  named = lambda message: fuzz._named(message, tmp_path)
  assert not any(map(named, ('the model cannot run', 'numpy.core failed', 'x = 3', 'line 1, column 2 -- cut')))
  fields = "stop.name = 'x'", 'seed = -1', 'exits.\u202e = False', 'give --plugins'
  assert all(map(named, ('config.json is damaged', f'{tmp_path}/model: 3', *fields)))


def test_the_flags_of_a_case_are_those_that_are_read(tmp_path):
  case, config = tmp_path / 'flags.json', f'--config={ROOT}/experiments/quickstart.py'
  case.write_text(json.dumps([config, '--config.rollout.samples=7']))
  assert reader.read(('flags', str(case))) == ('read', '')
  case.write_text(json.dumps([config, '--config.rollout.samples=0']))
  outcome, message = reader.read(('flags', str(case)))
  assert outcome == 'refused' and 'rollout.samples = 0' in message


@pytest.mark.skipif(opened.CHROMIUM is None, reason='no Chromium on the PATH; on Debian: apt-get install chromium')
def test_a_page_opens_and_finds_a_rollout(tmp_path):
  figures = {}
  assert held(opened.run(tmp_path, 30, 0, figures)) == 2
  assert figures['rollouts'] == 30


def test_poisoned_steps_are_skipped_and_counted(tmp_path, registers):
  figures = {}
  assert held(poisoned.run(tmp_path, 3, 0, figures)) == 3
  assert figures == {'steps skipped': 4, 'steps taken': 8}


def test_a_drill_without_cases_is_no_success(monkeypatch):
  monkeypatch.setattr(poisoned, 'run', lambda *args: iter(()))
  assert drill.main(['poisoned']) == 1
