"""Every objective and term against numpy float64 written from its formula, its gradient against that formula's differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from formulas import CASES, FORMULAS, REAL, ROWS, case, tepo_gradient
from loss_cases import CURRENT, LENGTHS, MASK, N, T, applied, loss_arrays, loss_inputs, total

from espo_jax import objectives
from espo_jax.objectives import compose
from espo_jax.objectives.covariance import covariances
from espo_jax.objectives.epo import phase_weight

DIGITS = 5e-7  # of a number written with six of them
ROUNDINGS = N * T + 20  # of a loss: a sum over all tokens of some twenty operations each


def test_every_registered_objective_has_its_formula_here():
  assert FORMULAS.keys() == objectives.REGISTRY.keys()


@pytest.mark.parametrize(('name', 'options'), CASES, ids=str)
def test_the_loss_is_its_formula(precision, name, options):
  for seed in range(2 if precision == 'float64' else 1):
    x = case(name, seed, precision)
    wanted = FORMULAS[name](
      {k: np.asarray(v, np.float64) for k, v in x.items()} | {'prefers_short': x['prefers_short']}, **options
    )
    loss = lambda x: total(applied(name, loss_inputs(x), **options)[0])
    rounding.assert_computes(loss, (x,), np.asarray(wanted), roundings=ROUNDINGS)
    assert all(np.isfinite(value) for value in applied(name, loss_inputs(x), **options)[1].values())


@pytest.mark.parametrize(('name', 'options'), CASES, ids=str)
def test_the_gradient_is_the_formulas(name, options):
  """In float64, by central differences of the numpy formula; TEPO's, whose ratio has another gradient than value, closed."""
  with jax.enable_x64(True):
    x = case(name, 5, np.float64)
    moving = {field: jnp.asarray(x[field]) for field in CURRENT}
    gradient = jax.grad(lambda moving: total(applied(name, loss_inputs(x | moving), **options)[0]))(moving)
    if name == 'tepo':
      wanted = tepo_gradient(x, **options)
    else:
      held = {'weighed_at': x} if name == 'cispo' else {}
      formula = lambda field: lambda y: FORMULAS[name](x | {field: y}, **options, **held)
      wanted = {field: differences(formula(field), x[field]) for field in CURRENT}
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
    return jax.value_and_grad(lambda moving: total(applied(name, loss_inputs(x | moving))[0]))(moving)

  clean = run(x)
  for junk in (np.nan, np.inf, -200.0):
    hidden = {field: np.where(MASK, x[field], np.float32(junk)) for field in on_tokens}
    jax.tree.map(np.testing.assert_array_equal, run(x | hidden), clean)
    for field in on_tokens:  # one array at a time too: a difference of two infinities is not an infinity
      jax.tree.map(np.testing.assert_array_equal, run(x | {field: hidden[field]}), clean)


@pytest.mark.parametrize('name', [name for name in objectives.REGISTRY if 'cov' not in name])  # those rank within a minibatch
def test_terms_of_micro_batches_add_up(precision, name):
  x = loss_inputs(case(name, dtype=precision))
  parts = [applied(name, inputs_of(x, some))[0] for some in (slice(0, 1), slice(1, 4), slice(4, 7))]
  added = {key: jax.tree.map(lambda *xs: sum(xs), *[part[key][1] for part in parts]) for key in parts[0]}
  numerators = lambda x: {key: term.numerator for key, (_, term) in applied(name, x)[0].items()}
  rounding.assert_computes(numerators, (x,), {key: term.numerator for key, term in added.items()}, roundings=2 * ROUNDINGS)
  for key, (weight, term) in applied(name, x)[0].items():
    assert added[key].denominator == term.denominator > 1
    assert all(part[key][0] == weight for part in parts)


def inputs_of(x, some):
  """The inputs of some rows."""
  return {name: value[some] if value.ndim else value for name, value in x.items()}


# --------------------------------------------------------------------------------------------------------- limiting identities


def loss_and_gradient(objective):
  """A function of the inputs' arrays: the loss, and its gradient in the log-probabilities."""
  loss = lambda lp, x: total(objective(loss_inputs(x | {'logprobs': lp}))[0])
  return lambda x: jax.value_and_grad(loss)(jnp.asarray(x['logprobs']), x)


def test_tepo_without_its_mask_is_gspo(precision):
  x = case('gspo', dtype=precision)
  tepo = loss_and_gradient(lambda y: applied('tepo', y, mask_coef=0.0, aggregation='sequence'))
  _, gradient = rounding.assert_computes(
    tepo, (x,), loss_and_gradient(functools.partial(applied, 'gspo'))(x), roundings=2 * ROUNDINGS
  )
  assert np.any(gradient)


def test_tepos_mask_is_empty_where_the_policy_has_not_moved():
  x = loss_arrays()
  still = x | {'logprobs': x['old_logprobs'], 'entropy': x['old_entropy'] * np.float32(1 - 1e-7)}
  assert applied('tepo', loss_inputs(still))[1]['kl_mask'] == 0
  assert applied('tepo', loss_inputs(still), entropy_test='first_order')[1]['kl_mask'] > 0


def test_dapo_with_equal_clips_is_grpo_over_tokens():
  x = loss_inputs(loss_arrays(per_row=True))
  one, two = applied('dapo', x, clip_high=0.2), applied('grpo', x, aggregation='token')
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_ppo_without_a_value_is_grpo_over_tokens():
  x = loss_inputs(loss_arrays())
  assert applied('ppo', x)[0]['policy'] == applied('grpo', x, aggregation='token')[0]['policy']


def test_all_policy_gradients_agree_before_the_first_step(precision):
  """At ratio 1 the surrogates' gradients are REINFORCE's, and differ only in how rows and tokens are weighed."""
  x = loss_arrays(dtype=precision, per_row=True)
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
    _, gradient = loss_and_gradient(lambda x, n=name, o=options: applied(n, x, **o))(x)
    rounding.assert_close(gradient, tokens * weight, roundings=2 * T)  # a row's advantage is a mean of its tokens'


def test_equal_rewards_make_rwr_supervised_learning(precision):
  x = loss_arrays(dtype=precision)
  x['advantages'] = np.full((N, T), 0.4, precision)
  supervised = jax.grad(lambda lp: -sum(lp[n, : LENGTHS[n]].mean() for n in ROWS) / len(ROWS))(jnp.asarray(x['logprobs']))
  _, gradient = loss_and_gradient(functools.partial(applied, 'rwr'))(x)
  rounding.assert_close(gradient, np.e * np.asarray(supervised, np.float64), roundings=2 * T)


def test_rwr_weights(precision):
  """RISE: rewards 0, 0.5 and 1 at tau 0.4."""
  for reward, weight in ((0.0, 1.0), (0.5, 3.490343), (1.0, 12.182494)):
    x = loss_arrays(dtype=precision)
    x['advantages'], x['logprobs'] = np.full((N, T), reward, precision), np.full((N, T), -1.0, precision)
    found = total(applied('rwr', loss_inputs(x))[0])
    rounding.assert_within(found, weight, DIGITS + rounding.gamma(3 * T, precision) * weight)  # means of tokens, twice, of rows


def test_covariances_sum_up_to_the_covariance(precision):
  x = loss_arrays(dtype=precision)
  advantages, logprobs = (x[name][MASK].astype(np.float64) for name in ('advantages', 'logprobs'))
  wanted = np.cov(advantages, logprobs, ddof=0)[0, 1]
  read = lambda x: (jnp.asarray(x['advantages']), jnp.asarray(x['logprobs']), jnp.asarray(MASK))
  covariance = lambda x: covariances(*read(x)).sum() / REAL
  rounding.assert_computes(covariance, (x,), wanted, roundings=2 * N * T)  # a mean, then a sum
  assert not np.any(covariances(*read(x))[~MASK])


def test_epos_schedule(precision):
  """The released weights at epochs 0, 37, 75, 76 and 150 of 150."""
  for epoch, wanted in ((0, 1.0), (37, 0.874563), (75, 0.827067), (76, 0.768632), (150, 0.03983)):
    found = phase_weight(jnp.float32(epoch / 150), 'release')
    rounding.assert_within(found, wanted, DIGITS + rounding.gamma(8, precision))


def test_epos_band_pushes_back_and_the_released_penalty_does_not(precision):
  x = loss_arrays(dtype=precision)
  past, progress = np.ones((N, T), precision), np.zeros((), precision)

  def slope(entropy, **options):
    def band(h):
      terms, _ = applied('epo_entropy', loss_inputs(x | {'entropy': h, 'past_entropy': past, 'progress': progress}), **options)
      return terms['epo_band'][1].mean

    return jax.grad(band)(jnp.full((N, T), entropy))[MASK] * REAL

  assert not np.any(slope(1.0))
  rounding.assert_close(slope(0.5), -np.ones(REAL), roundings=3)  # 1 / REAL, and back
  rounding.assert_close(slope(1.5), np.ones(REAL), roundings=3)
  for entropy in (0.5, 1.0, 1.5):  # the trap: an indicator has no slope
    np.testing.assert_array_equal(slope(entropy, penalty='indicator'), 0.0)


def test_epo_has_no_band_before_there_is_a_past(precision):
  x = loss_arrays(dtype=precision) | {'past_entropy': np.full((N, T), np.nan, precision)}
  loss, gradient = jax.value_and_grad(lambda h: total(applied('epo_entropy', loss_inputs(x | {'entropy': h}))[0]))(x['entropy'])
  rounding.assert_close(loss, -0.001 * x['entropy'][MASK].astype(np.float64).mean(), roundings=ROUNDINGS)  # no term is negative
  rounding.assert_close(gradient[MASK], np.full(REAL, -0.001 / REAL), roundings=3)


def test_the_margin_moves_two_logits_and_only_inside_it(precision):
  x = loss_arrays(dtype=precision)
  logits = np.zeros((N, 5), precision)
  logits[0, 1], logits[2, 0] = 3.0, 3.0
  short = np.array([True, True, True, False, False, True, False])
  gradient = jax.grad(
    lambda z: total(applied('mode_margin', loss_inputs(x | {'opening_logprobs': z, 'prefers_short': short}))[0])
  )(jnp.asarray(logits))
  wanted = np.zeros((N, 5))
  for n in ROWS:
    if n != 0:  # row 0 is beyond the margin already
      wanted[n, :2] = (1, -1) if short[n] else (-1, 1)
  rounding.assert_close(gradient, wanted / len(ROWS), roundings=3)


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
  np.testing.assert_array_equal(terms['policy'][1].mean, applied('grpo', x, clip_high=0.28)[0]['policy'][1].mean)


def test_a_term_is_aggregated_as_its_objective():
  x = loss_inputs(loss_arrays(per_row=True))
  for expression, options, wanted in (
    ('grpo + kl_k3', {}, 'sequence'),
    ('kl_k3 + grpo', {'aggregation': 'token'}, 'token'),
    ('dapo + kl_k3', {}, 'token'),
  ):
    assert compose(expression, options)(x)[0]['kl_k3'][1] == applied('kl_k3', x, aggregation=wanted)[0]['kl_k3'][1]


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


SCORES = np.array([[0.0, 1.0, 1.0, 0.3], [-1.0, 0.0, 0.0, 0.0]])


def test_group_advantages(precision):
  scores = SCORES.astype(precision)
  exact = scores.astype(np.float64)
  mean, std = exact.mean(1, keepdims=True), exact.std(1, keepdims=True)
  others = np.array([[(row.sum() - r) / 3 for r in row] for row in exact])
  for name, wanted in (
    ('group_zscore', (exact - mean) / (std + 1e-6)),
    ('mean_only', exact - mean),
    ('loo', exact - others),
  ):
    function = objectives.ADVANTAGES[name].function
    relative = rounding.assert_computes(function, (jnp.asarray(scores),), wanted, roundings=20)  # means of four, operations
    rounding.assert_close(
      relative.sum(1), np.zeros(2), roundings=20, size=np.abs(wanted).sum(1)
    )  # no group is pushed as a whole
    assert not np.any(function(jnp.ones((1, 4))))  # equal scores say nothing
  np.testing.assert_array_equal(objectives.ADVANTAGES['score'].function(jnp.asarray(scores)), scores)


def test_group_advantages_land_on_real_tokens(precision):
  rewards = np.where(MASK[:6], np.random.default_rng(0).normal(size=(6, T)), np.nan).astype(precision)
  scores = objectives.group_scores(jnp.asarray(rewards), jnp.asarray(MASK[:6]), 3)
  real = np.where(MASK[:6], rewards, 0).astype(np.float64)
  bounds = rounding.of_sum(real, axis=1, dtype=precision).reshape(2, 3)
  rounding.assert_within(scores, real.sum(1).reshape(2, 3), bounds)
  placed = objectives.on_tokens(scores, jnp.asarray(MASK[:6]))
  np.testing.assert_array_equal(placed, np.where(MASK[:6], np.asarray(scores).reshape(6, 1), 0))
