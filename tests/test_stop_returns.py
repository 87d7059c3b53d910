"""What a stopped row returns, on a policy small enough to enumerate, and what is estimated from shadow rows."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from loss_cases import trajectories
from tiny import first_params, rolled_out, rule_of, tiny_experiment

from espo_jax import objectives, rewards
from espo_jax.configs import ConfigError, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import init_state, roulette
from espo_jax.stages import rl
from espo_jax.stages.metrics import rollout_metrics
from espo_jax.types import Reward, StopReason

LENGTH = KINDS = 3
SHARE = 0.25
ROWS = list(itertools.product(range(KINDS), repeat=LENGTH))
HISTORIES = [h for t in range(LENGTH) for h in itertools.product(range(KINDS), repeat=t)]


class Tabular:
  """Three tokens of three kinds, each row drawn with its exact probability; the numbers of the specification's seed."""

  def __init__(self):
    rng = np.random.default_rng(2)
    self.logits = np.stack([rng.normal(0, 1, KINDS) for _ in HISTORIES])
    self.outcome = np.array([float(rng.random() < 0.45) for _ in ROWS])
    self.place = {h: i for i, h in enumerate(HISTORIES)}
    self.history = np.array([[self.place[row[:t]] for t in range(LENGTH)] for row in ROWS])
    self.tokens = np.array(ROWS)
    self.policy = np.exp(self.logits) / np.exp(self.logits).sum(1, keepdims=True)
    self.chance = self.policy[self.history, self.tokens].prod(1)
    value = {row: r for row, r in zip(ROWS, self.outcome, strict=True)}
    for h in reversed(HISTORIES):
      value[h] = sum(self.policy[self.place[h], a] * value[(*h, a)] for a in range(KINDS))
    self.values = np.array([[value[row[:t]] for t in range(LENGTH + 1)] for row in ROWS])
    regret = np.log(self.policy.max(1)[self.history] / self.policy[self.history, self.tokens])
    unlikely = regret[:, :-1] > 0.9
    self.stopped = unlikely.any(1)
    self.length = np.where(self.stopped, unlikely.argmax(1) + 1, LENGTH)

  def expected_update(self, returns: str) -> np.ndarray:
    """The mean of the policy gradient with the advantages that the package gives the rows; 'never' stops none.

    'head' pays the exact chance of success, and 'roulette' with some number pays that number more than the value.
    """
    if returns.startswith('roulette'):
      return SHARE * self._with_roulette(returns, shadow=True) + (1 - SHARE) * self._with_roulette(returns, shadow=False)
    stopped = self.stopped & (returns != 'never')
    length = np.where(stopped, self.length, LENGTH)
    reason = np.where(stopped, StopReason.PRUNED if returns == 'drop' else StopReason.STOPPED, StopReason.EOS)
    rows = trajectories(length.astype(np.int32), reason.astype(np.int32), length.astype(np.int32), width=LENGTH)
    rows = rows.without(rows.pruned)
    after = self.values[np.arange(len(ROWS)), length]
    paid = rewards.stop_reward('fail' if returns == 'never' else returns, -1.0, jnp.asarray(after), jnp.asarray(after))
    return self._mean_of(self._credit(rows, paid)[0])

  def _credit(self, rows, paid):
    placed = rewards.token_rewards(rows, Reward(jnp.asarray(self.outcome)), stopped=paid)
    return objectives.gae(placed, jnp.asarray(self.values[:, :-1]), rows.mask, gamma=1.0, lam=1.0)

  def _with_roulette(self, returns: str, shadow: bool) -> np.ndarray:
    length, whole = np.where(self.stopped, self.length, LENGTH), np.full(len(ROWS), LENGTH, np.int32)
    reason = np.where(self.stopped, StopReason.STOPPED, StopReason.EOS).astype(np.int32)
    rows = trajectories(length.astype(np.int32), reason, np.where(self.stopped & ~shadow, length, whole), width=LENGTH)
    rows = rows.replace(shadow=jnp.asarray(self.stopped & shadow))
    after = self.values[np.arange(len(ROWS)), length] + float(returns.removeprefix('roulette') or 0)
    paid = rewards.stop_reward('roulette', -1.0, jnp.asarray(after))
    both = self._credit(rows, paid), self._credit(rows.whole(), paid)
    return self._mean_of(roulette.unbiased(rows, *both, share=SHARE, whiten=False)[0])

  def _mean_of(self, advantages) -> np.ndarray:
    slopes = np.eye(KINDS)[self.tokens] - self.policy[self.history]
    each = self.chance[:, None, None] * np.asarray(advantages)[..., None] * slopes
    total = np.zeros_like(self.policy)
    np.add.at(total, self.history, each)
    return total

  def gradient(self) -> np.ndarray:
    """The derivative of the expected outcome by the logits."""

    def expected(logits):
      logprobs = jax.nn.log_softmax(logits)[self.history, self.tokens].sum(1)
      return (jnp.exp(logprobs) * self.outcome).sum()

    return np.asarray(jax.grad(expected)(jnp.asarray(self.logits)))


@pytest.fixture
def tabular(in_float64) -> Tabular:
  found = Tabular()
  assert 0 < found.chance[found.stopped].sum() < 0.5
  return found


# 3e-4: the specification gives four digits, or three of a share.
@pytest.mark.parametrize(
  ('returns', 'bias'),
  [
    ('never', 0.0),
    ('value', 0.0908),
    ('head', 0.0908),
    ('drop', 0.2185),
    ('zero', 0.4882),
    ('fail', 1.0995),
    ('roulette', 0.0),
    ('roulette-0.7', 0.0),
  ],
)
def test_the_bias_of_what_a_stop_returns(tabular, returns, bias):
  exact = tabular.gradient()
  error = np.linalg.norm(tabular.expected_update(returns) - exact) / np.linalg.norm(exact)
  assert error == pytest.approx(bias, abs=3e-4 if bias else 1e-12)


def test_the_value_misses_what_was_not_decoded_and_nothing_else(tabular):
  """Stopping at the exact value is the expectation over the suffix, so only the suffix's own tokens are not taught."""
  whole, cut = tabular.gradient(), tabular.expected_update('value')
  decoded = np.ones(len(HISTORIES), bool)
  for row, stopped, length in zip(ROWS, tabular.stopped, tabular.length, strict=True):
    for t in range(length, LENGTH) if stopped else ():
      decoded[tabular.place[row[:t]]] = False
  assert 0 < decoded.sum() < len(HISTORIES)
  np.testing.assert_allclose(cut[decoded], whole[decoded], rtol=0, atol=1e-14)
  np.testing.assert_array_equal(cut[~decoded], 0)


@pytest.mark.parametrize('outcome', [1.0, 0.0])
def test_roulette_has_the_specifications_numbers(in_float64, outcome):
  """Two rows that were stopped after their second token; the first went on."""
  rows = trajectories(np.array([2, 2], np.int32), np.full(2, 2, np.int32), np.array([3, 2], np.int32), width=3)
  rows = rows.replace(shadow=jnp.asarray([True, False]))
  values, m = np.array([0.5, 0.4, 0.3]), 0.35
  cut = jnp.asarray(np.tile([*(m - values[:2]), 0.0], (2, 1)))
  complete = jnp.asarray(np.stack([outcome - values, [*(m - values[:2]), 0.0]]))
  found, _ = roulette.unbiased(rows, (cut, cut), (complete, complete), share=0.25, whiten=False)
  wanted = {1.0: [2.45, 2.55, 2.80], 0.0: [-1.55, -1.45, -1.20]}[outcome]
  np.testing.assert_allclose(found, [wanted, [-0.15, -0.05, 0.0]], atol=1e-12)


# ------------------------------------------------------------------------------------------------------- through the learner


@pytest.mark.parametrize('whiten', [False, True])
def test_roulette_with_a_share_of_one_is_ppo(whiten, in_float64):
  """Every stopped row goes on, so that the update is that of rows which nobody stopped."""

  def prepared(returns, rows):
    exp = tiny_experiment(lambda c: (c.stop.update(returns=returns, shadow_share=1.0), c.advantage.update(whiten=whiten)))
    learner = rl.reinforcement_learner(exp, rule_of(exp))
    return learner.prepare(params, None, rows, reward)[0]

  params, rows, reward = rolled_out(tiny_experiment())
  went_on = rows.stopped & (rows.full_length > rows.length)
  rows = rows.replace(shadow=went_on, stop_reason=jnp.where(rows.stopped & ~went_on, StopReason.EOS, rows.stop_reason))
  assert went_on.any()
  ours, theirs = prepared('roulette', rows), prepared('fail', rows.whole())
  np.testing.assert_array_equal(ours.trajectories.mask, theirs.trajectories.mask)
  for name in ('advantages', 'returns', 'old_logprobs'):
    np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9, err_msg=name)


REFUSED = [
  (
    {'stop.returns': 'roulette', 'objective.name': 'grpo'},
    "objective.name = 'grpo' has no critic, whose value a cut row returns",
  ),
  (
    {'stop.returns': 'roulette', 'stop.shadow_share': 0.01},
    'a row that goes on weighs as much as 1 / shadow_share stopped rows',
  ),
  ({'stop.returns': 'roulette', 'rollout.max_draws': 2}, "groups chosen by their scores bias stop.returns = 'roulette'"),
  ({'stop.returns': 'roulette', 'reward.name': 'correct + spa_progress'}, "the reward 'spa_progress' pays single tokens"),
  ({'stop.returns': 'roulette', 'stop.name': 'never', 'baselines': (), 'objective.name': 'grpo'}, 'has no critic'),
  ({'stop.returns': 'head', 'reward.name': 'hmpo'}, "it pays a probability, and reward.name = 'hmpo' pays"),
  ({'stop.returns': 'head', 'reward.low': -1.0}, "reward.name = 'correct' pays from -1.0 to 1.0"),
  ({'stop.name': 'wald'}, "the rule 'wald' also ends rows that are sure to be right; fix: stop.returns = 'head'"),
  ({'stop.name': 'own_price', 'objective.name': 'grpo'}, "the rule 'own_price' tells problems apart by the critic"),
  (
    {'stop.name': 'own_price', 'stop.own_price.beta_min': -0.5},
    'stop.own_price.beta_min = -0.5: below 0 a row would have to be',
  ),
  ({'stop.name': 'own_price', 'stop.own_price.beta_0': -0.1}, 'stop.own_price.beta_0 = -0.1 is outside'),
  ({'stop.name': 'deepconf', 'stop.window': 4, 'stop.deepconf.beta_0': 1.0}, 'stop.deepconf.beta_0 = 1.0 is outside'),
  ({'objective.name': 'grpo', 'advantage.name': 'maxrl'}, "stop.fail_reward = -1.0: advantage.name = 'maxrl' divides by"),
  (
    {'objective.name': 'grpo', 'advantage.name': 'gdpo', 'reward.kl_coef': 0.1},
    "advantage.name = 'gdpo' reads the reward without",
  ),
  ({'stop.returns': 'graded', 'stop.name': 'risk_control'}, "the rule 'risk_control' learns from rows that go on after a stop"),
  (
    {'stop.returns': 'value', 'objective.name': 'grpo', 'reward.low': -1.0},
    "stop.returns = 'value': it pays a probability, and reward.name = 'correct' pays from -1.0 to 1.0 or something else; fix: "
    "reward.name = 'correct' with low = 0.0 and high = 1.0, or stop.returns = 'zero'",
  ),
  ({'exits.alone': True}, 'exits.alone = True with exits.every = 0: there are no exits to train; fix: exits.every = 2'),
  ({'stop.name': 'duet_settled'}, 'stop.duet_settled.marker = (): the rule'),
  ({'stop.name': 'duet_settled'}, "stop.duet_settled.look_from = 200: the rule 'duet_settled' can never fire"),
  ({'stop.name': 'duet_settled'}, "stop.returns = 'fail': the rule 'duet_settled' ends rows that have their answer"),
  ({'learner.importance': 'sequence'}, "learner.importance = 'sequence': nothing has a weight while learner.importance_cap"),
]


@pytest.mark.parametrize(('changes', 'told'), REFUSED, ids=str)
def test_what_does_not_fit_together_is_refused(changes, told):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(told)):
    validate(config)


def test_roulette_without_a_row_of_known_end_leaves_advantages_their_scale(in_float64):
  rows = trajectories(np.array([2, 2], np.int32), np.full(2, 2, np.int32), np.array([2, 2], np.int32), width=3)
  cut = jnp.asarray([[0.3, -0.2, 0.0], [0.1, 0.4, 0.0]])
  found, _ = roulette.unbiased(rows, (cut, cut), (cut, cut), share=0.25, whiten=True)
  np.testing.assert_allclose(found, cut, atol=1e-12)


def test_under_roulette_rewards_read_a_row_as_far_as_it_is_trained_on():
  rows = trajectories(np.array([2, 3, 2], np.int32), np.array([2, 2, 1], np.int32), np.array([4, 3, 2], np.int32), width=4)
  whole = rows.whole()
  np.testing.assert_array_equal(whole.length, [4, 3, 2])
  np.testing.assert_array_equal(whole.stop_reason, [StopReason.LENGTH, StopReason.STOPPED, StopReason.EOS])
  assert not whole.shadow.any()


@pytest.mark.parametrize('objective', ['ppo', 'grpo'])
def test_the_learner_pays_a_stop_what_the_config_says(objective, in_float64):
  def prepared(returns, fail):
    def configure(c):
      c.objective.name = objective
      c.stop.update(returns=returns, fail_reward=fail)
      if objective == 'ppo':
        c.advantage.update(whiten=False)

    exp = tiny_experiment(configure)
    params, rows, reward = rolled_out(exp)
    learner = rl.reinforcement_learner(exp, rule_of(exp))
    batch, _ = learner.prepare(params, None, rows, reward)
    return rows, reward, batch, learner, params

  rows, reward, failed, _, _ = prepared('fail', 0.0)
  assert 0 < rows.stopped.sum() < rows.stopped.size
  np.testing.assert_array_equal(prepared('zero', -7.0)[2].advantages, failed.advantages)
  _, _, paid, learner, params = prepared('value', -7.0)
  scored = learner._score(params, rows)
  values = np.concatenate([scored.values, scored.final_values[:, None]], axis=1)
  after = values[np.arange(len(values)), rows.length]
  assert np.unique(after[np.asarray(rows.stopped)]).size > 1 or objective == 'grpo'  # without a critic all values are one
  outcome = np.where(rows.stopped, after, reward.sequence)
  mask = np.asarray(rows.mask)
  if objective == 'ppo':
    wanted = np.where(mask, outcome[:, None] - np.asarray(rows.values), 0.0)  # gamma and lambda are 1
  else:
    scores = outcome.reshape(-1, 2)
    relative = (scores - scores.mean(1, keepdims=True)) / (scores.std(1, keepdims=True) + 1e-6)
    wanted = np.where(mask, relative.reshape(-1, 1), 0.0)
  np.testing.assert_allclose(paid.advantages, wanted, rtol=1e-9, atol=1e-9)


def test_shadow_rows_represent_the_stopped_rows_without_bias():
  """Three stopped rows: in expectation the weights of the shadow rows are 3, also because there is often no shadow row."""
  exp = tiny_experiment(lambda c: c.stop.update(shadow_share=0.25))
  _, rows, _ = rolled_out(exp)
  seen = []
  espo = rule_of(exp)

  def adapt(adaptive, regret, mask, stopped, hindsight):
    jax.debug.callback(lambda weight: seen.append(np.asarray(weight)), hindsight.weight)
    return espo.adapt(adaptive, regret, mask, stopped, hindsight)

  rule = espo._replace(adapt=adapt)
  learner = rl.reinforcement_learner(exp, rule)
  state = exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule))
  count, total = rows.length.shape[0], 0.0
  reason = jnp.where(jnp.arange(count) < 3, StopReason.STOPPED, StopReason.EOS)
  metrics = {name: jnp.float32(0.5) for name in ('accuracy', 'entropy', 'critic/loss', 'critic/explained_variance')}
  metrics |= {f'rollout/{kind}tokens': jnp.int32(3) for kind in ('', 'shadow_')}
  for drawn in itertools.product((False, True), repeat=3):
    shadow = jnp.zeros(count, bool).at[:3].set(jnp.asarray(drawn))
    learner.finish(state, rows.replace(stop_reason=reason, shadow=shadow), jnp.ones(count), metrics)
    jax.effects_barrier()
    weight = seen.pop()
    np.testing.assert_array_equal(weight[3:], 1)
    np.testing.assert_array_equal(weight[:3], np.where(drawn, 4.0, 0.0))
    total += 0.25 ** sum(drawn) * 0.75 ** (3 - sum(drawn)) * weight[:3].sum()
  assert total == pytest.approx(3.0)


@pytest.mark.parametrize('name', ['espo', 'risk_control', 'regret_only', 'value_only', 'never'])
def test_an_arm_starts_with_all_that_its_rule_carries(name):
  exp = tiny_experiment()
  warm = make_rule(exp.config, 'espo')
  state = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, warm).optimizer, warm)
  moments = {'mu': jnp.float32(0.7), 'var': jnp.float32(0.2), 'batches': jnp.int32(5)}
  rule = make_rule(exp.config, name)
  forked = rl.fork(state.replace(adaptive=state.adaptive.replace(beta=jnp.float32(99.0), **moments)), rule)
  wanted = rule.init(1).adaptive.replace(enabled=jnp.asarray(True), **moments)
  assert jax.tree.structure(forked.adaptive) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, forked.adaptive, wanted)


def counted(rows, verdicts, share):
  return rollout_metrics(rows, jnp.asarray(verdicts, jnp.float32), samples=1, parts=1, slots=0, shadow_share=share)


def test_the_accuracy_without_stops_is_estimated_from_shadow_rows():
  """100 rows, of which 50 were stopped: 30 others are right, and 2 of 10 shadow rows."""
  reason = np.where(np.arange(100) < 50, StopReason.STOPPED, StopReason.EOS).astype(np.int32)
  lengths = np.full(100, 2, np.int32)
  shadow = np.arange(100) < 10
  rows = trajectories(lengths, reason, np.where(shadow, 4, 2).astype(np.int32), width=4)
  verdicts = np.isin(np.arange(100), [0, 1, 20, 21, *range(60, 90)])  # the verdict on a stopped row that ended is not read
  found = counted(rows, verdicts, 0.25)
  np.testing.assert_allclose(found['accuracy'], 0.30, rtol=rounding.gamma(100))
  np.testing.assert_allclose(found['accuracy_unstopped'], 0.38, rtol=rounding.gamma(100))
  assert np.isnan(counted(rows, verdicts, 0.0)['accuracy_unstopped'])
  free = rows.replace(stop_reason=jnp.full(100, StopReason.EOS), shadow=jnp.zeros(100, bool))
  both = counted(free, verdicts, 0.0)
  assert both['accuracy'] == both['accuracy_unstopped'] == np.float32(0.34)


def test_the_returns_are_those_of_the_package():
  assert rewards.RETURNS == ('fail', 'zero', 'value', 'head', 'roulette', 'drop', 'graded')
  values = jnp.asarray([0.1, 0.9])
  assert rewards.stop_reward('fail', -1.5, values) == -1.5 and rewards.stop_reward('zero', -1.5, values) == 0.0
  np.testing.assert_array_equal(rewards.stop_reward('value', -1.5, values), values)
