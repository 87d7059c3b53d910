"""A machine without a device or without memory is told of in one line: what is missing, where it was met, and what to do."""

import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from tiny import write_checkpoint

from espo_jax import convert, experiment, plot_exits, prepare_data, replay, train
from espo_jax.commands import lower_fields
from espo_jax.configs import ConfigError, default_config, flatten, validate
from espo_jax.configs.memory import TRAINING, smaller
from espo_jax.evaluate import evaluation, policies
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.learner import init_state
from espo_jax.monitor import write_run_info
from espo_jax.parallel import devices
from espo_jax.parallel.devices import no_device, overlooked
from espo_jax.parallel.memory import LOADING, READING, OutOfMemory, during
from espo_jax.replay.__main__ import main as replay_main
from espo_jax.stages import metrics, rl
from espo_jax.stages.headline import headline, kept_bytes
from espo_jax.stages.loop import Interrupted
from espo_jax.sweep.__main__ import main as sweep_main

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = ('train', 'sweep', 'evaluate', 'convert', 'depth', 'replay')
SWEEP = """from espo_jax.sweep import *
def get_sweep():
  return Sweep(base='experiments/quickstart.py:smoke', arms={'a': {}}, baseline='a', seeds=(0,), common={'baselines': ()})
"""


def smoke(name: str = 'quickstart'):
  return runpy.run_path(str(ROOT / 'experiments' / f'{name}.py'))['get_config']('smoke')


@pytest.fixture
def call(tmp_path, monkeypatch):
  """Calls a command on what looks like a run as far as its folder's names go."""
  monkeypatch.chdir(ROOT)
  run = tmp_path / 'run'
  config = smoke('early_exits')
  write_run_info(run, config.to_dict())
  write_checkpoint(run / 'arms' / config.stop.name / 'checkpoints' / '3')
  (tmp_path / 'compared.py').write_text(SWEEP)
  monkeypatch.setattr(replay, 'read_recordings', lambda folder: (None, [run / 'x.npz']))
  monkeypatch.setattr(replay, 'check_halves', lambda *_: None)

  def flag(module, name, value):
    monkeypatch.setattr(module, f'_{name.upper()}', types.SimpleNamespace(value=value, name=name))

  for module, values in (
    (
      train,
      {'config': smoke(), 'workdir': str(tmp_path / 'new'), 'cache': '', 'check_memory': True, 'log': (), 'changed': ()},
    ),
    (plot_exits, {'checkpoint': str(run), 'arm': None, 'output': str(tmp_path / 'depth.png'), 'rows': 6}),
  ):
    for name, value in values.items():
      flag(module, name, value)
  calls = {
    'train': lambda: train.main(['train']),
    'sweep': lambda: sweep_main(
      [f'--sweep={tmp_path / "compared.py"}', f'--workdir={tmp_path / "runs"}', '--compilation_cache_dir=']
    ),
    'evaluate': lambda: evaluate_main([f'--checkpoint={run}', '--samples=4', '--batch=8']),
    'convert': lambda: convert.main([f'--checkpoint={run}', f'--output={tmp_path / "hf"}']),
    'depth': lambda: plot_exits.main(['depth']),
    'replay': lambda: replay_main([f'--rollouts={run}']),
  }
  return lambda command: calls[command]()


# ---------------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize('platform', ['cuda', 'tpu', 'rocm', 'none_such'])
@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_without_a_device_names_the_variable_its_value_and_the_fix(call, monkeypatch, command, platform):
  def fails():
    if platform == 'cuda':
      raise AssertionError
    raise RuntimeError(f"Unable to initialize backend '{platform}': no such thing\nand more")

  config = types.SimpleNamespace(values={'jax_platforms': platform})
  monkeypatch.setattr(devices, 'jax', types.SimpleNamespace(devices=fails, config=config))
  with pytest.raises(SystemExit, match=rf'^error: JAX_PLATFORMS={platform}: .*fix: .*JAX_PLATFORMS=cpu') as caught:
    call(command)
  assert 'and more' not in str(caught.value)


@pytest.mark.parametrize(
  ('platforms', 'reason', 'environment', 'said'),
  [
    ('cuda', '', {}, [r"pip install -e '.\[cuda\]'", 'NVIDIA GPU and its driver']),
    ('gpu', '', {}, ['a GPU and its driver']),
    ('tpu', 'Failed to open libtpu.so', {}, [r'\(Failed to open libtpu.so\)', r"pip install -e '.\[tpu\]'"]),
    ('tpu', 'The TPU is already in use by process 7\nmore', {}, [r'\(The TPU is already in use by process 7\)']),
    ('rocm', "not in the list of known backends: ['cpu', 'tpu']", {}, ['AMD GPU', "jax's ROCm plugin"]),
    ('cuda,tpu', '', {}, ['JAX_PLATFORMS=cuda,tpu: jax finds no such device']),
    ('cudda', '', {}, ["knows no platform 'cudda'", 'did you mean cuda', 'fix: JAX_PLATFORMS=cuda']),
    ('CUDA', '', {}, ['fix: JAX_PLATFORMS=cuda']),
    ('gpus', '', {}, ['fix: JAX_PLATFORMS=gpu']),
    ('tpu ', '', {}, ['fix: JAX_PLATFORMS=tpu']),
    ('cpu,cuad', '', {}, ["knows no platform 'cuad'", 'known: cpu, cuda']),
    ('none_such', '', {}, ['fix: JAX_PLATFORMS=cpu, or leave it out']),
    ('', 'libtpu is damaged', {}, [r"JAX_PLATFORMS='': jax finds no device \(libtpu is damaged\); fix: JAX_PLATFORMS=cpu"]),
    ('cuda', '', {'CUDA_VISIBLE_DEVICES': ''}, ["CUDA_VISIBLE_DEVICES='' hides all; fix: CUDA_VISIBLE_DEVICES=0"]),
    ('cuda', '', {'CUDA_VISIBLE_DEVICES': '-1'}, ["CUDA_VISIBLE_DEVICES='-1' hides all"]),
    ('tpu', '', {'CUDA_VISIBLE_DEVICES': ''}, ['on the processor, or a TPU VM']),
  ],
)
def test_what_is_missing_follows_from_the_platform_that_was_asked_for(platforms, reason, environment, said):
  message = no_device(platforms, reason, environment)
  for fragment in said:
    assert re.search(fragment, message), message


@pytest.mark.parametrize(
  ('files', 'programs', 'environment', 'fix'),
  [
    (['/dev/nvidia0'], [], {}, r"pip install -e '.\[cuda\]'"),
    (['/proc/driver/nvidia/version'], [], {}, r"/proc/driver/nvidia/version.*pip install -e '.\[cuda\]'"),
    ([], ['nvidia-smi'], {}, r"/usr/bin/nvidia-smi.*pip install -e '.\[cuda\]'"),
    (['/dev/nvidia0'], [], {'CUDA_VISIBLE_DEVICES': '0'}, 'JAX_PLATFORMS=cuda says what is wrong'),
    (['/dev/nvidia0'], [], {'JAX_PLATFORMS': 'cuda,cpu'}, 'an NVIDIA GPU'),
    (['/dev/nvidia0'], [], {'JAX_PLATFORMS': ''}, 'an NVIDIA GPU'),
    (['/dev/accel0'], [], {}, r"pip install -e '.\[tpu\]'"),
    (['/dev/vfio/0'], [], {}, r"pip install -e '.\[tpu\]'"),
    (['/dev/accel0'], [], {'CUDA_VISIBLE_DEVICES': ''}, 'a TPU'),
    (['/dev/kfd'], [], {}, "jax's ROCm plugin"),
    (['/dev/nvidia0'], ['nvidia-smi'], {'CUDA_VISIBLE_DEVICES': ''}, None),
    (['/dev/nvidia0'], ['nvidia-smi'], {'CUDA_VISIBLE_DEVICES': '-1'}, None),
    (['/dev/nvidia0'], ['nvidia-smi'], {'JAX_PLATFORMS': 'cpu'}, None),
    (['/dev/accel0'], [], {'JAX_PLATFORMS': 'cpu,tpu'}, None),
    (['/dev/vfio/vfio'], [], {}, None),
    ([], [], {}, None),
  ],
)
def test_an_accelerator_that_jax_does_not_see_is_told_of_unless_that_is_meant(files, programs, environment, fix):
  def which(program):
    return f'/usr/bin/{program}' if program in programs else None

  warning = overlooked('cpu', environment, files.__contains__, which)
  assert bool(warning) == (fix is not None)
  assert fix is None or re.search(fix, warning), warning
  assert not overlooked('gpu', environment, files.__contains__, which)


def test_the_warning_comes_once_with_the_first_look_at_the_devices(monkeypatch, caplog):
  monkeypatch.setattr(devices, 'overlooked', lambda *_: 'this machine has a GPU')
  devices._warn_once.cache_clear()
  assert [devices.find_devices(), devices.find_devices()] == [jax.devices()] * 2
  assert caplog.text.count('this machine has a GPU') == 1
  devices._warn_once.cache_clear()


# ----------------------------------------------------------------------------------------------------------------- memory


def full_device() -> Exception:
  """What jax raises where there is no room, from jax itself."""
  try:
    jnp.zeros(2**48, jnp.uint8).block_until_ready()
  except jax.errors.JaxRuntimeError as error:
    return error
  raise AssertionError('this machine has room for 2^48 bytes')


TOLD = [
  'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.',
  'RESOURCE_EXHAUSTED: Out of memory allocating 281474976710656 bytes.',
  'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 19.59G of 15.48G hbm.',
  'RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 1.00G. That was not possible.',
  'RESOURCE_EXHAUSTED: Attempting to reserve 12.40G at the bottom of memory. That was not possible.',
  'RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB (2147483648B) on device ordinal 0',
  'INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory',
  'INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory',
  'INTERNAL: hipError: hipErrorOutOfMemory',
  'UNKNOWN: CUDNN failed: GPU ran out of workspace',
]


@pytest.mark.parametrize('text', TOLD)
def test_no_memory_is_told_with_what_was_under_way_and_the_first_line(text):
  with pytest.raises(OutOfMemory) as caught, during('outer'), during('rollout'):
    raise jax.errors.JaxRuntimeError(f'{text}\nBufferAssignment OOM Debugging.\n' + 'x' * 1000)
  assert str(caught.value) == f'out of memory during rollout: {text}'


@pytest.mark.parametrize('error', [MemoryError(), MemoryError('Unable to allocate 2.0 TiB for an array with shape (9,)')])
def test_no_memory_of_the_host_is_told_alike(error):
  with (
    pytest.raises(OutOfMemory, match=rf'out of memory during reading: {str(error)[:20] or "MemoryError"}'),
    during('reading'),
  ):
    raise error


@pytest.mark.parametrize(
  'error',
  [
    jax.errors.JaxRuntimeError('INVALID_ARGUMENT: Executable expected shape f32[3]'),
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Received message larger than max (5 vs. 4)'),
    jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: Barrier timed out'),
    ValueError('out of memory'),
    KeyError('memory'),
  ],
)
def test_other_errors_pass_as_they_are(error):
  with pytest.raises(type(error)) as caught, during('rollout'):
    raise error
  assert caught.value is error


def named_flags(message: str) -> list[str]:
  """The flags that a fix names."""
  return re.findall(r'--([\w.]+)=', message.partition('; fix: ')[2])


@pytest.mark.parametrize('command', [c for c in COMMANDS if c != 'replay'])
@pytest.mark.parametrize('host', [True, False], ids=['host', 'device'])
def test_a_command_out_of_memory_names_the_phase_and_flags_that_it_has(call, monkeypatch, command, host):
  error = MemoryError('Unable to allocate 3.6 TiB') if host else full_device()

  def fails(*_, **__):
    raise error

  monkeypatch.setattr(experiment, 'complete', fails)  # parameters from nothing
  monkeypatch.setattr(policies, 'load', fails)  # and from a checkpoint
  with pytest.raises(SystemExit, match=rf'^error: out of memory during {LOADING}: ') as caught:
    call(command)
  message = str(caught.value)
  assert str(error).splitlines()[0] in message and '; fix: ' in message
  fields = flatten(default_config())
  known = {
    'train': {f'config.{field}' for field in fields},
    'sweep': set(),
    'evaluate': {'checkpoint', 'dtype', 'batch', 'slots', 'horizon'},
    'convert': set(),
    'depth': {'rows'},
  }[command]
  assert set(named_flags(message)) <= known
  if command == 'sweep':
    assert re.search(r"in common of .*compared.py: 'model.param_dtype': 'bfloat16'", message)
  if command == 'train':
    assert '--config.model.param_dtype=bfloat16' in message


def test_an_evaluation_out_of_memory_while_it_samples_says_what_to_lower(call, monkeypatch):
  def fails(*_, **__):
    raise full_device()

  monkeypatch.setattr(policies, '_load', lambda *_: {})
  monkeypatch.setattr(evaluation, 'sample_answers', fails)
  with pytest.raises(SystemExit, match=r'during sampling answers: RESOURCE_EXHAUSTED.*; fix: --batch=4, --slots=2,'):
    call('evaluate')


def test_a_replay_out_of_memory_says_what_to_lower(call, monkeypatch):
  def fails(*_):
    raise full_device()

  monkeypatch.setattr(replay, 'candidates', fails)
  with pytest.raises(SystemExit, match=r'error: out of memory: RESOURCE_EXHAUSTED.*; fix: --rates=0.01,0.05'):
    call('replay')
  monkeypatch.setattr(replay, 'read_recordings', fails)
  with pytest.raises(SystemExit, match=rf'during {READING}: .*; fix: --rollouts=RUN/arms'):
    call('replay')


def test_data_too_large_for_the_host_are_told_of(monkeypatch, tmp_path):
  def fails(*_, **__):
    raise MemoryError

  monkeypatch.setattr(prepare_data, 'read_rows', fails)
  flags = ['--benchmark=gsm8k', '--data=x.jsonl', '--split=train', f'--output={tmp_path / "out"}']
  with pytest.raises(SystemExit, match=rf'out of memory during {READING}: MemoryError; fix: --data=x.jsonl in parts'):
    prepare_data.main(flags)


@pytest.mark.parametrize('phase', ['rollout', 'reward', 'score', 'update'])
def test_a_training_step_names_its_phases(phase):
  with pytest.raises(OutOfMemory, match=f'out of memory during {phase}: '), metrics.Clock()(phase):
    raise full_device()


@pytest.mark.parametrize('phase', TRAINING)
@pytest.mark.parametrize('name', ['quickstart', 'early_exits', 'countdown', 'groups', 'scale'])
def test_what_is_to_be_lowered_is_a_config_that_runs(phase, name):
  def config():
    return runpy.run_path(str(ROOT / 'experiments' / f'{name}.py'))['get_config']()

  fixes = smaller(config(), phase)
  if phase != 'calibration' or 'calibration' in config().stages:
    assert fixes
  for field, value in fixes.items():
    changed = config()
    *sections, last = field.split('.')
    holder = changed
    for section in sections:
      holder = holder[section]
    assert holder[last] != value
    holder[last] = value
    validate(changed)  # raises where it cannot run
    assert f'--config.{field}={value}' in lower_fields(config(), phase)


def test_on_a_mesh_rows_still_divide():
  c = smoke()
  c.mesh.data, c.rollout.prompts, c.learner.minibatches = 8, 16, 1
  for field, value in (smaller(c, 'rollout') | smaller(c, 'evaluation')).items():
    if field in ('rollout.slots', 'eval.batch'):
      assert value % 8 == 0 and value > 0


# ------------------------------------------------------------------------------------------------------------- first line


def test_a_run_begins_with_a_line_that_says_what_it_is(tmp_path, monkeypatch, capsys):
  def stop(*_):
    raise Interrupted

  monkeypatch.setattr(train, 'warm_start', stop)
  with pytest.raises(Interrupted):
    train.train(smoke(), tmp_path / 'run')
  first = capsys.readouterr().out.splitlines()[0]
  model = r'model 2 layers of 16, [\d,]+ parameters in float32'
  memory = r'with the optimizer [\d.]+ [KM]iB of [\d.]+ GiB a device'
  dtype = 'computes in float32: a CPU converts bfloat16'
  assert re.fullmatch(rf'1 of 8 x cpu; {model}, {memory}; {dtype}; seed 0; {tmp_path}/run', first), first


@pytest.mark.parametrize('fields', [{}, {'mesh.fsdp': 2}, {'objective.name': 'grpo'}, {'model.param_dtype': 'bfloat16'}])
def test_the_memory_of_the_first_line_is_that_of_the_state(fields):
  config = smoke()
  for field, value in fields.items():
    section, name = field.split('.')
    config[section][name] = value
  exp = experiment.make_experiment(config)
  never = experiment.make_rule(config, 'never')
  params = exp.init_params()
  state = exp.on_mesh(init_state(params, rl.reinforcement_learner(exp, never).optimizer, never))

  def on_first(tree) -> int:
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

  found = kept_bytes(exp, exp.abstract_params())
  assert found == pytest.approx(on_first((state.params, state.opt_state)), rel=0.02)
  count = sum(x.size for x in jax.tree.leaves(params))
  assert f'{count:,} parameters' in headline(exp, pathlib.Path('runs/x'))


def test_an_unreadable_config_of_a_run_is_an_error_not_a_traceback(tmp_path):
  from espo_jax.configs import load_config

  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(ConfigError, match=r'config.json: not JSON .*; fix: '):
    load_config(tmp_path / 'config.json')
  (tmp_path / 'config.json').write_text(json.dumps([1]))
  with pytest.raises(ConfigError, match=r'config.json: not an object but list; fix: '):
    load_config(tmp_path / 'config.json')


def test_compile_check_without_a_device_says_so_too():
  done = subprocess.run(
    [sys.executable, '-m', 'espo_jax.compile_check', '--config=experiments/quickstart.py', '--topology=local'],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cuda'},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert re.search(r'^error: JAX_PLATFORMS=cuda: jax finds no such device.*; fix: ', done.stderr, re.MULTILINE)
