"""A rule sees what it names, of the token at hand, and what it keeps of a row is that row's own."""

import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rollouts import HORIZON, STATE, G, P, limits_of, model_of, run

from espo_jax import replay, stops
from espo_jax.configs import default_config
from espo_jax.replay import Recordings
from espo_jax.rollout.features import directions

NAMES = ('logprobs', 'entropy', 'margin')
FIRST = 3


def showing(name: str) -> stops.StopRule:
  """A rule that never stops, and whose score is what it reads."""
  never = stops.never()

  def update(state, observed):
    z = getattr(observed, name)
    assert all(getattr(observed, other) is None for other in NAMES if other != name)
    return state.replace(z=z), jnp.zeros(z.shape, bool), z

  return never._replace(update=update, reads=frozenset({name}))


@pytest.mark.parametrize('name', NAMES)
def test_a_rule_sees_what_it_names_and_nothing_else(name):
  rows = run(rule=showing(name), directions=directions(model_of('shared')[0].config.hidden_size, 1))
  recorded = rows.logprobs if name == 'logprobs' else getattr(rows.features, name)
  np.testing.assert_array_equal(rows.z, recorded)


@pytest.mark.parametrize('slots', [0, 5])
def test_the_mean_log_probability_is_that_of_the_rows_own_tokens(slots):
  beta = 1.4
  rule = stops.mean_logprob(least_tokens=FIRST)
  rows = run(rule=rule, state=STATE.replace(beta=jnp.float32(beta)), slots=slots)
  stopped = 0
  for n in range(P * G):
    full, length = rows.full_length[n], rows.length[n]
    mean = -np.cumsum(rows.logprobs[n, :full].astype(np.float64)) / np.arange(1, full + 1)
    score = np.where(np.arange(1, full + 1) >= FIRST, mean, 0.0)
    bound = rounding.gamma(HORIZON) * np.abs(mean).max() + limits_of()['logprobs']
    np.testing.assert_allclose(rows.z[n, :full], score, rtol=0, atol=bound)
    above = np.flatnonzero(rows.z[n, :length] > beta)
    if rows.stop_reason[n] == 2:
      assert above.tolist() == [length - 1] and length >= FIRST
      stopped += 1
    else:
      assert set(above) <= {length - 1}  # an end token ends the row itself
  assert 0 < stopped < P * G


def test_a_rule_that_reads_what_was_not_recorded_is_not_replayed(registers):
  def entropy_rule(*, beta_0: float = 1.0, beta_min: float = 0.0, beta_max: float = 9.0):
    """Reads the entropy."""
    return stops.regret_only(beta_0=beta_0)._replace(reads=frozenset({'entropy'}))

  stops.register('by_entropy')(entropy_rule)
  shape = (1, 2, 3)
  arrays = {name: np.zeros(shape, np.float32) for name in ('regret', 'logprobs', 'values')}
  rows = {name: np.ones(shape[:2], np.float32) for name in ('full_length', 'correct', 'weight', 'problem')}
  recordings = Recordings(**arrays, **rows, ends=np.zeros(shape, bool), mu=np.zeros(1), var=np.ones(1))
  without = {one.name for one in replay.candidates(default_config(), {}, recordings)}
  with_it = {one.name for one in replay.candidates(default_config(), {}, recordings._replace(entropy=arrays['regret']))}
  assert with_it - without == {'by_entropy'} and 'mean_logprob' in without


@pytest.mark.parametrize('name', ['espo', 'regret_only', 'value_only', 'random', 'risk_control', 'never'])
def test_a_rule_that_names_nothing_is_given_nothing(name):
  rule = stops.REGISTRY[name]()
  assert rule.reads == frozenset() and rule.init(4).row is None
