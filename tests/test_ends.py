"""Early ends of a comparison's runs: their arithmetic, that the best run goes on, and that an interruption changes nothing."""

import functools
import sys

import numpy as np
import pytest
import scipy.stats

from espo_jax.configs import ConfigError
from espo_jax.sweep import ends
from espo_jax.sweep.ends.settings import encoded

pytestmark = pytest.mark.quick

UPDATES = 30


def run(level: float, power: float = 0.7, noise: float = 0.0, seed: int = 0, whole: bool = True, settings=None) -> ends.Trial:
  updates = np.arange(1, UPDATES + 1)
  curve = level - 0.5 * updates**-power + noise * np.random.default_rng(seed).normal(size=UPDATES)
  return ends.Trial(settings or {}, updates, curve, whole)


def among(*earlier: ends.Trial, seed: int = 0, settings=None) -> ends.Trials:
  return ends.Trials(seed, UPDATES, settings or {}, earlier)


def ended_at(end: ends.EarlyEnd, trials: ends.Trials, mine: ends.Trial) -> int | None:
  """The update at which a run is ended; None if it is not."""
  judge = end(trials)
  return next((int(u) for u, y in zip(mine.updates, mine.accuracy, strict=True) if judge(int(u), float(y))), None)


@functools.cache
def comparison(seed: int) -> list[ends.Trial]:
  """Noisy curves whose levels differ by chance."""
  rng = np.random.default_rng(seed)
  levels, powers = rng.uniform(0.4, 1.0, 9), rng.uniform(0.3, 1.5, 9)
  return [
    run(level, power, 0.02, 100 * seed + i, settings={'learner.learning_rate': float(rate)})
    for i, (level, power, rate) in enumerate(zip(levels, powers, 10 ** rng.uniform(-6, -3, 9), strict=True))
  ]


# ------------------------------------------------------------------------------------------------------- what all of them keep


@pytest.mark.parametrize('name', ends.REGISTRY)
def test_an_early_end_ends_some_runs_and_never_the_best_so_far(name):
  end, plain = ends.sparing_the_best(ends.REGISTRY[name]()), ends.REGISTRY[name]()
  ended = spared = 0
  for seed in range(3):
    arms = comparison(seed) if seed else sorted(comparison(seed), key=lambda trial: trial.final(5))  # then the last one is best
    for i in range(6, len(arms)):
      trials = among(*arms[:i], seed=seed, settings=arms[i].settings)
      judge, unguarded = end(trials), plain(trials)
      for t, (update, accuracy) in enumerate(zip(arms[i].updates, arms[i].accuracy, strict=True)):
        ahead = all(accuracy >= other.accuracy[t] for other in arms[:i])
        record = arms[i].accuracy[: t + 1].max() >= max(other.accuracy.max() for other in arms[:i])
        wanted = bool(unguarded(int(update), float(accuracy)))
        found = bool(judge(int(update), float(accuracy)))
        assert found == (wanted and not ahead and not record)
        ended, spared = ended + found, spared + (ahead or record)
  assert ended and spared


def test_a_run_that_an_early_end_would_end_goes_on_while_it_is_the_best():
  judge = ends.sparing_the_best(lambda trials: lambda update, accuracy: 'always')(among(run(0.8), run(0.6, whole=False)))
  assert judge(1, 0.29) == 'always' and judge(1, 0.31) == ''  # at the first update the better of them has 0.3
  assert judge(20, 0.5) == 'always' and judge(21, 0.9) == '' and judge(22, 0.1) == ''  # it holds the record from then on


def test_a_run_without_a_known_accuracy_is_no_run_to_learn_from():
  nothing, known, mine = ends.Trial({}, np.zeros(0, int), np.zeros(0), True), comparison(0)[:6], comparison(0)[6]
  for name in ('perf_predict', 'lc_powerlaw', 'median'):
    with_nothing, without = (ends.REGISTRY[name]()(among(*known, *more)) for more in ([nothing], []))
    told = list(zip(mine.updates.tolist(), mine.accuracy.tolist(), strict=True))
    assert [with_nothing(*its) for its in told] == [without(*its) for its in told], name


def test_the_first_run_is_never_ended():
  for name in ends.REGISTRY:
    for end in (ends.REGISTRY[name](), ends.sparing_the_best(ends.REGISTRY[name]())):
      assert ended_at(end, among(), run(0.1, -0.2)) is None, name


@pytest.mark.parametrize('name', ends.REGISTRY)
def test_an_early_end_decides_alike_after_an_interruption(name):
  """Every update is decided by a new judge that was only told the updates before it, as a resumed sweep does."""
  end = ends.REGISTRY[name]()
  for seed in range(2):
    *known, mine = comparison(seed)
    trials = among(*known, seed=seed, settings=mine.settings)
    through = end(trials)
    told = list(zip(mine.updates.tolist(), mine.accuracy.tolist(), strict=True))
    for t, (update, accuracy) in enumerate(told):
      wanted = through(update, accuracy)
      if t % 7 == 0 or wanted:
        resumed = end(trials)
        for before in told[:t]:
          resumed(*before)
        assert resumed(update, accuracy) == wanted


# ---------------------------------------------------------------------------------------------------------------- perf_predict


def test_the_probability_to_end_below_the_best_is_gaussian():
  found = ends.probability_below(0.80, 0.76, 0.02)
  assert found == pytest.approx(0.97725, abs=1e-5) and 0.95 <= found < 0.99
  assert found == pytest.approx(scipy.stats.norm.cdf(2.0), rel=1e-12)
  assert [ends.probability_below(0.5, y, 0.0) for y in (0.4, 0.5, 0.6)] == [1.0, 0.5, 0.0]


def test_the_error_of_a_regression_is_that_of_runs_left_out_one_by_one():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(7, 3))
  values = features @ [0.2, -0.1, 0.0] + 0.5
  found = ends.regression(features, values)
  scaled = (features - features.mean(0)) / features.std(0)
  errors = {}
  for ridge in (1e-3, 1e-2, 1e-1, 1.0):
    for width in (0.5, 1.0, 2.0):
      kernel = 1 + np.exp(-np.square(scaled[:, None] - scaled).mean(-1) / (2 * width**2))
      left_out = []
      for i in range(7):
        rest = np.delete(np.arange(7), i)
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(6), values[rest])
        left_out.append(values[i] - kernel[i, rest] @ weights)
      errors[ridge, width] = np.sqrt(np.square(left_out).mean())
  ridge, width = min(errors, key=errors.get)
  assert found.sigma == pytest.approx(errors[ridge, width], rel=1e-9)
  kernel = 1 + np.exp(-np.square(scaled[:, None] - scaled).mean(-1) / (2 * width**2))
  weights = np.linalg.solve(kernel + ridge * np.eye(7), values)
  assert found.predict(features[2]) == pytest.approx(kernel[2] @ weights, rel=1e-9)


def test_a_prediction_errs_less_the_more_of_the_curve_is_seen():
  finished = [
    run(level, power, 0.005, i) for i, (level, power) in enumerate(np.random.default_rng(1).uniform(0.4, 1.2, (30, 2)))
  ]
  finals = np.array([trial.final(5) for trial in finished])
  sigma = [ends.regression(np.stack([trial.accuracy[:n] for trial in finished]), finals).sigma for n in (2, 8, 24)]
  assert sigma[0] > 1.5 * sigma[1] > 2 * sigma[2]


def test_a_run_is_ended_once_it_is_surely_predicted_below_the_best():
  earlier = [run(level) for level in (0.5, 0.6, 0.7, 0.8, 0.9)]
  assert ended_at(ends.perf_predict(first=6), among(*earlier), run(0.62)) == 6
  assert ended_at(ends.perf_predict(first=6), among(*earlier), run(0.95)) is None
  assert ended_at(ends.perf_predict(runs=6), among(*earlier), run(0.62)) is None
  assert ended_at(ends.perf_predict(), among(*(t._replace(whole=False) for t in earlier)), run(0.62)) is None


def test_settings_are_numbers_where_runs_differ():
  runs = [
    {'learner.learning_rate': 1e-4, 'objective.name': 'grpo', 'seed': 1, 'same': 3},
    {'learner.learning_rate': 1e-5, 'objective.name': 'dapo', 'seed': 2, 'same': 3, 'critic.every': 2},
  ]
  # of critic.every either value has a column, because one run lacks it
  wanted = [[0, 1, np.log(1e-4), 0, 1], [1, 0, np.log(1e-5), 1, 0]]
  np.testing.assert_allclose(encoded(runs), wanted)
  assert encoded([runs[0], runs[0]]).shape == (2, 0)


# ----------------------------------------------------------------------------------------------------------------- lc_powerlaw


def test_a_power_law_is_found_from_three_clean_points():
  x = np.array([1.0, 2, 4, 8, 16])
  y = np.array([0.6, 0.687868, 0.75, 0.793934, 0.825])
  for n in (3, 4, 5):
    np.testing.assert_allclose(ends.power_law(x[:n], y[:n]), (0.9, 0.3, 0.5), atol=1e-3)
  falling = ends.power_law(x, 0.2 + 0.5 * x**-1.5)
  np.testing.assert_allclose(falling, (0.2, -0.5, 1.5), atol=1e-3)


def test_the_gap_to_the_level_bounds_what_is_still_to_come():
  x = np.arange(1.0, 101)
  for level, drop, power in np.random.default_rng(0).uniform((0.3, 0.1, 0.1), (1.0, 0.6, 2.5), (20, 3)):
    y = level - drop * x**-power
    for n in (5, 20, 80):
      assert ends.power_law(x[:n], y[:n]).level - y[n - 1] >= y[-1] - y[n - 1] - 1e-3


def test_a_run_is_ended_when_its_level_has_settled_below_the_best():
  end = ends.lc_powerlaw(first=10, settled=5)
  assert ended_at(end, among(run(0.9)), run(0.6)) == 15
  assert ended_at(end, among(run(0.9)), run(0.95)) is None
  assert ended_at(end, among(), run(0.6)) is None
  jumping = run(0.6)._replace(accuracy=np.where(np.arange(UPDATES) % 2, 0.3, 0.6))
  assert ended_at(ends.lc_powerlaw(settled=5, threshold=1e-3), among(run(0.9)), jumping) is None


# ------------------------------------------------------------------------------------------------------------- Optuna's pruners


def halved(arms: list[ends.Trial], least: int, eta: int) -> list[int | None]:
  """Asynchronous successive halving by its definition: the updates at which the runs are ended."""
  rungs, found = {}, []
  for arm in arms:
    ended, rung = None, least
    while rung <= UPDATES and ended is None:
      value = arm.accuracy[rung - 1]
      reached = rungs.setdefault(rung, [])
      reached.append(value)
      if value < sorted(reached, reverse=True)[max(len(reached) // eta, 1) - 1]:
        ended = rung
      rung *= eta
    found.append(ended)
  return found


def one_after_another(end: ends.EarlyEnd, arms: list[ends.Trial]) -> list[int | None]:
  """The updates at which the arms of a seed are ended, each beside what became of those before it."""
  seen, found = [], []
  for arm in arms:
    at = ended_at(end, among(*seen), arm)
    kept = len(arm.updates) if at is None else at
    seen.append(arm._replace(updates=arm.updates[:kept], accuracy=arm.accuracy[:kept], whole=at is None))
    found.append(at)
  return found


@pytest.mark.parametrize(('least', 'eta'), [(1, 3), (4, 3), (2, 2)])
def test_rungs_are_those_of_successive_halving(least, eta):
  arms = [trial for seed in range(3) for trial in comparison(seed)]
  wanted = halved(arms, least, eta)
  assert one_after_another(ends.successive_halving(least=least, eta=eta), arms) == wanted
  assert {least} < {at for at in wanted if at} <= {least * eta**k for k in range(5)}


def test_brackets_of_hyperband_begin_at_later_rungs():
  arms = [trial for seed in range(3) for trial in comparison(seed)]
  rungs = {at for at in one_after_another(ends.hyperband(least=1, eta=3), arms) if at}
  assert rungs <= {1, 3, 9, 27} and len(rungs) >= 3
  waiting = one_after_another(ends.hyperband(least=27, eta=3), arms)
  assert {at for at in waiting if at} == {27}


def test_a_run_below_the_median_is_ended():
  earlier = [run(level) for level in (0.5, 0.6, 0.7, 0.8, 0.9)]
  assert ended_at(ends.median(first=3), among(*earlier), run(0.69)) == 3
  assert ended_at(ends.median(first=3), among(*earlier), run(0.71)) is None


def test_without_optuna_the_error_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'optuna', None)
  with pytest.raises(ConfigError, match=r"early_end = 'median': Optuna is not installed; fix: pip install 'espo_jax\[sweep\]'"):
    ends.median()
  assert ended_at(ends.lc_powerlaw(), among(run(0.9)), run(0.6)) == 15  # which needs none


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: ends.perf_predict(confidence=0.5), 'confidence = 0.5: out of range'),
    (lambda: ends.perf_predict(runs=2), 'runs = 2: .* at least 3'),
    (lambda: ends.lc_powerlaw(threshold=0.0), 'threshold = 0.0: out of range'),
    (lambda: ends.lc_powerlaw(first=2), 'first = 2, settled = 5: too few'),
    (lambda: ends.median(first=0), 'first = 0, runs = 4: out of range'),
    (lambda: ends.hyperband(least=0), 'least = 0, eta = 3: no rungs'),
  ],
)
def test_options_out_of_range_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


# ------------------------------------------------------------------------------------------------- the replay of a comparison


def test_a_replay_counts_updates_and_what_is_lost_by_hand(monkeypatch):
  """Of four runs of ten updates the third and fourth are ended at update 4, and the third is the best arm."""
  import measure_trials

  levels = {'base': 0.4, 'good': 0.5, 'late': 0.2, 'bad': 0.1}
  curves = {arm: {'0': [level] * 10} for arm, level in levels.items()}
  accuracy = {'base': 60.0, 'good': 70.0, 'late': 75.0, 'bad': 10.0}
  comparison = {
    'arms': {arm: {} for arm in levels},
    'seeds': [0],
    'baseline': 'base',
    'columns': {arm: {'accuracy %': {'values': {'0': value}}} for arm, value in accuracy.items()},
  }
  runs = measure_trials.runs_of(comparison, curves, '0')
  end = ends.sparing_the_best(lambda trials: lambda update, accuracy: 'late' if update >= 4 else '')
  assert measure_trials.replay(end, runs, 'base', 0) == [10, 10, 4, 4]
  assert measure_trials.replay(end, runs[::-1], 'base', 0) == [10, 10, 10, 10]  # each is the best so far
  monkeypatch.setattr(measure_trials, 'CASES', ())
  monkeypatch.setattr(measure_trials, 'by_lot', lambda trials: lambda update, accuracy: 'late' if update >= 4 else '')
  monkeypatch.setattr(np.random, 'default_rng', lambda seed: type('Same', (), {'permutation': staticmethod(np.arange)}))
  (found,) = measure_trials.measure(comparison, curves, 1)
  assert found['by_seed'] == {'0': [pytest.approx(30.0), 2.0, 0.0, pytest.approx(5.0)]}
