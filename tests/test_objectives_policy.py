"""Every objective and term against numpy float64 written from its formula, its gradient against that formula's differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import CASES, FORMULAS, REAL, ROWS, case, tepo_gradient
from loss_cases import CURRENT, LENGTHS, MASK, N, T, loss_arrays, loss_inputs, total

from espo_jax import objectives
from espo_jax.objectives import compose, get
from espo_jax.objectives.covariance import covariances
from espo_jax.objectives.epo import phase_weight


def test_every_registered_objective_has_its_formula_here():
  assert FORMULAS.keys() == objectives.REGISTRY.keys()


@pytest.mark.parametrize(('name', 'options'), CASES, ids=str)
def test_the_loss_is_its_formula(name, options):
  for seed in range(3):
    x = case(name, seed)
    terms, metrics = get(name)(loss_inputs(x), **options)
    wanted = FORMULAS[name](
      {k: np.asarray(v, np.float64) for k, v in x.items()} | {'prefers_short': x['prefers_short']}, **options
    )
    np.testing.assert_allclose(total(terms), wanted, rtol=2e-5, atol=1e-6)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(('name', 'options'), CASES, ids=str)
def test_the_gradient_is_the_formulas(name, options):
  """In float64, by central differences of the numpy formula; TEPO's, whose ratio has another gradient than value, closed."""
  with jax.enable_x64(True):
    x = case(name, 5, np.float64)
    moving = {field: jnp.asarray(x[field]) for field in CURRENT}
    gradient = jax.grad(lambda moving: total(get(name)(loss_inputs(x | moving), **options)[0]))(moving)
    if name == 'tepo':
      wanted = tepo_gradient(x, **options)
    else:
      wanted = {field: differences(lambda y, f=field: FORMULAS[name](x | {f: y}, **options), x[field]) for field in CURRENT}
    moved = False
    for field in CURRENT:
      np.testing.assert_allclose(gradient[field], wanted[field], atol=1e-8, err_msg=field)
      moved |= bool(np.any(gradient[field]))
    assert moved


def differences(f, x, step=1e-6):
  out = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    bump = np.zeros_like(x)
    bump[i] = step
    out[i] = (f(x + bump) - f(x - bump)) / (2 * step)
  return out


# ------------------------------------------------------------------------------------------------------ what all have in common


@pytest.mark.parametrize('name', objectives.REGISTRY)
def test_no_objective_sees_what_the_mask_hides(name):
  x = case(name)
  on_tokens = [field for field, array in x.items() if array.shape == (N, T)]

  @jax.jit
  def run(x):
    moving = {field: x[field] for field in CURRENT}
    return jax.value_and_grad(lambda moving: total(get(name)(loss_inputs(x | moving))[0]))(moving)

  clean = run(x)
  for junk in (np.nan, np.inf, -200.0):
    hidden = {field: np.where(MASK, x[field], np.float32(junk)) for field in on_tokens}
    jax.tree.map(np.testing.assert_array_equal, run(x | hidden), clean)
    for field in on_tokens:  # one array at a time too: a difference of two infinities is not an infinity
      jax.tree.map(np.testing.assert_array_equal, run(x | {field: hidden[field]}), clean)


@pytest.mark.parametrize('name', [name for name in objectives.REGISTRY if 'cov' not in name])  # those rank within a minibatch
def test_terms_of_micro_batches_add_up(name):
  x = loss_inputs(case(name))
  whole, _ = get(name)(x)
  rows = lambda some: inputs_of(x, some)
  parts = [get(name)(rows(some))[0] for some in (slice(0, 1), slice(1, 4), slice(4, 7))]
  for key, (weight, term) in whole.items():
    added = jax.tree.map(lambda *xs: sum(xs), *[part[key][1] for part in parts])
    np.testing.assert_allclose(added.numerator, term.numerator, rtol=1e-5, atol=1e-6)
    assert added.denominator == term.denominator > 1
    assert all(part[key][0] == weight for part in parts)


def inputs_of(x, some):
  """The inputs of some rows."""
  values = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
  return type(x)(**{name: value[some] if value.ndim else value for name, value in values.items()})


# --------------------------------------------------------------------------------------------------------- limiting identities


def same_gradient(one, two, x, atol=1e-7):
  gradients = [
    jax.grad(lambda lp, f=f: total(f(loss_inputs(x | {'logprobs': lp}))[0]))(jnp.asarray(x['logprobs'])) for f in (one, two)
  ]
  np.testing.assert_allclose(*gradients, atol=atol)
  assert np.any(gradients[0])


def test_tepo_without_its_mask_is_gspo():
  x = case('gspo')
  tepo = lambda y: get('tepo')(y, mask_coef=0.0, aggregation='sequence')
  assert float(total(tepo(loss_inputs(x))[0])) == pytest.approx(float(total(get('gspo')(loss_inputs(x))[0])), rel=1e-6)
  same_gradient(tepo, get('gspo'), x)


def test_tepos_mask_is_empty_where_the_policy_has_not_moved():
  x = loss_arrays()
  still = x | {'logprobs': x['old_logprobs'], 'entropy': x['old_entropy'] * np.float32(1 - 1e-7)}
  assert get('tepo')(loss_inputs(still))[1]['kl_mask'] == 0
  assert get('tepo')(loss_inputs(still), entropy_test='first_order')[1]['kl_mask'] > 0


def test_dapo_with_equal_clips_is_grpo_over_tokens():
  x = loss_inputs(loss_arrays(per_row=True))
  one, two = get('dapo')(x, clip_high=0.2), get('grpo')(x, aggregation='token')
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_ppo_without_a_value_is_grpo_over_tokens():
  x = loss_inputs(loss_arrays())
  assert get('ppo')(x)[0]['policy'] == get('grpo')(x, aggregation='token')[0]['policy']


def test_all_policy_gradients_agree_before_the_first_step():
  """At ratio 1 the surrogates' gradients are REINFORCE's, and differ only in how rows and tokens are weighed."""
  x = loss_arrays(per_row=True)
  x['logprobs'] = x['old_logprobs']
  tokens = np.where(MASK, -x['advantages'], 0.0)
  rows = len(ROWS)
  weights = {
    'ppo': 1 / REAL,
    'dapo': 1 / REAL,
    'kl_cov': 1 / REAL,
    'tepo': 1 / REAL,
    'drgrpo': 1 / T / rows,
    'rloo': 1 / rows,
    **dict.fromkeys(('grpo', 'gspo', 'gmpo'), 1 / np.maximum(LENGTHS, 1)[:, None] / rows),
  }
  for name, weight in weights.items():
    options = {'kl_cov_coef': 0.0} if name == 'kl_cov' else {}
    gradient = jax.grad(lambda lp, n=name, o=options: total(get(n)(loss_inputs(x | {'logprobs': lp}), **o)[0]))(x['logprobs'])
    np.testing.assert_allclose(gradient, tokens * weight, atol=1e-6, err_msg=name)


def test_equal_rewards_make_rwr_supervised_learning():
  x = loss_arrays()
  x['advantages'] = np.full((N, T), 0.4, np.float32)
  supervised = jax.grad(lambda lp: -sum(lp[n, : LENGTHS[n]].mean() for n in ROWS) / len(ROWS))(jnp.asarray(x['logprobs']))
  gradient = jax.grad(lambda lp: total(get('rwr')(loss_inputs(x | {'logprobs': lp}))[0]))(jnp.asarray(x['logprobs']))
  np.testing.assert_allclose(gradient, np.e * supervised, rtol=1e-5)


def test_rwr_weights():
  """RISE: rewards 0, 0.5 and 1 at tau 0.4."""
  for reward, weight in ((0.0, 1.0), (0.5, 3.490343), (1.0, 12.182494)):
    x = loss_arrays()
    x['advantages'], x['logprobs'] = np.full((N, T), reward, np.float32), np.full((N, T), -1.0, np.float32)
    np.testing.assert_allclose(total(get('rwr')(loss_inputs(x))[0]), weight, rtol=1e-6)


def test_covariances_sum_up_to_the_covariance():
  x = loss_arrays()
  found = covariances(loss_inputs(x))
  assert found[MASK].sum() / REAL == pytest.approx(np.cov(x['advantages'][MASK], x['logprobs'][MASK], ddof=0)[0, 1], abs=1e-5)
  assert not np.any(found[~MASK])


def test_epos_schedule():
  """The released weights at epochs 0, 37, 75, 76 and 150 of 150."""
  for epoch, wanted in ((0, 1.0), (37, 0.874563), (75, 0.827067), (76, 0.768632), (150, 0.03983)):
    assert float(phase_weight(jnp.float32(epoch / 150), 'release')) == pytest.approx(wanted, abs=1e-5)


def test_epos_band_pushes_back_and_the_released_penalty_does_not():
  x = loss_arrays()
  past, progress = np.float32(1.0), np.float32(0.0)

  def slope(entropy, **options):
    def band(h):
      terms, _ = get('epo_entropy')(loss_inputs(x | {'entropy': h, 'past_entropy': past, 'progress': progress}), **options)
      return terms['epo_band'][1].mean

    return np.asarray(jax.grad(band)(jnp.full((N, T), entropy)))[MASK] * REAL

  np.testing.assert_allclose(slope(1.0), 0.0)
  np.testing.assert_allclose(slope(0.5), -1.0, rtol=1e-6)
  np.testing.assert_allclose(slope(1.5), 1.0, rtol=1e-6)
  for entropy in (0.5, 1.0, 1.5):  # the trap: an indicator has no slope
    np.testing.assert_array_equal(slope(entropy, penalty='indicator'), 0.0)


def test_epo_has_no_band_before_there_is_a_past():
  x = loss_arrays() | {'past_entropy': np.float32(np.nan)}
  loss, gradient = jax.value_and_grad(lambda h: total(get('epo_entropy')(loss_inputs(x | {'entropy': h}))[0]))(x['entropy'])
  assert float(loss) == pytest.approx(-0.001 * x['entropy'][MASK].mean(), rel=1e-5)
  np.testing.assert_allclose(gradient[MASK], -0.001 / REAL, rtol=1e-5)


def test_the_margin_moves_two_logits_and_only_inside_it():
  x = loss_arrays()
  logits = np.zeros((N, 5), np.float32)
  logits[0, 1], logits[2, 0] = 3.0, 3.0
  short = np.array([True, True, True, False, False, True, False])
  gradient = jax.grad(lambda z: total(get('mode_margin')(loss_inputs(x | {'opening_logprobs': z, 'prefers_short': short}))[0]))(
    jnp.asarray(logits)
  )
  wanted = np.zeros((N, 5))
  for n in ROWS:
    if n != 0:  # row 0 is beyond the margin already
      wanted[n, :2] = (1, -1) if short[n] else (-1, 1)
  np.testing.assert_allclose(np.asarray(gradient) * len(ROWS), wanted, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- divergences and their sum


def test_estimates_of_the_divergence():
  """Under the policy the means of k1 and k3 are the KL, k2 and k3 are never negative, the mean of k2's gradient is the KL's."""
  rng = np.random.default_rng(5)
  logits, reference = rng.normal(size=(4, 9)), np.log(rng.dirichlet(np.ones(9), 4))
  with jax.enable_x64(True):
    policy = np.asarray(jax.nn.log_softmax(logits))
    kl = (np.exp(policy) * (policy - reference)).sum(-1)
    one, two, three = (np.asarray(getattr(objectives, f'k{i}')(jnp.asarray(policy), jnp.asarray(reference))) for i in (1, 2, 3))
    np.testing.assert_allclose((np.exp(policy) * one).sum(-1), kl, rtol=1e-12)
    np.testing.assert_allclose((np.exp(policy) * three).sum(-1), kl, rtol=1e-12)
    assert (three >= 0).all() and (two >= 0).all() and (one < 0).any()

    def sampled(estimate):  # the gradient's mean over tokens drawn from the policy, which themselves are fixed
      def mean(z):
        return (np.exp(policy) * estimate(jax.nn.log_softmax(z), jnp.asarray(reference))).sum()

      return np.asarray(jax.grad(mean)(jnp.asarray(logits)))

    exact = jax.grad(lambda z: (jnp.exp(jax.nn.log_softmax(z)) * (jax.nn.log_softmax(z) - reference)).sum())(
      jnp.asarray(logits)
    )
    np.testing.assert_allclose(sampled(objectives.k2), exact, atol=1e-12)
    np.testing.assert_allclose(sampled(objectives.k1), 0.0, atol=1e-12)


def test_a_sum_has_the_terms_of_its_parts():
  x = loss_inputs(loss_arrays(per_row=True))
  terms, _ = compose('grpo + kl_k3 + entropy', {'kl_coef': 0.5, 'entropy_coef': 0.1, 'clip_high': 0.28})(x)
  assert {name: weight for name, (weight, _) in terms.items()} == {'policy': 1.0, 'kl_k3': 0.5, 'entropy': -0.1}
  np.testing.assert_array_equal(terms['policy'][1].mean, get('grpo')(x, clip_high=0.28)[0]['policy'][1].mean)


def test_a_term_is_aggregated_as_its_objective():
  x = loss_inputs(loss_arrays(per_row=True))
  for expression, options, wanted in (
    ('grpo + kl_k3', {}, 'sequence'),
    ('kl_k3 + grpo', {'aggregation': 'token'}, 'token'),
    ('dapo + kl_k3', {}, 'token'),
  ):
    assert compose(expression, options)(x)[0]['kl_k3'][1] == get('kl_k3')(x, aggregation=wanted)[0]['kl_k3'][1]


@pytest.mark.parametrize(
  ('expression', 'message'),
  [
    ('gropo', r"objective\.name = 'gropo': 'gropo' is unknown; did you mean 'grpo'\? known: .*ppo"),
    ('grpo + kl_k4', r"'kl_k4' is unknown; did you mean 'kl_k"),
    ('grpo + grpo', 'stands twice'),
    ('grpo + dapo', '2 objectives; fix: exactly one of'),
    ('kl_k3 + entropy', '0 objectives; fix: exactly one of'),
    ('', "'' is unknown"),
  ],
)
def test_what_is_no_sum_is_refused(expression, message):
  with pytest.raises(ValueError, match=message):
    objectives.parts(expression)


# ------------------------------------------------------------------------------------------------------------------- advantages


SCORES = np.array([[0.0, 1.0, 1.0, 0.3], [1.0, 1.0, 1.0, 1.0], [-1.0, 0.0, 0.0, 0.0]], np.float32)


def test_group_advantages():
  mean, std = SCORES.mean(1, keepdims=True), SCORES.std(1, keepdims=True)
  others = np.array([[(row.sum() - r) / 3 for r in row] for row in SCORES])
  np.testing.assert_allclose(objectives.group_zscore(jnp.asarray(SCORES)), (SCORES - mean) / (std + 1e-6), atol=1e-5)
  np.testing.assert_allclose(objectives.mean_only(jnp.asarray(SCORES)), SCORES - mean, atol=1e-6)
  np.testing.assert_allclose(objectives.loo(jnp.asarray(SCORES)), SCORES - others, atol=1e-6)
  np.testing.assert_array_equal(objectives.ADVANTAGES['score'].function(jnp.asarray(SCORES)), SCORES)
  for name in ('group_zscore', 'mean_only', 'loo'):
    relative = np.asarray(objectives.ADVANTAGES[name].function(jnp.asarray(SCORES)))
    np.testing.assert_allclose(relative.sum(1), 0.0, atol=1e-5)  # no group is pushed as a whole
    assert not np.any(relative[1])  # equal scores say nothing


def test_group_advantages_land_on_real_tokens():
  rewards = np.where(MASK[:6], np.random.default_rng(0).normal(size=(6, T)), np.nan).astype(np.float32)
  scores = objectives.group_scores(jnp.asarray(rewards), jnp.asarray(MASK[:6]), 3)
  np.testing.assert_allclose(scores, np.where(MASK[:6], rewards, 0).sum(1).reshape(2, 3), rtol=1e-5)
  placed = objectives.on_tokens(scores, jnp.asarray(MASK[:6]))
  np.testing.assert_array_equal(placed, np.where(MASK[:6], np.asarray(scores).reshape(6, 1), 0))
