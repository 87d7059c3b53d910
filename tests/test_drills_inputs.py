"""The drills of inputs and storage in their short forms: a few cases of each hold, and each finds the fault that it is for."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'scripts'))

from drills import answers, damaged, fuzz


@pytest.fixture(autouse=True, scope='module')
def elsewhere(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path_factory.mktemp('here'))
    yield


def held(cases):
  """The number of cases, all of which must hold."""
  found = list(cases)
  assert [(case.name, case.note) for case in found if not case.passed] == []
  return len(found)


def broken(cases):
  return [case for case in cases if not case.passed]


def test_a_few_damaged_checkpoints_are_restored_as_saved_or_refused(tmp_path):
  figures = {}
  assert held(damaged.run(tmp_path, 12, 0, figures)) >= 12
  assert figures['an older one'] > 0


def test_hostile_answers_are_graded_in_time(tmp_path):
  figures = {}
  assert held(answers.run(tmp_path, 60, 0, figures)) == 64
  assert figures['ok'] > 40


def test_a_few_malformed_inputs_are_read_or_refused(tmp_path):
  figures = {}
  assert held(fuzz.run(tmp_path, 18, 0, figures)) == 19
  assert figures['refused'] > 3
