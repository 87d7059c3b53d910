"""The evaluate command finds in a run's folder what the run found when it ended."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from espo_jax import evaluate

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def run(pytestconfig):
  """Runs a command on a folder and returns what it prints; compiled programs are kept between tests."""
  cache = {
    'JAX_COMPILATION_CACHE_DIR': str(pytestconfig.cache.mkdir('jax')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
  }

  def call(command: str, workdir: pathlib.Path, *flags: str) -> str:
    arguments = [sys.executable, '-m', f'espo_jax.{command}', f'--workdir={workdir}', *flags]
    result = subprocess.run(arguments, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout

  return call


@pytest.fixture(scope='module')
def workdir(run, tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('evaluate') / 'run'
  changes = {
    'baselines': '()',
    'warm_start.steps': 2,
    'warm_start.warmup_steps': 1,
    'learner.updates': 3,
    'checkpoint.every': 1,
  }
  flags = [f'--config.{field}={value}' for field, value in changes.items()]
  run('train', path, '--config=experiments/quickstart.py:smoke', '--compilation_cache_dir=', *flags)
  return path


@pytest.mark.parametrize(('flags', 'folder', 'step'), [([], 'arms/espo', 3), (['--arm=warm_start'], 'warm_start', 2)])
def test_the_newest_checkpoint_is_what_the_run_ended_with(run, workdir, flags, folder, step):
  printed = run('evaluate', workdir, *flags)
  found = json.loads((workdir / folder / f'evaluation-{step}.json').read_text())
  expected = json.loads((workdir / folder / 'evaluation.json').read_text())
  assert {name: found[name] for name in expected} == expected
  assert expected['tokens_mean'] > 0
  low, high = found['interval']
  assert low <= found['accuracy'] <= high
  assert f'step {step}, 16 test problems' in printed
  assert f'{100 * found["accuracy"]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]' in printed


def test_an_older_step_and_fewer_problems_can_be_asked_for(run, workdir):
  assert 'ESPO, step 2, 8 test problems' in run('evaluate', workdir, '--arm=espo', '--step=2', '--problems=8')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--arm=never'], r'--arm=never: .*there are those of warm_start, critic_warmup, espo'),
    (['--arm=espo', '--step=9'], r'--step=9: .*there are 2, 3'),
    (['--problems=0'], r'eval.problems = 0: out of range; fix: a number above 0'),
    (['--workdir=no_such_run'], r'--workdir=.*no_such_run holds no config.json; fix'),
  ],
)
def test_what_is_not_there_is_said_with_what_is(workdir, flags, message):
  with pytest.raises(SystemExit, match=message):
    evaluate.main([f'--workdir={workdir}', *flags])
