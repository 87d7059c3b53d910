"""A pool of problems, the allocators' formulas, and rollouts in which problems have different numbers of rows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import HORIZON, NEVER, PROMPTS, STATE, G, P, run
from tiny import first_params, named, tiny_experiment

from espo_jax import parallel
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import Checkpoints, init_state, restore
from espo_jax.stages import rl
from espo_jax.stages.allocation import Plan, first_memory
from espo_jax.stages.metrics import Clock
from espo_jax.stages.rollouts import first_position, whole_groups
from espo_jax.tasks.allocators import ALLOCATORS, Seen, Stream, make_allocator
from espo_jax.tasks.allocators.duet import rows_within
from espo_jax.tasks.allocators.greso import skip_probability
from espo_jax.types import Trajectories, Verdicts

# ------------------------------------------------------------------------------------------------------------ the stream


def test_every_epoch_has_every_problem_once_in_another_order():
  stream = Stream(12, seed=3)
  epochs = np.array([stream.problem(i) for i in range(36)]).reshape(3, 12)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(12))
  assert not (epochs[0] == epochs[1]).all() and not (epochs[1] == epochs[2]).all()
  problems, position = stream.take(0, 12)
  np.testing.assert_array_equal(problems, epochs[0])
  assert position == 12 and Stream(12, seed=4).take(0, 12)[0].tolist() != problems.tolist()


def test_a_rollout_has_no_problem_twice_also_across_epochs():
  stream = Stream(10, seed=0)
  for position in range(30):
    problems, end = stream.take(position, 8)
    assert len(set(problems.tolist())) == 8 and end >= position + 8
  assert len(stream.take(0, 10, skip=lambda position, problem: True)[0]) == 10  # an allocator that wants none is overruled


# -------------------------------------------------------------------------------------------------------------- allocators


@pytest.mark.parametrize(('streak', 'wanted'), [(0, 0.0), (1, 0.5), (2, 0.75), (3, 0.875), (7, 0.99)])
def test_greso_skips_with_the_specifications_probabilities(streak, wanted):
  assert skip_probability(streak, 0.5) == pytest.approx(wanted)


def seen(problems, correct, lengths=None, signal=None) -> Seen:
  correct = np.asarray(correct, float)
  blank = np.full(correct.shape, np.nan)
  return Seen(np.asarray(problems), correct, blank if lengths is None else lengths, blank if signal is None else signal, {})


def test_gresos_streaks_grow_while_a_group_is_of_one_kind():
  allocator = make_allocator('greso')
  memory = allocator.init(6)
  memory = allocator.observe(memory, seen([0, 1, 2, 3], [[1, 1], [0, 0], [1, 0], [np.nan, np.nan]]))
  np.testing.assert_array_equal(memory['easy'], [1, 0, 0, 0, 0, 0])
  np.testing.assert_array_equal(memory['hard'], [0, 1, 0, 0, 0, 0])
  assert memory['take_easy'] == np.float32(0.49) and memory['take_hard'] == np.float32(0.49)  # 1/4 each, above both targets
  memory = allocator.observe(memory, seen([0, 1, 2, 3, 4, 5, 0], [[1, 1], [1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [1, 1]]))
  assert memory['hard'][1] == 0 and memory['take_hard'] == np.float32(0.5)
  memory = allocator.observe(memory, seen([3], [[np.nan, 1]]))
  assert memory['easy'][3] == 1  # of the rows that are left


def test_greso_passes_over_hopeless_problems_from_the_second_epoch_on():
  allocator, stream = make_allocator('greso'), Stream(100, seed=1)
  memory = allocator.init(100) | {'hard': np.where(np.arange(100) < 50, 7, 0).astype(np.int32)}
  np.testing.assert_array_equal(allocator.choose(memory, stream, 0, 100)[0], stream.take(0, 100)[0])
  problems, position = allocator.choose(memory, stream, 100, 40)
  assert (problems < 50).sum() <= 3 and position > 165
  np.testing.assert_array_equal(problems, allocator.choose(memory, stream, 100, 40)[0])


SPREAD, LENGTHS = np.array([0.8, 1.2, 0.5, 1.5]), np.array([300.0, 400, 250, 600])


@pytest.mark.parametrize(
  ('budget', 'rows', 'weights'),
  [(0.5, [3, 5, 2, 4], [1.25, 1, 1.875, 1]), (0.25, [2, 2, 1, 2], None), (1.0, [7, 9, 5, 9], None)],
)
def test_duets_rows_and_weights_are_the_specifications(budget, rows, weights):
  found, weighed = rows_within(SPREAD, LENGTHS, budget * 8 * LENGTHS.sum(), 32)
  np.testing.assert_array_equal(found, rows)
  if weights:
    np.testing.assert_allclose(weighed, weights, atol=5e-4)


def test_duet_remembers_what_the_specification_says():
  allocator = make_allocator('duet')
  advantage, logprobs = np.array([[1.5, -0.5, -0.5, -0.5]]), np.array([[-10.0, -12, -8, -20]])
  memory = allocator.observe(
    allocator.init(3), seen([1], [[1, 0, 0, 0]], np.array([[10.0, 20, np.nan, 30]]), advantage * logprobs)
  )
  assert memory['spread'][1] == pytest.approx(9.6274, abs=5e-5) and memory['visits'][1] == 1
  assert memory['rows'][1] == 3 and memory['tokens'][1] == 60 and memory['all_tokens'] == 60
  again = allocator.observe(memory, seen([1], [[1, 0, 0, 0]], np.array([[5.0, np.nan, np.nan, np.nan]]), None))
  assert again['visits'][1] == 1 and again['rows'][1] == 4  # one row has no deviation
  rows, _ = allocator.share_out(again, np.array([0, 1, 2]), 8)
  assert rows[1] == 8 and (rows >= 1).all()  # it varies more than those that were never seen
  assert rows.sum() <= 0.5 * 8 * 3  # all have the same mean length


PILOTED = [([0] * 8, False, False), ([1] * 7 + [0], False, False), ([1] * 8, False, True)]
PILOTED += [([1] * right + [0] * (8 - right), True, False) for right in range(1, 7)]


@pytest.mark.parametrize(('correct', 'passes', 'ends'), PILOTED, ids=str)
def test_pilots_pass_as_in_the_specification(correct, passes, ends):
  allocator = make_allocator('pilot_commit')
  group = np.array([correct + [np.nan] * 8], float)  # of 16 rows, 8 are pilots
  assert allocator.commit(group).tolist() == [passes]
  memory = allocator.observe(allocator.init(3), seen([2], group))
  assert memory['solved'].tolist() == [False, False, ends]


def test_a_problem_that_all_pilots_solved_is_not_asked_again():
  allocator, stream = make_allocator('pilot_commit'), Stream(6, seed=2)
  memory = allocator.observe(allocator.init(6), seen([0, 3, 4], [[1, 1], [1, np.nan], [np.nan, np.nan]]))
  assert memory['solved'].tolist() == [True, False, False, True, False, False]  # of the fourth no pilot was known
  problems, position = allocator.choose(memory, stream, 0, 4)
  assert sorted(problems) == [1, 2, 4, 5] and position <= 6


# ----------------------------------------------------------------------------------------------------------------- rollouts


@pytest.mark.parametrize('slots', [0, 4])
def test_rows_that_are_begun_do_not_know_of_those_that_are_not(slots, in_float64):
  counts = np.array([3, 1, 2, 3, 1, 2], np.int32)
  whole = run()
  some = run(prompts=PROMPTS.replace(rows=counts), slots=slots)
  begun = (np.arange(G) < counts[:, None]).reshape(-1)
  for field in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(some, field)[begun], getattr(whole, field)[begun])
  for field in ('tokens', 'length', 'full_length', 'logprobs', 'started'):
    assert not getattr(some, field)[~begun].any()
  assert not some.shadow[~begun].any() and begun.sum() == 12


def test_fewer_rows_take_fewer_steps(in_float64):
  some = run(prompts=PROMPTS.replace(rows=np.ones(P, np.int32)), slots=2, rule=NEVER, state=STATE)
  whole = run(slots=2, rule=NEVER, state=STATE)
  assert (some.started + some.full_length).max() < 0.6 * (whole.started + whole.full_length).max() <= 0.6 * 9 * HORIZON


# ----------------------------------------------------------------------------------------------------------------- training


def trained(steps, **lines):
  exp = tiny_experiment(named(**{'objective__name': 'grpo', 'allocation__pool': 8, **lines}))
  never = make_rule(exp.config, 'never')
  fresh = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, never).optimizer, never)
  state = exp.on_mesh(fresh.replace(allocation=first_memory(exp.config)))
  step, told = rl.reinforcement_step(exp, never, None), []
  with jax.transfer_guard('disallow'):
    for number in range(1, steps + 1):
      state, metrics = step(state, number)
      told.append({name: float(x) for name, x in jax.device_get(metrics).items()})
  return exp, state, told


def test_a_pool_is_repeated_epoch_by_epoch():
  exp, state, told = trained(3)
  assert [row['allocation/epochs'] for row in told] == pytest.approx([0.5, 1.0, float(state.allocation['position']) / 8])
  asked = []
  for position in (0, 4):
    plan = Plan(exp, state.replace(allocation=exp.put({'position': np.asarray(position, np.int32)})), 1, Clock())
    asked += [problem.id for part in plan.ask(0).problems for problem in part]
  assert sorted(asked) == sorted(problem.id for problem in exp.problems('train', first_position(exp.config), 8))


def test_duet_trains_on_fewer_rows_and_remembers_across_a_restart(tmp_path):
  _, state, told = trained(3, allocation__name='duet', allocation__budget=0.5, allocation__base=4)
  for row in told:
    assert 4 <= row['rollout/rows'] < 16
    assert row['rollout/kept'] == row['rollout/rows'] / 16
    assert np.isfinite([row['grad_norm'], row['accuracy'], row['rollout/length_mean']]).all()
  assert state.allocation['visits'].sum() > 0 and state.allocation['all_rows'] == sum(row['rollout/rows'] for row in told)
  with Checkpoints(tmp_path / 'steps') as checkpoints:
    checkpoints.save(3, state, done=True)
  blank = jax.tree.map(jnp.zeros_like, state)
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path / 'steps', blank).state.allocation, state.allocation)


def test_greso_learns_from_every_draw():
  _, state, told = trained(2, allocation__name='greso', rollout__max_draws=2)
  drawn = sum(row['rollout/draws'] for row in told)
  assert drawn > 2 and told[-1]['rollout/rows'] == 16 * told[-1]['rollout/draws']
  moves = [float(state.allocation[f'take_{kind}']) for kind in ('easy', 'hard')]
  assert all(abs(100 * (move - 0.5) - round(100 * (move - 0.5))) < 1e-3 for move in moves) and moves != [0.5, 0.5]
  assert (state.allocation['easy'] + state.allocation['hard']).max() > 0


PILOT = {'allocation__name': 'pilot_commit', 'allocation__pilots': 1, 'allocation__pool': 8}


@pytest.mark.parametrize('pilots', [1, 2])
def test_pilots_and_the_rest_are_groups_of_whole_rows(pilots):
  passed = np.array([True, False, True, True, False, True])
  counts = (np.full(P, pilots), np.where(passed, G - pilots, 0))
  begun = [(np.arange(G) < count[:, None]).reshape(-1) for count in counts]
  first, second = (np.where(its, 100 * (i + 1) + np.arange(P * G), 0) for i, its in enumerate(begun))
  mesh = parallel.make_mesh(2, 1, 1)
  rows, verdicts = whole_groups(*((trajectories(x), verdicts_on(x)) for x in (first, second)), passed, pilots, mesh)
  wanted = [
    [first[G * p + i] if i < pilots else second[G * p + i - pilots] for i in range(G)] if passed[p] else [0] * G
    for p in range(P)
  ]
  np.testing.assert_array_equal(rows.length.reshape(P, G), wanted)
  np.testing.assert_array_equal(verdicts.correct.reshape(P, G), wanted)
  assert (np.array(wanted)[passed] > 0).all()


def trajectories(lengths) -> Trajectories:
  """Rows that are known by their lengths."""
  count = len(lengths)
  flat, wide = np.zeros(count, np.int32), np.zeros((count, 2), np.float32)
  blank = {'values': wide, 'regret': wide, 'z': wide, 'trained_from': flat, 'full_length': flat, 'stop_reason': flat}
  return Trajectories(
    prompt_tokens=wide.astype(np.int32),
    prompt_lengths=flat,
    tokens=wide.astype(np.int32),
    logprobs=wide,
    length=lengths.astype(np.int32),
    started=flat,
    shadow=flat > 0,
    **blank,
  )


def verdicts_on(correct) -> Verdicts:
  no = np.zeros(len(correct), bool)
  return Verdicts(correct.astype(np.float32), no, no, np.zeros(len(correct), np.int32), no, no)


def test_only_problems_that_pass_get_the_rest_of_their_rows_and_are_trained_on():
  _, _, all_pass = trained(1, **PILOT, allocation__low=-1.0, allocation__high=2.0)
  assert all_pass[0]['rollout/rows'] == 16 and all_pass[0]['rollout/kept'] == 1.0 == all_pass[0]['allocation/passed']
  _, state, told = trained(3, **PILOT, allocation__low=0.5)
  for row in told:
    passed = row['allocation/passed']
    assert row['rollout/rows'] == 4 + 4 * 3 * passed and row['rollout/kept'] == passed
    assert np.isfinite([row['grad_norm'], row['accuracy'], row['rollout/length_mean']]).all()
  assert state.allocation['solved'].dtype == bool


def test_an_update_in_which_no_problem_passes_has_no_gradient():
  _, _, told = trained(1, **PILOT, allocation__low=2.0)
  assert told[0]['allocation/passed'] == told[0]['rollout/kept'] == told[0]['grad_norm'] == 0.0 and told[0]['rollout/rows'] == 4


REFUSED = [
  ({'allocation.name': 'greso'}, "allocation.pool = 0: allocation.name = 'greso' remembers the problems of a pool"),
  ({'allocation.pool': 7}, 'allocation.pool = 7: a rollout has rollout.prompts = 8 problems'),
  ({'allocation.name': 'gresso', 'allocation.pool': 64}, "'gresso' is unknown"),
  ({'allocation.name': 'duet', 'allocation.pool': 64}, "advantage.name = 'gae': allocation.name = 'duet' needs one advantage"),
  (
    {'allocation.name': 'duet', 'allocation.pool': 64, 'objective.name': 'dapo'},
    "rollout.max_draws = 10: allocation.name = 'duet' cannot replace groups",
  ),
  (
    {'allocation.name': 'pilot_commit', 'allocation.pool': 64, 'allocation.pilots': 4, 'objective.name': 'grpo'},
    'allocation.pilots = 4: at least 1, and fewer than rollout.samples = 2; '
    'fix: allocation.pilots = 4 and rollout.samples = 16',
  ),
  (
    {'allocation.name': 'duet', 'allocation.pool': 64, 'objective.name': 'grpo', 'reward.name': 'correct + l_grpo'},
    "allocation.name = 'duet': the reward 'l_grpo' would count a row that was not begun as wrong",
  ),
  (
    {'allocation.name': 'duet', 'allocation.pool': 64, 'objective.name': 'grpo + mode_margin'},
    "allocation.name = 'duet': the objective 'mode_margin' would count a row that was not begun as wrong",
  ),
  (
    {'allocation.name': 'duet', 'allocation.pool': 64, 'objective.name': 'grpo', 'rollout.record': 5},
    "rollout.record = 5: allocation.name = 'duet' leaves rows out",
  ),
]


@pytest.mark.parametrize(('changes', 'told'), REFUSED, ids=str)
def test_what_cannot_be_allocated_is_refused(changes, told):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(told)):
    validate(config)


def test_the_allocators_are_known():
  assert {'uniform', 'greso', 'duet'} <= set(ALLOCATORS)


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('pilot_commit', {'low': 0.9, 'high': 0.1}, r'allocation\.low = 0\.9, allocation\.high = 0\.1: no share of right pilots'),
    ('pilot_commit', {'high': 1.5}, r'allocation\.high = 1\.5: no share of right pilots'),
    ('greso', {'easy_above': 0.1}, r'allocation\.easy_above = 0\.1: a problem would be easy and hard at once'),
    ('duet', {'budget': 0.0}, r'allocation\.budget = 0\.0: each problem would have one row; fix: a number above 0'),
    ('duet', {'base': 0}, r'allocation\.base = 0: each problem would have one row; fix: a number above 0'),
    ('duet', {'objective': 'rwr'}, r"objective\.name = 'rwr': allocation\.name = 'duet' scales advantages"),
  ],
)
def test_options_with_which_nothing_is_learnt_are_refused(name, options, message):
  config = default_config()
  config.rollout.samples, config.rollout.prompt_width = 16, 64
  config.objective.name = options.get('objective', 'grpo')
  config.allocation.update({'name': name, 'pool': 512} | {k: v for k, v in options.items() if k != 'objective'})
  with pytest.raises(ConfigError, match=message):
    validate(config)
