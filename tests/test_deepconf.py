"""DeepConf's stop against windows in numpy, and the confidence of a token against scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
import rounding
import scipy.special
from rollouts import STATE, run
from tiny import tiny_experiment

from espo_jax import stops
from espo_jax.configs import ConfigError, validate
from espo_jax.rollout.features import confidence
from espo_jax.types import StopReason


@pytest.mark.parametrize('vocabulary', [3, 20, 64])
def test_a_confidence_is_the_mean_of_the_likeliest_tokens(vocabulary, precision):
  logits = np.random.default_rng(0).normal(0, 4, (5, vocabulary)).astype(precision)
  likeliest = np.sort(scipy.special.log_softmax(logits.astype(np.float64), axis=-1), axis=-1)[:, -20:]
  rounding.assert_close(
    confidence(jnp.asarray(logits)), -likeliest.mean(-1), roundings=3 * vocabulary + 30, size=np.abs(likeliest).max() + 30
  )
  cut = np.where(np.arange(vocabulary) < 2, logits, -np.inf)  # truncated to two tokens
  kept = scipy.special.log_softmax(cut[:, :2].astype(np.float64), axis=-1).sum(-1)
  count = min(20, vocabulary)
  wanted = (-kept + 50 * (count - 2)) / count
  rounding.assert_close(confidence(jnp.asarray(cut)), wanted, roundings=100, size=60.0)


def test_a_row_ends_with_the_first_full_window_below_the_threshold(in_float64):
  window = 3
  rule = stops.deepconf(window=window)
  told = run(rule=rule, state=STATE.replace(beta=jnp.float32(-100.0)), shadow=1.0)
  lengths = told.full_length
  assert lengths.max() > 8
  scores = -told.z
  for n, length in enumerate(lengths):
    assert (told.z[n, : min(window - 1, length)] == -100).all()
  level = np.float32(-np.median(scores[(told.z > -100) & (told.z != 0)]))
  rows = run(rule=rule, state=STATE.replace(beta=jnp.float32(level)), shadow=1.0)
  stopped = rows.stop_reason == StopReason.STOPPED
  assert 0 < stopped.sum() < len(stopped)
  np.testing.assert_array_equal(rows.tokens, told.tokens)
  single = -run(rule=stops.deepconf(window=1), state=STATE.replace(beta=jnp.float32(-100.0)), shadow=1.0).z
  for n, length in enumerate(lengths):
    means = [single[n, t + 1 - window : t + 1].mean() for t in range(window - 1, length)]
    np.testing.assert_allclose(rows.z[n, window - 1 : length], np.negative(means), rtol=1e-12)
    below = [t for t, mean in enumerate(means, window - 1) if -mean > level]
    ended = rows.stop_reason[n] != StopReason.STOPPED
    assert ended or rows.length[n] - 1 == below[0]


def test_a_window_of_the_horizon_is_refused():
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.stop.update(name='deepconf', window=16)
  with pytest.raises(ConfigError, match=r"stop.window = 16: the rule 'deepconf' can never fire within rollout.horizon = 16"):
    validate(config)
