"""SpecDec++'s head: where drafting stops, what the head is fitted to, and how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts as r
import rounding
from small import VOCAB, actor_critic, config

from espo_jax.model import apply
from espo_jax.rollout import Sampling
from espo_jax.rollout.accept_head import Acceptances, acceptances, fit_head, log_probabilities, stops_drafting

LAYERS, BLOCKS = 4, 2


@pytest.mark.quick
@pytest.mark.parametrize(('threshold', 'drafts'), [(0.3, 4), (0.2, 3), (0.1, 2), (0.04, 1), (0.5, None), (1.0, None)])
def test_drafting_stops_where_the_specification_says(threshold, drafts):
  log_accepted = np.log(np.cumprod(np.array([0.95, 0.9, 0.9, 0.8], np.float32)))
  np.testing.assert_allclose(-np.expm1(log_accepted), [0.05, 0.145, 0.2305, 0.3844], atol=1e-6)
  stops = np.asarray(stops_drafting(jnp.asarray(log_accepted), threshold))
  assert (int(stops.argmax()) + 1 if stops.any() else None) == drafts


@pytest.mark.quick
@pytest.mark.parametrize('mismatch', [1.0, 6.0])
def test_a_fitted_head_says_what_minimises_the_weighted_loss(mismatch):
  """Of drafts whose states are alike, a share `a` is accepted. The best answer is `a / (a + mismatch (1 - a))`."""
  rates = np.array([0.2, 0.5, 0.9], np.float32)
  streams = np.repeat(np.eye(3, 8, dtype=np.float32)[None], 4, axis=0)
  labels = np.repeat(rates[None], 4, axis=0)
  counts = np.ones((4, 3), bool)
  counts[0] = False
  labels[0] = 1 - labels[0]  # these do not count
  found = Acceptances(*map(jnp.asarray, (streams, labels, counts)))
  head = fit_head(found, blocks=2, mismatch=mismatch, steps=400, rate=0.02)
  told = np.exp(log_probabilities(head, jnp.asarray(streams[0])))
  np.testing.assert_allclose(told[:, 1], rates / (rates + mismatch * (1 - rates)), atol=0.01)
  np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-6)


@rounding.cached
def model_of():
  return actor_critic(3, num_layers=LAYERS)


def found(mixing, blocks=BLOCKS, temperature=1.0, **truncation):
  model, params = model_of()
  rng = np.random.default_rng(0)
  tokens, length = rng.integers(2, VOCAB, (r.P * r.G, 7)).astype(np.int32), rng.integers(1, 8, r.P * r.G).astype(np.int32)
  asked = jax.tree.map(jnp.asarray, (r.PROMPTS, tokens, length))
  its = acceptances(
    model,
    params,
    *asked,
    jax.random.key(1),
    draft_blocks=blocks,
    mixing=mixing,
    sampling=Sampling(jnp.float32(temperature), **truncation),
  )
  return tokens, length, jax.device_get(its)


def test_a_draft_is_accepted_as_likely_as_two_models_without_a_cache_say(in_float64):
  tokens, length, its = found(1.0)  # every token is the text's own
  _, params = model_of()
  trunk = {name: x for name, x in params['policy'].items() if name != 'value'}
  layers = [name for name in trunk if name.startswith('layer')]
  assert len(layers) == LAYERS
  shallow = {name: x for name, x in trunk.items() if name not in layers or int(name.split('_')[-1]) < BLOCKS}
  for n in range(r.P * r.G):
    p = n // r.G
    text = [*r.PROMPTS.tokens[p, r.WIDTH - r.PROMPTS.lengths[p] :], *tokens[n]]
    own = {}
    for name, its_trunk, count in (('p', trunk, LAYERS), ('q', shallow, BLOCKS)):
      logits = np.asarray(apply(config(num_layers=count), its_trunk, jnp.asarray([text]))[0], np.float64)
      logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
      own[name] = np.array([logprobs[len(text) - 7 + t - 1, tokens[n, t]] for t in range(1, 7)])
    np.testing.assert_allclose(its.labels[n], np.exp(np.minimum(own['p'] - own['q'], 0)), rtol=1e-6)
  assert not its.counts.any() and length.min() < 7


def test_the_head_is_fitted_to_drafts_before_the_end_of_a_text():
  _, length, none = found(0.0)
  np.testing.assert_array_equal(none.counts, np.arange(1, 7) < length[:, None])
  _, _, some = found(0.5)
  assert not some.counts[~none.counts].any() and 0.3 < some.counts.sum() / none.counts.sum() < 0.7
  assert ((none.labels > 0) & (none.labels <= 1)).all() and none.labels.std() > 0.1


def test_where_the_whole_model_drafts_every_draft_is_accepted():
  for temperature in (0.0, 1.0):
    *_, its = found(0.0, blocks=LAYERS, temperature=temperature)
    np.testing.assert_allclose(its.labels, 1, atol=1e-4)


@pytest.mark.parametrize('truncation', [{'top_p': 0.5}, {'top_k': 2}, {'min_p': 0.5}], ids=lambda x: next(iter(x)))
def test_a_head_is_fitted_to_the_drafts_that_a_truncation_leaves(truncation):
  for blocks in (BLOCKS, LAYERS):
    *_, free = found(0.5, blocks)
    *_, its = found(0.5, blocks, **truncation)
    assert ((its.labels >= 0) & (its.labels <= 1)).all()
    assert not its.counts[~free.counts].any() and 0 < its.counts.sum() < free.counts.sum()
    if blocks == LAYERS:
      np.testing.assert_allclose(its.labels[its.counts], 1, atol=1e-4)  # the whole model drafts
    head = fit_head(jax.tree.map(jnp.asarray, its), blocks=1, mismatch=6.0, steps=5, rate=0.01)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(head)) and np.any(head.out)
