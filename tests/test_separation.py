"""Areas under ROC curves against scipy and a count of pairs, and thirds of problems against a sort of their own."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_jax import replay
from espo_jax.replay import separation


@st.composite
def rows(draw):
  count = draw(st.integers(2, 24))
  of = st.lists(st.integers(0, 4), min_size=count, max_size=count)
  score, problem = (np.array(draw(of)) for _ in range(2))
  wrong = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
  return score.astype(np.float64), wrong, problem


def pairs(score, wrong, problem):
  """Every pair of a wrong and a right row: whether they share a problem, and what it counts."""
  for i, j in itertools.product(np.flatnonzero(wrong), np.flatnonzero(~wrong)):
    yield problem[i] == problem[j], float(score[i] > score[j]) + float(score[i] == score[j]) / 2


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
  monkeypatch.setattr(separation, 'RESAMPLES', 20)


@pytest.mark.quick
@given(rows())
def test_areas_are_shares_of_pairs(data):
  every = list(pairs(*data))
  for function, counted in ((replay.overall, every), (replay.within_problems, [pair for pair in every if pair[0]])):
    found = function(*data)
    assert found.pairs == len(counted)
    np.testing.assert_allclose(found.value, np.mean([won for _, won in counted]) if counted else np.nan, rtol=1e-12)


def test_the_overall_area_is_mann_whitneys():
  rng = np.random.default_rng(0)
  wrong, problem = rng.random(300) < 0.7, np.repeat(np.arange(75), 4)
  score = rng.normal(size=300).round(1) + wrong
  u = scipy.stats.mannwhitneyu(score[wrong], score[~wrong]).statistic
  assert replay.overall(score, wrong, problem).value == pytest.approx(u / (wrong.sum() * (~wrong).sum()), rel=1e-12)


def test_a_number_that_knows_the_problem_alone_separates_no_rows_of_one_problem(monkeypatch):
  monkeypatch.setattr(separation, 'RESAMPLES', 400)
  rng = np.random.default_rng(1)
  problem = np.repeat(np.arange(200), 8)
  hardness = np.repeat(rng.random(200), 8)
  wrong = rng.random(1600) < hardness
  assert replay.overall(hardness, wrong, problem).low > 0.75
  within = replay.within_problems(hardness, wrong, problem)
  assert within.value == within.low == within.high == 0.5
  noisy = replay.within_problems(rng.random(1600), wrong, problem)
  assert noisy.low < 0.5 < noisy.high and noisy.high - noisy.low < 0.1
  # If the rows are independent, the interval is as wide as the normal one of Hanley and McNeil at an area of 1/2.
  bad = int(wrong.sum())
  free = replay.overall(rng.random(1600), wrong, np.arange(1600))
  width = 2 * 1.96 * np.sqrt((1600 + 1) / (12 * bad * (1600 - bad)))
  assert (free.high - free.low) / width == pytest.approx(1, abs=4 / np.sqrt(2 * 400))  # four standard errors of 400 resamples


@pytest.mark.quick
@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_thirds_are_the_problems_in_the_order_of_their_share(files, problems, samples, seed):
  rng = np.random.default_rng(seed)
  problem = np.tile(np.repeat(np.arange(problems), samples), (files, 1))
  correct = (rng.random(problem.shape) < 0.5).astype(np.float32)
  weight = (rng.random(problem.shape) < 0.7).astype(np.float32)
  found = replay.thirds(correct, problem, weight)
  shares = []
  for file, one in itertools.product(range(files), range(problems)):
    its = problem[file] == one
    (third,) = {tuple(found[:, file, n]) for n in np.flatnonzero(its)}
    assert sum(third) == weight[file, its].any()
    if any(third):
      shares.append((third.index(True), np.average(correct[file, its], weights=weight[file, its])))
  counts = np.bincount([third for third, _ in shares], minlength=3)
  assert counts.max() - counts.min() <= 1
  ordered = [share for _, share in sorted(shares)]
  assert ordered == sorted(ordered)
