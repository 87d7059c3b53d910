"""Self-speculative decoding: the full model's law, tokens and log-probabilities, in fewer passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts as r
import rounding
from known import EOS, Known
from small import VOCAB, actor_critic, config

from espo_jax import rollout, stops
from espo_jax.learner import score
from espo_jax.model import States, apply
from espo_jax.rollout import Sampling, accept_head
from espo_jax.rollout import speculative as pieces
from espo_jax.rollout.speculative import Accepting, _best_length

LAYERS = 4


@rounding.cached
def model_of():
  return actor_critic(3, num_layers=LAYERS)


def speculated(
  *, samples=r.G, temperature=1.0, blocks=2, tokens=4, prompts=r.PROMPTS, horizon=r.HORIZON, top_k=0, accepting=None
):
  model, params = model_of()
  return jax.device_get(
    rollout.speculate(
      model,
      params,
      jax.tree.map(jnp.asarray, prompts),
      jax.random.key(7),
      samples=samples,
      horizon=horizon,
      end_tokens=(r.EOS,),
      pad_token=r.PAD,
      draft_blocks=blocks,
      draft_tokens=tokens,
      sampling=Sampling(jnp.float32(temperature), top_k=jnp.int32(top_k)),
      accepting=accepting,
    )
  )


def random_head(threshold: float, least: int = 1) -> Accepting:
  """A head that says something else of every draft, so that rows stop drafting at different numbers of drafts."""
  head = accept_head.new_head(config().hidden_size, 2)
  drawn = jax.tree.map(lambda x: np.random.default_rng(5).standard_normal(x.shape).astype(np.float32) / 2, head)
  return Accepting(drawn, jnp.float32(threshold), jnp.int32(least))


@pytest.mark.parametrize('accepting', [None, random_head(0.5)], ids=['length', 'head'])
def test_greedy_tokens_are_the_full_models(precision, accepting):
  rows, counts = speculated(temperature=0.0, accepting=accepting)
  model, params = model_of()
  plain = rollout.generate(
    model,
    params,
    r.NEVER,
    r.in_precision(r.STATE),
    jax.tree.map(jnp.asarray, r.PROMPTS),
    jax.random.key(7),
    samples=r.G,
    horizon=r.HORIZON,
    end_tokens=(r.EOS,),
    pad_token=r.PAD,
    sampling=Sampling(jnp.float32(0.0)),
    scan_length=8,
  )
  plain = jax.device_get(plain)
  for name in ('tokens', 'length', 'stop_reason'):
    np.testing.assert_array_equal(getattr(rows, name), getattr(plain, name), name)
  real = np.asarray(plain.mask)
  limits = r.limits_for(model, params, plain)
  for name in ('logprobs', 'values', 'regret'):
    np.testing.assert_allclose(getattr(rows, name)[real], getattr(plain, name)[real], rtol=0, atol=limits[name], err_msg=name)
  assert 0 < counts.accepted <= counts.drafted


def test_what_is_recorded_is_what_the_learner_finds(precision):
  rows, _ = speculated()
  model, params = model_of()
  again = score(
    model,
    params,
    *map(jnp.asarray, (rows.prompt_tokens, rows.prompt_lengths, rows.tokens)),
    temperature=1.0,
    chunk=10_000,
  )
  real = np.asarray(rows.mask)
  limits = r.limits_for(model, params, rows)
  for name in ('logprobs', 'values'):
    np.testing.assert_allclose(np.asarray(getattr(again, name))[real], getattr(rows, name)[real], rtol=0, atol=limits[name])
  ends = np.take_along_axis(rows.tokens, rows.length[:, None] - 1, axis=1)[:, 0] == r.EOS
  np.testing.assert_array_equal(rows.stop_reason == 1, ends)
  assert ((rows.tokens == r.EOS).sum(axis=1)[~ends] == 0).all() and (rows.length[~ends] == r.HORIZON).all()
  assert (rows.tokens[~real] == r.PAD).all()


@pytest.mark.parametrize(
  ('blocks', 'top_k', 'accepting'), [(1, 0, None), (2, 5, None), (2, 0, random_head(0.5))], ids=['one', 'two', 'head']
)
def test_the_law_of_the_output_is_the_full_models(blocks, top_k, accepting):
  """Chi-square of the second and third tokens of many samples of one prompt, drafts accepted and rejected among them."""
  one = jax.tree.map(lambda x: x[:1], r.PROMPTS)
  count = 4000
  rows, counts = speculated(samples=count, blocks=blocks, prompts=one, horizon=3, top_k=top_k, accepting=accepting)
  assert 0.05 < counts.accepted / counts.drafted < 0.95
  _, params = model_of()
  trunk = {name: x for name, x in params['policy'].items() if name != 'value'}
  prompt = one.tokens[0, -one.lengths[0] :]

  def law(prefix):
    logits = np.asarray(apply(config(num_layers=LAYERS), trunk, jnp.asarray([[*prompt, *prefix]]))[0, -1], np.float64)
    if top_k:
      logits[logits < np.sort(logits)[-top_k]] = -np.inf
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()

  first = np.bincount(rows.tokens[:, 0], minlength=VOCAB)
  statistic, freedom = 0.0, 0
  for token in np.argsort(-first)[:4]:
    if token == r.EOS:
      continue
    mine = rows.tokens[:, 0] == token
    seconds = rows.tokens[mine, 1]
    common = np.bincount(seconds, minlength=VOCAB).argmax()
    for seen, expected in (
      (np.bincount(seconds, minlength=VOCAB), law([token]) * mine.sum()),
      (
        np.bincount(rows.tokens[mine, 2][seconds == common], minlength=VOCAB),
        law([token, common]) * (seconds == common).sum() * (common != r.EOS),
      ),
    ):
      large = expected >= 5
      if large.sum() > 1:
        rest = expected[~large].sum()
        statistic += ((seen - expected)[large] ** 2 / expected[large]).sum()
        statistic += (seen[~large].sum() - rest) ** 2 / max(rest, 1.0)
        freedom += int(large.sum())
  assert freedom > 20
  assert statistic < freedom + 3.1 * np.sqrt(2 * freedom)  # about 0.1 %, as a normal


def test_a_row_stops_drafting_by_itself_and_spends_its_drafts_and_a_token_per_verification():
  rows, counts = speculated(accepting=random_head(0.5))
  _, eager = speculated(accepting=random_head(0.0))
  _, full = speculated(accepting=random_head(1.0))
  _, both = speculated(accepting=random_head(0.0, least=2))
  assert eager.drafted < counts.drafted < full.drafted and eager.drafted < both.drafted
  assert (counts.spent >= rows.length).all()
  assert eager.spent.sum() - eager.spent.size == 2 * eager.drafted  # a draft and a token in each verification of a row
  assert both.spent.sum() - both.spent.size == 3 * both.drafted // 2
  again = speculated(accepting=random_head(0.5), prompts=jax.tree.map(lambda x: x[2:4], r.PROMPTS))
  np.testing.assert_array_equal(again[0].tokens, rows.tokens[2 * r.G : 4 * r.G])
  np.testing.assert_array_equal(again[1].spent, counts.spent[2 * r.G : 4 * r.G])


def test_the_drafts_length_follows_the_acceptance_rate():
  for acceptance, share in ((0.95, 0.1), (0.5, 0.25), (0.1, 0.5), (0.7, 0.05)):
    tokens = [sum(acceptance**i for i in range(d + 1)) for d in range(1, 7)]
    cost = [(d + 1) * share + 1 - share for d in range(1, 7)]
    best = 1 + int(np.argmax(np.array(tokens) / np.array(cost)))
    assert int(_best_length(jnp.float32(acceptance), share, 6)) == best


# ------------------------------------------------------------------------------------------------------- piece by piece


class Disagreeing(Known):
  """The whole model says 6 behind a 7, where the first blocks say 8."""

  def verify(self, params, stream, cache, longest, blocks):
    states, cache = super().verify(params, stream, cache, longest, blocks)
    return jax.tree.map(lambda x: jnp.where(x == 7, 5.0, x), states), cache


HORIZON, DRAFTS = 6, 3
SETUP = pieces._Setup(
  model=Disagreeing(config()),
  params={},
  keys=jax.random.split(jax.random.key(0), 4),
  sampling=Sampling(0.0),
  greedy=jnp.asarray(True),
  ends=jnp.array([EOS]),
  horizon=HORIZON,
  blocks=1,
  drafts=DRAFTS,
)


def first_tokens():
  """Rows whose first tokens are 3, 5, 9 and EOS, behind prompts of 3 tokens."""
  last = jnp.array([2.0, 1.0, 8.0, 4.0])[:, None]
  caches = SETUP.model.init_caches(4, 3 + HORIZON + DRAFTS + 1)
  caches = caches.replace(policy=caches.policy.replace(lengths=jnp.full(4, 3, jnp.int32)))
  begin = jax.jit(lambda states, caches: pieces._first_tokens(SETUP, states, caches, samples=1, pad_token=0))
  return begin(States(last, last), caches)


def test_first_tokens_are_drawn_from_the_prompts():
  rows = first_tokens()
  np.testing.assert_array_equal(rows.last, [3, 5, 9, EOS])
  np.testing.assert_array_equal(rows.record.tokens[:, :2], [[3, 0], [5, 0], [9, 0], [EOS, 0]])
  np.testing.assert_allclose(rows.record.values[:, 0], np.array([2, 1, 8, 4], np.float32) / 10)
  np.testing.assert_array_equal(rows.alive, [True, True, True, False])
  np.testing.assert_array_equal(rows.ended, [False, False, False, True])
  np.testing.assert_array_equal(rows.length, 1)


def test_the_first_blocks_draft_one_token_behind_the_other():
  rows = first_tokens()
  uniforms = jnp.full((DRAFTS + 1, 4, 3), 0.5)
  draft = jax.jit(functools.partial(pieces._draft, SETUP))
  streams, drawn, count, cache = draft(rows, jnp.int32(2), jnp.int32(9), uniforms)
  np.testing.assert_array_equal(count, 2)
  np.testing.assert_array_equal(drawn.tokens[:, :3], [[4, EOS, 5], [6, 7, 8], [9, 9, 9], [5, 6, 7]])
  np.testing.assert_array_equal(drawn.logits.argmax(-1)[:, :3], drawn.tokens[:, :3])
  np.testing.assert_array_equal(streams[:, :3, 0], [[3, 4, EOS], [5, 6, 7], [9, 9, 9], [EOS, 5, 6]])
  np.testing.assert_array_equal(cache.keys[0][0, 1, 3:6, 0], [5, 6, 7])
  np.testing.assert_array_equal(cache.lengths, 3 + 3)


def test_a_round_keeps_what_the_whole_model_says_up_to_an_end_token_and_the_horizon():
  """One row ends within its drafts, one is corrected at its third, one comes to the horizon, one had ended before."""
  rows = first_tokens()
  rows = rows.replace(acceptance=jnp.float32(1.0), length=jnp.array([1, 1, HORIZON - 2, 1], jnp.int32))
  after = jax.jit(functools.partial(pieces._round, SETUP))(rows)
  wanted = [[3, 4, EOS, 0, 0, 0], [5, 6, 7, 6, 0, 0], [9, 0, 0, 0, 9, 9], [EOS, 0, 0, 0, 0, 0]]
  np.testing.assert_array_equal(after.record.tokens, wanted)
  np.testing.assert_allclose(after.record.values[1], np.array([1, 5, 6, 5, 0, 0], np.float32) / 10)
  np.testing.assert_array_equal(after.record.regret, 0)
  np.testing.assert_array_equal(after.length, [3, 4, HORIZON, 1])
  np.testing.assert_array_equal(after.last, [EOS, 6, 9, EOS])
  np.testing.assert_array_equal(after.ended, [True, False, False, True])
  np.testing.assert_array_equal(after.alive, [False, True, False, False])
  np.testing.assert_array_equal(after.caches.policy.lengths, [5, 6, 5, 3])
  accepted = 3 + 2 + 3  # of three drafts in each live row, also behind an end token
  assert (after.counts.rounds, after.counts.drafted, after.counts.accepted) == (1, 3 * DRAFTS, 2 + 2 + 2)
  rounding.assert_close(after.acceptance, 0.9 + 0.1 * accepted / (3 * DRAFTS), roundings=5)


def test_the_regret_recorded_is_what_the_stop_room_says(monkeypatch):
  monkeypatch.setattr(stops, 'surrogate_regret', lambda logits, tokens: jnp.full(tokens.shape, 7.0))
  rows = first_tokens()
  np.testing.assert_array_equal(rows.record.regret, [[7, 0, 0, 0, 0, 0]] * 4)
  after = jax.jit(functools.partial(pieces._round, SETUP))(rows)
  np.testing.assert_array_equal(after.record.regret, np.where(np.arange(HORIZON) < after.length[:, None], 7, 0))
