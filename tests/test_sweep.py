"""Comparisons over seeds: what is run and what is not, and that the table is the arithmetic it claims to be."""

import functools
import json
import pathlib
import runpy
import shlex
import shutil
from unittest import mock

import numpy as np
import pytest
import scipy.stats
from absl import flags
from ml_collections import config_flags

from espo_jax import monitor, sweep
from espo_jax.configs import ConfigError, default_config, flatten, load_config, model_differences, validate
from espo_jax.rewards import RewardError
from espo_jax.stages.loop import Interrupted, TrainingFailed
from espo_jax.sweep import running
from espo_jax.sweep.__main__ import compare_arms, main
from espo_jax.sweep.results import told_apart
from espo_jax.train import train

pytestmark = pytest.mark.usefixtures('without_pictures')

BASE = 'experiments/quickstart.py:smoke'
HEAD = '"""Two arms.\n\nMore of them.\n"""\nfrom espo_jax.sweep import *\n'
SHALLOW = "{'baselines': (), 'model.num_layers': 1, 'eval.every': 4}"
ARMS = "{'grpo': {'objective.name': 'grpo'}, 'dapo': {'objective.name': 'dapo', 'objective.clip_high': 0.3}}"


def sweep_file(folder: pathlib.Path, **changes: str) -> str:
  """A sweep's file, its fields as source."""
  fields = {
    'base': repr(BASE),
    'arms': ARMS,
    'baseline': "'grpo'",
    'seeds': '(0, 1, 2)',
    'common': "{'baselines': ()}",
  } | changes
  path = folder / 'compared.py'
  path.write_text(f'{HEAD}def get_sweep():\n  return Sweep({", ".join(f"{k}={v}" for k, v in fields.items())})\n')
  return str(path)


@pytest.fixture
def trained(monkeypatch) -> list:
  """What was asked to be trained; a run is replaced by files with numbers that depend on its seed and its arm."""
  asked = []

  def pretend(config, workdir, watch=None):
    name = pathlib.Path(workdir).name
    asked.append((config.seed, name))
    monitor.write_run_info(workdir, config.to_dict())
    if 'rl' not in config.stages:
      return
    directory = pathlib.Path(workdir) / 'arms' / config.stop.name
    rng = np.random.default_rng([config.seed, len(config.objective.name), name == 'dapo'])
    level = 0.2 if name == 'dapo' else 0.8
    with monitor.MetricWriter(directory, 0) as writer:
      for step in range(1, 7):
        accuracy = level + 0.1 * rng.random()
        writer.write(step, {'accuracy': accuracy, 'rollout/length_mean': 9.0})
        if watch is not None:
          watch(config.stop.name, step, accuracy)
    entry = {'accuracy': rng.random(), 'rollout_tokens': 1000 * rng.random(), 'false_positives': {'correct': 2, 'rows': 5}}
    start = {'accuracy': 0.25 + 0.01 * config.seed}
    summary = {'warm_start': start, 'arms': {config.stop.name: entry}}
    monitor.write_summary(workdir, summary)

  monkeypatch.setattr(running, 'train', pretend)
  return asked


def test_the_table_is_scipys(trained, tmp_path):
  columns = "(ACCURACY, TRAINING_TOKENS, Counts('wrong %', lambda o: (o.summary['false_positives']['correct'], 5)))"
  file = sweep_file(tmp_path, columns=columns, primary="'accuracy %'")
  record = compare_arms(file, tmp_path / 'runs', tmp_path / 'out' / 'compared')
  assert trained == [(seed, name) for seed in (0, 1, 2) for name in ('start', 'grpo', 'dapo')]
  ends = {
    (arm, field): np.array(
      [json.loads((tmp_path / f'runs/seed_{s}/{arm}/summary.json').read_text())['arms']['espo'][field] for s in (0, 1, 2)]
    )
    for arm in ('grpo', 'dapo')
    for field in ('accuracy', 'rollout_tokens')
  }

  def half(x):
    return scipy.stats.t.interval(0.95, 2, loc=0, scale=scipy.stats.sem(x))[1]

  found = record['columns']['dapo']
  accuracy, tokens = 100 * ends['dapo', 'accuracy'], 1e-3 * ends['dapo', 'rollout_tokens']
  paired = scipy.stats.ttest_rel(accuracy, 100 * ends['grpo', 'accuracy']).confidence_interval()
  saved = 100 * (1 - ends['dapo', 'rollout_tokens'] / ends['grpo', 'rollout_tokens'])
  np.testing.assert_allclose([found['accuracy %'][k] for k in ('mean', 'half')], [accuracy.mean(), half(accuracy)], rtol=1e-9)
  difference = found['accuracy %']['against']
  np.testing.assert_allclose(difference['mean'] - difference['half'], paired.low, rtol=1e-9)
  np.testing.assert_allclose(difference['mean'] + difference['half'], paired.high, rtol=1e-9)
  p = scipy.stats.ttest_rel(accuracy, 100 * ends['grpo', 'accuracy']).pvalue
  assert record['p_values'] == {'dapo': {'p': pytest.approx(p), 'holm': pytest.approx(p)}}
  against = found['training tokens (k)']['against']
  np.testing.assert_allclose([against['mean'], against['half']], [saved.mean(), half(saved)], rtol=1e-9)
  assert record['columns']['start']['accuracy %']['mean'] == pytest.approx(26.0)
  assert record['columns']['dapo']['wrong %'] == {'cases': 6, 'trials': 15}
  page = (tmp_path / 'out' / 'compared.md').read_text()
  assert page.startswith('# Two arms\n')
  assert "after Holm's correction for 1 arms: ahead: none; behind: none; not told apart: `dapo`." in page
  cells = [f'{accuracy.mean():.1f} ± {half(accuracy):.1f}', f'{tokens.mean():.1f} ± {half(tokens):.1f}', '40.0 (6 of 15)']
  assert all(f'| {cell} |' in page for cell in cells)
  assert '--seeds' not in record['command'] and record['command'] in page
  assert (tmp_path / 'out' / 'compared.png').read_bytes().startswith(b'\x89PNG')
  assert json.loads((tmp_path / 'out' / 'compared.json').read_text())['runs'][1]['arms'] == {'grpo': 'espo'}


@pytest.mark.parametrize(
  ('differences', 'said'),
  [
    ({'b': [1.0, 1.1, 0.9, 1.0], 'c': [-1.0, -1.1, -0.9, -1.0]}, 'ahead: `b`; behind: `c`; not told apart: none'),
    ({'b': [0.1, -0.1, 0.2, 0.0], 'c': [1.0]}, 'ahead: none; behind: none; not told apart: `b`, `c`'),  # one seed tells nothing
    ({'b': [1.0, 2.0, 1.5, 0.5]}, 'ahead: `b`; behind: none; not told apart: none'),  # p = 0.035
    ({'b': [1.0, 2.0, 1.5, 0.5], 'c': [1.0, 2.0, 1.5, 0.5]}, 'ahead: none; behind: none; not told apart: `b`, `c`'),
  ],
  ids=str,
)
def test_arms_are_told_apart_after_a_correction_for_their_number(differences, said):
  columns = (sweep.ACCURACY,)
  spec = sweep.Sweep(
    base='', arms={arm: {} for arm in ('a', *differences)}, seeds=(0,), baseline='a', columns=columns, primary='accuracy %'
  )
  compared = {'a': {'accuracy %': {'mean': 0.0}}} | {
    arm: {'accuracy %': {'against': {'mean': np.mean(values), 'values': dict(enumerate(values))}}}
    for arm, values in differences.items()
  }
  corrected = sum(len(values) > 1 for values in differences.values())
  assert f'{corrected} arms: {said}.' in told_apart(spec, compared)


def test_a_file_without_a_comparison_is_told():
  with pytest.raises(ConfigError, match=r'--sweep=experiments/quickstart\.py: no get_sweep\(\) in it; fix: a file such as'):
    sweep.load_sweep('experiments/quickstart.py')


def test_what_is_done_is_skipped_and_prose_is_kept(trained, tmp_path, capsys):
  file, workdir, output = sweep_file(tmp_path), tmp_path / 'runs', tmp_path / 'page'
  assert compare_arms(file, workdir, output, seeds=[1]) is None
  assert '3 of 9 runs are done' in capsys.readouterr().out
  assert compare_arms(file, workdir, output) is not None
  assert [seed for seed, _ in trained] == [1, 1, 1, 0, 0, 0, 2, 2, 2]
  page = output.with_suffix('.md')
  page.write_text(page.read_text().replace('# Two arms\n', '# Two arms\n\nBefore.\n') + '\nBehind.\n')
  before = page.read_text()
  compare_arms(file, workdir, output)
  assert len(trained) == 9
  assert page.read_text() == before
  page.write_text('mine')
  with pytest.raises(ConfigError, match=r'was not written by espo_jax\.sweep'):
    compare_arms(file, workdir, output)
  with pytest.raises(ConfigError, match=r'learner.updates = 5 was 10'):
    compare_arms(sweep_file(tmp_path, common="{'baselines': (), 'learner.updates': 5}"), workdir, tmp_path / 'other')
  with pytest.raises(ConfigError, match=r'--seeds: 7 is none of the seeds'):
    compare_arms(file, workdir, tmp_path / 'other', seeds=[7])


def test_an_interrupted_sweep_goes_on_and_a_failed_arm_is_a_result(trained, tmp_path, monkeypatch):
  file, workdir, output = sweep_file(tmp_path), tmp_path / 'runs', tmp_path / 'page'
  pretend, moments = running.train, iter([None, None, Interrupted('saved'), None, None, None, TrainingFailed('nan')])

  def disturbed(config, folder, watch=None):
    if (raised := next(moments, None)) is not None:
      monitor.write_run_info(folder, config.to_dict())
      raise raised
    pretend(config, folder, watch)

  monkeypatch.setattr(running, 'train', disturbed)
  with pytest.raises(Interrupted):
    compare_arms(file, workdir, output)
  assert trained == [(0, 'start'), (0, 'grpo')]
  record = compare_arms(file, workdir, output)
  assert trained == [(0, 'start'), (0, 'grpo'), (0, 'dapo'), (1, 'start'), (1, 'grpo'), (2, 'start'), (2, 'grpo'), (2, 'dapo')]
  assert record['columns']['dapo']['accuracy %']['against']['values'].keys() == {'0', '2'}
  assert '| dapo (1 of 3 failed) |' in output.with_suffix('.md').read_text()


def test_a_comparison_whose_picture_cannot_be_drawn_is_written(tmp_path, trained, monkeypatch, caplog):
  monkeypatch.setattr('espo_jax.monitor.arms.plot_arms', mock.Mock(side_effect=ValueError('broken')))
  output = tmp_path / 'qwen2.5'  # a dot in the name begins no suffix
  compare_arms(sweep_file(tmp_path, seeds='(0,)'), tmp_path / 'runs', output)
  assert '| grpo |' in (tmp_path / 'qwen2.5.md').read_text()
  assert json.loads((tmp_path / 'qwen2.5.json').read_text())['columns']['grpo']
  assert f'{output}.png: was not written' in caplog.text


def test_equal_arms_are_one_run_and_each_is_its_own_stop_rule(tmp_path):
  spec, _ = sweep.load_sweep('experiments/sweeps/quickstart.py')
  runs = sweep.plan(spec, tmp_path)
  assert [(run.seed, run.name, run.arms) for run in runs[2:4]] == [
    (1, 'start', {}),
    (1, 'PPO', {'PPO': 'never', 'random': 'random', 'ESPO': 'espo'}),
  ]
  assert tuple(runs[0].config.stages) == ('warm_start',)
  assert tuple(runs[1].config.stages) == ('critic_warmup', 'rl')


@pytest.mark.parametrize('path', sorted(pathlib.Path('experiments/sweeps').glob('*.py')), ids=lambda path: path.stem)
def test_the_comparisons_of_the_house_can_run(tmp_path, path):
  spec, title = sweep.load_sweep(path)
  runs = sweep.plan(spec, tmp_path)
  assert title
  assert {arm for run in runs for arm in run.arms} == set(spec.arms)


def test_a_printed_command_is_the_run(tmp_path, monkeypatch):
  file = sweep_file(
    tmp_path, common="{'baselines': (), 'reward.name': 'hmpo & format', 'reward.budget': 'mean', 'stop.eta': 1}"
  )
  for run in sweep.plan(sweep.load_sweep(file)[0], tmp_path / 'runs'):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True, flag_values=values)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    arguments = shlex.split(run.command)
    assert arguments[:3] == ['python', '-m', 'espo_jax.train']
    monkeypatch.setattr('sys.argv', arguments[2:])  # where config_flags looks for overrides
    values(arguments[2:])
    assert flatten(values.config) == flatten(run.config)
    assert values.workdir == str(run.workdir)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'baseline': "'ppo'"}, "baseline = 'ppo' is none of the arms grpo, dapo"),
    ({'seeds': '(0, 0)'}, 'seeds = .0, 0.: none, or one of them twice'),
    ({'seeds': '()'}, 'seeds = ..: none'),
    ({'seeds': '3'}, 'seeds = 3: no tuple of what it lists; fix: such as .0, 1, 2.'),
    ({'columns': '(ACCURACY)'}, 'columns = Column.*: no tuple of what it lists'),
    ({'columns': "('accuracy',)"}, "columns = .'accuracy',.: no tuple of what it lists"),
    ({'shared_stages': "('warm_start')"}, "shared_stages = 'warm_start': no tuple .* such as .'warm_start',."),
    ({'arms': "{'grpo': {}, 'a/b': {}}"}, "arms: 'a/b' names a folder"),
    ({'arms': "{'grpo': {}, 'start': {}}"}, "arms: 'start' names a folder"),
    ({'columns': '(ACCURACY, ACCURACY)'}, 'two of one label'),
    ({'primary': "'accuracy'"}, "primary = 'accuracy' is no column with differences; fix: one of 'accuracy %'"),
    ({'rules': "{'ppo': 'never'}"}, "rules: 'ppo' is none of the arms"),
    ({'rules': "{'grpo': 'never'}"}, "arm 'grpo': its run trains the stop rules espo, and not"),
    ({'arms': "{'grpo': {}, 'b': {'learner.updtes': 4}}"}, "arm 'b': learner.updtes = 4.* did you mean learner.updates"),
    ({'arms': "{'grpo': {}, 'b': {'lerner.updates': 4}}"}, "arm 'b': lerner.updates = 4.* did you mean learner.updates"),
    ({'arms': "{'grpo': {}, 'b': {'learner.updates': 'x'}}"}, "arm 'b': learner.updates = 'x'"),
    ({'arms': "{'grpo': {}, 'b': {'reward.name': 'hmpp'}}"}, "arm 'b': reward.name = 'hmpp'.* did you mean 'hmpo'"),
    ({'arms': "{'grpo': {}, 'b': {'seed': 4}}"}, "arm 'b': seed is the sweep's to set"),
    ({'arms': "{'grpo': {}, 'b': {'model.num_layers': 3}}"}, "arm 'b' against what a seed shares: its model.num_layers is 2"),
    ({'arms': "{'grpo': {}, 'b': {'stages': ('warm_start',)}}"}, "arm 'b': stages = .* add 'rl'"),
    ({'shared_stages': "('rl',)"}, 'what a seed shares: shared_stages'),
    ({'common': "{'baselines': (), 'learner.updtes': 4}"}, 'learner.updtes = 4.* did you mean learner.updates'),
    ({'base': "'experiments/none.py'"}, "base = 'experiments/none.py': FileNotFoundError"),
    ({'sedes': '()'}, "TypeError: .*'sedes'"),
    ({'early_end': "'medain'"}, "early_end = 'medain': 'medain' is unknown; did you mean 'median'"),
    ({'early_end': "'median'", 'early_end_options': "{'warmup': 1}"}, "early_end_options = .*'warmup'"),
    ({'early_end': "'hyperband'", 'early_end_options': "{'eta': 1}"}, 'early_end_options = .*: no rungs; fix: least = 1'),
    (
      {'early_end': "'hyperband'", 'early_end_options': "{'eta': 2.5}"},
      'eta=2.5: not of type int; fix: such as eta=3',
    ),
    ({'early_end': "'lc_powerlaw'", 'early_end_options': "{'tail': 0}"}, 'tail = 0: out of range; fix: a number of at least 1'),
    ({'early_end': "'median'", 'common': '{}'}, 'early_end ends no run that trains several stop rules'),
  ],
)
def test_what_cannot_run_is_said_before_anything_runs(trained, tmp_path, changes, message):
  with pytest.raises(ConfigError, match=message):
    compare_arms(sweep_file(tmp_path, **changes), tmp_path / 'runs', tmp_path / 'page')
  assert not trained
  with pytest.raises(SystemExit, match='error: '):
    main([f'--sweep={tmp_path / "compared.py"}', f'--workdir={tmp_path / "runs"}', '--compilation_cache_dir='])


def test_an_early_end_ends_hopeless_runs_and_a_second_call_leaves_them(trained, tmp_path):
  arms = '{' + ', '.join(f"'{name}': {{'objective.name': '{name}'}}" for name in ('grpo', 'gspo', 'dapo', 'gmpo')) + '}'
  options = "{'runs': 2, 'first': 2}"
  file = sweep_file(tmp_path, arms=arms, early_end="'median'", early_end_options=options)
  for _ in range(2):
    record = compare_arms(file, tmp_path / 'runs', tmp_path / 'page')
    assert len(trained) == 15
    states = {(run['seed'], run['name']): run['state'] for run in record['runs']}
    # dapo's accuracy is below 0.3, the others' above 0.8; gspo meets one earlier run, fewer than `runs`
    assert {key for key, state in states.items() if state == 'ended early'} == {(seed, 'dapo') for seed in (0, 1, 2)}
  assert [row['step'] for row in monitor.read_metrics(tmp_path / 'runs/seed_0/dapo/arms/espo')] == [1, 2]
  assert all(run['message'].startswith('update 2: ') for run in record['runs'] if run['state'] == 'ended early')
  assert record['columns']['dapo']['accuracy %'] is None
  assert '| dapo (3 of 3 ended early) |' in (tmp_path / 'page.md').read_text()


@pytest.fixture(scope='module')
def joint(tmp_path_factory) -> pathlib.Path:
  """The quickstart's own run: warm start, critic warm-up and an arm in one go."""
  spec, _ = sweep.load_sweep(sweep_file(tmp_path_factory.mktemp('joint'), common=SHALLOW))
  config = sweep.plan(spec, pathlib.Path('unused'))[0].config.copy_and_resolve_references().unlock()
  config.stages = ('warm_start', 'critic_warmup', 'rl')
  path = tmp_path_factory.mktemp('run')
  train(config.lock(), path, check_memory=False)
  return path


def measured(directory: pathlib.Path) -> list[dict]:
  of_the_process = ('seconds/', 'tokens_per_second', 'process/')
  return [{k: v for k, v in row.items() if not k.startswith(of_the_process)} for row in monitor.read_metrics(directory)]


def test_an_arm_from_a_shared_start_is_the_arm_of_one_run(joint, tmp_path, monkeypatch):
  monkeypatch.setattr(running, 'train', functools.partial(train, check_memory=False))  # which compiles all programs twice
  file = sweep_file(tmp_path, arms="{'espo': {}}", baseline="'espo'", seeds='(0,)', common=SHALLOW)
  record = compare_arms(file, tmp_path / 'runs', tmp_path / 'page')
  ours, its = (path / 'arms' / 'espo' for path in (tmp_path / 'runs/seed_0/espo', joint))
  np.testing.assert_equal(measured(ours), measured(its))
  assert (ours / 'evaluation.json').read_text() == (its / 'evaluation.json').read_text()
  assert record['columns']['espo']['accuracy %']['half'] is None
  assert load_config(tmp_path / 'runs/seed_0/espo/config.json').start_from == str(tmp_path / 'runs/seed_0/start')


def test_an_arm_is_evaluated_while_it_trains(joint):
  rows = monitor.read_metrics(joint / 'arms' / 'espo')
  assert [row['step'] for row in rows if 'eval/accuracy' in row] == [4, 8]
  for row in rows:
    assert ('eval/tokens_mean' in row) == (row['step'] in (4, 8))
  decoded = np.cumsum([row['rollout/tokens'] + row['rollout/shadow_tokens'] for row in rows])
  np.testing.assert_array_equal([row['rollout/decoded'] for row in rows], decoded)


def test_an_arm_ends_where_its_tokens_do(joint, tmp_path):
  rows = measured(joint / 'arms' / 'espo')
  config = load_config(joint / 'config.json').unlock()
  config.learner.tokens = int(rows[5]['rollout/decoded'])
  for stage in ('warm_start', 'critic_warmup'):
    shutil.copytree(joint / stage, tmp_path / stage)
  train(config.lock(), tmp_path, check_memory=False)
  np.testing.assert_equal(measured(tmp_path / 'arms' / 'espo'), rows[:6])


def outcome(arm, marks, peers, start=0.2):
  """A run with the accuracy `y` after `x` decoded tokens for each of its marks, of which the last is its end."""
  metrics = [{'rollout/decoded': float(x), 'eval/accuracy': y} for x, y in marks]
  del metrics[-1]['eval/accuracy']
  peers[arm] = sweep.Outcome(arm, 0, {'accuracy': marks[-1][1]}, {'accuracy': start}, metrics, peers)
  return peers[arm]


def test_the_area_is_the_mean_accuracy_up_to_half_of_the_tokens_of_an_arm():
  peers = {}
  ppo = outcome('PPO', [(100, 0.4), (200, 0.6), (400, 0.8)], peers)
  half = sweep.share_of_tokens('PPO', 0.5)
  assert half(ppo) == 200
  assert sweep.area_to(half)(ppo) == pytest.approx((0.3 * 100 + 0.5 * 100) / 200)
  assert sweep.accuracy_at(half)(ppo) == pytest.approx(0.6)
  ours = outcome('ours', [(150, 0.5), (250, 0.9)], peers)
  assert sweep.accuracy_at(half)(ours) == pytest.approx(0.7)
  assert sweep.area_to(half)(ours) == pytest.approx((0.35 * 150 + 0.6 * 50) / 200)
  short = outcome('short', [(90, 0.5), (199, 0.9)], peers)
  assert sweep.area_to(half)(short) is None and sweep.accuracy_at(half)(short) is None  # nothing is extrapolated
  assert sweep.area_to(sweep.share_of_tokens('none', 0.5))(ours) is None
  at_end = outcome('at end', [(200, 0.5)], peers)
  assert sweep.area_to(half)(at_end) == pytest.approx(0.35) and sweep.accuracy_at(half)(at_end) == pytest.approx(0.5)


def test_the_scale_check_is_planned_on_a_small_model(tmp_path):
  spec = runpy.run_path('experiments/sweeps/scale.py')['get_sweep'](base='experiments/scale.py:smoke')
  runs = sweep.plan(spec, tmp_path)
  validate(runs[0].config)  # the others start where it ends
  stop = runs[-1].config.stop
  assert (stop.name, stop.smoothing, stop.epsilon, stop.beta_0, stop.eta) == ('espo', 0.9, 0.2, 7.0, 0.1)


def test_what_is_not_shared_is_each_arms(tmp_path):
  common = "{'baselines': (), 'stages': ('warm_start', 'calibration', 'rl'), 'exits.every': 1}"
  arms = "{'grpo': {}, 'other': {'exits.kind': 'mlp'}}"
  spec, _ = sweep.load_sweep(sweep_file(tmp_path, common=common, arms=arms))
  assert [tuple(run.config.stages) for run in sweep.plan(spec, tmp_path)[:2]] == [('warm_start',), ('calibration', 'rl')]
  shared = "('warm_start', 'calibration')"
  spec, _ = sweep.load_sweep(sweep_file(tmp_path, common=common, arms=arms, shared_stages=shared))
  with pytest.raises(
    ConfigError, match=r"arm 'other' against what a seed shares: its exits.kind is 'linear' and this one 'mlp'"
  ):
    sweep.plan(spec, tmp_path)


@pytest.mark.parametrize(
  ('field', 'value'), [('every', 2), ('kind', 'mlp'), ('first_block', 2), ('translator', 'token'), ('width', 8)]
)
def test_a_start_from_calibrated_exits_has_to_have_the_same_networks(field, value):
  theirs, mine = default_config(), default_config()
  theirs.stages, theirs.exits.every, mine.exits.every, mine.exits.alone = ('calibration',), 1, 1, True
  assert not list(model_differences(mine, theirs))
  before, mine.exits[field] = mine.exits[field], value
  (problem,) = model_differences(mine, theirs)
  assert problem == f'its exits.{field} is {before!r} and this one {value!r}; fix: exits.{field} = {before!r}'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'stages': ('warm_start', 'rl')}, r"start_from = .*takes the place of a warm start; fix: stages = \('rl',\)"),
    ({'start_from': 'no/such/run'}, "start_from = 'no/such/run': holds no config.json"),
    ({'model.hidden_size': 24}, 'its model.hidden_size is 16 and this one 24; fix: model.hidden_size = 16'),
    ({'task.options.max_ops': 2}, r"its tokenizer has 19 tokens and this one 18, which differ in \['c'\]"),
  ],
)
def test_a_start_of_another_kind_is_refused(joint, changes, message):
  config = load_config(joint / 'config.json').unlock()
  config.stages, config.start_from = ('critic_warmup', 'rl'), str(joint)
  for field, value in changes.items():
    *sections, last = field.split('.')
    holder = config
    for section in sections:
      holder = holder[section]
    holder[last] = value
  with pytest.raises(ConfigError, match=message):
    train(config.lock(), joint.parent / 'never_made')
  assert not (joint.parent / 'never_made').exists()


def test_a_reward_that_fails_ends_a_comparison_with_one_line(tmp_path, monkeypatch):
  def failing(*_):
    raise RewardError("reward 'brief': ZeroDivisionError")

  monkeypatch.setattr('espo_jax.sweep.run_all', failing)
  with pytest.raises(SystemExit, match="error: reward 'brief': ZeroDivisionError"):
    main([f'--sweep={sweep_file(tmp_path)}', f'--workdir={tmp_path / "runs"}', '--compilation_cache_dir='])
