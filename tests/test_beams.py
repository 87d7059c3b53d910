"""The beam search: plain sampling where nothing is rejected, the learner's numbers behind copies, and what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import EOS, HORIZON, NEVER, PAD, PROMPTS, G, P, assert_same_rows, limits_for, model_of, run
from small import VOCAB, forward, left_padded

from espo_jax import decoders
from espo_jax.decoders import Beams
from espo_jax.rollout import Sampling, beams, turns
from espo_jax.rollout.progress import TokenRecord
from espo_jax.types import StopReason

WIDE = 8  # beams
SEARCH = Beams(factor=4, prefix=3, step=5, score='logprob')


def searched(its=SEARCH, *, variant='shared', prompts=PROMPTS, samples=WIDE, ends=(EOS,), key=7):
  """The final beams and the tokens drawn at each place, as numpy arrays."""
  model, params = model_of(variant)
  decoding = turns.Decoding(
    model=model, rule=NEVER, samples=samples, horizon=HORIZON, end_tokens=ends, pad_token=PAD, scan_length=4
  )
  asked = jax.tree.map(jnp.asarray, prompts)
  sampling = Sampling(jnp.float32(1.0))
  return jax.device_get(beams.search(decoding, params, asked, jax.random.key(key), beams=its, sampling=sampling))


@pytest.mark.parametrize('variant', ['shared', 'separate'])
def test_beams_of_which_none_is_rejected_are_independent_samples_bit_for_bit(variant):
  rows, drawn = searched(SEARCH._replace(factor=1), variant=variant, samples=G)
  plain = run(variant=variant, rule=NEVER, shadow=0.0)
  for name in ('tokens', 'logprobs', 'values', 'regret', 'length', 'full_length', 'stop_reason'):
    np.testing.assert_array_equal(getattr(rows, name), getattr(plain, name), name)
  np.testing.assert_array_equal(drawn, plain.length)


def test_a_prefix_of_the_whole_horizon_rejects_nothing():
  rows, drawn = searched(SEARCH._replace(prefix=HORIZON, step=HORIZON), samples=G)
  plain = run(rule=NEVER, shadow=0.0)
  np.testing.assert_array_equal(rows.tokens, plain.tokens)
  np.testing.assert_array_equal(drawn, plain.length)


def test_the_tokens_of_a_search_that_nothing_ends_are_those_of_its_analysis():
  rows, drawn = searched(ends=(VOCAB + 1,))
  steps, rest = divmod(HORIZON, SEARCH.step)
  kept = WIDE // SEARCH.factor
  wanted = steps * (WIDE * SEARCH.prefix + kept * (SEARCH.step - SEARCH.prefix))
  wanted += WIDE * min(rest, SEARCH.prefix) + kept * max(rest - SEARCH.prefix, 0)
  np.testing.assert_array_equal(drawn.reshape(P, WIDE).sum(axis=1), wanted)
  assert (rows.length == HORIZON).all() and (rows.stop_reason == StopReason.LENGTH).all()


def test_no_beginning_of_a_rejected_beam_is_returned_and_copies_go_on_with_other_draws():
  """The beams of a prompt have at most as many beginnings as were kept."""
  rows, drawn = searched(ends=(VOCAB + 1,))
  tokens = rows.tokens.reshape(P, WIDE, HORIZON)
  for its in tokens:
    kept = WIDE // SEARCH.factor
    for end in range(SEARCH.step, HORIZON, SEARCH.step):
      assert len({tuple(row[:end]) for row in its}) <= kept
  assert drawn.sum() < rows.length.sum()
  rows, _ = searched(SEARCH._replace(step=HORIZON - SEARCH.prefix), ends=(VOCAB + 1,))  # the last step rejects none
  tokens = rows.tokens.reshape(P, WIDE, HORIZON)
  assert all(len({tuple(row) for row in its}) > WIDE // SEARCH.factor for its in tokens)


@pytest.mark.parametrize('variant', ['shared', 'separate'])
def test_what_a_copied_beam_reads_is_what_it_copied(variant, in_float64):
  model, params = model_of(variant)
  rows, _ = searched(variant=variant)
  tokens = np.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  places = left_padded(tokens.shape[1], rows.prompt_lengths + HORIZON)
  logits, values = jax.device_get(forward(model, params, tokens, *places))
  width = rows.prompt_tokens.shape[1]
  logits, values = logits[:, width - 1 : -1], values[:, width - 1 : -1]
  wanted = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), rows.tokens[..., None], axis=-1)[..., 0]
  own, limits = np.arange(HORIZON) < rows.length[:, None], limits_for(model, params, rows)
  np.testing.assert_allclose(np.where(own, rows.logprobs, 0), np.where(own, wanted, 0), rtol=0, atol=limits['logprobs'])
  np.testing.assert_allclose(np.where(own, rows.values, 0), np.where(own, values, 0), rtol=0, atol=limits['values'])
  assert (rows.stop_reason == StopReason.EOS).any() and (rows.length > SEARCH.step).any()


def test_beams_do_not_depend_on_the_other_prompts(in_float64):
  order = np.array([3, 0, 5, 1, 4, 2])
  rows, drawn = searched()
  turned, of_turned = searched(prompts=jax.tree.map(lambda x: x[order], PROMPTS))
  place = (order[:, None] * WIDE + np.arange(WIDE)).reshape(-1)
  np.testing.assert_array_equal(of_turned, drawn[place])
  assert_same_rows(turned, rows, which_two=place, limits=limits_for(*model_of('shared'), rows))


@pytest.mark.parametrize('seed', range(6))
def test_the_best_are_kept_and_every_place_of_a_rejected_beam_goes_to_a_kept_one_of_its_prompt(seed):
  rng = np.random.default_rng(seed)
  samples, factor = int(rng.integers(1, 9)), int(rng.integers(1, 5))
  scores, scored = rng.normal(size=4 * samples).astype(np.float32), rng.random(4 * samples) < 0.8
  kept = np.asarray(beams.survivors(jnp.asarray(scores), jnp.asarray(scored), samples, factor))
  is_open = np.where(scored, rng.random(4 * samples) < 0.7, False)
  source = np.asarray(beams.heirs(jnp.asarray(kept), jnp.asarray(scored & ~kept), jnp.asarray(is_open), samples))
  for p in range(4):
    group = range(p * samples, (p + 1) * samples)
    asked = sorted((n for n in group if scored[n]), key=lambda n: -scores[n])
    best = asked[: -(-len(asked) // factor)]
    assert [n for n in group if kept[n]] == sorted(best)
    parents = [n for n in sorted(best) if is_open[n]] or sorted(best)
    rejected = [n for n in group if scored[n] and n not in best]
    for n in group:
      assert source[n] == (parents[rejected.index(n) % len(parents)] if n in rejected else n)


@pytest.mark.parametrize('score', ['value', 'regret', 'logprob'])
def test_partial_scores_are_the_decoders_scores_of_the_tokens_so_far(score):
  rows, _ = searched()
  record = TokenRecord(*(jnp.asarray(getattr(rows, name)) for name in TokenRecord._fields[:5]), None, None, None)
  found = beams.partial_scores(record, jnp.asarray(rows.length), score)
  fields = {name: [row[:n] for row, n in zip(getattr(rows, name), rows.length, strict=True)] for name in ('regret', 'logprobs')}
  fields['values'] = [row[:n] for row, n in zip(rows.values, rows.length, strict=True)]
  count = len(rows.length)
  samples = decoders.Samples([''] * count, np.ones(count, bool), rows.length, **fields)
  np.testing.assert_allclose(found, decoders.scores.scores(samples, score), rtol=1e-5)


def test_beams_that_win_places_by_their_log_probability_are_likelier_than_samples():
  free, its = (searched(SEARCH._replace(factor=factor), ends=(VOCAB + 1,))[0] for factor in (1, 4))
  assert its.logprobs.mean() > free.logprobs.mean() + 0.2
