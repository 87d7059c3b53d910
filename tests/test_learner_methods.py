"""What the learner does for every objective: corrections, divergences, held tokens, other prompts, a value without a critic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from jax.sharding import NamedSharding, PartitionSpec
from loss_cases import MASK, N, T, loss_arrays, loss_inputs, total, trajectories
from tiny import first_params, named, rolled_out, rule_of, run, tiny_experiment

from espo_jax import objectives, parallel
from espo_jax.configs import warmup_updates
from espo_jax.learner import score
from espo_jax.learner.decision import decision_tokens, held
from espo_jax.stages import rl
from espo_jax.stages.rollouts import TOTALS, Draw, informative_batch
from espo_jax.types import Reward, StopReason


def scored(exp, params, rows, against=None):
  run = jax.jit(
    lambda p, a: score(
      exp.model, p, rows.prompt_tokens, rows.prompt_lengths, rows.tokens, temperature=0.8, chunk=10_000, against=a
    )
  )
  return run(params, against)


def relative_scores(rows, reward, exp, taken_off=0.0):
  """Group-relative advantages in numpy: outcomes, failures where a row was stopped, less what is taken off on tokens."""
  mask = np.asarray(rows.mask)
  outcome = np.where(np.asarray(rows.stopped), exp.config.stop.fail_reward, np.asarray(reward.sequence, np.float64))
  scores = (outcome - np.where(mask, taken_off, 0.0).sum(1)).reshape(-1, exp.config.rollout.samples)
  relative = (scores - scores.mean(1, keepdims=True)) / (scores.std(1, keepdims=True) + 1e-6)
  return np.where(mask, relative.reshape(-1, 1), 0.0)


def bounds_of(learner, exp, params, reference, rows, reward):
  """How far rounding may put a batch's advantages, the metrics and the learner's own log-probabilities."""

  def prepare(params, reference, rows, reward):
    batch, metrics = learner.prepare(params, reference, rows, reward)
    return batch.advantages, metrics, jnp.where(rows.mask, batch.old_logprobs, 0.0)

  width = rows.prompt_tokens.shape[1] + rows.tokens.shape[1]
  # Two decoders, and sums over a row's tokens, a group and the batch: of the learner, and of what it is compared with.
  roundings = 2 * (2 * rounding.of_decoder(exp.model.config, width) + rows.tokens.size)
  return rounding.of_program(prepare, params, reference, rows, reward, roundings=roundings)


# --------------------------------------------------------------------------------------------------------------- advantages


def test_a_stopped_row_is_a_failure_among_its_group(precision):
  exp = tiny_experiment(named(objective__name='grpo'))
  params, rows, reward = rolled_out(exp)
  assert rows.stopped.any() and not rows.stopped.all()
  learner = rl.reinforcement_learner(exp, rule_of(exp))
  batch, metrics = learner.prepare(params, None, rows, reward)
  bound, *_ = bounds_of(learner, exp, params, None, rows, reward)
  rounding.assert_within(batch.advantages, relative_scores(rows, reward, exp), bound)
  np.testing.assert_array_equal(batch.old_logprobs, rows.logprobs)
  assert not np.any(batch.returns) and not any(name.startswith('critic/') for name in metrics)


@pytest.mark.parametrize('kind', ['k1', 'k2', 'k3', 'exact'])
def test_the_divergence_is_taken_off_the_reward(kind, in_float64):
  exp = tiny_experiment(named(objective__name='grpo', reward__kl=kind, reward__kl_coef=0.3))
  params, rows, reward = rolled_out(exp)
  reference = first_params(exp, 1)
  learner = rl.reinforcement_learner(exp, rule_of(exp))
  batch, metrics = learner.prepare(params, reference, rows, reward)
  d = np.asarray(rows.logprobs, np.float64) - np.asarray(scored(exp, reference, rows).logprobs)
  kl = {
    'k1': d,
    'k2': d**2 / 2,
    'k3': np.exp(-d) - 1 + d,
    'exact': np.asarray(scored(exp, params, rows, reference).reference_kl),
  }[kind]
  bound, of_metrics, _ = bounds_of(learner, exp, params, reference, rows, reward)
  rounding.assert_within(batch.advantages, relative_scores(rows, reward, exp, 0.3 * kl), bound)
  rounding.assert_within(metrics['reward/kl'], kl[np.asarray(rows.mask)].mean(), of_metrics['reward/kl'])


def test_the_importance_correction_weighs_tokens_and_starts_ratios_at_one(precision):
  exp = tiny_experiment(named(objective__name='grpo', learner__importance_cap=1.1))
  params, rows, reward = rolled_out(exp)
  noise = np.random.default_rng(0).normal(0, 0.2, rows.logprobs.shape).astype(precision)
  off = rows.replace(logprobs=rows.logprobs + noise)  # a sampler that disagrees
  learner = rl.reinforcement_learner(exp, rule_of(exp))
  batch, metrics = learner.prepare(params, None, off, reward)
  bound, _, of_logprobs = bounds_of(learner, exp, params, None, off, reward)
  ours = scored(exp, params, rows).logprobs
  weight = np.exp(np.asarray(ours, np.float64) - np.asarray(off.logprobs))
  rounding.assert_within(batch.advantages, relative_scores(rows, reward, exp) * np.minimum(weight, 1.1), bound)
  mask = np.asarray(rows.mask)
  rounding.assert_within(np.asarray(batch.old_logprobs)[mask], np.asarray(ours)[mask], of_logprobs)
  open_to_rounding = (np.abs(np.log(weight[mask] / 1.1)) < of_logprobs).mean()
  assert open_to_rounding < 0.05
  bound = open_to_rounding + rounding.gamma(mask.sum())
  rounding.assert_within(metrics['importance/capped'], (weight > 1.1)[mask].mean(), bound)


# ---------------------------------------------------------------------------------------------------------- the decision token


def test_the_decision_is_the_first_token_after_the_tag():
  tokens = jnp.asarray([[5, 9, 1, 2, 9, 3], [9, 9, 4, 1, 1, 1], [1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 5, 6]])
  prompts = jnp.asarray([[7, 8], [7, 8], [7, 8], [8, 9]])
  got = decision_tokens(prompts, tokens, 9)
  wanted = np.zeros((4, 6), bool)
  wanted[0, 2] = wanted[1, 1] = wanted[3, 0] = True
  np.testing.assert_array_equal(got, wanted)
  assert not decision_tokens(prompts, tokens, -1).any()


@pytest.mark.parametrize('name', ['grpo', 'gspo', 'tepo', 'grpo + kl_k3 + entropy'])
def test_a_held_token_learns_nothing_and_the_others_what_they_did(name):
  x = loss_arrays(spread=1e-3, per_row=True)
  where = np.zeros((N, T), bool)
  where[0, 3] = where[2, 0] = where[4, 9] = True

  def gradient(where):
    def loss(lp, h):
      moving = {'logprobs': held(lp, jnp.asarray(where)), 'entropy': held(h, jnp.asarray(where))}
      return total(objectives.compose(name, {})(loss_inputs(x | moving))[0])

    return jax.grad(loss, argnums=(0, 1))(jnp.asarray(x['logprobs']), jnp.asarray(x['entropy']))

  for free, kept in zip(gradient(np.zeros((N, T), bool)), gradient(where), strict=True):
    np.testing.assert_array_equal(kept, np.where(where, 0.0, free))
  assert np.any(np.asarray(gradient(where)[0])[MASK])


# ------------------------------------------------------------------------------------------------------------ dynamic sampling


def numbered_draw(number, differ, samples=2):
  """A draw whose rows are numbered `100 * draw + row`, so that it shows where each came from."""
  groups = len(differ)
  rows = trajectories(100 * number + np.arange(groups * samples), [StopReason.EOS] * groups * samples)
  reward = Reward(rows.length.astype(jnp.float32))
  metrics = {**{name: jnp.float32(1 + number) for name in TOTALS}, 'accuracy': jnp.float32(number)}
  return Draw(rows, reward, jnp.asarray(differ), rows, jnp.ones(rows.length.shape), metrics)


@pytest.mark.parametrize(
  ('draws', 'most', 'groups', 'made'),
  [
    ([[1, 1, 1, 1]], 3, [0, 1, 2, 3], 1),
    ([[1, 0, 0, 1], [0, 1, 1, 1]], 3, [0, 101, 102, 3], 2),  # a full batch is enough
    ([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]], 3, [0, 102, 200, 203], 3),
    ([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], 3, [103, 1, 2, 3], 3),  # what is missing is filled with what there was
    ([[0, 0, 0, 0], [1, 1, 1, 1]], 1, [0, 1, 2, 3], 1),
  ],
)
def test_groups_of_equal_scores_are_replaced(draws, most, groups, made):
  asked = []

  def draw(number):
    asked.append(number)
    return numbered_draw(number, np.array(draws[number], bool))

  mesh = parallel.make_mesh(2, 1, 1)
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  rows, reward, first, metrics = informative_batch(draw, most, 2, mesh)
  assert asked == list(range(made))
  wanted = [100 * (g // 100) + 2 * (g % 100) + i for g in groups for i in (0, 1)]
  np.testing.assert_array_equal(rows.length, wanted)
  np.testing.assert_array_equal(reward.sequence, wanted)
  assert first.metrics['accuracy'] == metrics['accuracy'] == 0.0  # measured on what nothing has selected
  for name in TOTALS:
    assert metrics[name] == sum(range(1, made + 1))
  if most > 1:
    assert metrics['rollout/draws'] == made
    informative = sum(bool(draws[g // 100][g % 100]) for g in groups) / 4
    assert metrics['rollout/informative_groups'] == informative  # quarters
    assert rows.length.sharding.is_equivalent_to(sharding, 1)


def test_draws_are_of_other_problems_and_a_step_repeats_itself():
  exp = tiny_experiment(named(objective__name='dapo', rollout__max_draws=3))
  seen = []
  original = type(exp).my_problems
  exp_problems = lambda split, start, count: seen.append((start, count)) or original(exp, split, start, count)
  object.__setattr__(exp, 'my_problems', exp_problems)
  _, metrics = run(exp, 2)
  asked, seen[:] = list(seen), []
  starts = [start for start, _ in asked]
  assert len(set(starts)) == len(starts) and np.diff(starts).min() >= 4
  _, again = run(exp, 2)
  assert asked == seen
  for one, two in zip(metrics, again, strict=True):
    assert one['rollout/checksum'] == two['rollout/checksum'] and one['loss/total'] == two['loss/total']
    assert one['rollout/rows'] == 16 * one['rollout/draws'] >= 16


# ----------------------------------------------------------------------------------------------------- a value without a critic


def test_the_value_is_the_running_success_rate():
  exp = tiny_experiment(named(objective__name='grpo'))
  state, metrics = run(exp, 3)
  first, second, third = (row['accuracy'] for row in metrics)
  success = state.params['critic']['success']
  for found, wanted in (
    (metrics[1]['stop/success'], first),  # the first batch sets it
    (metrics[2]['stop/success'], 0.99 * first + 0.01 * second),
    (success, 0.99 * metrics[2]['stop/success'] + 0.01 * third),
  ):
    rounding.assert_close(np.float32(found), wanted, roundings=16 + 4)  # a mean of sixteen rows, no term negative
  prompts = exp.prompts(exp.problems('train', 0, 4))
  sampler = exp.sampler.plain(samples=4, temperature=0.8)
  rows = sampler(state.params, rule_of(exp), state.adaptive, prompts, exp.key('x', 1))
  np.testing.assert_array_equal(rows.values, np.where(np.asarray(rows.mask), np.float32(success), 0.0))
  threshold = rule_of(exp).threshold(state.adaptive, rows.values[:, 0])
  wanted = float(state.adaptive.beta) * max(float(success), 0.2)
  rounding.assert_close(threshold, np.full(threshold.shape, wanted), roundings=2)


def test_without_a_critic_the_warm_up_is_one_update():
  for name, updates in (('ppo', 10), ('grpo', 1), ('tepo', 1)):
    assert warmup_updates(tiny_experiment(named(objective__name=name)).config) == updates
