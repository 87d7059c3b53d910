"""Measures of an evaluation's answers: golden values, counts by hand, and an estimator against exact expectations."""

import itertools

import numpy as np
import pytest

from espo_jax.evaluate import measures
from espo_jax.evaluate.stopping import format_stops, summarise_stops

pytestmark = pytest.mark.quick

T, F = True, False


def test_a_failure_costs_more_the_later_it_is_noticed():
  """One wrong answer that is stopped in segment 1, 5 or 10 of a deadline of 5."""
  found = [measures.erde(np.array([T]), np.array([F]), np.array([16 * k]), deadline=5) for k in (1, 5, 10)]
  np.testing.assert_allclose(found, [0.017986, 0.5, 0.993307], atol=1e-6)
  assert (
    measures.erde(np.array([T]), np.array([F]), np.array([16 * 4 + 1]), deadline=5) == 0.5
  )  # a segment that has begun counts
  assert measures.erde(np.array([T]), np.array([F]), np.array([10**6]), deadline=5) == 1.0


def test_the_early_risk_error_is_the_mean_of_four_kinds_of_answers():
  stopped, right = np.array([F, T, F, T, T]), np.array([T, T, F, F, F])
  found = measures.erde(stopped, right, np.array([90, 20, 70, 80, 1]), deadline=5)
  wanted = [0, 3 / 5, 1, 0.5, 1 - 1 / (1 + np.exp(1 - 5))]
  assert found == pytest.approx(np.mean(wanted), rel=1e-12)


def test_an_answer_is_right_wrong_or_stopped_and_its_problem_answerable_or_not():
  #                 problem 0: one is right  | problem 1: none is right | problem 2: right, and stopped
  problem = np.array([0, 0, 0, 0, 1, 1, 1, 2])
  right = np.array([T, T, F, F, F, F, F, T])
  stopped = np.array([F, T, F, T, T, F, F, T])
  found = measures.aucm(stopped, right, problem)
  assert found[:5] == (1, 1, 3, 2, 1) and sum(found[:5]) == len(problem)
  assert found.accuracy == 1 / 5 and found.abstention == 1 / 3 and found.over_abstention == 2 / 5
  all_right = measures.aucm(np.array([F]), np.array([T]), np.array([0]))
  assert all_right.accuracy == 1 and np.isnan(all_right.abstention)


def test_an_evaluation_with_a_stop_rule_has_these_measures():
  rows = [
    {'problem': 0, 'length': 20, 'stop_reason': 'stopped', 'full_length': 40, 'full_correct': True},
    {'problem': 0, 'length': 30, 'stop_reason': 'eos', 'full_length': 30, 'full_correct': True},
    {'problem': 1, 'length': 80, 'stop_reason': 'stopped', 'full_length': 90, 'full_correct': False},
    {'problem': 1, 'length': 90, 'stop_reason': 'length', 'full_length': 90, 'full_correct': False},
  ]
  found = summarise_stops(rows)
  assert found['erde_5'] == pytest.approx((0.5 + 0 + 0.5 + 1) / 4, rel=1e-12)
  assert found['erde_50'] == pytest.approx((0.5 + 0 + 1 - 1 / (1 + np.exp(5 - 50)) + 1) / 4, rel=1e-9)
  assert found['aucm']['over_abstention'] == 0.5 and found['aucm']['abstention'] == 0.5
  told = format_stops({'stop': found, 'settings': {'stop': 'espo'}})
  assert 'error: 0.500 with a deadline of 5 segments, 0.375 with 50' in told and '50.0 % were right and stopped' in told
  told = format_stops({'stop': summarise_stops(rows[:2]), 'settings': {'stop': 'espo'}})
  assert '50.0 % were right and stopped' in told and 'other problems' not in told and 'nan' not in told


# --------------------------------------------------------------------------------------------------------- another policy


class Table:
  """A policy over sequences of three tokens whose probabilities follow from the token before: all of them can be listed."""

  def __init__(self, seed: int, near: np.ndarray | None = None):
    logits = np.random.default_rng(seed).normal(size=(3, 3)) if near is None else near + 0.4 * Table(seed).logits
    self.logits = logits
    self.logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))

  def logprob(self, sequences: np.ndarray) -> np.ndarray:
    before = np.pad(sequences, ((0, 0), (1, 0)))[:, :-1]
    return self.logprobs[before, sequences].sum(1)


def of_all() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """All sequences, their probabilities under the sampling policy, their log-ratios, and 1 for a right one."""
  ours = Table(0)
  theirs = Table(1, near=ours.logits)
  every = np.array(list(itertools.product(range(3), repeat=3)))
  return every, np.exp(ours.logprob(every)), theirs.logprob(every) - ours.logprob(every), (every.sum(1) % 3 > 0).astype(float)


def test_the_estimate_for_another_policy_is_unbiased_and_varies_as_little_as_the_best_control_allows():
  every, chance, log_ratios, right = of_all()
  rng = np.random.default_rng(2)
  draws = [rng.choice(len(every), size=400, p=chance) for _ in range(400)]
  found = np.array([measures.is_cv_estimate(log_ratios[d], right[d]).mean for d in draws])
  plain = np.array([(np.exp(log_ratios[d]) * right[d]).mean() for d in draws])
  exact = float((chance * np.exp(log_ratios) * right).sum())
  assert abs(found.mean() - exact) <= 4 * found.std() / np.sqrt(len(found))
  w, f = np.exp(log_ratios), np.exp(log_ratios) * right
  covariance = (chance * w * f).sum() - exact
  left = 1 - covariance**2 / (((chance * w * w).sum() - 1) * ((chance * f * f).sum() - exact**2))
  assert left < 0.8
  assert found.var() / plain.var() == pytest.approx(left, rel=0.3)  # variances of 400 numbers, each known to 7 %


def test_the_error_of_an_estimate_is_its_spread_over_samples():
  every, chance, log_ratios, right = of_all()
  rng = np.random.default_rng(3)
  draws = [rng.choice(len(every), size=400, p=chance) for _ in range(300)]
  found = [measures.is_cv_estimate(log_ratios[d], right[d]) for d in draws]
  assert np.mean([e.error for e in found]) == pytest.approx(np.std([e.mean for e in found]), rel=0.15)  # of 300: 4 %
  w = np.exp(log_ratios[draws[0]])
  assert found[0].effective == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-5)


def test_the_estimate_for_the_sampling_policy_is_the_mean():
  values = np.random.default_rng(0).random(31)
  rounding = 1e-5 * np.random.default_rng(1).normal(size=31)
  assert measures.is_cv_estimate(rounding, values).mean == pytest.approx(values.mean(), rel=1e-4)
  found = measures.is_cv_estimate(np.zeros(31), values)
  assert found.mean == pytest.approx(values.mean(), rel=1e-6) and found.effective == pytest.approx(31)
  assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(31), rel=1e-5)


def test_the_error_of_an_estimate_is_over_problems():
  """Answers that only depend on their problem tell as much as one of each."""
  one = np.random.default_rng(0).random(20)
  found, alone = (measures.is_cv_estimate(np.zeros(20 * n), np.repeat(one, n), samples=n) for n in (8, 1))
  assert found.error == pytest.approx(alone.error) and found.mean == pytest.approx(alone.mean)
  assert np.isnan(measures.is_cv_estimate(np.zeros(8), np.arange(8.0), samples=8).error)
