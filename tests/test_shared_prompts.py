"""Rows that share their prompt in a packed sequence, against rows with a prompt each."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import assert_within, of_decoder, of_program
from small import VOCAB, actor_critic
from tiny import named

from espo_jax import exits
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.learner import Groups, in_parts, minibatches, pack, score
from espo_jax.model import ExitHeads, Lora, ModelConfig
from espo_jax.stages import packings

# ---------------------------------------------------------------------------------------------------------------- placing


def tokens_of(packing, part, sequence):
  """The tokens of a sequence in the order of their columns, as (row, index, segment, segment of the prompt)."""
  at = (part, sequence, packing.real[part, sequence])
  return list(zip(*(x[at].tolist() for x in (packing.row, packing.index, packing.segments, packing.prompts)), strict=True))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_prompt_stands_once_in_each_sequence_that_has_rows_of_it(data):
  width, parts, count = (data.draw(st.integers(least, most)) for least, most in ((2, 14), (1, 3), (1, 9)))
  sizes, widths = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 13))
  number = np.array(data.draw(st.lists(st.integers(0, 3), min_size=parts * count, max_size=parts * count)))
  prompts = np.array(data.draw(st.lists(st.integers(1, width - 1), min_size=4, max_size=4)))[number]
  responses = np.array([data.draw(st.integers(0, width - prompt)) for prompt in prompts])
  lengths = np.where(responses > 0, prompts + responses, 0)  # a row without a response is not kept
  number, prompts, lengths = (x.reshape(parts, count) for x in (number, prompts, lengths))
  packing = pack(lengths, width, sizes=sizes, multiple=1, widths=widths, cost=float, groups=Groups(number, prompts))
  for part in range(parts):
    placed = set()
    for sequence in range(packing.row.shape[1]):
      tokens = tokens_of(packing, part, sequence)
      seen = {}  # segment: what a token of it sees so far, as (group, index) of the prompt or (row, index) of its own
      for row, index, segment, prompt in tokens:
        if segment == prompt:  # a shared token
          seen.setdefault(segment, []).append((int(number[part, row]), index))
        else:
          own = seen.setdefault(segment, [])
          before = [index for group, index in seen.get(prompt, []) if group == number[part, row]]
          assert [*before, *own] == list(range(index)), 'the token sees its whole prompt and its own tokens, each once'
          own.append(index)
          assert sequence == packing.sequence[part, row]
          assert packing.real[part, sequence, packing.start[part, row] + index]
          assert packing.row[part, sequence, packing.start[part, row] + index] == row
          placed.add((row, index))
    wanted = {(n, i) for n in range(count) for i in range(lengths[part, n]) if i >= prompts[part, n] - 1}
    assert placed == wanted
    pieces = {(packing.sequence[part, n], number[part, n]): prompts[part, n] - 1 for n in np.flatnonzero(lengths[part])}
    assert packing.real[part].sum() == sum(pieces.values()) + len(wanted)


def test_a_group_that_does_not_fit_into_a_sequence_has_its_prompt_in_two():
  lengths, prompts = np.array([[9, 8, 7, 9]]), np.array([[5, 5, 5, 5]])
  packing = pack(lengths, 15, sizes=4, multiple=1, widths=1, cost=float, groups=Groups(np.array([[7, 7, 7, 7]]), prompts))
  assert packing.row.shape == (1, 2, 15)
  # 4 shared tokens with own ones of 5 and 5, which leaves one column; 4 shared ones with 4 and 3.
  np.testing.assert_array_equal(packing.real[0].sum(axis=1), [14, 11])
  np.testing.assert_array_equal(packing.sequence, [[0, 1, 1, 0]])
  np.testing.assert_array_equal(packing.index[0, 0, :14], [0, 1, 2, 3, *(2 * [4, 5, 6, 7, 8])])


def test_groups_of_one_row_are_packed_as_rows_with_a_prompt_each():
  lengths = np.random.default_rng(0).integers(2, 12, (2, 9))
  options = {'width': 12, 'sizes': 4, 'multiple': 2, 'widths': 13, 'cost': float}
  alone = pack(lengths, **options, groups=Groups(np.tile(np.arange(9), (2, 1)), np.full((2, 9), 2)))
  apart = pack(lengths, **options)
  for name in ('row', 'index', 'real', 'sequence', 'start'):
    np.testing.assert_array_equal(getattr(alone, name), getattr(apart, name))


@pytest.mark.parametrize(('rows', 'parts', 'samples'), [(48, 4, 4), (48, 16, 4), (48, 8, 4), (24, 3, 1), (32, 1, 8)])
def test_parts_are_dealt_whole_groups_where_these_divide_a_part(rows, parts, samples):
  dealt = in_parts(rows, parts, samples)
  np.testing.assert_array_equal(np.sort(dealt.reshape(-1)), np.arange(rows))
  of_group = [len({part for part in range(parts) if n in dealt[part] // samples}) for n in range(rows // samples)]
  assert max(of_group) == max(1, samples // np.gcd(samples, rows // parts))


def test_minibatches_of_whole_groups_cover_each_group_once_an_epoch():
  keep = np.arange(48) % 12 < 6  # no row of every second group of 6
  drawn = minibatches(3, 5, 48, 2, 4, keep, 6)
  for epoch in drawn.reshape(2, 4, 12):
    np.testing.assert_array_equal(np.sort(epoch.reshape(-1)), np.arange(48))
    for chosen in epoch:
      np.testing.assert_array_equal(np.sort(chosen) % 6, [*range(6)] * 2)
      assert keep[chosen].sum() == 6  # each has one of the four groups that are trained on
  assert (drawn[:4] != drawn[4:]).any()


# ---------------------------------------------------------------------------------------------------------------- scoring

GROUPS, SAMPLES, PROMPT, HORIZON = 3, 3, 6, 7
CASES = {  # the model; a window that some rows' columns exceed and their positions do not
  'a value head and a reference': {},
  'a separate critic and a window': {'separate_critic': True, 'sliding_window': 5},
  'exits and adapters': {'exits': ExitHeads(1), 'lora': Lora(rank=2)},
}


def drawn_rows():
  """Rows of three groups, one with a prompt of one token; the last row is not kept."""
  rng = np.random.default_rng(0)
  prompt_lengths = np.repeat([4, 1, 6], SAMPLES)
  prompts = np.repeat(rng.integers(0, VOCAB, (GROUPS, PROMPT)), SAMPLES, axis=0)
  prompts = np.where(np.arange(PROMPT) >= PROMPT - prompt_lengths[:, None], prompts, 0)
  lengths = rng.integers(3, HORIZON + 1, GROUPS * SAMPLES)
  lengths[0], lengths[-1] = HORIZON, 0
  return prompts, prompt_lengths, rng.integers(0, VOCAB, (GROUPS * SAMPLES, HORIZON)), lengths


@pytest.mark.parametrize('case', CASES)
def test_scores_and_gradients_are_those_of_rows_with_a_prompt_each(case, in_float64):
  model, params = actor_critic(1, **CASES[case])
  against = actor_critic(4)[1] if 'reference' in case else None
  prompts, prompt_lengths, tokens, lengths = drawn_rows()
  blocks = None
  if 'exits' in case:
    model = dataclasses.replace(model, exits=exits.sampled())
    blocks = jnp.asarray(np.random.default_rng(2).integers(1, model.config.num_layers + 1, tokens.shape), jnp.int32)
  real = np.arange(HORIZON) < lengths[:, None]
  groups = Groups(np.repeat(np.arange(GROUPS), SAMPLES)[None], prompt_lengths[None])
  totals = np.where(lengths > 0, prompt_lengths + lengths, 0)[None]
  packing = pack(totals, 17, sizes=9, multiple=1, widths=1, cost=float, groups=groups)
  its = {(int(n), int(s)) for n, s in zip(groups.number[0][:-1], packing.sequence[0][:-1], strict=True)}
  assert len(its) > GROUPS and len(its) > len({s for _, s in its})  # a divided group; a sequence with several groups
  weights = np.random.default_rng(3).normal(size=(5, *tokens.shape))

  def weighed(params, against, weights, packing):
    given = (jnp.asarray(x, jnp.int32) for x in (prompts, prompt_lengths, tokens))
    scored = score(
      model, params, *given, temperature=0.7, chunk=1000, against=against, packing=packing, blocks=blocks, exit_level=0.1
    )
    read = (scored.logprobs, scored.entropy, scored.values, scored.exit_logprobs, scored.reference_kl, scored.entropy_slope)
    per_token = [jnp.where(real, x, 0.0) for x in read if x is not None]
    kept = lengths > 0
    rest = jnp.where(kept[:, None], scored.opening_logprobs, 0.0), jnp.where(lengths == HORIZON, scored.final_values, 0.0)
    return sum((x * w).sum() for x, w in zip(per_token, weights, strict=False)), (per_token, rest)

  program = jax.jit(jax.value_and_grad(weighed, has_aux=True))
  apart = program(params, against, weights, None)
  shared = program(params, against, weights, jax.tree.map(lambda x: jnp.asarray(x[0]), packing))
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(apart))
  roundings = 3 * of_decoder(model.config, PROMPT + HORIZON) + real.sum()  # there and back, and a sum over the tokens
  assert_within(shared, apart, of_program(program, params, against, weights, None, roundings=roundings))


# ----------------------------------------------------------------------------------------------------------------- config

TPU = jax.sharding.AbstractDevice('TPU v5', num_cores=1, platform='tpu')
CARD = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu')


@pytest.mark.parametrize(
  ('device', 'form', 'lines', 'shared'),
  [
    (CARD, 'auto', {}, True),
    (CARD, 'cudnn', {}, True),
    (TPU, 'auto', {}, False),  # splash may compute it
    (TPU, 'splash', {}, False),
    (TPU, 'chunked', {}, True),
    (CARD, 'auto', {'learner__share_prompts': False}, False),
    (CARD, 'auto', {'learner__pack_sizes': 1}, False),
    (CARD, 'auto', {'rollout__samples': 1}, False),
  ],
)
def test_prompts_are_shared_where_the_form_of_attention_and_the_config_allow_it(device, form, lines, shared):
  c = default_config()
  named(**lines)(c)
  assert packings.shares_prompts(c, ModelConfig(VOCAB, attention=form, dtype='bfloat16'), device) == shared


def test_whole_groups_that_minibatches_cannot_have_are_refused():
  config = default_config()
  named(learner__whole_groups=True, learner__minibatches=8)(config)
  with pytest.raises(ConfigError, match=re.escape('learner.minibatches = 8 does not divide rollout.prompts = 4, which')):
    validate(config)
