"""The stage loop on a state of one number: what it keeps when things go wrong."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espo_jax.learner import restore
from espo_jax.monitor import read_metrics
from espo_jax.stages.loop import Interrupted, Interruption, Stage, TrainingFailed, going_on, interruption, run_stage

pytestmark = pytest.mark.quick


@jax.jit
def add(state, step):
  return state + step


def make_stage(directory, step, **changes):
  fields = dict(
    name='test', directory=directory, first=0, last=8, checkpoint_every=3, keep_last=2, keep_best=0, max_bad_steps=3
  )
  return Stage(step=step, **fields | changes)


def healthy(state, step):
  state = add(state, jax.device_put(np.float32(step)))
  return state, {'bad_steps': 0, 'loss': state}


def test_a_stage_runs_to_its_end_and_a_second_call_only_loads_it(tmp_path):
  state, end = run_stage(make_stage(tmp_path, healthy), jnp.float32(0), Interruption())
  assert (float(state), end) == (36.0, 8)
  assert [row['loss'] for row in read_metrics(tmp_path)] == [1, 3, 6, 10, 15, 21, 28, 36]

  def unreachable(state, step):
    raise AssertionError(f'step {step} of a stage that is done')

  state, end = run_stage(make_stage(tmp_path, unreachable), jnp.float32(0), Interruption())
  assert (float(state), end) == (36.0, 8)


def test_too_many_bad_steps_end_the_run_and_keep_the_last_good_checkpoint(tmp_path):
  def sick(state, step):
    state, metrics = healthy(state, step)
    return state, metrics | {'bad_steps': max(0, step - 4), 'loss': float('nan') if step > 4 else 1.0}

  with pytest.raises(TrainingFailed, match='step 7: 3 non-finite') as failed:
    run_stage(make_stage(tmp_path, sick), jnp.float32(0), Interruption())
  assert 'learning rate' in str(failed.value)
  _, *newest = restore(tmp_path / 'checkpoints', jnp.float32(0))
  assert newest == [6, False]
  assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
  assert np.isnan(read_metrics(tmp_path)[-1]['loss'])


def quiet():
  return interruption('the step at hand is finished and saved', 'the steps since the newest checkpoint')


def test_a_signal_finishes_the_step_saves_and_the_next_run_goes_on(tmp_path):
  def signalled(state, step):
    if step == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    return healthy(state, step)

  before = signal.getsignal(signal.SIGTERM)
  with quiet() as signals, pytest.raises(Interrupted, match='test: saved at step 5 of 8, under ') as stopped:
    run_stage(make_stage(tmp_path, signalled), jnp.float32(0), signals)
  assert signal.getsignal(signal.SIGTERM) is before
  told = going_on(stopped.value, 'espo_jax.train', ["--config.baselines=('a b',)", f'--workdir={tmp_path}'])
  assert str(tmp_path) in told
  assert told.endswith(
    f"""from there:\n  python -m espo_jax.train '--config.baselines=('"'"'a b'"'"',)' --workdir={tmp_path}"""
  )
  state, _ = run_stage(make_stage(tmp_path, healthy), jnp.float32(0), Interruption())
  assert float(state) == 36.0
  assert [row['loss'] for row in read_metrics(tmp_path)] == [1, 3, 6, 10, 15, 21, 28, 36]


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('kept', ['the step at hand is finished and saved', 'the batch at hand is finished and kept'])
@pytest.mark.parametrize('second', [signal.SIGINT, signal.SIGTERM, None])
def test_a_signal_says_what_is_kept_and_what_a_second_one_does(first, kept, second, capfd):
  class Ended(Exception):
    pass

  def end(*_):
    raise Ended

  before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    with interruption(kept, 'that') as signals:
      assert not signals.requested
      os.kill(os.getpid(), first)
      assert signals.requested
      told = capfd.readouterr().err
      assert told == f'\n{first.name}: {kept}, then the command ends; a second signal ends it at once, and loses that\n'
      if second is not None:
        with pytest.raises(Ended):
          os.kill(os.getpid(), second)
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is end
  finally:
    for s, handler in before.items():
      signal.signal(s, handler)


def test_a_stage_may_end_early(tmp_path):
  stage = make_stage(tmp_path, healthy, finished=lambda metrics: metrics['loss'] >= 10)
  assert run_stage(stage, jnp.float32(0), Interruption())[1] == 4
  assert run_stage(stage, jnp.float32(0), Interruption())[1] == 4


def test_an_implicit_transfer_in_the_loop_is_an_error(tmp_path):
  def careless(state, step):
    return state + np.ones(3, np.float32), {'bad_steps': 0}

  with pytest.raises(Exception, match=r'[Dd]isallowed host-to-device transfer'):
    run_stage(make_stage(tmp_path, careless), jnp.float32(0), Interruption())
