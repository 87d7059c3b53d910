"""Intervals and tests of means and shares, against scipy."""

import math

import numpy as np
import pytest
import scipy.stats

from espo_jax.monitor import holm, mean_interval, mean_p_value, wilson


@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.99])
@pytest.mark.parametrize(('successes', 'n'), [(0, 10), (1, 10), (10, 10), (27, 1000), (668, 1000)])
def test_wilson_is_scipys(successes, n, confidence):
  expected = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method='wilson')
  np.testing.assert_allclose(wilson(successes, n, confidence), expected, rtol=1e-9, atol=1e-12)


def test_wilson_without_trials_and_with_nonsense():
  assert wilson(0, 0) == (0.0, 1.0)
  with pytest.raises(ValueError, match='successes'):
    wilson(3, 2)


@pytest.mark.parametrize('confidence', [0.5, 0.95, 0.999])
@pytest.mark.parametrize('n', [2, 3, 4, 5, 8, 30, 1000, 100_000])
def test_mean_interval_is_scipys(n, confidence):
  values = np.random.default_rng(n).normal(3.0, 2.0, n)
  mean, half = mean_interval(values, confidence)
  low, high = scipy.stats.t.interval(confidence, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
  np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-9)


def test_mean_interval_of_one_value_and_of_none():
  assert mean_interval([2.0]) == (2.0, math.inf)
  with pytest.raises(ValueError, match='no values'):
    mean_interval([])


@pytest.mark.parametrize('n', [2, 3, 8, 40])
@pytest.mark.parametrize('shift', [0.0, 0.3, -2.0, 30.0])
def test_the_p_value_of_a_mean_is_scipys(n, shift):
  values = np.random.default_rng(n).normal(shift, 1.0, n)
  # It is a difference from 1, so a tiny one has the rounding of 1.
  assert mean_p_value(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-9, abs=1e-14)


def test_the_p_value_without_spread_and_of_one_value():
  assert all(mean_p_value(1e4 + np.random.default_rng(n).normal(size=n)) >= 0 for n in (5, 100, 300))
  assert mean_p_value([0.0, 0.0]) == 1.0 and mean_p_value([0.5, 0.5]) == 0.0 and math.isnan(mean_p_value([1.0]))


@pytest.mark.parametrize(
  ('given', 'wanted'),
  [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the example of R's p.adjust(method = 'holm')
    ([0.5, 0.6], [1.0, 1.0]),
    ([0.02], [0.02]),
    ([0.01, math.nan, 0.04], [0.02, math.nan, 0.04]),
    ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
    ([], []),
  ],
)
def test_holms_correction(given, wanted):
  found = holm({str(i): p for i, p in enumerate(given)})
  np.testing.assert_allclose(list(found.values()), wanted)
