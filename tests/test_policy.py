"""The policy that evaluate, convert and `start_from` find in a run: of the newest whole checkpoint, and of the same model."""

import pathlib
import runpy
import shutil

import jax
import numpy as np
import pytest
from absl import logging
from small import randomised
from test_damage import DAMAGED, files

from espo_jax import convert
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.policies import RequestError, open_policy, start_params
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.learner import CheckpointError, Checkpoints, init_state
from espo_jax.monitor import write_run_info
from espo_jax.stages.changes import stage_origin
from espo_jax.stages.warm_start import supervised_learner

ROOT = pathlib.Path(__file__).parents[1]
OLDER, NEWER, WHOLE = 2, 3, ('its metadata is cut', 'the index is cut', 'the data are empty')


def config_of(**changes):
  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  config.mesh.data = 1
  config.model.hidden_size, config.model.intermediate_size = 32, 64  # arrays that stand in files of their own
  for name, value in changes.items():
    section, _, field = name.partition('__')
    config[section][field] = value
  return config


def beginning_from(workdir):
  config = config_of()
  config.start_from = str(workdir)
  return make_experiment(config)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """What a run leaves behind, its steps replaced by random parameters, and those of its last two steps."""
  workdir, params = tmp_path_factory.mktemp('policy') / 'run', {}
  config = config_of()
  write_run_info(workdir, config.to_dict())
  exp = make_experiment(config)
  learner, never = supervised_learner(exp), make_rule(config, 'never')
  with Checkpoints(workdir / 'arms' / 'espo' / 'checkpoints', origin=stage_origin(config, 'espo')) as checkpoints:
    for step in (OLDER, NEWER):
      params[step] = exp.put(randomised(exp.abstract_params(), seed=step))
      checkpoints.save(step, init_state(params[step], learner.optimizer, never), done=True)
  return workdir, params


@pytest.fixture
def copy(trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / 'run')
  return tmp_path / 'run'


def harm(workdir, case, *steps):
  apply, find, reason = DAMAGED[case]
  for step in steps:
    apply(find(workdir / 'arms' / 'espo' / 'checkpoints' / str(step)))
  return reason


def same(ours, theirs):
  return all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True))


@pytest.mark.parametrize('case', [case for case in DAMAGED if case not in ('the data are garbled', 'the metrics are empty')])
def test_the_newest_whole_checkpoint_is_the_policy_and_a_damaged_one_is_left_alone(case, copy, monkeypatch):
  told = []
  monkeypatch.setattr(logging, 'warning', lambda message, *values: told.append(message % values))
  reason = harm(copy, case, NEWER)
  before = files(copy)
  assert open_policy(copy).step == OLDER
  (warning,) = told
  assert warning.startswith(f'{copy}/arms/espo/checkpoints/{NEWER} cannot be read: ')
  assert reason in warning
  assert warning.endswith(f'; it is left alone, and step {OLDER} is used')
  assert files(copy) == before


@pytest.mark.parametrize(('field', 'value'), [('seed', 7), ('task.options.min_ops', 2)])
def test_a_checkpoint_of_another_run_is_not_the_policy(field, value, copy):
  config = config_of()
  section, _, name = field.rpartition('.')
  (config if not section else config.task.options)[name] = value
  write_run_info(copy, config.to_dict())  # as if the checkpoints had been copied into the folder of that run
  with pytest.raises(CheckpointError, match=rf'/{NEWER}: it is of another run: {field} = .* there and {value} here'):
    open_policy(copy)
  with pytest.raises(ConfigError, match=f'{field} = .* there and {value} here'):
    start_params(beginning_from(copy))


def test_the_checkpoints_of_another_arm_are_not_the_policy(copy):
  (copy / 'arms/espo').rename(copy / 'arms/never')
  with pytest.raises(CheckpointError, match=r"stage = 'espo' there and 'never' here"):
    open_policy(copy, 'never')


def test_every_command_goes_on_from_the_newest_whole_one(trained, copy, capfd):
  harm(copy, 'the data are empty', NEWER)
  policy = open_policy(copy)
  exp = make_experiment(policy.config)
  assert same(policy.load(exp), trained[1][OLDER])
  assert same(start_params(beginning_from(copy)), trained[1][OLDER])
  convert.main([f'--checkpoint={copy}', f'--output={copy}-hf'])
  assert (copy.parent / 'run-hf' / 'model.safetensors').exists()
  with pytest.raises(SystemExit, match=f'--step={NEWER}: .*/{NEWER} cannot be read: .* has 0 bytes .*; fix: --step={OLDER}$'):
    evaluate_main([f'--checkpoint={copy}', f'--step={NEWER}'])


@pytest.mark.parametrize('case', WHOLE)
@pytest.mark.parametrize('command', ['evaluate', 'convert', 'start_from'])
def test_where_none_is_whole_every_command_names_the_folders_and_the_fix(command, case, copy):
  reason = harm(copy, case, OLDER, NEWER)
  before = files(copy)
  with pytest.raises((SystemExit, ConfigError), match=r'no checkpoint under .* is whole: .*; fix: a copy of') as refused:
    if command == 'evaluate':
      evaluate_main([f'--checkpoint={copy}'])
    elif command == 'convert':
      convert.main([f'--checkpoint={copy}', f'--output={copy}-hf'])
    else:
      start_params(beginning_from(copy))
  for step in (OLDER, NEWER):
    assert f'{copy}/arms/espo/checkpoints/{step}: ' in str(refused.value)
  assert str(refused.value).count(reason) >= 2
  assert ('start_from = ' in str(refused.value)) == (command == 'start_from')
  assert files(copy) == before


def test_what_only_reading_shows_is_an_error_that_names_the_folder(copy):
  harm(copy, 'the data are garbled', NEWER)
  policy = open_policy(copy)
  with pytest.raises(CheckpointError, match=rf'/{NEWER} cannot be read: .*; fix: another --step, or move the folder away'):
    policy.load(make_experiment(policy.config))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model__hidden_size': 16}, r'params/policy/embedding has the shape \(19, 32\) there and \(19, 16\) here'),
    ({'model__intermediate_size': 48}, r'mlp/down_proj/kernel has the shape \(64, 32\) there and \(48, 32\) here'),
    ({'model__num_layers': 3}, r'params/policy/layer_2/attention/k_proj/kernel, of the shape \(32, 8\), stands here alone'),
    ({'model__num_layers': 1}, r'params/policy/layer_1/attention/k_proj/kernel, of the shape \(32, 8\), stands there alone'),
    ({'model__num_heads': 4}, r'layer_0/attention/o_proj/kernel has the shape \(16, 32\) there and \(32, 32\) here'),
    ({'model__num_kv_heads': 2}, r'layer_0/attention/k_proj/kernel has the shape \(32, 8\) there and \(32, 16\) here'),
    ({'model__head_dim': 16}, r'layer_0/attention/k_proj/kernel has the shape \(32, 8\) there and \(32, 16\) here'),
    ({'model__tie_word_embeddings': False}, r'params/policy/lm_head/kernel, of the shape .*, stands here alone'),
    ({'model__scan_layers': True}, r'params/policy/layer_0/\S+, of the shape .*, stands there alone'),
    ({'task__name': 'countdown'}, r'params/policy/embedding has the shape \(19, 32\) there and \(\d+, 32\) here'),
  ],
)
def test_a_checkpoint_of_other_shapes_is_refused_with_the_parameter_both_shapes_and_the_fix(changes, message, trained, copy):
  config = config_of(**changes)
  if 'task__name' in changes:
    config.task.options = {}
  exp = make_experiment(config)
  fix = r'.*; fix: the model fields, tokenizer and model.path that it was trained with, or another folder'
  with pytest.raises(CheckpointError, match=message + fix):
    open_policy(copy).load(exp)
  exp.config.start_from = str(copy)
  with pytest.raises(ConfigError, match=r'start_from = .*' + message + fix):
    start_params(exp)


@pytest.mark.parametrize(
  'changes',
  [{}, {'model__lora': {'rank': 2}}, {'exits__every': 1}, {'advantage__name': 'group_zscore'}],
)
def test_heads_and_adapters_that_a_run_has_not_are_as_from_nothing(changes, trained):
  config = config_of(**{name: value for name, value in changes.items() if name != 'model__lora'})
  if 'model__lora' in changes:
    config.model.lora.rank = 2
  exp = make_experiment(config)
  exp.config.start_from = str(trained[0])
  params = start_params(exp)
  assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, exp.abstract_params())
  np.testing.assert_array_equal(params['policy']['embedding'], trained[1][NEWER]['policy']['embedding'])


def test_a_run_starts_from_the_arm_or_stage_that_is_named(trained, copy):
  config, given = config_of(), {}
  never = make_rule(config, 'never')
  for folder, seed in (('warm_start', 3), ('arms/never', 4)):
    exp = make_experiment(config)
    given[folder] = exp.put(randomised(exp.abstract_params(), seed=seed))
    with Checkpoints(copy / folder / 'checkpoints') as checkpoints:
      checkpoints.save(1, init_state(given[folder], supervised_learner(exp).optimizer, never), done=True)
  given |= {'arms/espo': trained[1][NEWER], '.': trained[1][NEWER]}
  for folder, params in given.items():
    started = start_params(beginning_from(copy / folder))
    np.testing.assert_array_equal(started['policy']['embedding'], params['policy']['embedding'], err_msg=folder)
  config.stages, config.start_from = ('critic_warmup', 'rl'), str(copy / 'arms/gone')
  with pytest.raises(
    ConfigError, match=r'arms/gone.: has no checkpoints; fix: \S+/arms/espo or \S+/arms/never or \S+/warm_start'
  ):
    validate(config)


def test_adapters_that_the_config_has_not_are_not_dropped(tmp_path):
  config = config_of()
  config.model.lora.rank = 2
  write_run_info(tmp_path, config.to_dict())
  exp = make_experiment(config)
  state = init_state(
    exp.put(randomised(exp.abstract_params(), seed=0)), supervised_learner(exp).optimizer, make_rule(config, 'never')
  )
  with Checkpoints(tmp_path / 'arms' / 'espo' / 'checkpoints') as checkpoints:
    checkpoints.save(1, state, done=True)
  with pytest.raises(ConfigError, match=r'/lora_a, of the shape \(.*\), stands there alone'):
    start_params(beginning_from(tmp_path))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('5', 'no JSON object; fix: the config.json of a run'),
    (None, 'its config trains nothing, as that of an evaluation; fix: '),
  ],
)
def test_a_checkpoint_that_is_no_run_is_told(tmp_path, text, message):
  config = default_config()
  config.stages = ()
  (tmp_path / 'config.json').write_text(text or config.to_json())
  with pytest.raises(RequestError, match=message):
    open_policy(tmp_path)
