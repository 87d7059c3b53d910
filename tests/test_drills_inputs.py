"""The drills of inputs and storage in short forms: a few cases of each hold, and a drill finds the fault that it is for."""

import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'scripts'))

from drills import answers, damaged, full, fuzz, opened, poisoned

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


def test_a_run_whose_folders_may_not_be_written_ends_with_one_line_and_goes_on(tmp_path):
  figures = {}
  assert held(full.run(tmp_path, 10, 0, figures, kind='modes')) == 2


def test_hostile_answers_are_graded_in_time(tmp_path):
  figures = {}
  assert held(answers.run(tmp_path, 40, 0, figures)) == 44
  assert figures['ok'] > 10


def test_malformed_inputs_are_read_or_refused(tmp_path):
  figures = {}
  assert held(fuzz.run(tmp_path, 18, 0, figures)) == 19
  assert figures['refused'] > 3


@pytest.mark.skipif(shutil.which('chromium') is None, reason='no Chromium on the PATH; on Debian: apt-get install chromium')
def test_a_page_opens_and_finds_a_rollout(tmp_path):
  figures = {}
  assert held(opened.run(tmp_path, 30, 0, figures)) == 2
  assert figures['rollouts'] == 30


def test_poisoned_steps_are_skipped_and_counted(tmp_path, registers):
  figures = {}
  assert held(poisoned.run(tmp_path, 3, 0, figures)) == 3
  assert figures == {'steps skipped': 4, 'steps taken': 4}
