"""Decoders choose what their papers say, spend what a loop over tokens counts, and agree where they have to."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from espo_jax import decoders, monitor
from espo_jax.decoders import Choice, Samples

pytestmark = pytest.mark.quick

EVERY = [
  *((name, {}) for name in decoders.REGISTRY),
  *((name, {'score': score}) for name in ('best_by', 'weighted') for score in ('value', 'regret', 'logprob')),
  *(('deepconf', {'confidence': kind, 'window': 3, 'keep': 0.9}) for kind in ('bottom', 'lowest', 'tail', 'mean')),
  ('deepconf_online', {'warmup': 2, 'window': 2, 'keep': 0.9}),
  ('ffs', {'least': 4}),
  ('lt_select', {'segment': 2, 'tries': 3, 'threshold': 0.6}),
]
every = pytest.mark.parametrize(('name', 'options'), EVERY, ids=lambda x: x if isinstance(x, str) else repr(x))


def given(answers, lengths=None, ended=None, **fields) -> Samples:
  """Samples; those of unknown length have that of their first field."""
  if lengths is None:
    lengths = [len(row) for row in next(iter(fields.values()))]
  ended = [True] * len(answers) if ended is None else ended
  rows = {name: [np.asarray(row, np.float32) for row in its] for name, its in fields.items()}
  return Samples(list(answers), np.array(ended, bool), np.array(lengths), **rows)


def drawn(rng, count: int, kinds: int = 3) -> Samples:
  """Random samples with all fields."""
  lengths = rng.integers(1, 12, count)
  fields = {
    'logprobs': [-rng.exponential(size=n) for n in lengths],
    'regret': [rng.exponential(size=n) for n in lengths],
    'values': [rng.uniform(-1, 1, n) for n in lengths],
    'confidence': [rng.exponential(size=n) for n in lengths],
  }
  answers = rng.choice(['', *'abcdef'[:kinds]], count).tolist()
  fields['projections'] = [rng.normal(size=(n, 3)) for n in lengths]
  made = given(answers, lengths, rng.random(count) < 0.7, **fields)
  return made._replace(tokens=[rng.integers(0, 9, n) for n in lengths])


def chosen(name: str, samples: Samples, **options) -> Choice:
  return decoders.REGISTRY[name](**options).choose(samples)


def answer(choice: Choice, samples: Samples) -> str:
  return '' if choice.sample is None else samples.answers[choice.sample]


# ------------------------------------------------------------------------------------------------------------------ identities


@every
def test_one_sample_makes_every_decoder_the_first(name, options):
  for seed in range(40):
    one = drawn(np.random.default_rng(seed), 1)
    choice = chosen(name, one, **options)
    assert (answer(choice, one), choice.tokens) == (one.answers[0], one.lengths[0])


@every
def test_a_decoder_reads_what_it_declares_and_no_more(name, options):
  samples = drawn(np.random.default_rng(0), 6)
  decoder = decoders.REGISTRY[name](**options)
  apart = {field: None for field in Samples._fields[3:] if field not in decoder.reads}
  assert decoder.choose(samples._replace(**apart)) == decoder.choose(samples)
  for field in decoder.reads - set(decoders.ALWAYS):
    with pytest.raises(ValueError, match=rf'{field} is None; fix: samples in which it was recorded'):
      decoder.choose(samples._replace(**{field: None}))


@every
def test_where_all_samples_are_right_every_decoder_is(name, options):
  for seed in range(20):
    samples = drawn(np.random.default_rng(seed), 7)._replace(answers=['42'] * 7)
    assert answer(chosen(name, samples, **options), samples) == '42'


@every
def test_no_decoder_spends_more_than_all_tokens_or_less_than_those_of_its_choice(name, options):
  for seed in range(40):
    samples = drawn(np.random.default_rng(seed), 9)
    choice = chosen(name, samples, **options)
    assert (0 if choice.sample is None else samples.lengths[choice.sample]) <= choice.tokens <= samples.lengths.sum()


@pytest.mark.parametrize('seed', range(12))
def test_the_majority_over_all_orders_is_right_as_often_as_maj_at_k_says(seed):
  rng = np.random.default_rng(seed)
  samples, correct = drawn(rng, 6, kinds=2), rng.random(6) < 0.5
  right = []
  for order in itertools.permutations(range(6)):
    sample = chosen('majority', samples._replace(answers=[samples.answers[i] for i in order])).sample
    right.append(sample is not None and correct[order[sample]])
  assert np.mean(right) == pytest.approx(monitor.majority(samples.answers, correct), abs=1e-12)


@pytest.mark.parametrize(
  ('name', 'options', 'field'),
  [
    ('weighted', {'score': 'value'}, 'values'),
    ('weighted', {'score': 'regret'}, 'regret'),
    ('weighted', {'score': 'logprob'}, 'logprobs'),
    ('deepconf', {'keep': 1.0}, 'confidence'),
    ('deepconf', {'keep': 0.1, 'confidence': 'tail', 'window': 2}, 'confidence'),
  ],
)
def test_equal_scores_make_weighted_votes_the_majority(name, options, field):
  for seed in range(40):
    samples = drawn(np.random.default_rng(seed), 8)
    equal = samples._replace(**{field: [np.full(n, 0.7, np.float32) for n in samples.lengths]})
    assert chosen(name, equal, **options) == chosen('majority', samples)


def test_first_finish_search_of_equal_lengths_is_the_first_and_without_an_early_end_costs_all():
  samples = drawn(np.random.default_rng(0), 5)._replace(lengths=np.full(5, 7), ended=np.ones(5, bool))
  assert chosen('ffs', samples) == Choice(0, 35)


def test_a_threshold_out_of_reach_makes_online_deepconf_offline():
  """The lowest warm-up sample sets the threshold, and no later one is below it."""
  for seed in range(40):
    samples = drawn(np.random.default_rng(seed), 8)._replace(answers=list('abcabcab'))
    low = samples._replace(confidence=[samples.confidence[0] * 0 + 0.01, *(row + 0.02 for row in samples.confidence[1:])])
    online = chosen('deepconf_online', low, keep=1.0, warmup=3, window=4, consensus=2.0)
    assert online == chosen('deepconf', low, keep=1.0, confidence='lowest', window=4)
    assert online.tokens == low.lengths.sum()


def test_without_a_stated_answer_a_vote_has_none_and_a_pick_is_the_first_sample():
  samples = drawn(np.random.default_rng(3), 5)._replace(answers=[''] * 5, ended=np.zeros(5, bool))
  votes, picks = ('majority', 'weighted', 'deepconf', 'deepconf_online'), ('first', 'shortest', 'best_by', 'ffs')
  assert [chosen(name, samples).sample for name in votes] == [None] * 4
  assert [chosen(name, samples).sample for name in picks] == [0] * 4


# ------------------------------------------------------------------------------------------------- golden values, by hand


def test_a_tie_of_votes_goes_to_the_answer_that_was_stated_first():
  assert chosen('majority', given(['', 'b', 'a', 'a', 'b'], [1, 2, 3, 4, 5])) == Choice(1, 15)
  assert chosen('majority', given(['b', 'a', 'a'], [1, 2, 3])) == Choice(1, 6)


def test_the_shortest_has_ended_and_has_an_answer():
  samples = given(['a', '', 'b', 'c', 'd'], [9, 1, 2, 4, 4], ended=[1, 1, 0, 1, 1])
  assert chosen('shortest', samples) == Choice(3, 20)
  assert chosen('ffs', samples) == Choice(1, 5)  # it does not read the answer; five rows write one token
  assert chosen('ffs', samples, least=2) == Choice(3, 15)  # 4 + 1 + 2 + 4 + 4


def test_the_best_is_that_of_the_score_with_an_answer():
  samples = given(
    ['', 'a', 'b', 'c'],
    values=[[0.9], [0.1, 0.8], [0.9, 0.2], [0.8]],
    regret=[[0.0], [1.0, 0.0], [0.2, 0.2], [0.6]],
    logprobs=[[0.0], [-1.0, -1.0], [-0.5, -2.0], [-0.4]],
  )
  assert chosen('best_by', samples, score='value') == Choice(1, 6)  # ties with the last one
  assert chosen('best_by', samples, score='regret') == Choice(2, 6)
  assert chosen('best_by', samples, score='logprob') == Choice(3, 6)


def test_weights_are_geometric_means_of_probabilities():
  """The answer a has the weight 0.9, b has 0.5 and 0.35; with 0.45 for the last it would win."""
  logs = [[math.log(0.81), 0.0], [math.log(0.5)], [math.log(0.35)] * 3]
  assert chosen('weighted', given('abb', logprobs=logs), score='logprob') == Choice(0, 6)
  logs[2] = [math.log(0.45)] * 3
  assert chosen('weighted', given('abb', logprobs=logs), score='logprob') == Choice(1, 6)


def test_the_confidences_of_a_sample_are_those_worked_by_hand():
  """Its groups of two are 3, 2, 3, 6; of twenty groups, the two lowest are the bottom tenth."""
  row = np.array([4.0, 2.0, 2.0, 4.0, 8.0], np.float32)
  np.testing.assert_allclose(decoders.group_confidences(row, 2), [3, 2, 3, 6], rtol=1e-12)
  np.testing.assert_allclose(decoders.group_confidences(row, 9), [4], rtol=1e-12)
  kinds = {'bottom': 2.0, 'lowest': 2.0, 'tail': 6.0, 'mean': 4.0}
  for kind, value in kinds.items():  # beside a sample of one token, which wins exactly if it is more confident
    for other, winner in ((value - 0.01, 0), (value + 0.01, 1)):
      samples = given('ab', confidence=[row, [other]])
      assert chosen('deepconf', samples, confidence=kind, window=2, keep=1.0) == Choice(winner, 6), kind
  long = np.arange(20.0, 0.0, -1.0)  # 20 groups of one token, of which 1 and 2 are the bottom: 1.5
  for other, winner in ((1.49, 0), (1.51, 1)):
    assert chosen('deepconf', given('ab', confidence=[long, [other]]), window=1, keep=1.0).sample == winner


@pytest.mark.parametrize(('keep', 'winner'), [(0.1, 'a'), (0.5, 'b'), (1.0, 'c')])
def test_deepconf_filters_before_it_votes(keep, winner):
  """Of eleven samples with an answer the most confident two, six or all vote; one without an answer is not among them."""
  confidences = [99, 10, 9, 8, 7, 6.5, 6, 5.5, 5, 4.5, 4, 3.9]
  answers = ['', 'a', 'a', 'b', 'b', 'b', 'c', 'c', 'c', 'c', 'c', 'c']
  samples = given(answers, confidence=[[x] for x in confidences])
  assert answer(chosen('deepconf', samples, keep=keep), samples) == winner


def test_a_sample_without_an_answer_is_no_part_of_what_deepconf_keeps_a_share_of():
  """Half of the five samples with an answer are a and two of b; half of all eight would be a alone."""
  samples = given(['', '', '', *'abbcc'], confidence=[[x] for x in (9, 8, 7, 5, 4, 3.9, 1, 0.5)])
  assert chosen('deepconf', samples, keep=0.5) == Choice(4, 8)


def test_online_deepconf_ends_samples_and_the_sampling_where_a_hand_does():
  """The lowest groups of the warm-up are 4 and 2: at keep = 0.5 the threshold is 3, and the first one votes."""
  rows = [[4, 4, 4], [2, 2], [9, 9, 1, 1, 9], [3, 3, 3, 3], [5, 5], [8, 8]]
  samples = given(['a', 'b', 'b', 'c', 'a', 'c'], confidence=rows)
  options = {'warmup': 2, 'keep': 0.5, 'window': 2}
  # The third has the groups 9, 5, 1 and ends after four tokens; the fourth is not below 3. At last a has 9 and c 3 + 8 votes.
  assert chosen('deepconf_online', samples, consensus=2.0, **options) == Choice(3, 5 + 4 + 4 + 2 + 2)
  assert chosen('deepconf_online', samples, consensus=0.95, **options) == Choice(0, 5)  # after the warm-up a has all votes
  # Now the threshold is 1, and the warm-up has 4 of 7 for c. With the next two samples a has 3 + 7 of 17, more than 0.58.
  rows[4] = [7, 7]
  apart = given(['c', 'b', 'b', 'a', 'a', 'c'], confidence=rows)
  options |= {'warmup': 3, 'keep': 1.0}
  assert chosen('deepconf_online', apart, consensus=0.58, **options) == Choice(3, 10 + 4 + 2)
  assert chosen('deepconf_online', apart, consensus=0.57, **options) == Choice(0, 10)


# ----------------------------------------------------------------------------------------------- against loops over tokens


@pytest.mark.parametrize('least', [0, 4, 20])
def test_first_finish_search_spends_what_rows_side_by_side_decode(least):
  for seed in range(60):
    samples = drawn(np.random.default_rng(seed), 6)
    tokens, found = 0, None
    for step in range(1, 12):
      tokens += sum(bool(n >= step) for n in samples.lengths)
      ends = [i for i, n in enumerate(samples.lengths) if n == step and samples.ended[i] and n >= least]
      if ends:
        found = ends[0]
        break
    assert chosen('ffs', samples, least=least) == Choice(found or 0, tokens)


def lowest(row, window: int) -> float:
  """The lowest mean of a window, or the mean of a shorter row."""
  if len(row) < window:
    return sum(map(float, row)) / len(row)
  return min(sum(map(float, row[i : i + window])) / window for i in range(len(row) - window + 1))


@pytest.mark.parametrize('keep', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('consensus', [0.5, 0.95, 2.0])
def test_online_deepconf_is_what_drawing_token_by_token_does(keep, consensus):
  ended_early = 0
  for seed in range(40):
    samples = drawn(np.random.default_rng(seed), 9)
    window, warmup = 3, 4
    bars = sorted(lowest(row, window) for row in samples.confidence[:warmup])
    place = (1 - keep) * (warmup - 1)
    threshold = bars[int(place)] + (place - int(place)) * (bars[min(int(place) + 1, warmup - 1)] - bars[int(place)])
    votes: dict[str, float] = {}
    tokens = 0
    for i, row in enumerate(samples.confidence):
      total = sum(votes.values())
      if i >= warmup and total and max(votes.values()) / total >= consensus:
        break
      for t in range(len(row)):
        tokens += 1
        if i >= warmup and t + 1 >= window and sum(map(float, row[t + 1 - window : t + 1])) / window < threshold:
          ended_early += t + 1 < len(row)
          break
      else:
        if samples.answers[i] and lowest(row, window) >= threshold - 1e-12:
          votes[samples.answers[i]] = votes.get(samples.answers[i], 0.0) + lowest(row, window)
    choice = chosen('deepconf_online', samples, warmup=warmup, keep=keep, window=window, consensus=consensus)
    best = max(votes, key=lambda its: votes[its]) if votes else ''
    assert (answer(choice, samples), choice.tokens) == (best, tokens)
  assert ended_early


# -------------------------------------------------------------------------------------------- what the analysis of lengths says


@pytest.mark.parametrize('count', [1, 2, 4, 8])
def test_first_finish_search_is_as_good_as_its_analysis_says(count):
  """Lengths are N(4, 1) if right and N(6, 1) if wrong, with equal chances: the order statistics, integrated."""
  right, wrong = stats.norm(4, 1), stats.norm(6, 1)
  later = lambda x: 0.5 * right.sf(x) + 0.5 * wrong.sf(x)
  wins = integrate.quad(lambda x: count * 0.5 * right.pdf(x) * later(x) ** (count - 1), -4, 14)[0]
  ends = integrate.quad(lambda x: x * count * (0.5 * right.pdf(x) + 0.5 * wrong.pdf(x)) * later(x) ** (count - 1), -4, 14)[0]
  rng, problems, scale = np.random.default_rng(0), 4000, 1000
  correct = rng.random((problems, count)) < 0.5
  lengths = np.maximum(1, scale * (np.where(correct, 4, 6) + rng.standard_normal((problems, count)))).astype(int)
  choices = [chosen('ffs', given('a' * count, its)) for its in lengths]
  found = np.mean([its[choice.sample] for its, choice in zip(correct, choices, strict=True)])
  spent = np.mean([choice.tokens for choice in choices]) / scale / count
  assert abs(found - wins) < 4.5 * math.sqrt(wins * (1 - wins) / problems)
  assert abs(spent - ends) < 4.5 * 1.5 / math.sqrt(problems)  # a length deviates by at most 1.5


@pytest.mark.parametrize(('right', 'wrong'), [((40, 5), (60, 15)), ((50, 8), (45, 20)), ((30, 10), (90, 12))])
def test_the_least_length_is_where_the_odds_of_being_right_are_best(right, wrong):
  rng = np.random.default_rng(1)
  lengths = np.concatenate([rng.normal(*right, 300), rng.normal(*wrong, 500)])
  correct = np.arange(800) < 300
  fitted = [stats.norm(its.mean(), its.std()) for its in (lengths[correct], lengths[~correct])]
  grid = np.linspace(-200, 200, 400_001)
  best = grid[(fitted[0].logpdf(grid) - fitted[1].logpdf(grid)).argmax()]
  assert decoders.least_length(lengths, correct) == pytest.approx(best, abs=2e-3)


def test_no_least_length_is_needed_where_wrong_lengths_spread_no_more():
  lengths, correct = np.array([10.0, 20, 30, 31, 32, 33]), np.array([True] * 3 + [False] * 3)
  assert decoders.least_length(lengths, correct) is None
  assert decoders.least_length(lengths, np.ones(6, bool)) is None
  assert decoders.least_length(np.array([5.0, 5, 4, 8]), np.array([True, True, False, False])) is None


# ------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('best_by', {'score': 'luck'}, 'score=luck: unknown; fix: one of value, regret, logprob'),
    ('weighted', {'score': 'luck'}, 'score=luck: unknown; fix: one of value, regret, logprob'),
    ('ffs', {'least': -1}, 'least=-1: out of range; fix: at least 0'),
    ('deepconf', {'confidence': 'luck'}, 'confidence=luck: unknown; fix: one of bottom, lowest, tail, mean'),
    ('deepconf', {'window': 0}, 'window=0: out of range; fix: at least 1'),
    ('deepconf', {'keep': 0.0}, 'keep=0.0: out of range; fix: above 0, at most 1'),
    ('deepconf_online', {'keep': float('nan')}, 'keep=nan: out of range; fix: above 0, at most 1'),
    ('deepconf_online', {'warmup': 0}, 'warmup=0: out of range; fix: at least 1'),
    ('deepconf_online', {'consensus': 0.0}, 'consensus=0.0: out of range; fix: above 0'),
    ('leap', {'peers': -1}, 'peers=-1: out of range; fix: at least 0'),
    ('leap', {'tokens': 0}, 'tokens=0: out of range; fix: at least 1'),
    ('leap', {'summary': 0}, 'summary=0: out of range; fix: at least 1'),
    ('leap', {'answer_tokens': 0}, 'answer_tokens=0: out of range; fix: at least 1'),
    ('leap', {'routing': 'luck'}, 'routing=luck: unknown; fix: one of dispersed, clustered, hybrid'),
    ('speculative', {'draft_blocks': 0}, 'draft_blocks=0: out of range; fix: at least 1'),
    ('speculative', {'least': 0}, 'least=0: out of range; fix: at least 1'),
    ('speculative', {'most': 1}, 'most=1: out of range; fix: at least least=2'),
    ('speculative', {'blocks': -1}, 'blocks=-1: out of range; fix: at least 0'),
    ('speculative', {'threshold': 1.5}, 'threshold=1.5: out of range; fix: from 0 to 1'),
    ('speculative', {'mixing': 1.0}, 'mixing=1.0: out of range; fix: at least 0, below 1'),
    ('speculative', {'mismatch': 0.0}, 'mismatch=0.0: out of range; fix: above 0'),
    ('speculative', {'steps': 0}, 'steps=0: out of range; fix: at least 1'),
    ('revise', {'window': 0}, 'window=0: out of range; fix: at least 1'),
    ('revise', {'message': ' '}, "message=' ': nothing asks for another turn; fix: a text"),
    ('er_prm_beam', {'score': 'luck'}, 'score=luck: unknown; fix: one of value, regret, logprob'),
    ('er_prm_beam', {'factor': 0}, 'factor=0: out of range; fix: at least 1'),
    ('er_prm_beam', {'prefix': 0}, 'prefix=0: out of range; fix: at least 1'),
    ('er_prm_beam', {'prefix': 8, 'step': 7}, 'step=7: out of range; fix: at least prefix=8'),
  ],
)
def test_an_option_out_of_range_is_told_with_what_fits(name, options, message):
  with pytest.raises(ValueError, match=f'^{message}$'):
    decoders.REGISTRY[name](**options)
