"""Searches of a sweep: what is proposed, from what, and that an interruption changes nothing."""

import json
import math
import pathlib

import numpy as np
import pytest
import scipy.stats

from espo_jax import monitor, sweep
from espo_jax.compile_check import plan
from espo_jax.configs import ConfigError
from espo_jax.stages.loop import Interrupted, TrainingFailed
from espo_jax.sweep import Between, OneOf, running, searches
from espo_jax.sweep.__main__ import compare_arms
from espo_jax.sweep.searches import Tried

pytestmark = pytest.mark.usefixtures('without_pictures')

SPACE = {'x': Between(0.0, 1.0), 'rate': Between(1e-6, 1e-2, log=True)}
BEST = {'x': 0.3, 'rate': 1e-4}


def value_of(settings):
  """A bowl, whose highest point is BEST."""
  return 1 - (settings['x'] - BEST['x']) ** 2 - (math.log10(settings['rate']) - math.log10(BEST['rate'])) ** 2 / 16


def best_of(name, seed, arms=40):
  propose, tried = searches.REGISTRY[name](), []
  for _ in range(arms):
    settings = propose(SPACE, tried, seed)
    tried.append(Tried(settings, value_of(settings), 10, whole=True))
  return max(arm.value for arm in tried)


@pytest.mark.parametrize('name', ['tpe', 'bohb'])
def test_a_search_is_ahead_of_random_arms_on_a_bowl(name):
  ahead = sum(best_of(name, seed) > best_of('random', seed) for seed in range(20))
  assert scipy.stats.binomtest(ahead, 20, alternative='greater').pvalue < 0.05


@pytest.mark.parametrize('seed', [-1, 42_949, 20_260_101])  # NumPy's generators take 32 bits
def test_every_whole_number_is_a_seed_of_a_search(seed):
  assert searches.REGISTRY['random']()(SPACE, [], seed).keys() == SPACE.keys()


@pytest.mark.parametrize('name', searches.REGISTRY)
def test_a_proposal_is_of_the_space_and_a_function_of_what_is_given(name):
  space = {'whole': Between(2, 5), 'size': Between(1, 1000, log=True), 'kind': OneOf(('a', None, True)), **SPACE}
  found = []
  for seed in (0, 1):
    propose, tried = searches.REGISTRY[name](), []
    for i in range(15):
      settings = propose(space, tried, seed)
      assert settings == searches.REGISTRY[name]()(space, tried, seed)
      assert settings.keys() == space.keys() and settings['kind'] in space['kind'].values
      assert all(type(settings[field]) is int for field in ('whole', 'size')) and 2 <= settings['whole'] <= 5
      assert 0 <= settings['x'] <= 1 and 1e-6 <= settings['rate'] <= 1e-2
      tried.append(Tried(settings, None if i == 3 else value_of(settings), 10, whole=i % 4 != 1))
    found.append([arm.settings for arm in tried])
  assert found[0] != found[1]
  assert len({json.dumps(settings) for settings in found[0]}) == 15


def test_bohb_takes_whole_arms_for_better_than_those_that_were_ended():
  rng = np.random.default_rng(0)
  whole = [Tried({'x': 0.2 + 0.02 * z}, 0.5, 10, True) for z in rng.normal(size=12)]
  ended = [Tried({'x': 0.8 + 0.02 * z}, 0.9, 4, False) for z in rng.normal(size=12)]
  propose = searches.REGISTRY['bohb'](share_random=0.0)
  proposed = [propose({'x': SPACE['x']}, [*whole, *ended], seed)['x'] for seed in range(10)]
  assert max(proposed) < 0.5


# ------------------------------------------------------------------------------------------------------------------- in a sweep


def sweep_file(folder: pathlib.Path, search: str, more: str = '') -> str:
  path = folder / 'searched.py'
  path.write_text(
    '"""A search."""\nfrom espo_jax.sweep import *\ndef get_sweep():\n'
    "  return Sweep(base='experiments/quickstart.py:smoke', common={'baselines': ()}, baseline='plain', seeds=(0, 1),\n"
    f"    arms={{'plain': {{}}}}, search=Search({search}){more})\n"
  )
  return str(path)


SEARCH = "space={'learner.learning_rate': Between(1e-6, 1e-2, log=True), 'rollout.samples': OneOf((2, 4))}, arms=5, by='bohb'"


@pytest.fixture
def trained(monkeypatch):
  """The folders of the runs that were asked for. A run is replaced by a curve that depends on its settings."""
  asked = []

  def pretend(config, workdir, watch=None):
    asked.append(workdir)
    monitor.write_run_info(workdir, config.to_dict())
    if 'rl' not in config.stages:
      return
    if len(asked) == pretend.interrupted:
      raise Interrupted(15, 'told')
    if workdir.name == pretend.fails and config.seed == 1:
      raise TrainingFailed('the loss is nan')
    level = value_of({'x': config.rollout.samples / 8, 'rate': config.learner.learning_rate})
    with monitor.MetricWriter(workdir / 'arms' / config.stop.name, 0) as writer:
      for step in range(1, 13):
        accuracy = level * (1 - 0.5**step) + 0.01 * config.seed
        writer.write(step, {'accuracy': accuracy, 'rollout/length_mean': 9.0})
        if watch is not None:
          watch(config.stop.name, step, accuracy)
    entry = {'accuracy': level, 'rollout_tokens': 1000.0}
    monitor.write_summary(workdir, {'warm_start': {'accuracy': 0.25}, 'arms': {config.stop.name: entry}})

  pretend.interrupted = pretend.fails = None
  monkeypatch.setattr(running, 'train', pretend)
  return asked, pretend


def test_an_interrupted_search_proposes_what_an_undisturbed_one_does(trained, tmp_path):
  asked, pretend = trained
  ends = ", early_end='successive_halving', early_end_options={'least': 2, 'eta': 2}"
  file = sweep_file(tmp_path, SEARCH, ends)
  whole = compare_arms(file, tmp_path / 'whole', tmp_path / 'whole.out')
  names = [f'bohb_{i}' for i in range(1, 6)]
  assert [path.name for path in asked] == ['start', 'plain'] * 2 + [name for name in names for _ in (0, 1)]
  assert [path.parent.name for path in asked[4:]] == ['seed_0', 'seed_1'] * 5  # an arm is proposed for all seeds
  asked.clear()
  pretend.interrupted = 8
  with pytest.raises(Interrupted):
    compare_arms(file, tmp_path / 'cut', tmp_path / 'cut.out')
  pretend.interrupted = None
  again = compare_arms(file, tmp_path / 'cut', tmp_path / 'cut.out')
  assert again['arms'] == whole['arms'] and list(again['arms']) == ['plain', *names]
  assert {run['state'] for run in again['runs']} == {'done', 'ended early'}
  assert [run['message'] for run in again['runs']] == [run['message'] for run in whole['runs']]


def test_the_page_has_the_arms_of_the_search_the_best_first(trained, tmp_path):
  _, pretend = trained
  pretend.fails = 'bohb_2'
  record = compare_arms(sweep_file(tmp_path, SEARCH), tmp_path / 'runs', tmp_path / 'out')
  page = (tmp_path / 'out.md').read_text()
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in page.splitlines() if line.startswith('| bohb_')]
  table = rows[-5:]
  assert '| arm | `learner.learning_rate` | `rollout.samples` | training accuracy at the end |' in page
  assert table[-1][0] == 'bohb_2' and table[-1][-1] == 'failed'
  for arm, rate, samples, accuracy in table[:-1]:
    settings = record['arms'][arm]
    assert (rate, samples) == (f'{settings["learner.learning_rate"]:.3g}', str(settings['rollout.samples']))
    level = value_of({'x': settings['rollout.samples'] / 8, 'rate': settings['learner.learning_rate']})
    late = level * (1 - 0.5 ** np.arange(8.0, 13)).mean() + 0.005  # the mean of five updates and two seeds
    assert accuracy == f'{late:.3f}'
  assert [row[-1] for row in table[:-1]] == sorted((row[-1] for row in table[:-1]), reverse=True)


def test_the_json_has_the_search_and_what_each_of_its_arms_came_to(trained, tmp_path):
  _, pretend = trained
  pretend.fails = 'random_2'
  rate, minibatches = "'learner.learning_rate': Between(1e-6, 1e-2, log=True)", "'learner.minibatches': OneOf((1, 4))"
  space = f"{{'rollout.prompts': Between(4, 8), {minibatches}, {rate}}}"
  ends = ", early_end='successive_halving', early_end_options={'least': 2, 'eta': 2}"
  compare_arms(sweep_file(tmp_path, f"space={space}, arms=12, by='random', seed=3", ends), tmp_path / 'runs', tmp_path / 'out')
  record, page = json.loads((tmp_path / 'out.json').read_text()), (tmp_path / 'out.md').read_text()
  found = record['search']
  assert (found['by'], found['seed'], found['options'], found['arms']) == ('random', 3, {}, 12)
  assert found['space'] == {
    'rollout.prompts': {'low': 4, 'high': 8, 'log': False},
    'learner.minibatches': {'values': [1, 4]},
    'learner.learning_rate': {'low': 1e-6, 'high': 1e-2, 'log': True},
  }
  assert list(found['tried']) == [f'random_{number}' for number in range(1, 13)]
  failed = {run['name'] for run in record['runs'] if run['state'] == 'failed'}
  ended = {run['name'] for run in record['runs'] if run['state'] == 'ended early'} - failed
  assert failed == {'random_2'} and ended
  for arm, its in found['tried'].items():
    odd = its['settings']['rollout.prompts'] % 2 and its['settings']['learner.minibatches'] == 4
    assert bool(its['refused']) == odd and (arm in record['arms']) == (not odd)
    assert f'{arm} cannot run: {its["refused"]}.' in page or not odd
    assert (its['value'] is None) == bool(odd or arm in failed)
    assert odd or arm in failed or its['whole'] == (arm not in ended)
  assert any(its['refused'] for its in found['tried'].values())


def test_an_arm_that_cannot_run_counts_as_tried_and_the_search_goes_on(trained, tmp_path):
  """One of the two numbers of minibatches divides the rows of an odd number of problems."""
  space = "{'rollout.prompts': Between(4, 8), 'learner.minibatches': OneOf((1, 4))}"
  file = sweep_file(tmp_path, f"space={space}, arms=12, by='random', seed=3")
  record = compare_arms(file, tmp_path / 'runs', tmp_path / 'out')
  page = (tmp_path / 'out.md').read_text()
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in page.splitlines() if line.startswith('| random_')][-12:]
  refused = {arm for arm, *_, value in rows if value == 'cannot run'}
  assert refused == {arm for arm, prompts, minibatches, _ in rows if int(prompts) % 2 and minibatches == '4'}
  assert 0 < len(refused) < 12 and record['arms'].keys() == {'plain', *(row[0] for row in rows)} - refused
  assert all(f"{arm} cannot run: arm '{arm}': learner.minibatches = 4 does not divide" in page for arm in refused)


def test_an_arm_that_does_not_fit_the_memory_has_failed(trained, tmp_path, monkeypatch):
  _, pretend = trained
  told = plan.DoesNotFit.__new__(plan.DoesNotFit)

  def train(config, workdir, watch=None):
    if workdir.name == 'bohb_3':
      raise told
    pretend(config, workdir, watch)

  monkeypatch.setattr(running, 'train', train)
  monkeypatch.setattr(plan.DoesNotFit, '__str__', lambda _: 'too large')
  record = compare_arms(sweep_file(tmp_path, SEARCH), tmp_path / 'runs', tmp_path / 'out')
  assert [run['state'] for run in record['runs'] if run['name'] == 'bohb_3'] == ['failed'] * 2


def test_seeds_are_not_shared_out_beside_a_search(trained, tmp_path):
  with pytest.raises(
    ConfigError, match=r'--seeds beside the search of .*: an arm is proposed from all seeds; fix: leave --seeds out'
  ):
    compare_arms(sweep_file(tmp_path, SEARCH), tmp_path / 'runs', tmp_path / 'out', seeds=[0])
  assert not trained[0]


RATE = "space={'learner.learning_rate': Between(1e-6, 1e-2)}"


@pytest.mark.parametrize(
  ('search', 'message'),
  [
    (f"{RATE}, arms=2, by='tpr'", "search.by = 'tpr': 'tpr' is unknown; did you mean 'tpe'"),
    (f"{RATE}, arms=2, options={{'first': 0}}", r"search.options = \{'first': 0\}: first = 0.*fix: numbers of at least 1"),
    (f"{RATE}, arms=2, options={{'frist': 3}}", r"search.options = \{'frist': 3\}: .*frist"),
    (f'{RATE}, arms=0', 'search.arms = 0: no number of arms; fix: a whole number of at least 1'),
    (f'{RATE}, arms=1.5', 'search.arms = 1.5: no number of arms'),
    (
      "space={'learner.learning_rate': (1e-6, 1e-2)}, arms=2",
      r'\(1e-06, 0.01\): no values; fix: Between\(low, high\) or OneOf',
    ),
    ('space={}, arms=2', r'search.space = \{\}: nothing to set; fix: such as'),
    (
      "space={'learner.rate': Between(0.1, 0.2)}, arms=2",
      "'learner.rate'.* with 0.1\": .*no such field; did you mean learner.learning_rate",
    ),
    ("space={'rollout.samples': OneOf((4, 0))}, arms=2", r"search.space\['rollout.samples'\] with 0\": rollout.samples = 0"),
    ("space={'seed': OneOf((1, 2))}, arms=2", r"'seed'\] with 1\": seed is the sweep's to set; fix: leave it out"),
    (
      "space={'model.hidden_size': OneOf((16, 32))}, arms=2",
      r"'model.hidden_size'\] with 32\" against what a seed shares: its model.hidden_size is 16 and this one 32; fix: ",
    ),
    ("space={'x': Between(2, 1)}, arms=2", r'Between\(low=2, high=1, log=False\): no numbers; fix: two finite numbers'),
    ("space={'x': Between(0, 1, log=True)}, arms=2", 'Between.*: 0 has no logarithm; fix: a number above 0'),
    ("space={'x': OneOf((1, 1))}, arms=2", r'OneOf\(values=\(1, 1\)\): nothing to choose; fix: at least two different values'),
  ],
)
def test_a_search_that_cannot_run_is_refused_before_anything_runs(search, message, trained, tmp_path):
  with pytest.raises(ConfigError, match=message):
    compare_arms(sweep_file(tmp_path, search), tmp_path / 'runs', tmp_path / 'out')
  assert not trained[0] and not (tmp_path / 'runs').exists()


def test_an_arm_may_not_have_the_name_of_a_searched_one(tmp_path):
  file = sweep_file(tmp_path, f'{RATE}, arms=2', ", rules={'tpe_1': 'espo'}")
  path = pathlib.Path(file)
  path.write_text(path.read_text().replace("arms={'plain': {}}", "arms={'plain': {}, 'tpe_1': {}}"))
  with pytest.raises(
    ConfigError, match="arms: 'tpe_1' begins as the names of the arms of the search 'tpe' do; fix: another name"
  ):
    sweep.load_sweep(file)
