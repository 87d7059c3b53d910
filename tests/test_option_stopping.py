"""Options: published values, the example of Longstaff and Schwartz, limits, and a learned rule near the best."""

import json
import math

import jax
import jax.numpy as jnp
import measure_option_stopping
import numpy as np
import pytest
from option_stopping import learned, least_squares, market

PUT = market.Option(1, 36.0, 40.0, 0.06, 0.0, 0.2, 1.0, 50)
CALL = market.Option(2, 100.0, 100.0, 0.05, 0.1, 0.2, 3.0, 9)
FEW = PUT._replace(dates=4)

# The eight paths of the numerical example of Longstaff and Schwartz (2001).
EXAMPLE = market.Option(1, 1.0, 1.1, 0.06, 0.0, 0.2, 3.0, 3)
PATHS = np.array(
  [
    [1.09, 1.08, 1.34],
    [1.16, 1.26, 1.54],
    [1.22, 1.07, 1.03],
    [0.93, 0.97, 0.92],
    [1.11, 1.56, 1.52],
    [0.76, 0.77, 0.90],
    [0.92, 0.84, 1.01],
    [0.88, 1.22, 1.34],
  ]
)[..., None]


def european_put(option):
  """The value of a put that can be exercised at the last date only, by the formula of Black and Scholes."""
  spread = option.volatility * math.sqrt(option.years)
  above = math.log(option.start / option.strike) + (option.rate - option.dividend) * option.years
  upper, lower = above / spread + spread / 2, above / spread - spread / 2
  strike, price = (
    option.strike * math.exp(-option.rate * option.years),
    option.start * math.exp(-option.dividend * option.years),
  )
  return strike * normal(-lower) - price * normal(-upper)


def normal(x):
  return math.erfc(-x / math.sqrt(2)) / 2


def test_the_lattice_has_the_published_values():
  assert market.lattice_value(PUT, 40) == pytest.approx(4.478, abs=5e-4)  # by finite differences
  assert market.lattice_value(CALL, 40) == pytest.approx(13.902, abs=5e-3)  # Broadie and Glasserman


def test_with_one_date_the_lattice_has_the_value_of_black_and_scholes():
  once = PUT._replace(dates=1, dividend=0.02)
  assert market.lattice_value(once, 2000) == pytest.approx(european_put(once), abs=1e-3)
  assert european_put(PUT) == pytest.approx(3.844, abs=5e-4)  # published with the American value
  with pytest.raises(ValueError, match='assets = 3: a lattice takes at most 2; fix: compare with a published interval'):
    market.lattice_value(CALL._replace(assets=3), 1)


def test_never_to_stop_pays_the_european_value():
  paths = market.prices(PUT, np.random.default_rng(0), 40_000)
  paid = market.paid(PUT, paths, np.zeros(paths.shape[:2], bool)).reshape(2, -1).mean(axis=0)  # mirrored paths are one draw
  assert abs(paid.mean() - european_put(PUT)) < 4 * paid.std() / math.sqrt(len(paid))


def test_least_squares_pay_what_the_example_of_longstaff_and_schwartz_pays():
  rule = least_squares.fit(EXAMPLE, PATHS, 2)
  scale = np.array([1, 1.1, 1.1**2])  # ours are polynomials of the price over the strike
  np.testing.assert_allclose(rule[1] / scale, np.array([-1.070, 2.983, -1.813]) * math.exp(-0.06 * 2), atol=1.5e-3)
  np.testing.assert_allclose(rule[0] / scale, np.array([2.038, -3.335, 1.356]) * math.exp(-0.06), atol=1.5e-3)
  stops = least_squares.stops(EXAMPLE, rule, PATHS, 2)
  assert np.flatnonzero(stops[:, 0]).tolist() == [3, 5, 6, 7]
  assert market.paid(EXAMPLE, PATHS, stops).mean() == pytest.approx(0.1144, abs=5e-5)


def test_a_path_is_paid_at_its_first_stop():
  stops = np.array([[False, True, True], [False, False, False]])
  paths = np.array([[[30.0], [34.0], [20.0]], [[30.0], [20.0], [38.0]]])
  option = PUT._replace(dates=3)
  np.testing.assert_allclose(market.paid(option, paths, stops), [6 * math.exp(-0.04), 2 * math.exp(-0.06)])


def test_waiting_pays_what_the_rule_behind_a_date_pays():
  rng = np.random.default_rng(1)
  paths, score = market.prices(FEW, rng, 20), rng.standard_normal((40, 3))
  pays = market.payoffs(FEW, paths) * FEW.discounts
  found = learned.waiting(jnp.asarray(score), jnp.asarray(pays))
  for date in range(3):
    stops = np.pad(score > 0, ((0, 0), (0, 1))) & (pays > 0)
    stops[:, : date + 1] = False
    np.testing.assert_allclose(found[:, date], market.paid(FEW, paths, stops), rtol=1e-5)


def test_the_cost_of_a_decision_is_least_at_the_logit_of_gains_over_losses_however_sure_the_network_is():
  """One date and one price, from which waiting pays 0 or 8 with discount, against 4 at once: a network of one bias."""
  option = PUT._replace(dates=2, rate=0.0)
  paths = jnp.array([[[36.0], [40.0]]] * 3 + [[[36.0], [32.0]]])
  blind = [{'w': jnp.zeros((inputs, outputs)), 'b': jnp.zeros(outputs)} for inputs, outputs in ((3, 4), (4, 4), (4, 1))]

  def cost(bias):
    return learned.cost(option, [*blind[:-1], blind[-1] | {'b': jnp.full(1, bias)}], paths)

  slope = jax.grad(cost)
  assert float(slope(np.log(3.0))) == pytest.approx(0, abs=1e-7)  # three gains of 4 and one loss of 4
  assert slope(-30.0) == pytest.approx(-3 * 4 / 4 / 40, rel=1e-5) and slope(30.0) == pytest.approx(4 / 4 / 40, rel=1e-5)


def test_a_learned_rule_pays_at_least_98_per_cent_of_the_value_and_least_squares_99():
  value = market.lattice_value(FEW, 200)
  paths = market.prices(FEW, np.random.default_rng(5), 40_000)
  rule = least_squares.fit(FEW, market.prices(FEW, np.random.default_rng(6), 20_000), 3)
  params = learned.train(FEW, jax.random.key(0), width=16, steps=150, pairs=256, rate=1e-2)
  for stops, share in ((least_squares.stops(FEW, rule, paths, 3), 0.99), (learned.stops(FEW, params, paths), 0.98)):
    paid = market.paid(FEW, paths, stops)
    draws = paid.reshape(2, -1).mean(axis=0)
    assert share * value < paid.mean() < value + 4 * draws.std() / math.sqrt(len(draws))  # no rule is better than the best
  assert european_put(FEW) < 0.9 * value  # which patience alone does not reach


def test_the_page_has_every_option_with_its_values(monkeypatch, tmp_path):
  monkeypatch.setattr(measure_option_stopping, 'NETWORK', {'width': 4, 'steps': 2, 'pairs': 8, 'rate': 1e-2})
  monkeypatch.setattr(measure_option_stopping, 'FITTED', 500)
  monkeypatch.setattr(
    measure_option_stopping, 'CASES', [case._replace(steps=case.steps and 2) for case in measure_option_stopping.CASES]
  )
  measure_option_stopping.main([f'--output={tmp_path / "page"}', '--seeds=2', '--pairs=500'])
  written, page = json.loads((tmp_path / 'page.json').read_text()), (tmp_path / 'page.md').read_text()
  for case in written['cases']:
    mean = np.mean([by['least squares'] for by in case['by_seed'].values()])
    assert f'| {case["name"]} |' in page and f' {mean:.3f} ± ' in page
  for case in measure_option_stopping.CASES:
    assert f'| {case.name} | {case.published} | {case.source} |' in page
