"""A run that is killed and resumed is the run that was never interrupted, to the last bit."""

import pathlib
import re
import signal
import subprocess
import sys
import time

from drills.runs import difference, lines, newest_state

from espo_jax import report

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ('warm_start', 'critic_warmup', 'arms/espo')


def start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
  command = [
    sys.executable,
    '-m',
    'espo_jax.train',
    '--config=experiments/quickstart.py:smoke',
    '--config.baselines=()',  # one arm
    '--config.model.num_layers=1',
    f'--workdir={workdir}',
    f'--compilation_cache_dir={cache}',
  ]
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen, status: int = 0) -> str:
  output, _ = process.communicate(timeout=600)
  assert process.returncode == status, output
  return output


def wait_for(process: subprocess.Popen, reached) -> None:
  while not reached():
    assert process.poll() is None, f'the run ended before it could be interrupted:\n{process.stdout.read()}'
    time.sleep(0.002)


def steps_done(workdir: pathlib.Path, stage: str) -> int:
  rows = lines(workdir, stage)
  return rows[-1]['step'] if rows else 0


def stated(response: str) -> str:
  """The answer that a response to a chain states."""
  _, mark, answer = re.sub('<[a-z]+>', '', response).rpartition('#')  # special tokens are no text
  return answer if mark else ''


def assert_same_run(workdir: pathlib.Path, reference: pathlib.Path) -> None:
  for stage in STAGES:
    assert len(newest_state(workdir, stage)) > 20
  assert difference(workdir, reference) == ''
  (run,) = report.read_runs([workdir])
  rollouts = report.read_rollouts(run, 100)
  assert (workdir / 'report.html').exists() and run.finished and len(rollouts) == 16
  assert all(set(rollout.series) >= {'regret', 'z', 'threshold', 'values', 'logprobs', 'entropy'} for rollout in rollouts)
  assert all(rollout.answer == stated(''.join(rollout.tokens)) for rollout in rollouts)


def test_a_run_that_is_ended_anywhere_and_goes_on_is_the_run_that_was_not(request, tmp_path):
  cache = request.config.cache.mkdir('jax')
  reference, workdir = tmp_path / 'reference', tmp_path / 'ended'
  finish(start(reference, cache))
  for stage in STAGES:
    assert steps_done(reference, stage) == {'warm_start': 12, 'critic_warmup': 3}.get(stage, 10)
  assert any(row['stop/rate'] > 0 for row in lines(reference, 'arms/espo'))

  process = start(workdir, cache)
  wait_for(
    process, lambda: any('tmp' in path.name for path in (workdir / 'warm_start/checkpoints').glob('*'))
  )  # as it writes one
  process.kill()
  process.communicate()

  process = start(workdir, cache)
  wait_for(process, lambda: steps_done(workdir, 'arms/espo') >= 5)
  process.send_signal(signal.SIGTERM)
  told = finish(process, status=128 + signal.SIGTERM)
  stopped_at = steps_done(workdir, 'arms/espo')
  assert stopped_at < 10 and (workdir / 'arms/espo/checkpoints' / str(stopped_at)).exists()
  assert 'SIGTERM: the step at hand is finished and saved, then the command ends; a second signal ends it at once' in told
  assert f'ESPO: saved at step {stopped_at} of 10, under {workdir}/arms/espo. This goes on from there:' in told
  assert re.search(rf'\n  python -m espo_jax.train --config=experiments/quickstart.py:smoke \S+ \S+ --workdir={workdir} ', told)

  finish(start(workdir, cache))
  assert_same_run(workdir, reference)

  before = (workdir / 'summary.json').read_text()
  assert 'ESPO' in finish(start(workdir, cache))  # there is nothing left to do
  assert (workdir / 'summary.json').read_text() == before
