"""Packed rows, and a minibatch in parts, against a sequence a row and the minibatch whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import assert_within, cached, computed_in, of_decoder, of_program
from small import VOCAB, actor_critic
from tiny import first_params, named, rolled_out, rule_of, run, tiny_experiment

from espo_jax.configs import ConfigError, uses_reference, validate
from espo_jax.learner import Groups, in_parts, init_state, pack, put_packing, score
from espo_jax.learner.gradient import gradient
from espo_jax.model import ModelConfig, column_flops
from espo_jax.objectives import Term
from espo_jax.stages import rl

QWEN = ModelConfig(  # the shape of the real 0.5B
  vocab_size=151_936,
  hidden_size=896,
  intermediate_size=4864,
  num_layers=24,
  num_heads=14,
  num_kv_heads=2,
  head_dim=64,
)


def lengths_of(rows) -> np.ndarray:
  return np.asarray(rows.prompt_lengths + rows.length)


# ---------------------------------------------------------------------------------------------------------------- placing


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_token_has_one_place_and_rows_stand_whole(data):
  width, parts, count = (data.draw(st.integers(1, most)) for most in (12, 3, 9))
  sizes, multiple, widths = (data.draw(st.integers(1, most)) for most in (12, 4, 13))
  lengths = np.array(data.draw(st.lists(st.integers(1, width), min_size=parts * count, max_size=parts * count)), np.int32)
  lengths = lengths.reshape(parts, count)
  packing = pack(lengths, width, sizes=sizes, multiple=multiple, widths=widths, cost=float)
  _, total, chosen = packing.row.shape
  assert lengths.max() <= chosen <= 2 * width and 2 * chosen >= width
  assert min(sizes, widths) > 1 or chosen == width
  assert packing.row.shape == (parts, total, chosen) and total % multiple == 0
  assert total <= -(-count // multiple) * multiple
  assert total * chosen >= lengths.sum(axis=1).max()
  for part in range(parts):
    assert packing.real[part].sum() == lengths[part].sum()
    for n, length in enumerate(lengths[part]):
      place = (part, packing.sequence[part, n], slice(packing.start[part, n], packing.start[part, n] + length))
      np.testing.assert_array_equal(packing.row[place], n)
      np.testing.assert_array_equal(packing.index[place], np.arange(length))
      assert packing.real[place].all() and packing.real[place].size == length


@pytest.mark.parametrize(
  ('sizes', 'multiple', 'wanted'), [(32, 1, 21), (8, 1, 22), (4, 1, 24), (2, 1, 24), (8, 5, 25), (1, 1, 63)]
)
def test_the_number_of_sequences_is_rounded_to_few_sizes(sizes, multiple, wanted):
  lengths = np.array([63 * [3]])  # three rows to a sequence of ten
  packing = pack(lengths, 10, sizes=sizes, multiple=multiple, widths=13, cost=lambda width: 1.0 + 9 * (width != 10))
  assert packing.row.shape == (1, wanted, 10)


def test_the_longest_row_is_placed_first_and_short_ones_fill_what_is_left():
  lengths = np.array([[9, 2, 3, 3, 4, 1, 5, 2]])  # 29 tokens: three sequences of ten
  packing = pack(lengths, 10, sizes=8, multiple=1, widths=13, cost=lambda width: 1.0 + 9 * (width != 10))
  assert packing.row.shape == (1, 3, 10)
  np.testing.assert_array_equal(packing.row[0, 0, :9], 0)
  assert packing.row[0, 0, 9] == 5  # the row of one token


@pytest.mark.parametrize(
  ('rows', 'attention', 'wanted'),
  [
    (12 * [27], 0.0, (1, 6, 55)),  # one row of 27 to a sequence of 40 would leave a third of it empty
    (12 * [27], 1.0, (1, 12, 30)),  # attention over 55 columns costs more than that
    (12 * [20], 0.0, (1, 12, 20)),  # each width holds them without a gap, and the narrowest has the cheapest attention
    ([40, *11 * [9]], 0.0, (1, 3, 50)),  # a narrower sequence cannot hold the longest
  ],
)
def test_the_width_is_that_of_the_cheapest_columns(rows, attention, wanted):
  packing = pack(np.array([rows]), 40, sizes=12, multiple=1, widths=13, cost=lambda width: 1.0 + attention * width)
  assert packing.row.shape == wanted


def test_rows_of_two_thirds_of_the_width_leave_little_padding():
  rng = np.random.default_rng(0)
  lengths = (rng.normal(110, 20, 256) + np.minimum(rng.lognormal(5.1, 0.4, 256), 200)).astype(int)[None]  # of GSM8K's kind
  shares = []
  for sizes, widths in ((1, 1), (4, 1), (4, 13)):
    packing = pack(lengths, 488, sizes=sizes, multiple=1, widths=widths, cost=functools.partial(column_flops, QWEN))
    shares.append(1 - packing.real.mean())
  assert shares[0] > 0.4 and shares[1] > 0.2 and shares[2] < 0.05


# ---------------------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize(
  ('overrides', 'dtype'), [({}, 'float32'), *((x, 'float64') for x in ({}, {'separate_critic': True}, {'sliding_window': 5}))]
)
def test_packed_scores_are_those_of_a_sequence_a_row(overrides, dtype):
  with computed_in(dtype):
    same_scores(overrides, dtype)


def same_scores(overrides, precision):
  for wider in (False, True):
    same_scores_packed(overrides, precision, wider)


def same_scores_packed(overrides, precision, wider):
  rng = np.random.default_rng(0)
  separate = overrides.get('separate_critic', False)
  overrides = {name: value for name, value in overrides.items() if name != 'separate_critic'}
  (model, params), (_, other) = (actor_critic(seed, separate_critic=separate, **overrides) for seed in (1, 4))
  count, width, horizon = 7, 5, 11
  prompt_lengths, lengths = rng.integers(1, width + 1, count), rng.integers(1, horizon + 1, count)
  lengths[0] = horizon  # a row that the horizon cut
  prompts = np.where(np.arange(width) >= width - prompt_lengths[:, None], rng.integers(0, VOCAB, (count, width)), 0)
  tokens = rng.integers(0, VOCAB, (count, horizon))
  packing = pack(
    (prompt_lengths + lengths)[None],
    width + horizon,
    sizes=count,
    multiple=1,
    widths=13,
    cost=lambda its: 1.0 + 9 * ((its > width + horizon) != wider),
  )
  packing = jax.tree.map(lambda x: jnp.asarray(x[0]), packing)
  assert packing.row.shape[0] < count and (packing.row.shape[1] > width + horizon) == wider
  real = np.arange(horizon) < lengths[:, None]
  cut = lengths == horizon
  weights = rng.normal(size=(4, count, horizon)).astype(precision)

  def weighed(params, other, weights, packing):
    scored = score(
      model,
      params,
      *(jnp.asarray(x, jnp.int32) for x in (prompts, prompt_lengths, tokens)),
      temperature=0.7,
      chunk=4 * (count if packing is None else packing.row.shape[0]),
      against=other,
      packing=packing,
    )
    read = (scored.logprobs, scored.entropy, scored.values, scored.reference_kl)
    per_token = [jnp.where(real, x, 0.0) for x in (*read, scored.entropy_slope)]
    total = sum((x * w).sum() for x, w in zip(per_token, weights, strict=False))
    return total, (per_token, scored.opening_logprobs, jnp.where(cut, scored.final_values, 0.0))

  program = jax.jit(jax.value_and_grad(weighed, has_aux=True))
  apart, packed = (program(params, other, weights, its) for its in (None, packing))
  # There and back through the decoder, and a sum over the tokens.
  roundings = 3 * of_decoder(model.config, width + horizon) + real.sum()
  assert_within(packed, apart, of_program(program, params, other, weights, None, roundings=roundings))


# ---------------------------------------------------------------------------------------------------------------- updates


@cached
def prepared(objective):
  exp = tiny_experiment(named(objective__name=objective, learner__decision_after=5))
  params, rows, reward = rolled_out(exp)
  keeps_the_gradient = optax.trace(decay=0.5)
  learner = dataclasses.replace(rl.reinforcement_learner(exp, rule_of(exp)), optimizer=keeps_the_gradient)
  reference = first_params(exp, 1) if uses_reference(exp.config) else None
  return exp, learner, params, reference, rows, reward, learner.prepare(params, reference, rows, reward)[0]


@cached
def updater(objective, parts, sizes, shares=False):
  """`(params, batch) -> (gradient, metrics)` of an update."""
  exp, learner, _, reference, rows, _, _ = prepared(objective)
  chosen = np.random.default_rng(0).permutation(16).astype(np.int32).reshape(parts, -1)
  groups = Groups(chosen // exp.config.rollout.samples, np.asarray(rows.prompt_lengths)[chosen]) if shares else None
  packing = pack(lengths_of(rows)[chosen], 30, sizes=sizes, multiple=1, widths=13, cost=float, groups=groups)
  assert (packing.real.sum() < lengths_of(rows).sum()) == shares

  def update(params, batch):
    state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), learner.optimizer, rule_of(exp)))
    state, metrics = learner.update(state, batch, reference, exp.put(chosen), put_packing(packing, exp.mesh))
    named = {name: x for name, x in metrics.items() if name.startswith('loss/') or name == 'grad_norm'}
    return state.opt_state.trace, named

  return update


@cached
def whole(objective):
  """The update of a sequence a row, and how far rounding may put another one: through the decoder and back, over all tokens."""
  exp, _, params, _, rows, _, batch = prepared(objective)
  update = updater(objective, 1, 1)
  roundings = 3 * of_decoder(exp.model.config, 30) + int(rows.mask.sum())
  return update(params, batch), of_program(update, params, batch, roundings=roundings)


OBJECTIVES = ['ppo + entropy', 'grpo + kl_k3', 'drgrpo + kl_exact', 'gspo', 'tepo', 'rwr']  # each divides by something else


@pytest.mark.parametrize(
  ('objective', 'parts', 'sizes', 'shares', 'dtype'),
  [(name, 2, 4, False, 'float64') for name in OBJECTIVES]
  + [(*case, 'float64') for case in [('ppo + entropy', 1, 16, False), ('grpo + kl_k3', 8, 1, False)]]
  + [(*case, 'float64') for case in [('ppo + entropy', 2, 4, True), ('grpo + kl_k3', 1, 4, True)]]
  + [('rloo', 4, 4, False, 'float32')],
)
def test_packed_or_in_parts_or_with_shared_prompts_an_update_is_the_same(objective, parts, sizes, shares, dtype):
  with computed_in(dtype):
    same_update(objective, parts, sizes, shares)


def same_update(objective, parts, sizes, shares):
  _, _, params, _, _, _, batch = prepared(objective)
  wanted, limits = whole(objective)
  assert wanted[1]['grad_norm'] > 1e-3
  assert_within(updater(objective, parts, sizes, shares)(params, batch), wanted, limits)


def test_what_is_measured_of_all_rows_does_not_depend_on_parts(precision):
  exp, learner, params, reference, rows, reward, _ = prepared('ppo + entropy')
  dealt = lengths_of(rows)[in_parts(16, 4, exp.config.rollout.samples)]
  packing = jax.tree.map(jnp.asarray, pack(dealt, 30, sizes=4, multiple=1, widths=13, cost=float))

  def measured(params, rows, packing):
    batch, _ = learner.prepare(params, reference, rows, reward, packing)
    return [jnp.where(rows.mask, x, 0.0) for x in (batch.advantages, batch.returns, batch.old_entropy)]

  roundings = of_decoder(exp.model.config, 30) + 16 * rows.tokens.shape[1]  # advantages are whitened over all tokens
  limits = of_program(measured, params, rows, None, roundings=roundings)
  assert_within(measured(params, rows, packing), measured(params, rows, None), limits)


def test_parts_are_weighed_by_what_they_are_divided_by():
  """Two terms over other counts: the mean of the parts' means would be another number."""
  x, y = jnp.asarray([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), jnp.asarray([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])

  def loss(w, part):
    x, y = part
    terms = {
      'a': (1.0, Term((w * x * y).sum(), y.sum())),
      'b': (0.5, Term((w * w * x).sum(), jnp.float32(x.size))),
    }
    return terms, {'mean': x.mean()}

  value, grads, metrics = jax.jit(lambda w: gradient(loss, w, (x, y)))(jnp.float32(2.0))
  a, b = (1 + 2 + 20) / 3, 66 / 6
  assert float(value) == pytest.approx(2 * a + 0.5 * 4 * b)
  assert float(grads) == pytest.approx(a + 0.5 * 4 * b)
  assert float(metrics['loss/a']) == pytest.approx(2 * a) and float(metrics['loss/b']) == pytest.approx(4 * b)
  assert float(metrics['mean']) == pytest.approx(11.0)


def test_a_step_pads_less_when_packed():
  fractions = {}
  for sizes in (1, 8):
    _, metrics = run(tiny_experiment(named(learner__pack_sizes=sizes, learner__micro_batches=2)), 1)
    fractions[sizes] = metrics[0]['pad_fraction']
    assert (metrics[0]['shared_fraction'] > 0) == (sizes > 1)
    assert metrics[0]['sampler_gap/max'] < 1e-4
    assert 0 < metrics[0]['rollout/utilisation'] <= 1
    assert metrics[0]['rollout/row_steps'] >= metrics[0]['rollout/tokens'] + metrics[0]['rollout/shadow_tokens']
  assert 0 <= fractions[8] < fractions[1] < 1


def test_what_cannot_be_divided_is_refused():
  exp = tiny_experiment()
  for line, message in (
    ({'learner__micro_batches': 3}, r'learner.micro_batches = 3 does not divide the \d+ rows of a minibatch'),
    ({'learner__micro_batches': 2, 'objective__name': 'kl_cov'}, "objective.name = 'kl_cov' ranks the tokens of a minibatch"),
    ({'learner__pack_sizes': 0}, 'learner.pack_sizes = 0: out of range'),
  ):
    config = exp.config.copy_and_resolve_references()
    with config.unlocked():
      named(**line)(config)
    with pytest.raises(ConfigError, match=message):
      validate(config)
