"""The command that compiles a training's programs for TPU slices that are not there."""

import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
from forked import run_each

ROOT = pathlib.Path(__file__).parents[1]
LIBTPU = (
  pathlib.Path(sys.prefix) / 'tpu'
)  # where scripts/test.sh puts it, for in the environment itself jax would look for a TPU
needs_libtpu = pytest.mark.skipif(not LIBTPU.exists(), reason='libtpu is not there: scripts/test.sh installs it')
QWEN2_7B = runpy.run_path(str(ROOT / 'scripts' / 'bench' / 'shapes.py'))['CONFIGS']['7B']


def run(*words: str, **variables: str) -> subprocess.CompletedProcess:
  """Runs Python with libtpu, and without what the other tests set to compile in less time."""
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': os.pathsep.join([str(ROOT), str(LIBTPU)])} | variables
  for name in ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS'):
    environment.pop(name, None)
  command = [sys.executable, *words]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)


def check(*options: str, **variables: str) -> subprocess.CompletedProcess:
  return run('-m', 'espo_jax.compile_check', *options, **variables)


CHEAP = {'JAX_OPTIMIZATION_LEVEL': 'O1'}  # for what does not ask how good the compiled program is: half of the time


@needs_libtpu
def test_a_7b_rollout_keeps_its_cache_in_place(tmp_path):
  layers = 1  # each of the 28 is compiled, and treated alike
  (tmp_path / 'config.json').write_text(json.dumps(QWEN2_7B | {'num_hidden_layers': layers}))
  done = check(
    '--config=experiments/espo_r1_distill_qwen_7b.py',
    f'--config.model.path={tmp_path}',
    '--config.model.param_dtype=bfloat16',
    '--config.critic.kind=shared',
    '--config.mesh.fsdp=2',
    '--config.mesh.tensor=4',
    '--config.rollout.prompt_width=512',
    '--config.rollout.slots=256',
    '--topology=v5p:2x2x2',
    '--programs=rollout',
  )
  assert done.returncode == 0, done.stdout + done.stderr
  caches, beside = map(float, re.search(r'caches ([\d.]+) GiB, other temporaries ([\d.]+) GiB', done.stdout).groups())
  assert caches == pytest.approx(layers * 2 * 4 * 128 * 2 * 256 * (8192 + 512) / 8 / 2**30, abs=0.01)
  assert beside < 0.7 * caches  # a copy of the cache would be as much again; what else there is does not grow with the layers
  assert re.search(r'peak [\d.]+ GiB of 95 GiB: fits', done.stdout)
  assert 'gathered on a device' not in done.stdout


SMALL = (
  '--config=experiments/quickstart.py',
  '--config.mesh.fsdp=4',
  '--config.model.scan_layers',
  '--config.rollout.samples=1',
  '--config.learner.minibatches=5',
  '--config.learner.micro_batches=2',
  '--config.learner.logit_chunk=32',
)


@needs_libtpu
def test_all_programs_of_a_small_experiment():
  done = check(*SMALL, '--topology=v5e:2x2', **CHEAP)
  assert done.returncode == 0, done.stdout + done.stderr
  for program in ('rollout', 'prepare', 'update'):
    part = done.stdout.partition(f'{program}, mesh')[2]
    assert re.search(r'peak [\d.]+ GiB of 16 GiB: fits', part)
    assert re.search(r'[\d.]+ TFLOP of products, [\d.]+ GiB read and written, sent .*all-\w+ [\d.]+ GiB', part)
    assert re.search(r'at best [\d.]+ ms, bound by (compute|memory|links)', part)
    assert re.search(r'[\d.]+ MiB  \w+\[[\d,]+\]  jit', part.partition('largest temporaries')[2])


@needs_libtpu
def test_an_update_that_does_not_fit_says_what_to_change():
  """Of 6.4 billion parameters each of 4 chips has 19 GB with their moments; it is refused, and read all the same."""
  wide = ('--config.model.hidden_size=8192', '--config.model.intermediate_size=32768', '--config.model.num_layers=8')
  done = check(*SMALL, *wide, '--topology=v5e:2x2', '--programs=update', **CHEAP)
  assert done.returncode == 1, done.stdout + done.stderr
  fix = r'learner.offload_optimizer = True, or a larger mesh.fsdp or mesh.tensor \(mesh.fsdp = 4'
  pattern = rf'does not fit; parameters and moments take 1\d\.\d+ GiB; fix: {fix}'
  assert re.search(pattern, done.stdout), done.stdout
  assert re.search(r'MiB  f32\[8,2048,32768\]  jit', done.stdout.partition('largest temporaries')[2])


REFUSED = {
  ('--topology=local', '--programs=evaluate'): '--programs=evaluate: no such program; fix: some of rollout, prepare, update',
  ('--topology=local', '--config.mesh.fsdp=3'): 'needs 3 devices and there are 1',
  ('--topology=local', '--config.rollout.horizon=0'): 'rollout.horizon = 0: out of range; fix: a number above 0',
  ('--topology=local', '--config.model.remat=some'): ("model.remat = 'some' is no such policy; fix: one of none, dots, full"),
  ('--topology=v9:2x2',): "--topology=v9:2x2: unknown chip 'v9'; fix: one of v5e, v5p, v6e",
}


LOCAL = '--topology=local', '--programs=prepare'


@pytest.fixture(scope='module')
def told(tmp_path_factory):
  """What the command says without libtpu, by its flags."""
  runs = [['--config=experiments/quickstart.py:smoke', *options] for options in (LOCAL, *REFUSED)]
  found = run_each('espo_jax.compile_check.__main__', runs, tmp_path_factory.mktemp('told'), {'XLA_FLAGS': ''})
  return dict(zip((LOCAL, *REFUSED), found, strict=True))


def test_the_devices_that_are_here(told):
  done = told[LOCAL]
  assert done.returncode == 0, done.stdout + done.stderr
  assert re.search(r'local: prepare, mesh .*\n.*\n.*\n  peak [\d.]+ GiB of [\d.]+ GiB: fits', done.stdout)
  assert 'at best' not in done.stdout  # nothing is known of this chip


@pytest.mark.parametrize('options', REFUSED, ids=lambda options: options[-1])
def test_what_cannot_run_is_named(options, told):
  assert told[options].returncode != 0
  assert REFUSED[options] in told[options].stderr
