"""Rows that are not trained on: what they leave behind in a group's statistics, in the loss and in the update's sequences."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rounding
from tiny import named, rolled_out, rule_of, tiny_experiment

from espo_jax import monitor, objectives, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.configs.methods import method_problems
from espo_jax.learner import init_state, minibatches, pack, put_packing, row_sizes
from espo_jax.learner.kept import scores_differ
from espo_jax.stages import rl
from espo_jax.types import StopReason, Verdicts

ADVANTAGE = objectives.ADVANTAGES
ON_SCORES = ('group_zscore', 'mean_only', 'loo', 'score', 'maxrl')
P, G = 5, 4

# ---------------------------------------------------------------------------------------------------- statistics with holes


def scores_and_holes(dtype=np.float64):
  rng = np.random.default_rng(0)
  keep = rng.random((P, G)) < 0.7
  keep[0], keep[1], keep[2] = [True] * G, [False] * G, [False, True, False, False]
  return rng.random((P, G)).astype(dtype), keep


@pytest.mark.parametrize('name', ON_SCORES)
def test_an_advantage_with_holes_is_that_of_the_rows_that_are_left(name, precision):
  scores, keep = scores_and_holes(precision)
  found = np.asarray(ADVANTAGE[name].function(jnp.asarray(scores), jnp.asarray(keep)))
  for p in range(P):
    its = jnp.asarray(scores[p, keep[p]][None])
    wanted = np.zeros(its.shape) if its.size < 2 and name == 'loo' else ADVANTAGE[name].function(its) if its.size else its
    rounding.assert_close(found[p, keep[p]], np.asarray(wanted)[0], roundings=40, size=4.0)
    assert not found[p, ~keep[p]].any()


def test_gdpo_with_holes_whitens_over_the_rows_that_are_left(precision):
  scores, keep = scores_and_holes(precision)
  parts, weights = jnp.stack([jnp.asarray(scores), jnp.asarray(scores) ** 2], -1), jnp.asarray([1.0, 0.5], precision)
  found = np.asarray(ADVANTAGE['gdpo'].function(parts, weights, jnp.asarray(keep)))
  alone = np.concatenate(
    [ADVANTAGE['gdpo'].function(parts[p][keep[p]][None], weights, whiten=False)[0] for p in range(P) if keep[p].any()]
  )
  rounding.assert_close(found[keep], (alone - alone.mean()) / np.sqrt(alone.var() + 1e-8), roundings=80, size=8.0)
  assert not found[~keep].any()


@pytest.mark.parametrize('name', [*ON_SCORES])
def test_without_holes_it_is_the_plain_advantage(name, precision):
  scores = jnp.asarray(scores_and_holes(precision)[0])
  found = ADVANTAGE[name].function(scores, jnp.ones(scores.shape, bool))
  rounding.assert_close(found, ADVANTAGE[name].function(scores), roundings=40, size=4.0)


# ---------------------------------------------------------------------------------------------------------- down-sampling


def test_pods_has_the_specifications_rows_and_advantages(precision):
  scores = jnp.asarray([[0.9, 0.1, 0.5, 0.4, 0.2, 0.8, 0.0, 0.3]], precision)
  keep = objectives.most_varied(scores, jnp.ones((1, 8), bool), 4)
  np.testing.assert_array_equal(np.flatnonzero(keep), [0, 1, 5, 6])
  narrower = np.sqrt(3 / 4)  # the specification divides the squares by n - 1, and adds 1e-4 to that deviation
  advantages = narrower * np.asarray(ADVANTAGE['group_zscore'].function(scores, keep, epsilon=1e-4 * narrower))
  np.testing.assert_allclose(advantages[0, [0, 5, 1, 6]], [0.9665, 0.7518, -0.7518, -0.9665], atol=5e-5)  # four digits


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_no_other_choice_varies_more(dtype):
  rng = np.random.default_rng(1)
  with rounding.computed_in(dtype):
    for case in range(40):
      scores = rng.integers(0, 3, (1, 6)) / 2 if case % 2 else rng.random((1, 6))
      keep = rng.random((1, 6)) < 0.8
      count = int(rng.integers(2, 6))
      found = np.asarray(objectives.most_varied(jnp.asarray(scores, dtype), jnp.asarray(keep), count))
      left = np.flatnonzero(keep)
      assert found.sum() == min(count, left.size) and not (found & ~keep).any()
      best = max((np.var(scores[0, list(some)]) for some in itertools.combinations(left, found.sum()) if some), default=0.0)
      if found.any():
        assert np.var(scores[found]) == pytest.approx(best, abs=1e-6)


def test_groups_differ_by_the_rows_that_are_left():
  scores = jnp.asarray([[1.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [1.0, 0, 1]])[..., None]
  keep = jnp.asarray([[True, True, False], [False, True, True], [True] * 3, [False] * 3])
  np.testing.assert_array_equal(scores_differ(scores, keep), [True, False, False, False])
  np.testing.assert_array_equal(scores_differ(scores, None), [True, True, False, True])


# ------------------------------------------------------------------------------------------------------------- the update


def learner_of(**lines):
  exp = tiny_experiment(named(**{'objective__name': 'grpo', **lines}))
  return exp, dataclasses.replace(rl.reinforcement_learner(exp, rule_of(exp)), optimizer=optax.trace(decay=0.5))


def with_pruned(rows, pruned):
  reason = jnp.where(jnp.asarray(pruned), StopReason.PRUNED, jnp.where(rows.stopped, StopReason.EOS, rows.stop_reason))
  return rows.replace(stop_reason=reason, shadow=jnp.zeros_like(rows.shadow))


PRUNED = np.array([True, False, False, False] * 2 + [False, True, True, False] + [True] * 4)


def updated(exp, learner, params, batch, chosen, lengths):
  packing = pack(np.asarray(lengths)[chosen][None], 30, sizes=4, multiple=1, widths=13, cost=float)
  state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), learner.optimizer, rule_of(exp)))
  state, metrics = learner.update(state, batch, None, exp.put(chosen[None]), put_packing(packing, exp.mesh))
  return state.opt_state.trace, metrics, packing


@pytest.mark.parametrize('objective', ['grpo', 'drgrpo', 'gspo'])
def test_an_update_is_that_of_a_batch_without_the_pruned_rows(objective, in_float64):
  exp, learner = learner_of(objective__name=objective, stop__returns='drop')
  params, rows, reward = rolled_out(exp)
  rows, keep = with_pruned(rows, PRUNED), jnp.asarray(~PRUNED)
  batch, _ = learner.prepare(params, None, rows, reward.replace(keep=keep))
  held, metrics, packing = updated(exp, learner, params, batch, np.arange(16), row_sizes(rows, keep))
  rest = jax.tree.map(lambda x: x[np.flatnonzero(~PRUNED)], batch)
  lengths = rest.trajectories.prompt_lengths + rest.trajectories.length
  wanted, theirs, _ = updated(exp, learner, params, rest, np.arange((~PRUNED).sum()), lengths)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), held, wanted)
  assert float(metrics['grad_norm']) == pytest.approx(float(theirs['grad_norm']), rel=1e-9) and metrics['grad_norm'] > 0
  places = np.unique(packing.row[packing.real])
  np.testing.assert_array_equal(places, np.flatnonzero(~PRUNED))  # a pruned row takes up no room


def test_every_minibatch_gets_its_part_of_the_rows_that_are_left():
  keep = np.random.default_rng(0).random(64) < 0.3
  for chosen in minibatches(0, 1, 64, 3, 4, keep):
    assert abs(keep[chosen].sum() - keep.sum() / 4) < 1
  every = minibatches(0, 1, 64, 3, 4, keep).reshape(3, -1)
  np.testing.assert_array_equal(np.sort(every, axis=1), np.tile(np.arange(64), (3, 1)))
  np.testing.assert_array_equal(minibatches(0, 1, 64, 3, 4, np.ones(64, bool)), minibatches(0, 1, 64, 3, 4))


def graded_with(verdicts, pruned, **lines):
  exp, learner = learner_of(stop__returns='drop', **lines)
  _, rows, _ = rolled_out(exp)
  rows = with_pruned(rows, np.asarray(pruned).reshape(-1))
  right = jnp.asarray(np.asarray(verdicts, float).reshape(-1))
  no = jnp.zeros(16, bool)
  said = Verdicts(right, no, no, jnp.zeros(16, jnp.int32), no, no)
  return learner.graded(rows, said, stops.adaptive(rule_of(exp)))


def test_groups_are_told_apart_over_the_rows_of_the_baseline(in_float64):
  verdicts = [[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
  pruned = [[True, False, False, False], [False, True, False, True], [True] * 4, [False] * 4]
  _, differ, metrics = graded_with(verdicts, pruned)
  np.testing.assert_array_equal(differ, [False, False, False, False])
  _, differ, metrics = graded_with(verdicts, pruned, advantage__baseline='all')
  np.testing.assert_array_equal(differ, [True, True, False, False])  # a pruned row scores 0; of the third nothing is left
  assert float(metrics['reward/mean']) == pytest.approx(5 / 9) == float(metrics['reward/correct'])
  assert float(metrics['rollout/kept']) == pytest.approx(9 / 16)


@pytest.mark.parametrize('count', [7, 4])
def test_equal_scores_have_no_advantage_whatever_rounding_makes_of_their_mean(count):
  scores, keep = jnp.full((2, 7), 0.8, jnp.float32), jnp.arange(7)[None] < jnp.full((2, 1), count)
  for name in ('group_zscore', 'mean_only', 'loo', 'maxrl'):
    for its in ((scores,), (scores, keep)):
      assert not np.asarray(ADVANTAGE[name].function(*its)).any(), name


@pytest.mark.parametrize('baseline', ['kept', 'all'])
def test_a_groups_baseline_is_taken_over_the_rows_that_the_config_names(baseline, in_float64):
  exp, learner = learner_of(stop__returns='drop', advantage__baseline=baseline)
  params, rows, reward = rolled_out(exp)
  rows = with_pruned(rows, PRUNED)
  batch, _ = learner.prepare(params, None, rows, reward.replace(keep=jnp.asarray(~PRUNED)))
  scores = np.where(PRUNED, 0.0, np.asarray(reward.sequence)).reshape(4, 4)
  for group, pruned in zip(range(4), PRUNED.reshape(4, 4), strict=True):
    over = scores[group] if baseline == 'all' else scores[group, ~pruned]
    if pruned.all():
      continue
    wanted = np.where(pruned, 0.0, (scores[group] - over.mean()) / (over.std() + 1e-6))
    its = np.asarray(batch.trajectories.mask).reshape(4, 4, -1)[group] * wanted[:, None]
    np.testing.assert_allclose(np.asarray(batch.advantages).reshape(4, 4, -1)[group], its, rtol=1e-9, atol=1e-9)
  assert not np.asarray(batch.trajectories.mask)[PRUNED].any()


def test_to_drop_nothing_and_to_keep_all_rows_changes_nothing(in_float64):
  exp, plain = learner_of()
  params, rows, reward = rolled_out(exp)
  rows, everyone = with_pruned(rows, np.zeros(16, bool)), jnp.ones(16, bool)
  wanted, _ = plain.prepare(params, None, rows, reward)
  for lines in ({'stop__returns': 'drop'}, {'advantage__rows': 4}):
    found, _ = learner_of(**lines)[1].prepare(params, None, rows, reward.replace(keep=everyone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, wanted)


def test_a_critics_advantages_are_whitened_over_the_rows_that_are_left(in_float64):
  exp = tiny_experiment(named(stop__returns='drop'))
  learner = rl.reinforcement_learner(exp, rule_of(exp))
  params, rows, reward = rolled_out(exp)
  rows = with_pruned(rows, PRUNED)
  batch, metrics = learner.prepare(params, None, rows, reward.replace(keep=jnp.asarray(~PRUNED)))
  real = np.asarray(batch.advantages)[np.asarray(batch.trajectories.mask)]
  assert real.mean() == pytest.approx(0, abs=1e-9) and real.std() == pytest.approx(1, rel=1e-6)
  assert not np.asarray(batch.advantages)[PRUNED].any()
  assert np.isfinite(float(metrics['critic/explained_variance']))


def test_a_batch_of_which_nothing_is_left_gives_no_gradient(in_float64):
  exp, learner = learner_of(stop__returns='drop')
  params, rows, reward = rolled_out(exp)
  rows, nobody = with_pruned(rows, np.ones(16, bool)), jnp.zeros(16, bool)
  batch, _ = learner.prepare(params, None, rows, reward.replace(keep=nobody))
  held, metrics, packing = updated(exp, learner, params, batch, np.arange(16), row_sizes(rows, nobody))
  assert float(metrics['grad_norm']) == 0 and not packing.real.any()
  assert all(not np.asarray(x).any() for x in jax.tree.leaves(held))


REFUSED = [
  ({'advantage.rows': 4}, "advantage.rows = 4: rows are chosen by their scores within a group, and advantage.name = 'gae'"),
  ({'objective.name': 'grpo', 'advantage.rows': 1}, 'advantage.rows = 1: out of range; fix: 2 to rollout.samples = 2'),
  ({'objective.name': 'grpo', 'advantage.rows': 5}, 'advantage.rows = 5: out of range'),
  ({'stop.returns': 'drop', 'stop.name': 'arrol'}, "stop.arrol.probe = 512: the rule 'arrol' can never fire within"),
  ({'stop.name': 'arrol', 'stop.arrol.kept': 0.05}, 'stop.arrol.kept = 0.05 is outside'),
  ({'stop.name': 'arrol', 'stop.shadow_share': 0.0}, "the rule 'arrol' fits a head"),
  (
    {'stop.returns': 'drop', 'objective.name': 'grpo', 'rollout.serial.inducer': '##', 'reward.name': 'serial_decay'},
    'a serial rollout cuts full responses, which must not be dropped',
  ),
  ({'stop.returns': 'drop', 'reward.name': 'l_grpo'}, "the reward 'l_grpo' would count a dropped row of its prompt as wrong"),
  (
    {'stop.returns': 'drop', 'objective.name': 'grpo + mode_margin'},
    "the objective 'mode_margin' would count a dropped row of its prompt as wrong",
  ),
  ({'objective.name': 'grpo', 'advantage.baseline': 'all'}, "advantage.baseline = 'all': no group has rows that are left out"),
  ({'stop.name': 'arrol'}, "stop.returns = 'fail': the rule 'arrol' also ends rows that would be right; fix: stop.returns ="),
  ({'stop.name': 'dead_groups', 'stop.returns': 'zero'}, "stop.returns = 'zero': the rule 'dead_groups' also ends rows"),
  ({'stop.name': 'duet_abort', 'stop.duet_abort.grace': 16}, "stop.duet_abort.grace = 16: the rule 'duet_abort' can never"),
]


@pytest.mark.parametrize(('changes', 'told'), REFUSED, ids=str)
def test_what_cannot_leave_rows_out_is_refused(changes, told):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(told)):
    validate(config)


def test_an_advantage_that_does_not_know_of_dropped_rows_is_refused(registers):
  @objectives.advantages.register('blind')
  def blind(scores):
    return scores

  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict({'objective.name': 'grpo', 'advantage.name': 'blind', 'advantage.rows': 2})
  assert [told for told in method_problems(config) if "advantage.name = 'blind': it has no parameter 'keep'" in told]
  config.advantage.baseline = 'all'
  assert not list(method_problems(config))


def test_random_stops_are_matched_by_the_lengths_of_dropped_rows_too(tmp_path):
  with monitor.MetricWriter(tmp_path, 0) as writer:
    for step, enabled in ((1, 0.0), (2, 1.0), (3, 1.0)):
      # Of 10 rows, 4 are dropped after 5 tokens; the others have 20.
      counts = {'rollout/rows': 10.0, 'rollout/tokens': 140.0, 'rollout/length_mean': 20.0}
      writer.write(step, counts | {'stop/enabled': enabled, 'stop/rate': 0.4 * enabled})
  matched = rl._matched_rate(tmp_path)
  assert matched['target_rate'] == pytest.approx(0.4)
  assert np.exp(-matched['beta_0']) == pytest.approx(0.4 / 14)
  assert (matched['beta_min'], matched['beta_max']) == (0.0, 100.0)  # ESPO's bounds are of another scale
