"""The rollout, compiled for TPU slices that are not there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBTPU = (
  pathlib.Path(sys.prefix) / 'tpu'
)  # where scripts/test.sh puts it, for in the environment itself jax would look for a TPU
QWEN2_7B = {
  'model_type': 'qwen2',
  'architectures': ['Qwen2ForCausalLM'],
  'hidden_size': 3584,
  'intermediate_size': 18944,
  'num_hidden_layers': 28,
  'num_attention_heads': 28,
  'num_key_value_heads': 4,
  'vocab_size': 152064,
  'tie_word_embeddings': False,
}


def check(*options: str) -> subprocess.CompletedProcess:
  command = [sys.executable, '-m', 'espo_jax.compile_check', *options]
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': os.pathsep.join([str(ROOT), str(LIBTPU)])}
  environment.pop('XLA_FLAGS', None)
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.skipif(not LIBTPU.exists(), reason='libtpu is not there: scripts/test.sh installs it')
@pytest.mark.parametrize(('topology', 'slots', 'fits'), [('v5p:2x2x2', 256, True), ('v5e:2x4', 512, False)])
def test_a_7b_rollout_keeps_its_cache_in_place(tmp_path, topology, slots, fits):
  (tmp_path / 'config.json').write_text(json.dumps(QWEN2_7B))
  done = check(
    '--config=experiments/espo_r1_distill_qwen_7b.py',
    f'--config.model.path={tmp_path}',
    '--config.model.param_dtype=bfloat16',
    '--config.critic.kind=shared',
    '--config.mesh.fsdp=2',
    '--config.mesh.tensor=4',
    '--config.rollout.prompt_width=512',
    f'--config.rollout.slots={slots}',
    f'--topology={topology}',
  )
  if not fits:
    assert done.returncode != 0
    assert re.search(r'does not fit|memory', done.stdout + done.stderr)
    return
  assert done.returncode == 0, done.stdout + done.stderr
  caches, beside = map(float, re.search(r'caches ([\d.]+) GiB, other temporaries ([\d.]+) GiB', done.stdout).groups())
  assert caches == pytest.approx(28 * 2 * 4 * 128 * 2 * 256 * (8192 + 512) / 8 / 2**30, abs=0.01)
  assert beside < 0.1 * caches  # a copy of the cache would be as much again
  assert done.stdout.strip().endswith('fits')


def test_a_slice_that_does_not_exist_is_named():
  done = check('--config=experiments/quickstart.py', '--topology=v9:2x2')
  assert done.returncode != 0
  assert "--topology=v9:2x2: unknown chip 'v9'; fix: one of v5e, v5p, v6e" in done.stderr
