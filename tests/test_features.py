"""The features of states against scipy, and against the states of a pass without a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rollouts import HORIZON, NUMBERS, WIDTH, model_of, run
from small import left_padded

from espo_jax.rollout.features import directions, features


@pytest.mark.quick
@settings(deadline=None)
@given(st.integers(1, 40), st.data())
def test_the_directions_are_orthonormal_and_the_same_every_time(size, data):
  count = data.draw(st.integers(1, size))
  drawn = directions(size, count)
  assert drawn.shape == (size, count) and drawn.dtype == np.float32
  # A float32 number is off by one rounding, so a product of two is off by three.
  np.testing.assert_allclose(drawn.T @ drawn, np.eye(count), rtol=0, atol=rounding.gamma(size + 3))
  np.testing.assert_array_equal(drawn, directions(size, count))


@pytest.mark.quick
@settings(deadline=None)  # each width compiles
@given(
  st.sampled_from([2, 3, 8, 30]).flatmap(
    lambda width: arrays.arrays(np.float32, (3, width), elements=st.floats(-30, 30, width=32))
  ),
  st.integers(0, 28),
)
def test_entropy_and_margin_are_scipys(logits, cut):
  logits = logits.copy()
  logits[:, 2:][:, :cut] = -np.inf  # truncated
  found = features(logits, np.zeros((len(logits), 3), np.float32), directions(3, 2))
  exact = logits.astype(np.float64)
  probabilities = scipy.special.softmax(exact, axis=-1)
  # The log-probabilities are off by the rounding of the logits and of the sum, and weigh at most 1 in the entropy together.
  bound = rounding.gamma(3 * logits.shape[1] + 6) * (
    np.abs(logits[np.isfinite(logits)]).max() * 2 + np.log(logits.shape[1]) + 1
  )
  np.testing.assert_allclose(found.entropy, scipy.stats.entropy(probabilities, axis=-1), rtol=0, atol=bound)
  ordered = np.sort(exact, axis=-1)
  np.testing.assert_allclose(
    found.margin, ordered[:, -1] - ordered[:, -2], rtol=rounding.gamma(1), atol=np.finfo(np.float32).tiny
  )


def test_the_margin_of_the_only_token_is_infinite():
  found = features(jnp.asarray([[1.0, -jnp.inf]]), jnp.zeros((1, 3)), directions(3, 1))
  assert np.isposinf(found.margin) and found.entropy == 0


@pytest.mark.parametrize(
  ('variant', 'slots', 'precision'), [('shared', 0, 'float64'), ('separate', 4, 'float32')], indirect=['precision']
)
def test_a_rollout_records_the_states_that_its_tokens_were_drawn_from(variant, slots, precision):
  model, params = model_of(variant)
  size = model.config.hidden_size
  plain, rows = (run(variant=variant, slots=slots, directions=onto) for onto in (None, directions(size, size)))
  assert plain.features is None
  for name in ('tokens', 'length', *NUMBERS):
    np.testing.assert_array_equal(getattr(rows, name), getattr(plain, name), err_msg=name)
  real = np.arange(HORIZON) < rows.full_length[:, None]
  whole = jnp.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  places = left_padded(whole.shape[1], rows.prompt_lengths + HORIZON)

  @jax.jit
  def forced(params):
    states = model.states(params, whole, *places)
    logprobs = jax.nn.log_softmax(model.logits(params, states))
    return states.policy[:, WIDTH - 1 : -1], -(jnp.exp(logprobs) * logprobs).sum(-1)[:, WIDTH - 1 : -1]

  wanted, entropy = forced(params)
  roundings = rounding.of_decoder(model.config, whole.shape[1])
  of_states, of_entropy = rounding.of_program(forced, params, roundings=roundings)
  # The directions are float32 in both precisions, and each state goes onto them and back.
  of_states += rounding.gamma(2 * size + 6) * np.linalg.norm(wanted, axis=-1).max()
  back = rows.features.projections @ directions(size, size).T
  np.testing.assert_allclose(back[real], wanted[real], rtol=0, atol=of_states)
  np.testing.assert_allclose(rows.features.entropy[real], entropy[real], rtol=0, atol=of_entropy)
  assert not rows.features.projections[~real].any() and not rows.features.entropy[~real].any()
