"""Drafts from the last responses: the law of what is kept, rows that equal decoded ones, trainings that go through a pool."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
import scipy.stats
from rollouts import (
  EOS,
  HORIZON,
  NEVER,
  PAD,
  PROMPTS,
  RULE,
  STATE,
  WIDTH,
  G,
  P,
  assert_same_rows,
  in_precision,
  limits_of,
  model_of,
  on_mesh,
  run,
)
from small import VOCAB

from espo_jax import rollout, stops
from espo_jax.model import apply
from espo_jax.rollout import Reuse, Sampling
from espo_jax.rollout.processors import eot_scale
from espo_jax.rollout.reuse import Noted, accept
from espo_jax.rollout.sampling import draw, likeliest
from espo_jax.stages import metrics
from espo_jax.stages.drafts import next_drafts, no_drafts
from espo_jax.types import Candidates, Prompts, StopReason

FORMS = {
  'exact': Reuse('exact', candidates=VOCAB),
  'few': Reuse('exact', candidates=2),
  'coupled': Reuse('coupled'),
  'published': Reuse('published', lenience=0.0),
}
OF_THE_POLICY = ('exact', 'few', 'coupled')  # those whose rows are samples of the policy
NOT_GREEDY = jnp.asarray(False)

# ------------------------------------------------------------------------------------------------------- the law of a token


def test_the_published_form_keeps_what_the_specification_says():
  """The probabilities of a draft of four tokens, and the uniforms, are those of a worked example."""
  p, q, u = np.array([0.8, 0.6, 0.2, 0.8]), np.array([0.9, 0.5, 0.4, 0.8]), np.array([0.95, 0.1, 0.7, 0.2])
  logits, tokens = jnp.log(jnp.stack([p, 1 - p], axis=1)), jnp.zeros(4, jnp.int32)
  noise = jnp.zeros((4, 3)).at[:, 2].set(u)
  for lenience, kept in ((0.0, [False, True, False, True]), (0.5, [True] * 4)):
    found, instead = accept(Reuse('published', lenience), logits, Noted(tokens, jnp.log(q)), noise, NOT_GREEDY)
    np.testing.assert_array_equal(found, kept)
    np.testing.assert_array_equal(instead, [-1] * 4)


def law_of(reuse: Reuse, q: np.ndarray, p: np.ndarray, grid: int) -> np.ndarray:
  """The distribution of a row's token if its draft has the distribution `q`, by enumeration over a grid of uniforms."""
  points = (np.arange(grid) + 0.5) / grid
  draft, decides, draws = (x.reshape(-1) for x in np.meshgrid(np.arange(len(q)), points, points, indexing='ij'))
  weight = q[draft] / grid**2
  noise = np.stack([draws, np.zeros_like(draws), decides], axis=1)
  given = {'logprobs': jnp.log(q)[draft]}
  if reuse.form == 'coupled':  # the uniform is the one that drew the token
    draft, weight = np.searchsorted(np.cumsum(q), draws, side='right'), np.full(len(draft), 1 / len(draft))
    given = {'uniforms': jnp.asarray(draws)}
  if reuse.form == 'exact':
    order = np.argsort(-q, kind='stable')[: reuse.candidates]
    given = {'candidates': Candidates(*(jnp.tile(jnp.asarray(x), (len(draft), 1)) for x in (order, np.log(q[order]))))}
  logits = jnp.tile(jnp.log(p), (len(draft), 1))
  kept, instead = accept(reuse, logits, Noted(jnp.asarray(draft), **given), jnp.asarray(noise), NOT_GREEDY)
  law = np.bincount(draft, weight * kept, len(q))
  drawn = np.asarray(instead) >= 0
  law += np.bincount(np.maximum(instead, 0), weight * (drawn & ~np.asarray(kept)), len(q))
  return law + (weight * ~np.asarray(kept) * ~drawn).sum() * p


TWO = np.array([0.9, 0.1]), np.array([0.5, 0.5])
FIVE = np.array([0.4, 0.05, 0.3, 0.05, 0.2]), np.array([0.1, 0.3, 0.35, 0.2, 0.05])
BIASED = [(Reuse('published', 0.0), [0.7, 0.3]), (Reuse('published', 0.5), [0.862, 0.138])]


@pytest.mark.parametrize('laws', [TWO, FIVE], ids=len)
@pytest.mark.parametrize('reuse', [Reuse('coupled'), *(Reuse('exact', candidates=k) for k in (1, 2, 5))], ids=str)
def test_a_tokens_distribution_is_the_policys(reuse, laws, in_float64):
  q, p = laws
  reuse = dataclasses.replace(reuse, candidates=min(reuse.candidates, len(q)))
  grid = 200
  np.testing.assert_allclose(law_of(reuse, q, p, grid), p, rtol=0, atol=2 * len(q) / grid)  # each bound is off by a point


@pytest.mark.parametrize(('reuse', 'biased'), BIASED, ids=str)
def test_that_of_the_published_form_is_not(reuse, biased, in_float64):
  np.testing.assert_allclose(law_of(reuse, *TWO, 200), biased, rtol=0, atol=0.01)


def test_logits_that_move_by_a_tenth_keep_96_percent_in_the_exact_form_and_82_in_the_coupled_one(in_float64):
  rows, vocabulary, rng = 20_000, 50, np.random.default_rng(0)
  before = 2 * rng.standard_normal((rows, vocabulary))
  after = before + 0.1 * rng.standard_normal((rows, vocabulary))
  q, p = (scipy.special.softmax(x, axis=-1) for x in (before, after))
  overlap = np.minimum(p, q).sum(axis=-1).mean()
  uniforms, noise = rng.random(rows), rng.random((rows, 3))
  tokens = draw(jnp.asarray(before), jnp.asarray(uniforms), NOT_GREEDY)[0]
  known = {'coupled': {'uniforms': jnp.asarray(uniforms)}, 'exact': {'candidates': likeliest(jnp.asarray(before), vocabulary)}}
  kept = {
    form: accept(Reuse(form, candidates=vocabulary), jnp.asarray(after), Noted(tokens, **its), jnp.asarray(noise), NOT_GREEDY)[
      0
    ]
    for form, its in known.items()
  }
  upto = [np.cumsum(x, axis=-1) for x in (q, p)]
  same = np.equal(*((x <= uniforms[:, None]).sum(axis=-1) for x in upto)).mean()
  np.testing.assert_allclose([kept['exact'].mean(), kept['coupled'].mean()], [overlap, same], rtol=0, atol=0.01)
  np.testing.assert_allclose([overlap, same], [0.96, 0.82], rtol=0, atol=0.02)


# ------------------------------------------------------------------------------------------------------------ rows of a model


def sampled(drafts, form, *, key=7, params=None, prompts=PROMPTS, rule=NEVER, state=STATE, variant='shared', **options):
  """Rows with drafts, as numpy arrays."""
  model, own = model_of(variant)
  usual = {'samples': G, 'horizon': HORIZON, 'scan_length': 8, 'shadow_share': jnp.float32(0.5), 'reuse': FORMS.get(form, form)}
  usual['sampling'] = Sampling(jnp.float32(1.0))  # an array, so that all temperatures are one program
  rows = rollout.generate(
    model,
    own if params is None else params,
    rule,
    in_precision(state),
    jax.tree.map(jnp.asarray, prompts.replace(drafts=drafts)),
    jax.random.key(key),
    end_tokens=(EOS,),
    pad_token=PAD,
    **(usual | options),
  )
  return jax.device_get(rows)


def nothing(form, prompts=P, samples=G, horizon=HORIZON):
  return no_drafts(FORMS[form], prompts, samples, horizon, VOCAB)


def drafts_from(rows, form, samples=G):
  return next_drafts(rows, jax.device_get, form=FORMS[form].form, samples=samples)


@rounding.cached
def others(variant='shared'):
  """The parameters of a policy that is not far from the usual one."""
  noise = np.random.default_rng(5)
  return jax.tree.map(lambda x: x + 0.06 * noise.standard_normal(x.shape).astype(x.dtype), model_of(variant)[1])


@pytest.mark.parametrize('form', FORMS)
def test_rows_without_drafts_are_plain_rows_to_the_bit_and_an_unchanged_policy_keeps_them_whole(form, in_float64):
  plain, first = run(rule=NEVER), sampled(nothing(form), form)
  jax.tree.map(np.testing.assert_array_equal, first.ordinary(), plain)
  assert not first.reused.kept.any() and not first.reused.scored.any()
  again = sampled(drafts_from(first, form), form, key=8)
  if form == 'few':  # tokens that are not recorded are refused
    assert 0 < again.reused.kept.sum() < first.length.sum()
    return
  assert_same_rows(again, first)
  np.testing.assert_array_equal(again.reused.kept, first.full_length)
  np.testing.assert_array_equal(again.reused.scored, first.full_length)
  assert not again.started.any()  # none took a slot


def test_the_published_form_keeps_everything_if_it_is_lenient_enough(in_float64):
  first = sampled(nothing('published'), 'published')
  drafts = drafts_from(first, 'published')
  lenient = sampled(drafts, Reuse('published', lenience=1e9), params=others())
  np.testing.assert_array_equal(lenient.tokens, first.tokens)
  strict = sampled(drafts, 'published', params=others())
  assert strict.reused.kept.sum() < first.length.sum()


def cut(drafts, rows):
  """The drafts up to a column of their own each."""
  most = np.random.default_rng(3).integers(0, HORIZON, drafts.length.shape)
  short = np.minimum(drafts.length, most).astype(np.int32)
  assert (short.reshape(-1) < rows.full_length).any()
  return drafts.replace(length=short)


WAYS = [('exact', 'shared', 0, 8), ('coupled', 'separate', 4, 5), ('published', 'shared', 4, 7)]


@pytest.mark.parametrize(('form', 'variant', 'slots', 'window'), WAYS, ids=str)
def test_a_row_that_keeps_a_part_is_the_row_that_is_decoded_with_its_stop_rule_too(form, variant, slots, window, in_float64):
  """With drafts of an unchanged policy and the same key, whatever is kept, the row is the plain one, its stop included."""
  its = {'variant': variant, 'rule': RULE, 'slots': slots, 'scan_length': window}
  whole = sampled(nothing(form), form, state=STATE.replace(enabled=jnp.asarray(False)), **its)  # the same program stops nothing
  plain = run(variant=variant)
  assert {StopReason.STOPPED, StopReason.EOS} <= set(plain.stop_reason) and plain.shadow.any()
  drafts = drafts_from(whole, form)
  for given in (drafts, cut(drafts, whole)):
    rows = sampled(given, form, **its)
    assert_same_rows(rows, plain, limits=limits_of(variant))
    wanted = np.minimum(given.length.reshape(-1), plain.full_length)
    np.testing.assert_array_equal(rows.reused.kept, wanted)


@pytest.mark.parametrize('rule', [stops.random_stop(), stops.deepconf(window=4)], ids=['random', 'deepconf'])
def test_a_rule_sees_of_kept_tokens_what_it_reads_of_decoded_ones(rule, in_float64):
  """The noise, a state of its own per row, and the confidence are among that."""
  off = stops.adaptive(rule, enabled=False)
  free = run(rule=rule, state=off)
  state = off.replace(enabled=jnp.asarray(True), beta=jnp.float32(np.quantile(free.z[free.mask], 0.9)))
  plain = run(rule=rule, state=state)
  assert 0 < plain.stopped.sum() < len(plain.length)
  whole = sampled(nothing('coupled'), 'coupled')
  drafts = cut(drafts_from(whole, 'coupled'), whole)
  limits = limits_of() | {'z': 1e-10}
  assert_same_rows(sampled(drafts, 'coupled', rule=rule, state=state), plain, limits=limits)


@pytest.mark.parametrize('form', FORMS)
def test_a_row_of_a_changed_policy_does_not_depend_on_slots_and_windows(form, in_float64):
  drafts = drafts_from(sampled(nothing(form), form), form)
  one = sampled(drafts, form, params=others(), key=8)
  two = sampled(drafts, form, params=others(), key=8, slots=4, scan_length=5)
  assert_same_rows(one, two)
  np.testing.assert_array_equal(one.reused.kept, two.reused.kept)
  assert 0 < one.reused.kept.sum() < one.reused.drafted.sum()
  assert (one.reused.kept <= one.reused.scored).all() and (two.reused.scored <= two.reused.drafted).all()
  moved = jax.tree.map(lambda x: x[::-1].copy(), PROMPTS.replace(drafts=drafts))  # nor on the place in the batch
  other = sampled(moved.drafts, form, params=others(), key=8, prompts=moved)
  np.testing.assert_array_equal(other.tokens.reshape(P, G, -1)[::-1], one.tokens.reshape(P, G, -1))


@pytest.mark.parametrize('form', FORMS)
def test_what_is_recorded_of_a_row_is_what_a_pass_over_it_finds(form, in_float64):
  """Its log-probabilities are the current policy's over the whole row, and so are distributions and uniforms for the next."""
  params = others()
  rows = sampled(drafts_from(sampled(nothing(form), form), form), form, params=params, key=8)
  whole = np.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  offset = np.arange(whole.shape[1]) - (WIDTH - rows.prompt_lengths[:, None])
  logits = apply(model_of('shared')[0].config, params['policy'], whole, np.maximum(offset, 0), offset >= 0)
  law = np.asarray(jax.nn.log_softmax(logits[:, WIDTH - 1 : -1]))
  found = np.take_along_axis(law, rows.tokens[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(np.where(rows.mask, rows.logprobs - found, 0), 0, atol=1e-10)
  if rows.candidates is not None:
    best = -np.sort(-law, axis=-1)[..., : rows.candidates.logprobs.shape[-1]]
    at_tokens = np.take_along_axis(law, rows.candidates.tokens, axis=-1)
    for other in (best, at_tokens):
      np.testing.assert_allclose(np.where(rows.mask[..., None], rows.candidates.logprobs - other, 0), 0, atol=1e-10)
  if rows.reused.uniforms is not None:  # the row is what its uniforms give
    upto = np.cumsum(np.exp(law), axis=-1)
    drawn = (upto <= rows.reused.uniforms[..., None]).sum(axis=-1)
    np.testing.assert_array_equal(np.where(rows.mask, drawn, 0), np.where(rows.mask, rows.tokens, 0))


def test_greedy_rows_are_the_same_with_any_draft(in_float64):
  plain = run(rule=NEVER, temperature=0.0)
  for form in ('exact', 'coupled', 'published'):
    drafts = drafts_from(sampled(nothing(form), form), form)
    np.testing.assert_array_equal(sampled(drafts, form, sampling=Sampling(jnp.float32(0.0))).tokens, plain.tokens)


def test_rows_that_are_not_begun_keep_nothing(in_float64):
  counts = np.array([3, 1, 2, 3, 1, 2], np.int32)
  drafts = drafts_from(sampled(nothing('exact'), 'exact'), 'exact')
  rows = sampled(drafts, 'exact', params=others(), prompts=PROMPTS.replace(rows=counts))
  whole = sampled(drafts, 'exact', params=others())
  begun = (np.arange(G) < counts[:, None]).reshape(-1)
  np.testing.assert_array_equal(rows.tokens[begun], whole.tokens[begun])
  assert not rows.full_length[~begun].any() and not rows.reused.kept[~begun].any()


@pytest.mark.parametrize('shape', [(8, 1, 1), (2, 2, 2)])
def test_a_row_does_not_depend_on_the_mesh(shape, in_float64):
  drafts = drafts_from(sampled(nothing('exact'), 'exact'), 'exact')
  changed = {'params': others(), 'key': 8}
  its = {'prompts': PROMPTS.replace(drafts=drafts), 'reuse': FORMS['exact'], 'shadow_share': jnp.float32(0.5)}
  found = on_mesh(rollout.generate, shape, RULE, **changed, **its)
  one = sampled(drafts, 'exact', rule=RULE, **changed)
  assert_same_rows(one, found, which_two=slice(P * G))
  np.testing.assert_array_equal(found.reused.kept[: P * G], one.reused.kept)


@pytest.mark.parametrize('slots', [0, 4])
def test_metrics_count_what_was_decoded_and_not_what_was_kept(slots, in_float64):
  whole = sampled(nothing('exact'), 'exact')
  drafts = cut(drafts_from(whole, 'exact'), whole)
  rows = sampled(drafts, 'exact', rule=RULE, slots=slots)
  measured = metrics.rollout_metrics(
    jax.tree.map(jnp.asarray, rows), jnp.zeros(P * G), samples=G, parts=1, slots=slots, shadow_share=0.5
  )
  kept = rows.reused.kept
  assert (rows.length < kept).any() and (kept < rows.length).any()  # rows that stopped within their drafts, and others
  decoded = [range(kept[n], rows.full_length[n]) for n in range(P * G)]
  counted = sum(t < rows.length[n] for n in range(P * G) for t in decoded[n])
  assert measured['rollout/tokens'] == counted
  assert measured['rollout/shadow_tokens'] == sum(map(len, decoded)) - counted
  free_at = [0] * (slots or P * G)  # each row that is decoded takes the first slot that is free
  for its in filter(None, decoded):
    free_at[free_at.index(min(free_at))] += len(its)
  assert measured['rollout/row_steps'] == len(free_at) * max(free_at)
  np.testing.assert_allclose(measured['rollout/utilisation'], counted / (len(free_at) * max(free_at)), rtol=rounding.gamma(64))
  of_drafts = metrics.reuse_metrics(rows.reused)
  assert of_drafts['reuse/tokens'] == kept.sum() and of_drafts['reuse/scored'] == rows.reused.scored.sum()
  np.testing.assert_allclose(of_drafts['reuse/share'], kept.sum() / drafts.length.sum(), rtol=rounding.gamma(64))


# ------------------------------------------------------------------------------------------------- the distribution of rows

MANY, SHORT = 6000, 2
ONE = Prompts(np.full((1, 2), 3, np.int32), np.array([2], np.int32), np.array([11], np.uint32))


def exact_law(params) -> np.ndarray:
  """The probability of each pair of first tokens; the second counts as 0 behind an end token."""
  pairs = np.stack(np.meshgrid(np.arange(VOCAB), np.arange(VOCAB), indexing='ij'), axis=-1).reshape(-1, 2)
  given = np.concatenate([np.full((len(pairs), 2), 3), pairs], axis=1).astype(np.int32)
  law = np.asarray(jax.nn.softmax(apply(model_of('shared')[0].config, params['policy'], given)), np.float64)
  each = np.arange(len(pairs))
  joint = (law[each, 1, pairs[:, 0]] * law[each, 2, pairs[:, 1]]).reshape(VOCAB, VOCAB)
  joint[EOS] = np.eye(VOCAB)[PAD] * joint[EOS].sum()
  return joint.reshape(-1)


def p_value(rows, params) -> float:
  """The probability of counts at least so far from the policy's distribution (Pearson)."""
  expected = MANY * exact_law(params)
  counts = np.bincount(rows.tokens[:, 0] * VOCAB + rows.tokens[:, 1], minlength=VOCAB**2)
  rare = expected < 5
  counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
  return scipy.stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize('form', FORMS)
def test_rows_through_three_policies_have_each_policys_distribution_but_in_the_published_form(form):
  policies = (model_of('shared')[1], others(), jax.tree.map(lambda a, b: 2 * a - b, model_of('shared')[1], others()))
  drafts = nothing(form, prompts=1, samples=MANY, horizon=SHORT)
  for number, params in enumerate(policies):
    rows = sampled(drafts, form, key=number, params=params, prompts=ONE, samples=MANY, horizon=SHORT)
    drafts = drafts_from(rows, form, samples=MANY)
    if form in OF_THE_POLICY or number == 0:
      assert p_value(rows, params) > 1e-3
    else:
      assert p_value(rows, params) < 1e-6
    assert number == 0 or 0.05 < rows.reused.kept.sum() / rows.reused.drafted.sum() < 1


def test_drafts_that_the_engine_cannot_verify_are_an_error():
  with pytest.raises(ValueError, match=r'prompts\.drafts = None.*fix: drafts of length 0'):
    sampled(None, 'exact')
  with pytest.raises(
    ValueError, match=r"prompts\.drafts\.candidates = None with reuse\.form = 'exact'.*fix: drafts of the same"
  ):
    sampled(nothing('coupled'), 'exact')
  with pytest.raises(ValueError, match=r'reuse = None, but the prompts have drafts; fix: '):
    sampled(nothing('exact'), None)
  with pytest.raises(ValueError, match=r'rule\.group = .*fix: a rule without groups'):
    sampled(nothing('exact'), 'exact', rule=stops.dead_groups(group_tokens=5))
  with pytest.raises(ValueError, match=r'processor: drafts are verified under the logits of the model; fix: processor = None'):
    sampled(nothing('exact'), 'exact', processor=eot_scale((1,)))


@pytest.mark.parametrize(
  ('given', 'told'),
  [
    ({'form': 'exact'}, r"candidates = 0 with form = 'exact'.*fix: candidates = 64"),
    ({'form': 'exact', 'candidates': -1}, r"candidates = -1 with form = 'exact'.*fix: "),
    ({'form': 'exakt'}, r"form = 'exakt': .*fix: one of 'exact', 'coupled', 'published'"),
  ],
)
def test_a_form_without_what_it_needs_is_an_error(given, told):
  with pytest.raises(ValueError, match=told):
    Reuse(**given)
