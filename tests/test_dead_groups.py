"""The rule that ends whole groups: its formula, and what the engine makes of it."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rollouts import NEVER, STATE, G, P, run
from test_head import random_head
from tiny import first_params, tiny_experiment

from espo_jax import stops
from espo_jax.configs import ConfigError, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import init_state
from espo_jax.stages import rl
from espo_jax.types import StopReason

TOKENS = 5


def test_a_group_is_dead_by_the_product_of_its_rows(precision):
  """The specification's: none of the three is right with probability 0.38, and all are with 0.005."""
  p = jnp.asarray([[0.2, 0.05, 0.5]], precision)
  rounding.assert_close(jnp.prod(1 - p), 0.38, roundings=6)
  rounding.assert_close(jnp.prod(p), 0.005, roundings=6)
  for doubt, dead in ((0.63, True), (0.61, False)):
    assert bool(stops.group_is_dead(p, doubt)[0]) == dead and bool(stops.group_is_dead(1 - p, doubt)[0]) == dead


@functools.cache
def rule_of(doubt):
  """The rule is compiled into the rollout: one for all tests."""
  return stops.dead_groups(group_tokens=TOKENS, doubt=doubt)._replace(reason=StopReason.PRUNED)


def run_with(doubt, *, enabled=True, **options):
  return run(rule=rule_of(doubt), state=STATE.replace(head=random_head(12), enabled=jnp.asarray(enabled)), **options)


FIELDS = ('tokens', 'length', 'stop_reason', 'shadow')


def test_groups_end_where_the_forecasts_of_their_first_tokens_say_so(in_float64):
  """The judgement in plain numpy, from a rollout of the same rows that nothing ended."""
  doubt = 0.6
  free = run_with(doubt, enabled=False)
  last = np.minimum(free.full_length, TOKENS) - 1
  success = free.z[np.arange(P * G), last].reshape(P, G)
  dead = np.repeat(np.maximum(np.prod(1 - success, 1), np.prod(success, 1)) > 1 - doubt, G)
  assert 0 < dead.sum() < P * G
  rows = run_with(doubt)
  np.testing.assert_array_equal(rows.stop_reason == StopReason.PRUNED, dead)
  np.testing.assert_array_equal(rows.length, np.where(dead, np.minimum(free.length, TOKENS), free.length))
  assert (rows.shadow <= dead).all() and rows.shadow.any()
  went_on = rows.shadow | ~dead
  np.testing.assert_array_equal(rows.full_length[went_on], free.full_length[went_on])
  assert (rows.full_length <= free.full_length).all() and (rows.full_length < free.full_length).any()


@pytest.mark.parametrize(('slots', 'scan'), [(0, 3), (5, 4), (7, 24)])
def test_the_rows_do_not_depend_on_slots_and_chunks(slots, scan, in_float64):
  whole, other = run_with(0.6), run_with(0.6, slots=slots, scan=scan)
  for field in ('length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(other, field), getattr(whole, field))
  counts = np.arange(whole.tokens.shape[1]) < whole.length[:, None]
  np.testing.assert_array_equal(np.where(counts, other.tokens, 0), np.where(counts, whole.tokens, 0))
  assert (whole.stop_reason == StopReason.PRUNED).any()


@pytest.mark.parametrize(('doubt', 'enabled'), [(0.0, True), (0.6, False)])
def test_without_doubt_or_before_the_gate_opens_no_group_ends(doubt, enabled, in_float64):
  rows = run_with(doubt, enabled=enabled)
  free = run(rule=NEVER)
  for field in FIELDS:
    np.testing.assert_array_equal(getattr(rows, field), getattr(free, field))


def test_a_group_is_judged_soon_after_its_rows_have_their_tokens(in_float64):
  rows = run_with(0.6, shadow=0.0, scan=24)
  dead = rows.stop_reason == StopReason.PRUNED
  assert dead.any() and (rows.full_length[dead] <= 2 * TOKENS).all()


def test_a_run_draws_other_groups_in_place_of_dead_ones():
  def configure(c):
    c.stop.update(name='dead_groups', returns='drop', shadow_share=0.25)
    c.stop.dead_groups.update(group_tokens=4, doubt=0.9)
    c.objective.name = 'grpo'
    c.rollout.update(prompts=4, samples=4, max_draws=3)

  exp = tiny_experiment(configure)
  own = make_rule(exp.config, 'dead_groups')
  state = exp.on_mesh(init_state(first_params(exp, 0), rl.reinforcement_learner(exp, own).optimizer, own))
  step = rl.reinforcement_step(exp, own, None)
  state, _ = step(state, 1)
  opened = [exp.on_mesh(jnp.asarray(True)) for _ in range(2)]  # both are donated
  state = state.replace(adaptive=state.adaptive.replace(enabled=opened[0]), gate=state.gate.replace(open=opened[1]))
  _, metrics = step(state, 2)
  assert 0 < metrics['stop/rate'] <= 1 and metrics['rollout/draws'] > 1
  assert float(metrics['rollout/kept']) == pytest.approx(1 - float(metrics['stop/rate']))


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({}, "stop.dead_groups.group_tokens = 64: the rule 'dead_groups' can never fire within rollout.horizon = 16"),
    ({'rollout.samples': 1}, "rollout.samples = 1: the rule 'dead_groups' ends groups"),
    ({'rollout.serial.inducer': '##'}, "the rule 'dead_groups' ends all rows of a prompt, of which a serial rollout cuts one"),
    ({'stop.shadow_share': 0.0}, "stop.shadow_share = 0.0: the rule 'dead_groups' fits a head"),
  ],
)
def test_what_cannot_end_groups_is_refused(changes, told):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict({'stop.name': 'dead_groups'} | changes)
  with pytest.raises(ConfigError) as refusal:
    validate(config)
  assert told in str(refusal.value)
