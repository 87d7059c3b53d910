"""A run goes on with other values where these are named, and a finished one goes on to more updates."""

import json
import pathlib
import runpy

import numpy as np
import pytest
from run_folder import write_run

from espo_jax import monitor, report
from espo_jax.configs import ConfigError
from espo_jax.stages.changes import Change, changes_of, read_history, remember, reopened_at
from espo_jax.train import train

ROOT = pathlib.Path(__file__).parents[1]


def smoke(**fields):
  """The quickstart's smallest variant, without a critic, so that nothing depends on the number of updates to come."""
  c = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  c.objective.name, c.stop.name, c.baselines = 'grpo', 'never', ()
  c.model.num_layers, c.warm_start.steps, c.warm_start.warmup_steps = 1, 2, 1
  for name, value in fields.items():
    section, _, field = name.partition('__')
    c[section][field] = value
  return c


@pytest.fixture
def run(tmp_path):
  monitor.write_run_info(tmp_path / 'run', smoke().to_dict())
  return tmp_path / 'run'


@pytest.mark.quick
@pytest.mark.parametrize(
  ('fields', 'named', 'told'),
  [
    (
      {'learner__learning_rate': 1.0},
      [],
      'learner.learning_rate = 1.0 was 2e-05 in .*; fix: that value, --changed=learner.learning_rate if',
    ),
    ({'learner__updates': 20}, ['learner.learning_rate'], 'learner.updates = 20 was 10 in '),
    ({}, ['learner.lr'], '--changed=learner.lr: no such field; did you mean learner.learning_rate'),
    ({}, ['updates'], '--changed=updates: no such field; '),
    (
      {'model__num_layers': 2},
      ['model.num_layers'],
      '--changed=model.num_layers: cannot change in a run; fix: another --workdir',
    ),
    ({'task__name': 'countdown'}, ['task.name'], '--changed=task.name: cannot change'),
    ({'stop__name': 'espo'}, ['stop.name'], '--changed=stop.name: cannot change'),
    ({'stop__returns': 'head'}, ['stop.returns'], '--changed=stop.returns: cannot change'),
    ({'rollout__prompts': 16}, ['rollout.prompts'], '--changed=rollout.prompts: cannot change'),
    ({'objective__name': 'ppo'}, ['objective.name'], '--changed=objective.name: cannot change'),
    ({}, ['seed'], '--changed=seed: cannot change'),
    ({}, ['mesh.data'], '--changed=mesh.data: cannot change'),
  ],
)
def test_a_change_that_is_not_named_or_cannot_be_is_told(run, fields, named, told):
  with pytest.raises(ConfigError, match=told):
    changes_of(smoke(**fields), run / 'config.json', named)


@pytest.mark.quick
def test_named_changes_are_found_and_equal_values_are_none(run):
  config = smoke(learner__learning_rate=1e-4, stop__eta=0.5, learner__updates=20)
  named = ['stop.eta', 'learner.updates', 'learner.learning_rate', 'eval.problems']
  assert changes_of(config, run / 'config.json', named) == [
    Change('learner.learning_rate', 2e-5, 1e-4),
    Change('learner.updates', 10, 20),
    Change('stop.eta', 0.1, 0.5),
  ]
  assert changes_of(smoke(), run / 'config.json', named) == []
  assert changes_of(config, run / 'none.json') == []  # a new run


MORE = Change('learner.updates', 40, 80)


@pytest.mark.quick
def test_finished_arms_are_reopened_and_their_results_put_aside(tmp_path):
  folder = write_run(tmp_path / 'run', examples=[])
  (folder / 'arms/espo/evaluation.json').unlink()  # this arm was not finished
  (folder / 'arms/never/examples.json').write_text('[]')
  for _ in range(2):  # the first time it was killed before it wrote its config
    remember(folder, [MORE])
  assert read_history(folder) == [{'changes': [MORE._asdict()], 'after': {'espo': 40, 'never': 40}, 'finished': ['never']}]
  assert (reopened_at(folder, 'never'), reopened_at(folder, 'espo')) == (40, None)
  assert {path.name for path in (folder / 'arms/never').iterdir()} == {
    'metrics.jsonl',
    'evaluation.000040.json',
    'examples.000040.json',
  }
  assert not (folder / 'summary.json').exists()
  remember(folder, [])
  remember(folder, [Change('stop.eta', 0.1, 0.2)])
  assert [len(entry['changes']) for entry in read_history(folder)] == [1, 1] and reopened_at(folder, 'never') == 40


@pytest.mark.quick
def test_a_finished_run_needs_more_updates(tmp_path):
  folder = write_run(tmp_path / 'run')
  with pytest.raises(
    ConfigError, match=r'--changed=stop.eta: the run in .* is finished; fix: --changed=learner.updates, and more'
  ):
    remember(folder, [Change('stop.eta', 0.1, 0.2)])
  assert read_history(folder) == [] and (folder / 'summary.json').exists() and reopened_at(folder, 'espo') is None


def lines(workdir):
  timed = ('seconds/', 'tokens_per_second', 'process/')
  return [
    {name: x for name, x in row.items() if not name.startswith(timed)} for row in monitor.read_metrics(workdir / 'arms/never')
  ]


def test_a_run_that_was_extended_is_the_run_that_had_all_its_updates(tmp_path):
  train(smoke(learner__updates=4), tmp_path / 'whole', check_memory=False)
  train(smoke(learner__updates=2), tmp_path / 'more', check_memory=False)
  before = (tmp_path / 'more/arms/never/evaluation.json').read_text()
  with pytest.raises(ConfigError, match=r'learner\.updates = 4 was 2'):
    train(smoke(learner__updates=4), tmp_path / 'more', check_memory=False)
  for _ in range(2):  # the second call finds nothing left to do
    train(smoke(learner__updates=4), tmp_path / 'more', check_memory=False, changed=['learner.updates'])
  for ours, theirs in zip(lines(tmp_path / 'more'), lines(tmp_path / 'whole'), strict=True):
    np.testing.assert_equal(ours, theirs)
  ours, theirs = ((tmp_path / name / 'arms/never/evaluation.json').read_text() for name in ('more', 'whole'))
  assert ours == theirs and (tmp_path / 'more/arms/never/evaluation.000002.json').read_text() == before
  assert json.loads((tmp_path / 'more/config.json').read_text())['learner']['updates'] == 4
  (found,) = report.read_runs([tmp_path / 'more'])
  assert found.finished and [entry['after'] for entry in found.history] == [{'never': 2}]
