"""Trainings that reuse the last responses to a pool of problems, and the settings that they are refused with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import VOCAB
from tiny import first_params, named, tiny_experiment

from espo_jax import compile_check
from espo_jax.configs import ConfigError, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import Checkpoints, init_state, restore
from espo_jax.rollout import Reuse
from espo_jax.stages import allocation, rl
from espo_jax.stages.allocation import first_drafts, first_memory
from espo_jax.stages.drafts import drafts_of, no_drafts, put_rows


def training(form='exact', **lines):
  """An experiment, its learner and its step."""
  settings = {'objective__name': 'grpo', 'allocation__pool': 8, 'stop__name': 'never'} | lines
  exp = tiny_experiment(lambda c: (named(**settings)(c), c.rollout.reuse.update(form=form, candidates=4)))
  never = make_rule(exp.config, 'never')
  return exp, rl.reinforcement_learner(exp, never), rl.reinforcement_step(exp, never, None)


same_training = functools.cache(training)  # its programs are compiled once for all tests that ask for it


def trained(steps, *, using=None, state=None, first=1, **settings):
  """Some steps of a training that is `using`, or of the one with these settings: its experiment, last state and metrics."""
  exp, learner, step = using or same_training(**settings)
  if state is None:
    fresh = init_state(first_params(exp, 0), learner.optimizer, make_rule(exp.config, 'never'))
    state = exp.on_mesh(fresh.replace(allocation=first_memory(exp.config), drafts=first_drafts(exp)))
  told = []
  with jax.transfer_guard('disallow'):
    for number in range(first, first + steps):
      state, metrics = step(state, number)
      told.append({name: float(x) for name, x in jax.device_get(metrics).items()})
  return exp, state, told


@pytest.mark.parametrize('form', ['exact', 'coupled', 'published'])
def test_a_training_reuses_from_the_second_epoch_on_and_goes_on_to_the_bit(form, tmp_path):
  exp, half, told = trained(2, form=form)
  with Checkpoints(tmp_path / 'steps') as checkpoints:
    checkpoints.save(2, half, done=False)
  blank = jax.tree.map(lambda x: (np if isinstance(x, np.ndarray) else jnp).zeros_like(x), half)
  _, state, later = trained(2, form=form, state=half, first=3)
  told += later
  for number, row in enumerate(told):
    written = row['rollout/length_mean'] * row['rollout/rows']
    assert row['rollout/tokens'] + row['reuse/tokens'] == pytest.approx(written, abs=1e-3)
    assert (row['reuse/tokens'] > 0) == (row['reuse/scored'] > 0) == (number >= 2)  # two updates are an epoch
    assert row['reuse/tokens'] <= row['reuse/scored'] and 0 <= row['reuse/share'] <= 1
    assert np.isfinite([row['grad_norm'], row['rollout/utilisation']]).all()
    assert row['sampler_gap/max'] < 1e-3  # the sampler recorded of kept tokens what the learner scores
  assert told[-1]['rollout/decoded'] == sum(row['rollout/tokens'] for row in told)
  assert (state.drafts.length > 0).all()

  read = restore(tmp_path / 'steps', exp.on_mesh(blank)).state
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(read.drafts))
  _, other, again = trained(2, using=training(form), state=read, first=3)  # with nothing but what was read
  jax.tree.map(np.testing.assert_array_equal, other, state)
  for one, two in zip(later, again, strict=True):
    assert {k: v for k, v in one.items() if not k.startswith(('seconds', 'tokens_per'))} == {
      k: v for k, v in two.items() if not k.startswith(('seconds', 'tokens_per'))
    }


def test_a_policy_that_does_not_move_decodes_nothing_in_the_second_epoch():
  *_, told = trained(3, form='coupled', learner__learning_rate=1e-30)
  assert told[2]['reuse/share'] == 1.0
  assert told[2]['rollout/tokens'] == told[2]['rollout/row_steps'] == told[2]['rollout/utilisation'] == 0.0
  assert told[2]['rollout/length_mean'] > 0


def test_the_drafts_of_the_state_before_an_update_do_not_change():
  """A checkpoint may still be written from them."""
  _, state, _ = trained(1)
  drafts, before = state.drafts, jax.tree.map(np.copy, state.drafts)
  _, after, _ = trained(2, state=state, first=2)
  jax.tree.map(np.testing.assert_array_equal, drafts, before)
  assert (after.drafts.length != before.length).any()


def test_the_pool_is_copied_once_per_update_however_many_rollouts_it_has(monkeypatch):
  written = []
  monkeypatch.setattr(allocation, 'put_rows', lambda drafts, *rest: (written.append(drafts), put_rows(drafts, *rest)))
  _, state, told = trained(2, rollout__max_draws=3)
  assert len(written) == sum(row['rollout/rows'] for row in told) / 16 > 2
  assert len({id(drafts) for drafts in written}) == 2
  assert written[-1] is state.drafts


def test_the_time_for_drafts_is_a_phase_of_the_runs_that_have_them():
  *_, (reused,) = trained(1)
  *_, (plain,) = trained(1, form='none')
  assert reused['seconds/drafts'] > 0
  assert {name for name in reused if name.startswith('seconds/')} - set(plain) == {'seconds/drafts'}


def test_only_the_drafts_of_the_problems_that_were_asked_change():
  blank = no_drafts(Reuse('exact', candidates=64), 5, 2, 3, VOCAB)
  asked = np.array([3, 0])
  rows = jax.tree.map(lambda x: np.ones_like(x), drafts_of(blank, asked))
  put_rows(blank, asked, rows)
  for x in jax.tree.leaves(blank):
    assert x[asked].all() and not np.delete(x, asked, axis=0).any()
  assert sum(x.nbytes for x in jax.tree.leaves(blank)) == 5 * 2 * (4 + 3 * (4 + 8 * VOCAB))


def settings():
  config = tiny_experiment(named(objective__name='grpo', allocation__pool=8)).config
  config.rollout.horizon = 24
  return config


REFUSED = [
  ({'allocation__pool': 0}, 'allocation.pool = 0: no problem is asked twice'),
  ({'allocation__name': 'duet'}, "allocation.name = 'duet': a problem may have other rows each time"),
  ({'exits__every': 1}, 'exits.every = 1: drafts are verified at full depth'),
  ({'critic__every': 2, 'critic__kind': 'separate'}, 'critic.every = 2: rows go on at columns of their own'),
  ({'stop__name': 'dead_groups'}, "the rule 'dead_groups', which waits for all rows of a prompt"),
]


@pytest.mark.parametrize(('lines', 'told'), REFUSED, ids=lambda x: x if isinstance(x, str) else None)
def test_what_cannot_be_combined_is_refused_with_the_fix(lines, told):
  config = settings()
  config.rollout.reuse.form = 'exact'
  validate(config)
  named(**lines)(config)
  with pytest.raises(ConfigError) as error:
    validate(config)
  line = next(line for line in str(error.value).splitlines() if "rollout.reuse.form = 'exact'" in line)
  assert told in line and 'fix: ' in line


def test_a_serial_rollout_is_refused():
  config = settings()
  config.rollout.reuse.form, config.rollout.serial.inducer = 'coupled', '='
  with pytest.raises(ConfigError, match=r"rollout\.reuse\.form = 'coupled' with rollout\.serial\.inducer = '='.*; fix: "):
    validate(config)


def test_compile_check_counts_the_caches_of_the_drafts_and_lowers_an_update_without_them():
  exp = tiny_experiment(named(objective__name='grpo', allocation__pool=8, rollout__slots=8))
  alone = compile_check.Programs(exp.config, exp.mesh)
  exp.config.rollout.reuse.form = 'exact'
  beside = compile_check.Programs(exp.config, exp.mesh)
  assert (alone.slots, beside.slots) == (8, 8 + 4 * 4)
  assert beside.lower('prepare').as_text() == alone.lower('prepare').as_text()
