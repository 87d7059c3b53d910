"""The recurring bandit: exact expectations, the best policy, and exploration that needs memory, recurrence and foresight."""

import itertools
import json

import jax
import jax.numpy as jnp
import measure_recurring_bandit as script
import numpy as np
import pytest
from measure_recurring_bandit import Blocks

SHORT = Blocks(pulls=6, known=0.6)


@pytest.mark.parametrize(('memory', 'recurs'), list(itertools.product((True, False), repeat=2)))
def test_expected_wins_are_those_of_all_histories(memory, recurs):
  """Walks the tree of choices and payments, with the other arm's probability integrated over a grid."""
  blocks = Blocks(memory, recurs, pulls=3, known=0.6, wins=2.0, losses=3.0)
  shape = (3, 4, 4) if memory else (3,)
  logits = jax.random.normal(jax.random.key(1), shape)
  chances = np.asarray(jax.nn.sigmoid(logits), np.float64)
  grid = (np.arange(20_000) + 0.5) / 20_000
  density = grid * (1 - grid) ** 2
  density /= density.sum()
  wins, explores = 0.0, 0.0
  for history in itertools.product(('known', 'won', 'lost'), repeat=3):
    chance, pulled, won, arm, below = 1.0, 0, 0, density.copy(), 0
    for time, what in enumerate(history):
      other = chances[time, pulled, won] if memory else chances[time]
      if what == 'known':
        chance *= 1 - other
        continue
      mean = (won + 2) / (pulled + 5) if memory and recurs else 2 / 5
      below += mean < 0.6
      paid = grid if what == 'won' else 1 - grid
      if not recurs:
        chance, arm = chance * other * (paid * density).sum(), density
      else:
        chance, arm = chance * other, arm * paid
      pulled, won = pulled + 1, won + (what == 'won')
    total = chance * (arm.sum() if recurs else 1.0)
    wins += total * (history.count('won') + 0.6 * history.count('known'))
    explores += total * below / 3
  found = script.expected(blocks, logits, True)
  np.testing.assert_allclose([float(x) for x in found], [wins, explores], rtol=1e-5)


def test_the_best_of_two_pulls_explores_below_five_ninths():
  """By hand: the other arm first gives 1/2 + 1/2 max(2/3, k) + 1/2 max(1/3, k), and the known one 2 k."""
  for known in (0.4, 0.5, 0.55, 5 / 9, 0.6):
    explored = 0.5 + 0.5 * max(2 / 3, known) + 0.5 * max(1 / 3, known)
    assert script.best(Blocks(pulls=2, known=known)) == pytest.approx(max(explored, known + max(known, 0.5)))
  assert script.best(Blocks(pulls=2, known=0.55)) > 1.1 == pytest.approx(2 * 0.55)


@pytest.mark.parametrize('seed', range(4))
def test_no_policy_wins_more_than_the_best(seed):
  logits = 5 * jax.random.normal(jax.random.key(seed), (6, 7, 7))
  assert float(script.expected(SHORT, logits, True)[0]) < script.best(SHORT)


@pytest.fixture(scope='module')
def trained():
  """What trained policies win and explore, by memory, recurrence and foresight."""
  found = {}
  for memory, recurs, farsighted in itertools.product((True, False), repeat=3):
    blocks = SHORT._replace(memory=memory, recurs=recurs)
    logits = script.train(blocks, farsighted, jax.random.key(0), 400)
    found[memory, recurs, farsighted] = [float(x) for x in script.expected(blocks, logits, farsighted)]
  return found


def test_a_policy_with_memory_of_arms_that_recur_explores_and_wins_what_the_best_one_wins(trained):
  wins, explores = trained[True, True, True]
  assert wins == pytest.approx(script.best(SHORT), abs=5e-3) and wins > 6 * 0.6 + 0.05
  assert explores > 0.1


@pytest.mark.parametrize('kind', [kind for kind in itertools.product((True, False), repeat=3) if not all(kind)], ids=str)
def test_without_memory_or_recurrence_or_foresight_it_is_greedy(trained, kind):
  wins, explores = trained[kind]
  assert explores < 0.01 and wins == pytest.approx(6 * 0.6, abs=0.01)


def test_a_myopic_gradient_is_that_of_each_pulls_own_payment():
  logits = jax.random.normal(jax.random.key(2), (6, 7, 7))
  near, far = (jax.grad(lambda x, ahead=ahead: script.expected(SHORT, x, ahead)[0])(logits) for ahead in (False, True))
  np.testing.assert_allclose(near[5], far[5], rtol=1e-6)  # behind the last pull there is nothing
  assert near[0, 0, 0] == pytest.approx(float(jax.grad(jax.nn.sigmoid)(logits[0, 0, 0])) * (0.5 - 0.6), rel=1e-5)
  assert not jnp.abs(near[1, 3]).any()  # a place that cannot be reached
  mean = (jnp.arange(7) + 1) / (jnp.arange(7)[:, None] + 2)
  exploits = jnp.broadcast_to(jnp.where(mean > 0.6, 9.0, -9.0), (6, 7, 7)).at[0].set(0.0)
  near, far = (jax.grad(lambda x, ahead=ahead: script.expected(SHORT, x, ahead)[0])(exploits) for ahead in (False, True))
  assert near[0, 0, 0] < 0 < far[0, 0, 0]  # the first pull of the other arm costs now and pays later


def test_the_page_has_all_eight_cases(tmp_path):
  script.main([f'--output={tmp_path / "page"}', '--seeds=2', '--steps=3'])
  written, page = json.loads((tmp_path / 'page.json').read_text()), (tmp_path / 'page.md').read_text()
  assert len(written['cases']) == 8 and page.count('| yes |') + page.count('| no |') >= 8
  mean = np.mean([by['wins'] for by in written['cases'][0]['by_seed'].values()])
  assert f'| yes | yes | yes | {mean:.3f} ± ' in page
