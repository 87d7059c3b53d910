"""LeaP's exchange: who hears whom, what paths read, that nobody learns it, and what is left without peers."""

import functools

import jax
import numpy as np
import pytest
from tiny import first_params, tiny_experiment

from espo_jax import stops
from espo_jax.decoders import Exchange, routed
from espo_jax.decoders.peers import similarity
from espo_jax.evaluate import exchanging
from espo_jax.types import StopReason

SAMPLES, PROBLEMS = 4, 8
LEAP = Exchange(2, 5, 3, 'dispersed', 2, '#', '-', '+', '=#')
ASK, PEER, RESUME, ANSWER = [15], [13], [12], [14, 15]  # their tokens


def edits(one, other) -> int:
  """The edit distance, by its definition."""

  @functools.cache
  def least(i, j):
    if not i or not j:
      return i + j
    return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (one[i - 1] != other[j - 1]))

  return least(len(one), len(other))


@pytest.mark.quick
def test_the_similarity_of_texts_is_that_of_their_edit_distance():
  assert similarity([*b'kitten'], [*b'sitting']) == pytest.approx(1 - 3 / 7)
  assert similarity([], []) == 1 and similarity([], [1]) == 0
  rng = np.random.default_rng(0)
  for _ in range(60):
    one, other = (rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(2))
    assert similarity(one, other) == pytest.approx(1 - edits(one, other) / max(len(one), len(other), 1))


@pytest.mark.quick
def test_four_summaries_are_routed_as_by_hand_and_never_to_themselves():
  summaries = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 7], [8, 9, 10, 11]]  # path 0 shares 3, 2 and 0 of 4 with the others
  assert routed(summaries, 2, 'dispersed') == [[3, 2], [3, 2], [3, 0], [0, 1]]
  assert routed(summaries, 2, 'clustered') == [[1, 2], [0, 2], [0, 1], [0, 1]]
  assert routed(summaries, 2, 'hybrid') == [[1, 3], [0, 3], [0, 3], [0, 1]]
  assert routed(summaries, 3, 'hybrid')[0] == [1, 2, 3] and routed(summaries, 0, 'dispersed') == [[]] * 4
  for routing in ('dispersed', 'clustered', 'hybrid'):
    for peers in range(6):
      for path, heard in enumerate(routed(summaries, peers, routing)):
        assert path not in heard and len(set(heard)) == len(heard) == min(peers, 3)


@functools.cache
def experiment():
  exp = tiny_experiment()
  return exp, first_params(exp, 0), exp.problems('test', 0, PROBLEMS)


def walked(exchange=LEAP, order=slice(None)):
  exp, params, problems = experiment()
  sampler = exp.sampler.plain(samples=SAMPLES, temperature=1.0)
  asked = np.arange(PROBLEMS)[order]
  found = exchanging.paths(exp, sampler, params, exchange, [problems[i] for i in asked], exp.key('evaluation', 0))
  return found._replace(rows=jax.device_get(found.rows))


def free():
  exp, params, problems = experiment()
  sampler, rule = exp.sampler.plain(samples=SAMPLES, temperature=1.0), stops.never()
  adaptive = exp.put(rule.init(1).adaptive)
  return jax.device_get(sampler(params, rule, adaptive, exp.prompts(problems), exp.key('evaluation', 0)))


def turns(rows, n) -> list[list[int]]:
  return [rows.tokens[n][rows.turn[n] == number].tolist() for number in range(rows.turn[n].max() + 1)]


def test_without_peers_paths_are_independent_samples_bit_for_bit():
  found, plain = walked(LEAP._replace(peers=0)), free()
  assert (found.reasoning, found.answers) == ([0], [])
  for name in ('tokens', 'logprobs', 'length', 'stop_reason'):
    np.testing.assert_array_equal(getattr(found.rows, name), getattr(plain, name), name)


def test_paths_begin_as_independent_samples_and_read_the_summaries_of_their_peers():
  rows, reasoning, (answer,) = walked()
  plain, horizon = free(), experiment()[0].config.rollout.horizon
  begun = np.minimum(plain.length, LEAP.tokens)
  heard_something = 0
  for p in range(PROBLEMS):
    group = range(p * SAMPLES, (p + 1) * SAMPLES)
    its = {n: turns(rows, n) for n in group}
    wanted = {n: its[n][0].copy() for n in group}
    open_ = [n for n in group if its[n][0][-1] != 1]
    for n in group:
      np.testing.assert_array_equal(its[n][0], plain.tokens[n, : begun[n]])
    for k, number in enumerate(reasoning[1:], start=1):
      summaries = {}
      if len(open_) > 1:
        summaries = {n: [x for x in its[n][number - 1] if x != 1] for n in open_}
        for n in open_:
          wanted[n] += [*ASK, *its[n][number - 1]]
          assert len(its[n][number - 1]) <= LEAP.summary
        for n, peers in zip(open_, routed([summaries[n] for n in open_], 2, LEAP.routing), strict=True):
          heard_something += len(peers)
          wanted[n] += [x for peer in peers for x in (*PEER, *summaries[open_[peer]])] + RESUME
      for n in open_:
        wanted[n] += its[n][number]
        assert len(its[n][number]) <= min(LEAP.tokens, horizon - k * LEAP.tokens)
      open_ = [n for n in open_ if its[n][number][-1] != 1]
    for n in open_:
      wanted[n] += [*ANSWER, *its[n][answer]]
      assert 0 < len(its[n][answer]) <= LEAP.answer_tokens
    for n in group:
      np.testing.assert_array_equal(rows.tokens[n, : rows.full_length[n]], wanted[n])
      ended = rows.tokens[n, rows.full_length[n] - 1] == 1
      assert rows.stop_reason[n] == (StopReason.EOS if ended else StopReason.LENGTH)
  assert heard_something > 10


def test_what_a_path_reads_has_no_mask_and_no_log_probability():
  rows, *_ = walked()
  written = np.arange(rows.tokens.shape[1]) < rows.full_length[:, None]
  read = written & (rows.turn < 0)
  assert read.sum() > 20 and not rows.mask[read].any() and rows.mask[written & ~read].all()
  assert not rows.logprobs[read].any() and (rows.logprobs[written & ~read] < 0).any()
  np.testing.assert_array_equal(rows.sizes, rows.mask.sum(axis=1))


def test_the_text_that_asks_for_an_answer_is_stated_and_is_not_counted_as_written():
  rows, _, (answer,) = walked()
  exp, params, problems = experiment()
  sampler = exp.sampler.plain(samples=SAMPLES, temperature=1.0)
  drawn = exchanging.exchanged(exp, sampler, params, LEAP, problems, exp.key('evaluation', 0))
  asked = (rows.turn == answer).any(axis=1)
  np.testing.assert_array_equal(drawn.length - drawn.written, np.where(asked, len(ANSWER), 0))
  for n in np.flatnonzero(asked):
    end = turns(rows, n)[answer]
    np.testing.assert_array_equal(drawn.tokens[n, drawn.length[n] - len(end) - 2 : drawn.length[n]], [*ANSWER, *end])
  assert asked.any() and not asked.all() and (drawn.spent >= drawn.written).all()


def test_paths_do_not_depend_on_the_other_problems():
  order = np.array([5, 2, 7, 0, 1, 6, 4, 3])
  found, turned = walked().rows, walked(order=order).rows
  place = (order[:, None] * SAMPLES + np.arange(SAMPLES)).reshape(-1)
  for name in ('tokens', 'turn', 'length', 'stop_reason'):
    np.testing.assert_array_equal(getattr(turned, name), getattr(found, name)[place], name)


def test_a_path_that_is_left_alone_goes_on_as_if_it_were_never_cut():
  exp, params, problems = experiment()
  sampler = exp.sampler.plain(samples=1, temperature=1.0)
  given = [*problems], exp.key('evaluation', 0)
  rows = jax.device_get(exchanging.paths(exp, sampler, params, LEAP, *given).rows)
  alone = free().tokens[::SAMPLES], free().length[::SAMPLES]
  for n, (tokens, length) in enumerate(zip(*alone, strict=True)):
    np.testing.assert_array_equal(rows.tokens[n, :length], tokens[:length])
    assert (rows.full_length[n] == length) == (tokens[length - 1] == 1)
  assert (alone[1] > LEAP.tokens).any()


def test_a_path_that_is_alone_while_other_problems_exchange_goes_on_as_the_free_sample_in_any_batch():
  exp, params, problems = experiment()
  sampler, key, plain = exp.sampler.plain(samples=2, temperature=1.0), exp.key('evaluation', 0), free()
  first = np.arange(PROBLEMS)[:, None] * SAMPLES + np.arange(2)  # the free samples of the same draws
  begun = plain.length[first] > LEAP.tokens
  alone, exchange = np.flatnonzero(begun.sum(axis=1) == 1), np.flatnonzero(begun.all(axis=1))
  others = np.resize([*exchange[:2], *alone], PROBLEMS)
  assert len(alone) > 1 and len(exchange) > 2
  for asked in (np.arange(PROBLEMS), others):
    rows = jax.device_get(exchanging.paths(exp, sampler, params, LEAP, [problems[p] for p in asked], key).rows)
    for place in np.flatnonzero(np.isin(asked, alone)):
      which = begun[asked[place]].argmax()
      row, n = 2 * place + which, first[asked[place], which]
      np.testing.assert_array_equal(rows.tokens[row, : plain.length[n]], plain.tokens[n, : plain.length[n]])
