"""A run goes on with other values where these are named, and a finished one goes on to more updates."""

import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest

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
      'learner.learning_rate = 1.0 was 2e-05 in .*; fix: that value, --changed=learner.lear',
    ),
    ({'learner__updates': 20}, ['learner.learning_rate'], 'learner.updates = 20 was 10 in '),
    ({'model__num_layers': 2}, [], 'model.num_layers = 2 was 1 in .*; fix: that value, or another --workdir'),
    ({'learner__updates': 5}, ['learner.updates'], 'learner.updates = 5 was 10 in .*: fewer than before; fix: more of them'),
    ({}, ['learner.lr'], '--changed=learner.lr: no such field; did you mean learner.learning_rate'),
    ({}, ['updates'], '--changed=updates: no such field; '),
    (
      {'model__num_layers': 2},
      ['model.num_layers'],
      '--changed=model.num_layers: cannot change in a run; fix: another --workdir',
    ),
    *(
      ({}, [field], f'--changed={field}: cannot change in a run')
      for field in (
        'task.name',
        'stop.name',
        'stop.returns',
        'stop.beta_0',
        'stop.wald.beta_0',
        'rollout.prompts',
        'rollout.horizon',
        'rollout.temperature',
        'objective.name',
        'reward.name',
        'eval.problems',
        'critic.kind',
        'learner.importance',
        'seed',
        'mesh.data',
      )
    ),
  ],
)
def test_a_change_that_is_not_named_or_cannot_be_is_told(run, fields, named, told):
  with pytest.raises(ConfigError, match=told):
    changes_of(smoke(**fields), run, named)


@pytest.mark.quick
def test_the_number_of_samples_stays_while_a_response_of_each_is_kept(tmp_path):
  def reusing(samples):
    config = smoke(rollout__samples=samples)
    config.rollout.reuse.form = 'exact'
    return config

  monitor.write_run_info(tmp_path / 'run', reusing(4).to_dict())
  with pytest.raises(ConfigError, match=r"rollout\.samples = 8 was 4: .*rollout\.reuse\.form = 'exact'.*; fix: that value"):
    changes_of(reusing(8), tmp_path / 'run', ['rollout.samples'])
  monitor.write_run_info(tmp_path / 'other', smoke(rollout__samples=4).to_dict())
  assert changes_of(smoke(rollout__samples=8), tmp_path / 'other', ['rollout.samples']) == (Change('rollout.samples', 4, 8),)


@pytest.mark.quick
def test_named_changes_are_found_and_equal_values_are_none(run, tmp_path):
  config = smoke(learner__learning_rate=1e-4, stop__eta=0.5, learner__updates=20)
  named = ['stop.eta', 'learner.updates', 'learner.learning_rate', 'eval.every']
  assert changes_of(config, run, named) == (
    Change('learner.learning_rate', 2e-5, 1e-4),
    Change('learner.updates', 10, 20),
    Change('stop.eta', 0.1, 0.5),
  )
  assert changes_of(smoke(), run, named) == ()
  assert changes_of(config, tmp_path / 'new', named) == ()
  with pytest.raises(ConfigError, match='no such field'):
    changes_of(config, tmp_path / 'new', ['stop.etta'])
  with pytest.raises(ConfigError, match=r'stop.eta = 0.5 was 0.1 in [^;]*; fix: that value, or another --workdir'):
    changes_of(smoke(stop__eta=0.5), run)  # as a comparison asks, which has no flag for it


def saved(folder, steps, tokens, limit=0):
  """A run of 40 updates whose arms have saved some of them, and have decoded so many tokens by then."""
  for arm, step in steps.items():
    (folder / 'arms' / arm / 'checkpoints' / str(step)).mkdir(parents=True)
    line = {'step': step, 'rollout/decoded': tokens}
    monitor.atomic_write_text(folder / 'arms' / arm / 'metrics.jsonl', json.dumps(line) + '\n')
    for name in ('evaluation', 'examples'):
      (folder / 'arms' / arm / f'{name}.json').write_text('[]')
  monitor.write_run_info(folder, smoke(learner__updates=40, learner__tokens=limit).to_dict())
  return folder


@pytest.mark.quick
@pytest.mark.parametrize(
  ('limit', 'tokens', 'now', 'steps', 'reopened'),
  [
    (0, 900, {'updates': 80}, {'never': 40, 'espo': 40}, ['espo', 'never']),
    (0, 900, {'updates': 80}, {'never': 40, 'espo': 30}, ['never']),  # the other one was not finished
    (0, 900, {'learning_rate': 1.0}, {'never': 40, 'espo': 30}, []),
    (800, 900, {'updates': 80}, {'never': 20}, []),  # it has all its tokens
    (800, 900, {'tokens': 2000}, {'never': 20}, ['never']),
    (800, 900, {'tokens': 850}, {'never': 20}, []),
    (800, 900, {'tokens': 0}, {'never': 20}, ['never']),
    (800, 900, {'tokens': 2000}, {'never': 40}, []),  # it has all its updates
    (800, 900, {'tokens': 2000, 'updates': 80}, {'never': 40}, ['never']),
  ],
)
def test_finished_arms_that_may_go_on_are_reopened_and_their_results_put_aside(tmp_path, limit, tokens, now, steps, reopened):
  folder = saved(tmp_path / 'run', steps, tokens, limit)
  config = smoke(
    **{'learner__updates': 40, 'learner__tokens': limit} | {f'learner__{name}': value for name, value in now.items()}
  )
  changes = changes_of(config, folder, [f'learner.{name}' for name in now])
  for _ in range(2):  # the first time it was killed before it wrote its config
    remember(config, folder, changes)
  (entry,) = read_history(folder)
  assert (entry['after'], entry['reopened'], len(entry['changes'])) == (steps, reopened, len(now))
  for arm, step in steps.items():
    assert reopened_at(folder, arm) == (step if arm in reopened else None)
    names = {path.name for path in (folder / 'arms' / arm).glob('e*.json')}
    aside = f'.{step:06d}' if arm in reopened else ''
    assert names == {f'evaluation{aside}.json', f'examples{aside}.json'}


@pytest.mark.quick
def test_a_finished_run_needs_more_updates(tmp_path):
  folder = saved(tmp_path / 'run', {'never': 40}, 900)
  (folder / 'summary.json').write_text('{}')
  with pytest.raises(
    ConfigError, match=r'--changed=stop.eta: the run in .* is finished; fix: --changed=learner.updates, and more'
  ):
    changes_of(smoke(learner__updates=40, stop__eta=0.2), folder, ['stop.eta'])
  config = smoke(learner__updates=80)
  remember(config, folder, changes_of(config, folder, ['learner.updates']))
  assert not (folder / 'summary.json').exists() and reopened_at(folder, 'never') == 40
  remember(config, folder, ())
  assert len(read_history(folder)) == 1


def lines(workdir):
  timed = ('seconds/', 'tokens_per_second', 'process/')
  return [
    {name: x for name, x in row.items() if not name.startswith(timed)} for row in monitor.read_metrics(workdir / 'arms/never')
  ]


@pytest.mark.usefixtures('without_pictures')
def test_a_run_that_was_extended_is_the_run_that_had_all_its_updates(tmp_path):
  train(smoke(learner__updates=2), tmp_path / 'more', check_memory=False)
  shutil.copytree(tmp_path / 'more/warm_start', tmp_path / 'whole/warm_start')  # the arms are compared
  train(smoke(learner__updates=4), tmp_path / 'whole', check_memory=False)
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
