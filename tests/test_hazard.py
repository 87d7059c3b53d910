"""The hazard of failure: the notes' likelihoods, scipy's fit, a generating rate, and the rule in the engine."""

import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import NEVER, STATE, run
from scipy import optimize

from espo_jax import stops
from espo_jax.stops import Hazard, Hindsight, Observation, Regression, evidence
from espo_jax.types import StopReason

NOTES = np.array([0.1, 0.2, 0.3])


def observed(regret) -> Observation:
  regret = jnp.asarray(regret)
  return Observation(regret, 0 * regret, 0 * regret, -regret)


def head_with(hazards, regret) -> Hazard:
  """A head that gives these hazards along one row with these regrets."""
  x = np.asarray(evidence.features(evidence.along(observed(regret), jnp.zeros(1, jnp.int32))))[0]
  weights = np.linalg.lstsq(x, np.log(hazards / (1 - hazards)), rcond=None)[0]
  return Hazard(Regression(jnp.asarray(weights), jnp.eye(len(weights))), jnp.ones((), jnp.int32))


def test_the_score_is_the_censored_likelihood_of_the_notes(in_float64):
  regret = np.array([[0.3, 1.2, 0.1]])
  rule = stops.with_hazard(stops.hazard_head(least_batches=0), head_with(NOTES, regret), memory=0.9)
  held, scores = rule.init(1, rule.init(1).adaptive), []
  for t in range(3):
    held, _, score = rule.update(held, observed(regret[:, t]))
    scores.append(float(score[0]))
  assert scores[2] == pytest.approx(0.685179, abs=1e-6)  # a right row of three tokens
  assert scores[1] - np.log(NOTES[2]) == pytest.approx(1.532477, abs=1e-6)  # a wrong one
  assert np.exp(-scores[2]) == pytest.approx(0.9 * 0.8 * 0.7)


def rows(count=3000, rate=0.05, horizon=40, seed=0):
  """Rows that fail at each token at a rate, and are censored at a length of their own."""
  rng = np.random.default_rng(seed)
  fails, ends = rng.geometric(rate, count), rng.integers(1, horizon + 1, count)
  blank = np.zeros((count, horizon))
  known = (np.minimum(fails, ends).astype(np.int32), (fails > ends).astype(float), rng.choice([0.0, 1.0, 4.0], count))
  return Hindsight(jnp.asarray(blank), *map(jnp.asarray, known), observed(blank), jnp.zeros(count, jnp.int32))


def test_a_constant_hazard_is_recovered(in_float64):
  seen, rate = rows(), 0.05
  fitted = stops.fit_hazard(stops.new_hazard(), seen, memory=0.0, steps=20)
  x = evidence.features(evidence.along(seen.seen, seen.begins))[0]
  hazards = 1 / (1 + np.exp(-np.asarray(x @ fitted.failure.weights)))
  lived, events = (float((np.asarray(seen.weight) * its).sum()) for its in (seen.full_length, 1 - seen.correct))
  mean = events / lived  # the likeliest constant rate
  assert mean == pytest.approx(rate, abs=4 * np.sqrt(4 * rate / lived))
  tokens = np.arange(40)[None] < np.asarray(seen.full_length)[:, None]
  weight = (np.asarray(seen.weight)[:, None] * tokens).sum(axis=0)
  assert np.average(hazards, weights=weight) == pytest.approx(mean, rel=1e-3)
  assert np.sqrt(np.average((hazards - rate) ** 2, weights=weight)) < 0.01


def test_the_fit_is_the_likeliest_one(in_float64):
  rng = np.random.default_rng(1)
  seen = rows(count=60, rate=0.2, horizon=8)
  seen = seen._replace(seen=observed(rng.exponential(size=(60, 8))))
  fitted = stops.fit_hazard(stops.new_hazard(), seen, memory=0.0, steps=60)
  x = np.asarray(evidence.features(evidence.along(seen.seen, seen.begins)))

  def loss(b):
    logit, total = x @ b, 0.0
    for n, end in enumerate(np.asarray(seen.full_length)):
      survived = np.logaddexp(0, logit[n, :end]).sum()
      total += float(seen.weight[n]) * (survived - (0 if seen.correct[n] else logit[n, end - 1]))
    return total

  found = loss(np.asarray(fitted.failure.weights))
  best = optimize.minimize(loss, np.asarray(fitted.failure.weights), method='BFGS').fun
  assert best <= found < best + 0.01 * abs(best)  # a ridge keeps features apart that are collinear


def test_the_engine_sums_the_hazards_of_a_row(in_float64):
  rng = np.random.default_rng(2)
  weights = np.where(np.arange(21) < 9, rng.normal(0, 0.5, 21), 0.0) - 2.0 * (np.arange(21) == 0)
  head = Hazard(Regression(jnp.asarray(weights), jnp.eye(21)), jnp.ones((), jnp.int32))
  rule = stops.hazard_head(least_batches=1)
  told = run(rule=rule, state=STATE.replace(beta=jnp.float32(1e6), hazard=head), shadow=0.0)
  free = run(rule=NEVER)
  np.testing.assert_array_equal(told.tokens, free.tokens)
  seen = Observation(told.regret, told.values, 0 * told.regret, told.logprobs)
  x = evidence.features(evidence.along(seen, jnp.zeros(len(told.regret), jnp.int32)))
  wanted = np.cumsum(np.logaddexp(0, np.asarray(x, np.float64) @ weights), axis=1)
  real = np.arange(told.tokens.shape[1]) < told.full_length[:, None]
  np.testing.assert_allclose(told.z[real], wanted[real], rtol=1e-9)
  level = float(np.median(wanted[np.arange(len(wanted)), told.full_length - 1]))
  rows = run(rule=rule, state=STATE.replace(beta=jnp.float32(level), hazard=head), shadow=0.0)
  stopped = rows.stop_reason == StopReason.STOPPED
  assert 0 < stopped.sum() < stopped.size
  waits = run(rule=stops.hazard_head(least_batches=2), state=STATE.replace(beta=jnp.float32(0), hazard=head), shadow=0.0)
  assert not (waits.stop_reason == StopReason.STOPPED).any()
