"""Bandits over bands of problems: their formulas, their regret, what a rollout is asked, and a training that is resumed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import first_params, named, tiny_experiment

from espo_jax.configs import ConfigError, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import Checkpoints, init_state, restore
from espo_jax.stages import rl
from espo_jax.stages.allocation import first_memory
from espo_jax.tasks.allocators import Seen, Stream, exp3, make_allocator, thompson, ucb1
from espo_jax.tasks.allocators.arms import arm_of, learning_signal

BANDITS = ('ucb1', 'thompson', 'exp3')
POOL = 64


def after(allocator, memory, problems, correct, asked=None):
  """What is remembered after groups of these problems."""
  correct = np.asarray(correct, float)
  blank = np.full(correct.shape, np.nan)
  return allocator.observe(memory, Seen(np.asarray(problems), correct, blank, blank, memory if asked is None else asked))


# ---------------------------------------------------------------------------------------------------------------- formulas


def test_an_arm_is_a_band_of_correctness_between_all_wrong_and_all_right():
  np.testing.assert_array_equal(
    arm_of(np.array([0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]), 3), [1, 2, 2, 3, 3, 3, 4, 4, 5]
  )
  np.testing.assert_array_equal(arm_of(np.array([0, 0.01, 0.99, 1]), 1), [1, 2, 2, 3])
  np.testing.assert_allclose(learning_signal(np.array([0, 0.25, 0.5, 0.75, 1])), [0, 0.75, 1, 0.75, 0])


def test_the_upper_bounds_are_ucb1s():
  bounds = ucb1.upper_bounds(np.array([3.0, 1.0, 0.0]), np.array([6, 2, 0]), np.zeros(3, int), 2.0)
  np.testing.assert_allclose(bounds[:2], [0.5 + np.sqrt(2 * np.log(8) / 6), 0.5 + np.sqrt(2 * np.log(8) / 2)])
  assert bounds[2] == np.inf
  pending = ucb1.upper_bounds(np.array([3.0, 1.0]), np.array([6, 2]), np.array([0, 2]), 2.0)
  np.testing.assert_allclose(pending, [0.5 + np.sqrt(2 * np.log(10) / 6), 0.5 + np.sqrt(2 * np.log(10) / 4)])


def test_exp3_mixes_its_weights_with_the_uniform_draw_over_free_arms():
  chances = exp3.probabilities(np.log([1.0, 3.0, 8.0]), np.array([True, True, False]), 0.2)
  np.testing.assert_allclose(chances, [0.8 / 4 + 0.1, 0.8 * 3 / 4 + 0.1, 0])
  np.testing.assert_allclose(exp3.probabilities(np.array([0.0, 2000.0]), np.ones(2, bool), 0.0), [0, 1])


def test_exp3_learns_from_a_gain_over_the_probability_of_its_arm():
  allocator = make_allocator('exp3', bands=1, rate=0.2)
  start = allocator.init(4) | {'arm': np.array([1, 1, 2, 3], np.int32)}  # 3 free arms of 4
  found = after(allocator, start, [2], [[1, 0]])
  chance = 0.8 / 3 + 0.2 / 3
  np.testing.assert_allclose(found['logs'] - found['logs'][0], [0, 0, 0.2 / 4 / chance, 0], rtol=1e-6)
  again = after(
    allocator, found, [2], [[1, 0]], asked=start
  )  # the second of an update's rollouts was asked before the first's gain
  np.testing.assert_allclose(again['logs'] - again['logs'][0], [0, 0, 0.4 / 4 / chance, 0], rtol=1e-6)


@pytest.mark.parametrize('name', ['ucb1', 'thompson'])
def test_gains_are_counted_by_the_arms_that_were_asked_and_problems_move_to_their_last_groups(name):
  allocator = make_allocator(name)
  memory = after(allocator, allocator.init(6), [0, 1, 2, 5], [[1, 0, 0, 0], [1, 1, 1, 1], [np.nan] * 4, [1, 1, np.nan, 0]])
  np.testing.assert_array_equal(memory['arm'], [2, 5, 0, 0, 0, 3])  # of the third problem no row was left
  np.testing.assert_array_equal(memory['pulls'], [3, 0, 0, 0, 0, 0])
  np.testing.assert_allclose(memory['gains'], [0.75 + 0 + 8 / 9, 0, 0, 0, 0, 0])
  memory = after(allocator, memory, [0, 1], [[1, 1, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_array_equal(memory['pulls'], [3, 0, 1, 0, 0, 1])
  np.testing.assert_array_equal(memory['arm'], [3, 1, 0, 0, 0, 3])


def test_thompson_picks_an_arm_as_often_as_its_posterior_is_the_highest():
  memory = {'pulls': np.array([8, 3]), 'gains': np.array([5.5, 2.0])}
  rng, free = np.random.default_rng(0), np.ones(2, bool)
  grid = np.linspace(0, 1, 20_001)[1:-1]
  first, second = stats.beta(1 + 5.5, 1 + 2.5), stats.beta(1 + 2.0, 1 + 1.0)
  wanted = np.trapezoid(first.pdf(grid) * second.cdf(grid), grid)
  pick = thompson.bandit().pick
  picked = np.mean([pick(memory, np.zeros(2, int), free, rng) == 0 for _ in range(20_000)])
  assert abs(picked - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20_000)


# ------------------------------------------------------------------------------------------------------------------ regret


def play(bandit, gain, steps, seed):
  """Plays two arms and returns what was picked.

  Args:
    bandit: The bandit.
    gain: `(step, arm) -> gain`.
    steps: The number of picks.
    seed: The seed of the draws.
  """
  memory = bandit.start(2) | {'arm': np.arange(2)}
  rng, none, free, picked = np.random.default_rng(seed), np.zeros(2, int), np.ones(2, bool), []
  for step in range(steps):
    arm = bandit.pick(memory, none, free, rng)
    memory = bandit.learn(memory, memory, np.array([arm]), np.array([gain(step, arm)], float))
    picked.append(arm)
  return np.array(picked)


@pytest.mark.parametrize('bandit', [ucb1.bandit(2.0), thompson.bandit()], ids=['ucb1', 'thompson'])
def test_regret_on_two_arms_is_logarithmic_and_below_ucb1s_bound(bandit):
  steps, seeds, means = 200, 200, np.array([0.1, 0.9])
  tables = np.random.default_rng(7).random((seeds, steps, 2)) < means
  played = np.array([play(bandit, lambda i, k, table=table: table[i, k], steps, seed) for seed, table in enumerate(tables)])
  regret = 0.8 * (played == 0).cumsum(axis=1).mean(axis=0)
  bound = 8 * np.log(np.arange(1, steps + 1)) / 0.8 + (1 + np.pi**2 / 3) * 0.8
  assert (regret <= bound).all() and bound[-1] < 0.8 * steps / 2  # which is the regret of a coin
  assert regret[-1] - regret[steps // 2] < 0.5 * regret[steps // 2]  # which is as much for a policy that never stops exploring


def test_exp3_against_an_adversary_stays_below_its_bound():
  steps, seeds = 600, 10
  rate = np.sqrt(2 * np.log(2) / ((np.e - 1) * steps))
  regret = []
  for seed in range(seeds):
    picked = play(exp3.bandit(float(rate)), lambda i, k: float(k == (i < steps // 3)), steps, seed)  # the arms change places
    gains = np.array([(np.arange(steps) < steps // 3) == k for k in (0, 1)])
    regret.append(gains.sum(axis=1).max() - gains[picked, np.arange(steps)].sum())
  bound = 2 * np.sqrt((np.e - 1) * steps * 2 * np.log(2))
  assert np.mean(regret) < bound < steps // 3  # who stays with the first arm loses a third of the steps


# ------------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize('name', BANDITS)
def test_the_problems_that_tell_the_policy_most_are_asked_most(name):
  """Problems of four kinds: never solved, always solved, solved half of the time, solved nine times of ten."""
  chances = np.repeat([0.0, 1.0, 0.5, 0.9], POOL // 4)
  allocator, stream, rng = make_allocator(name), Stream(POOL, seed=2), np.random.default_rng(1)
  memory, position, asked = allocator.init(POOL), 0, []
  for _ in range(120):
    problems, position = allocator.choose(memory, stream, position, 8)
    assert len(set(problems.tolist())) == 8
    memory = after(allocator, memory, problems, rng.random((8, 8)) < chances[problems, None])
    asked.append(problems)
  late = chances[np.array(asked[60:])]
  by_kind = {chance: (late == chance).mean() for chance in (0.0, 1.0, 0.5, 0.9)}
  assert by_kind[0.5] > 0.4 > 0.25 > max(by_kind[0.0], by_kind[1.0])
  assert sum(by_kind.values()) == pytest.approx(1)


@pytest.mark.parametrize('name', BANDITS)
def test_a_choice_is_a_function_of_what_is_remembered_and_of_the_place_in_the_pool(name):
  allocator, stream = make_allocator(name), Stream(POOL, seed=2)
  memory = allocator.init(POOL) | {'arm': (np.arange(POOL) % 6).astype(np.int32)}
  first, position = allocator.choose(memory, stream, 0, 8)
  np.testing.assert_array_equal(allocator.choose(memory, stream, 0, 8)[0], first)
  assert allocator.choose(memory, stream, position, 8)[0].tolist() != first.tolist()
  assert (memory['arm'] == np.arange(POOL) % 6).all()


@pytest.mark.parametrize('name', BANDITS)
def test_a_rollout_may_have_all_problems_of_the_pool(name):
  allocator = make_allocator(name)
  memory = allocator.init(8) | {'arm': np.array([0, 0, 5, 3, 3, 3, 1, 1], np.int32)}
  problems, position = allocator.choose(memory, Stream(8, seed=0), 3, 8)
  assert sorted(problems.tolist()) == list(range(8)) and position <= 16


# ----------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize('name', BANDITS)
def test_a_resumed_training_asks_and_learns_as_an_uninterrupted_one(name, tmp_path):
  exp = tiny_experiment(named(objective__name='grpo', allocation__pool=8, allocation__name=name))
  never = make_rule(exp.config, 'never')
  fresh = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, never).optimizer, never)
  state = exp.on_mesh(fresh.replace(allocation=first_memory(exp.config)))
  step = rl.reinforcement_step(exp, never, None)
  for number in (1, 2, 3):
    state, _ = step(state, number)
    if number == 2:
      with Checkpoints(tmp_path / 'steps') as checkpoints:
        checkpoints.save(2, state, done=True)
  blank = exp.on_mesh(jax.tree.map(jnp.zeros_like, state))
  resumed, metrics = step(restore(tmp_path / 'steps', blank).state, 3)
  jax.tree.map(np.testing.assert_array_equal, resumed.allocation, state.allocation)
  jax.tree.map(np.testing.assert_array_equal, resumed.params, state.params)
  assert float(metrics['allocation/epochs']) == float(state.allocation['position']) / 8
  assert (np.asarray(state.allocation['arm']) > 0).sum() >= 4


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'allocation.name': 'ucb1', 'allocation.bands': 0}, 'allocation.bands = 0: problems between all wrong and all right'),
    ({'allocation.name': 'exp3', 'allocation.rate': 1.5}, 'allocation.rate = 1.5: a share of the draws, above 0 and at most 1'),
    ({'allocation.name': 'exp3', 'allocation.rate': 0.0}, 'fix: allocation.rate = 0.1'),
    ({'allocation.name': 'thompson', 'allocation.pool': 0}, "allocation.name = 'thompson' remembers the problems of a pool"),
  ],
)
def test_options_out_of_range_are_refused(changes, told):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict({'allocation.pool': 64} | changes)
  with pytest.raises(ConfigError, match=re.escape(told)):
    validate(config)
