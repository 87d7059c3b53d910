"""Estimates over several answers: against enumerated subsets, scipy, and closed forms."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_jax.monitor import bootstrap_intervals, majority, pass_at_k

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('n', [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_answer(n):
  for k in range(1, n + 1):
    for c in range(n + 1):
      subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
      expected = sum(map(any, subsets)) / len(subsets)
      assert pass_at_k(np.array([c]), n, k)[0] == pytest.approx(expected, abs=1e-14)


def test_pass_at_k_of_many_answers_keeps_its_precision():
  n, k = 100_000, 1_000
  found = pass_at_k(np.array([0, 1, 7, n - k, n]), n, k)
  exact = [1 - math.comb(n - c, k) / math.comb(n, k) for c in (0, 1, 7)]
  np.testing.assert_allclose(found[:3], exact, rtol=1e-12)
  assert found[0] == 0.0
  assert found[1] == pytest.approx(k / n, rel=1e-12)
  assert list(found[3:]) == [1.0, 1.0]


def test_pass_at_1_is_the_accuracy_and_pass_at_n_whether_any_is_right():
  counts = np.arange(9)
  np.testing.assert_allclose(pass_at_k(counts, 8, 1), counts / 8, atol=1e-15)
  np.testing.assert_array_equal(pass_at_k(counts, 8, 8), counts > 0)
  assert not np.signbit(pass_at_k(counts, 8, 8)).any()


@pytest.mark.parametrize(
  ('counts', 'k', 'message'), [([1], 0, 'k = 0'), ([1], 5, 'k = 5'), ([5], 1, 'to 5'), ([-1], 1, 'from -1')]
)
def test_pass_at_k_of_what_cannot_be_is_an_error(counts, k, message):
  with pytest.raises(ValueError, match=message):
    pass_at_k(np.array(counts), 4, k)


def _enumerated_vote(answers, correct):
  """Every way to break a tie, then every response with the winning answer, equally likely."""
  voters = [i for i, answer in enumerate(answers) if answer]
  if not voters:
    return 0.0
  backing = {answer: [i for i in voters if answers[i] == answer] for answer in answers if answer}
  most = max(map(len, backing.values()))
  outcomes = [correct[i] for group in backing.values() if len(group) == most for i in group]  # groups of one size
  return sum(outcomes) / len(outcomes)


@given(st.lists(st.tuples(st.sampled_from(['', '1', '2', '1/3']), st.booleans()), max_size=7))
def test_majority_against_enumeration(rows):
  answers, correct = [row[0] for row in rows], [row[1] for row in rows]
  assert majority(answers, correct) == pytest.approx(_enumerated_vote(answers, correct), abs=1e-15)


@given(st.lists(st.sampled_from(['', '4', '5', '6']), min_size=4, max_size=4))
@settings(max_examples=30)
def test_majority_over_all_subsets_of_two_is_the_chance_of_one_drawn_vote(answers):
  """Two votes: both alike win, a tie goes half to each, an abstention leaves the other; which is one vote drawn at random."""
  correct = [answer == '4' for answer in answers]
  votes = [majority([answers[i], answers[j]], [correct[i], correct[j]]) for i, j in itertools.combinations(range(4), 2)]
  a, r = answers.count(''), answers.count('4')
  others = 4 - a - r
  pairs = {'right alone': r * (r - 1) / 2 + r * a, 'tied': r * others}
  assert sum(votes) == pytest.approx(pairs['right alone'] + pairs['tied'] / 2)


@pytest.mark.parametrize(
  ('answers', 'correct', 'expected'),
  [
    (['7', '7', '8'], [True, True, False], 1.0),
    (['7', '8', '8'], [True, False, False], 0.0),
    (['7', '8'], [True, False], 0.5),
    (['7', '8', '9'], [True, False, False], 1 / 3),
    (['', '', '', '7'], [False, False, False, True], 1.0),  # who states nothing has no vote
    (['', ''], [False, False], 0.0),
    (['7', '7', '7', '7'], [True, False, False, False], 0.25),  # the same answer, its steps right in one of them
  ],
)
def test_majority_by_hand(answers, correct, expected):
  assert majority(answers, correct) == pytest.approx(expected)


@pytest.mark.parametrize('problems', [2, 3, 40, 301])
def test_intervals_are_those_of_scipy(problems):
  rng = np.random.default_rng(problems)
  values = np.stack([rng.random(problems) ** 4, np.arange(problems) < max(1, problems // 10), rng.integers(0, 9, problems) / 8])
  values = values.T.astype(float)
  found = bootstrap_intervals(values, seed=3, resamples=4000)
  for j in range(values.shape[1]):
    theirs = scipy.stats.bootstrap((values[:, j],), np.mean, n_resamples=4000, method='BCa', rng=np.random.default_rng(3))
    np.testing.assert_allclose(found[j], list(theirs.confidence_interval), rtol=1e-9, atol=1e-12)


def test_intervals_do_not_depend_on_how_many_resamples_are_drawn_at_a_time(monkeypatch):
  values = np.random.default_rng(0).random((50, 2))
  whole = bootstrap_intervals(values, resamples=3000)
  monkeypatch.setattr('espo_jax.monitor.estimators._CELLS', 50 * 7)
  np.testing.assert_allclose(bootstrap_intervals(values, resamples=3000), whole, rtol=1e-12)


def test_intervals_of_a_large_symmetric_sample_are_those_of_the_normal_law():
  values = np.random.default_rng(0).standard_normal((2000, 1))
  low, high = bootstrap_intervals(values, resamples=20_000)[0]
  half = 1.96 * values.std() / math.sqrt(2000)
  assert low == pytest.approx(values.mean() - half, abs=0.04 * half)
  assert high == pytest.approx(values.mean() + half, abs=0.04 * half)


def test_intervals_cover_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(0)
  samples = rng.beta(0.3, 0.7, (400, 60))  # 60 problems, most of them hopeless or trivial
  covered = sum(low <= 0.3 <= high for low, high in (bootstrap_intervals(s[:, None], resamples=500)[0] for s in samples))
  assert 0.91 < covered / 400 < 0.98


def test_a_score_without_spread_has_an_interval_without_width():
  assert bootstrap_intervals(np.array([[1.0, 1 / 3]] * 9)).tolist() == [[1.0, 1.0], pytest.approx([1 / 3, 1 / 3])]
  with pytest.raises(ValueError, match='no problems'):
    bootstrap_intervals(np.empty((0, 1)))
