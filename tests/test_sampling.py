"""Distributions and draws, against sorting in float64 and against what they should be on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
import scipy.special
import scipy.stats

from espo_jax import stops
from espo_jax.rollout import Sampling, sampling


def truncated(logits, temperature, top_k, top_p, min_p):
  """The law of one row by sorting, in float64, and how large a relative error decides of each token whether it is kept."""
  p = scipy.special.softmax(np.asarray(logits, np.float64) / temperature)
  order = np.argsort(-p)
  keep = np.zeros(len(p), bool)
  keep[order[: top_k or len(p)]] = True
  p = np.where(keep, p, 0) / p[keep].sum()
  decides = np.full(len(p), np.inf)
  if top_p < 1:
    before = np.empty(len(p))
    before[order] = np.cumsum(p[order]) - p[order]
    decides = np.where(p < p.max(), np.abs(before - top_p), np.inf)  # the likeliest is kept in any case
    keep &= before < top_p
  if min_p > 0:
    decides = np.minimum(decides, np.abs(p / (min_p * p.max()) - 1))
    keep &= p >= min_p * p.max()
  return np.where(keep, p, 0) / p[keep].sum(), decides


def relative_error(logits, temperature):
  """The relative error of a float32 law: of a sum over the vocabulary, and of exponents that are rounded to their own size."""
  vocabulary = np.shape(logits)[-1]
  return (
    rounding.gamma(vocabulary + 10) + rounding.gamma(3) * np.ptp(np.asarray(logits, np.float64) / temperature, axis=-1).max()
  )


TRUNCATIONS = [
  (1.0, 5, 1.0, 0.0),
  (0.7, 0, 0.8, 0.0),
  (1.3, 0, 1.0, 0.2),
  (1.0, 7, 0.7, 0.1),
  (1.0, 1, 1.0, 0.0),
  (1.0, 0, 1e-9, 0.0),
]


@pytest.mark.parametrize('options', TRUNCATIONS, ids=str)
@pytest.mark.parametrize('vocabulary', [12, 1000])
def test_truncated_distributions_are_those_of_a_sort(options, vocabulary):
  temperature, top_k, top_p, min_p = options
  logits = np.random.default_rng(0).normal(size=(50, vocabulary)).astype(np.float32) * 3
  got = sampling.sampled_logits(jnp.asarray(logits), Sampling(temperature, top_p, top_k, min_p))
  law = np.asarray(jax.nn.softmax(got), np.float64)
  wanted, decides = map(np.stack, zip(*(truncated(row, *options) for row in logits), strict=True))
  error = relative_error(logits, temperature)
  differs = (law > 0) != (wanted > 0)
  assert (decides[differs] < error).all()  # only what rounding leaves open may go the other way
  same = ~differs.any(axis=1)
  assert same.mean() > 0.9
  rounding.assert_within(law[same], wanted[same], 2 * error * wanted[same])  # truncated, then normalised once more


@pytest.mark.parametrize('options', [(1.0, 0, 1.0, 0.0), *TRUNCATIONS[:4]], ids=str)
@pytest.mark.parametrize('vocabulary', [2, 12, 1000])
def test_drawn_frequencies_follow_the_distribution(options, vocabulary):
  temperature, top_k, top_p, min_p = options
  draws = 200_000
  logits = np.random.default_rng(1).normal(size=vocabulary).astype(np.float32)
  uniform = jax.random.uniform(jax.random.key(2), (draws,))

  @jax.jit
  def draw(logits, uniform):
    law = sampling.sampled_logits(logits[None], Sampling(temperature, top_p, top_k, min_p))
    law = jnp.broadcast_to(law, (uniform.shape[0], vocabulary))
    tokens, logprobs = sampling.draw(law, uniform, jnp.asarray(False))
    return tokens, logprobs, stops.surrogate_regret(law, tokens)

  tokens, logprobs, regret = (
    np.concatenate(x) for x in zip(*(draw(logits, part) for part in jnp.split(uniform, 20)), strict=True)
  )
  law, decides = truncated(logits, *options)
  counts = np.bincount(tokens, minlength=vocabulary)
  error = relative_error(logits, temperature)
  assert (decides > error).all()  # rounding leaves nothing open
  assert not counts[law == 0].any()
  kept = law > 0
  if kept.sum() > 1:
    assert scipy.stats.chisquare(counts[kept], law[kept] * draws).pvalue > 1e-3
  rounding.assert_within(logprobs, np.log(law[tokens]), 2 * error)
  rounding.assert_within(regret, np.log(law.max()) - np.log(law[tokens]), 2 * error)


@pytest.mark.parametrize('top_k', [0, 5])
def test_the_regret_of_a_token_is_the_difference_of_two_logits_to_the_bit(top_k):
  """Also where others have no mass; then that of a token drawn is finite."""
  logits = jnp.asarray(np.random.default_rng(3).normal(size=(400, 50)).astype(np.float32) * 3)
  law = jax.jit(sampling.sampled_logits)(logits, Sampling(0.7, top_k=top_k))
  tokens, _ = jax.jit(sampling.draw)(law, jax.random.uniform(jax.random.key(0), (400,)), jnp.asarray(False))
  regret = np.asarray(jax.jit(stops.surrogate_regret)(law, tokens))
  law = np.asarray(law)
  np.testing.assert_array_equal(regret, law.max(-1) - law[np.arange(400), tokens])
  assert np.isneginf(law).any() == bool(top_k)
  assert np.isfinite(regret).all() and (regret > 0).any()


@pytest.mark.parametrize('uniform', [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_the_ends_of_the_unit_interval_draw_tokens_that_have_mass(uniform):
  logits = jnp.full((1, 300), -jnp.inf).at[0, jnp.array([17, 18, 250])].set(jnp.array([0.0, -30.0, 1.0]))
  token = int(sampling.draw(logits, jnp.float32(uniform)[None], jnp.asarray(False))[0][0])
  assert token == (17 if uniform == 0 else 250)


def test_the_rules_noise_is_uniform_and_not_the_tokens():
  keys = sampling.row_keys(jax.random.key(0), jnp.arange(1000, dtype=jnp.uint32), 5)
  draw = jax.jit(lambda start: jnp.stack([sampling.token_noise(keys, jnp.full(5000, start + i)) for i in range(8)]))
  noise = np.asarray(draw(3)).reshape(-1, 2).astype(np.float64)
  for column in noise.T:
    assert scipy.stats.kstest(column, 'uniform').pvalue > 1e-3
  assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(len(noise))
  np.testing.assert_array_equal(draw(5)[:6], draw(3)[2:])
  share = float(sampling.shadow_rows(keys, jnp.float32(0.3)).mean())
  assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 5000)
