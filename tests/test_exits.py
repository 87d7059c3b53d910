"""Exit policies by themselves, and what the decoder makes of them: truncation, caches, log-probabilities, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts as r
import rounding
from rounding import gamma, of_decoder, of_program
from small import VOCAB, actor_critic, config
from tiny import first_params, tiny_experiment

from espo_jax import exits, rollout
from espo_jax.learner import score
from espo_jax.model import Deciding, ExitHeads, Forced, apply
from espo_jax.model.depth import may_leave, set_out
from espo_jax.plot_exits import read_depth
from espo_jax.rollout import Sampling

LAYERS = 4
POLICIES = {
  'sampled': exits.sampled(),
  'threshold': exits.threshold(),
  'dynamax': exits.dynamax(),
  'ponder_q': exits.ponder_q(),
  'calm_margin': exits.calm_margin(level=0.1, horizon=24),
  'calm_cosine': exits.calm_cosine(level=0.2, horizon=24),
  'confidence': exits.confidence(level=0.4),
  'mue_similarity': exits.mue_similarity(level=0.2),
  'first_router': exits.first_router(),
  'ffn_skip': exits.ffn_skip(level=0.8, warmup=2),
  'skipdecode': exits.skipdecode(level=2.0, end=12),
  'fixed': exits.fixed(level=2.0),
  'never': exits.never(),
}


@rounding.cached
def model_of(scan=False, kind='linear', every=1):
  return actor_critic(3, num_layers=LAYERS, scan_layers=scan, exits=ExitHeads(every, kind))


def roll(model, params, policy, level=None, slots=0, samples=r.G):
  rows = rollout.generate(
    dataclasses.replace(model, exits=policy),
    params,
    r.RULE,
    r.in_precision(r.STATE),
    jax.tree.map(jnp.asarray, r.PROMPTS),
    jax.random.key(7),
    samples=samples,
    horizon=r.HORIZON,
    end_tokens=(r.EOS,),
    pad_token=r.PAD,
    sampling=Sampling(jnp.float32(1.0)),
    shadow_share=jnp.float32(0.5),
    exit_level=policy.level if level is None else level,
    scan_length=8,
    slots=slots,
  )
  return jax.device_get(rows)


@rounding.cached
def rolled(name, scan=False, kind='linear', every=1, slots=5, samples=r.G):
  policy = POLICIES[name]
  slots = 0 if policy.kv_fill == 'monotone' else slots
  return roll(*model_of(scan, kind, every), policy, slots=slots, samples=samples)


def scored(name, rows, blocks, scan=False, kind='linear', every=1, params=None):
  model, own = model_of(scan, kind, every)
  params = own if params is None else params
  policy, rows = POLICIES[name], jax.tree.map(jnp.asarray, rows)
  return score(
    dataclasses.replace(model, exits=policy),
    params,
    rows.prompt_tokens,
    rows.prompt_lengths,
    rows.tokens,
    temperature=1.0,
    chunk=10_000,
    blocks=jnp.asarray(blocks),
    route=rows.depth.route,
    exit_level=policy.level,
  )


# ------------------------------------------------------------------------------------------------------------ golden values


def decided(policy, logits, noise, blocks=None):
  """The depth after the decisions before every block of `LAYERS`, by drawing or, with `blocks`, by scoring."""
  x, cfg, shape = jnp.zeros((*noise.shape, 1)), config(num_layers=LAYERS), noise.shape
  level, live = jnp.float32(policy.level), jnp.ones(shape, bool)
  if blocks is None:
    reading = Deciding(jnp.zeros(shape, jnp.int32), jnp.asarray(noise, jnp.float32), live, level)
  else:
    reading = Forced(jnp.asarray(blocks), live, level)
  track = set_out(policy, reading, x, cfg)
  for block in range(LAYERS):
    track = may_leave(policy, reading, track, block, x, jnp.full(shape, logits[block]), lambda x: x, LAYERS)
  return np.asarray(track.depth.blocks), np.asarray(track.depth.logprobs, np.float64)


@pytest.mark.parametrize(('top', 'earliest'), [(0, 0), (0, 2), (1, 0), (1, 1), (2, 1)])
def test_the_depths_of_a_token_are_drawn_as_often_as_their_log_probabilities_say(top, earliest):
  policy = exits.sampled(level=0.0)._replace(top=top, earliest=earliest)
  logits = np.array([-0.3, 0.4, -0.8, 0.2], np.float32)
  drawn, logprobs = decided(policy, logits, (np.arange(4096)[None] + 0.5) / 4096)
  found = np.unique(drawn)
  np.testing.assert_array_equal(found, range(earliest + top, LAYERS + 1))
  again, chances = decided(policy, logits, np.zeros((1, len(found))), found[None])
  np.testing.assert_array_equal(again, found[None])
  np.testing.assert_allclose(np.exp(chances).sum(), 1.0, rtol=1e-5)
  for depth, chance in zip(found, chances[0], strict=True):
    assert (drawn == depth).mean() == pytest.approx(np.exp(chance), abs=1 / 4096)
    np.testing.assert_allclose(logprobs[drawn == depth], chance, rtol=1e-5, atol=1e-6)


def test_stick_breaking_sums_to_one_and_has_the_published_values():
  hazards = jnp.array([0.1, 0.2, 0.5, 0.9])
  pmf = exits.exit_pmf(hazards)  # the last layer takes the rest, as with a hazard of 1
  np.testing.assert_allclose(pmf, [0.1, 0.18, 0.36, 0.324, 0.036], rtol=gamma(10))  # 1 - 0.9 loses a digit
  prior = np.array([0.1, 0.09, 0.081, 0.0729, 0.6561])  # geometric with 0.1, cut off at five layers
  np.testing.assert_allclose((prior * np.log(prior / np.asarray(pmf, np.float64))).sum(), 1.612574, atol=1e-6)
  random = jax.random.uniform(jax.random.key(0), (50, 7))
  np.testing.assert_allclose(exits.exit_pmf(random).sum(-1), 1.0, rtol=gamma(3 * 8))


@pytest.mark.parametrize(('quantile', 'left_at'), [(0.5, 2), (1e-9, 0), (1.0, 4)])
def test_ponder_q_leaves_where_the_cumulative_probability_passes_its_level(quantile, left_at):
  passed = np.cumsum([0.1, 0.18, 0.36, 0.324, 0.036]).astype(np.float32)
  policy = exits.ponder_q()
  fires = [
    float(
      policy.hazard(exits.Observation(zero, jnp.full((1, 1), p), zero, zero, lambda x: x, zero, zero), jnp.float32(quantile))[
        0, 0
      ]
    )
    for zero in [jnp.zeros((1, 1))]
    for p in passed[:4]
  ]
  assert [*fires, 1.0].index(1.0) == left_at


def test_skipdecode_has_the_published_schedule_and_never_needs_what_an_earlier_token_left_out():
  depths = exits.linear_decay(jnp.arange(20), 18, 6, 4, 16)
  np.testing.assert_array_equal(depths, [18] * 5 + list(range(17, 6, -1)) + [6] * 4)
  policy = exits.skipdecode(level=6.0, bottom=2, start=4, end=16)
  blocks = policy.schedule(jnp.arange(20), 18, jnp.float32(6.0))
  runs = np.array([[bool(policy.runs(block, count, 18)) for block in range(18)] for count in blocks])
  np.testing.assert_array_equal(runs.sum(axis=1), depths)
  assert (runs[1:] <= runs[:-1]).all()
  np.testing.assert_array_equal(np.flatnonzero(runs[-1]), [0, 1, 14, 15, 16, 17])


def test_calm_threshold_decays_as_published():
  np.testing.assert_allclose(
    exits.calm_threshold(jnp.array([0, 50, 100]), 0.9, 4.0, 100),
    [0.91, 0.81 + 0.1 * np.exp(-2), 0.81 + 0.1 * np.exp(-4)],
    rtol=gamma(8),
  )
  assert float(exits.calm_threshold(jnp.int32(0), 1.2, 4.0, 100)) == 1.0


@pytest.mark.parametrize('name', [name for name, make in exits.REGISTRY.items() if make().hazard is not None])
def test_a_policy_is_gated_if_it_reads_what_the_gates_say(name):
  read = set()

  class Watched(exits.Observation):
    def __getattribute__(self, field):
      read.add(field)
      return super().__getattribute__(field)

  zero, state, policy = jnp.zeros((1, 2)), jnp.ones((1, 2, 4)), exits.get(name)()
  seen = Watched(zero, zero, state, state, lambda x: x, jnp.zeros((1, 2), int), zero, jnp.zeros((1, 2, 3), int))
  policy.hazard(seen, jnp.float32(0.5))
  assert policy.gated == bool(read & {'logit', 'passed', 'total'}) and read & set(exits.Observation._fields)


def test_mue_similarity_is_the_cosine_of_successive_streams_and_leaves_above_its_level():
  now, then = np.array([[[1.0, 0.0], [3.0, 4.0]]]), np.array([[[0.9, 0.1], [6.0, 8.0]]])
  np.testing.assert_allclose(exits.stream_cosine(now, then), [[0.993884, 1.0]], atol=5e-7)
  zero, policy = np.zeros((1, 2)), exits.mue_similarity()
  obs = exits.Observation(zero, zero, now, then, lambda x: x, zero.astype(np.int32), zero)
  np.testing.assert_array_equal(policy.hazard(obs, 0.995), [[0.0, 1.0]])
  np.testing.assert_array_equal(policy.hazard(obs, 1.5), zero)


# ------------------------------------------------------------------------------------------------------------- the decoder


@pytest.mark.parametrize('scan', [False, True])
def test_exits_off_is_the_base_model_bit_for_bit(scan):
  model, params = model_of(scan)
  without = {name: x for name, x in params['policy'].items() if name not in ('exit_heads', 'value')}
  tokens = jax.random.randint(jax.random.key(1), (3, 9), 0, VOCAB)
  base = apply(config(num_layers=LAYERS, scan_layers=scan), without, tokens)
  segments, positions = jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(9), tokens.shape)
  forced = Forced(jnp.full(tokens.shape, LAYERS), segments > 0, jnp.float32(0.1))
  states = dataclasses.replace(model, exits=exits.sampled()).states(params, tokens, positions, segments, forced)
  np.testing.assert_array_equal(model.logits(params, states), base)


UNREACHED = ('mue_similarity', 'confidence', 'dynamax')


@pytest.mark.parametrize('name', ['never', *UNREACHED])
def test_a_level_out_of_reach_samples_what_the_model_without_exits_samples(name):
  model, params = model_of()
  rows = roll(model, params, POLICIES[name], level=None if name == 'never' else 1.5)
  plain = rollout.generate(
    model,
    params,
    r.RULE,
    r.in_precision(r.STATE),
    jax.tree.map(jnp.asarray, r.PROMPTS),
    jax.random.key(7),
    samples=r.G,
    horizon=r.HORIZON,
    end_tokens=(r.EOS,),
    pad_token=r.PAD,
    sampling=Sampling(jnp.float32(1.0)),
    shadow_share=jnp.float32(0.5),
    scan_length=8,
  )
  r.assert_same_rows(rows, jax.device_get(plain), limits=dict.fromkeys(r.NUMBERS, 0.0))
  assert plain.depth is None


@pytest.mark.parametrize('cut', [1, 3])
def test_an_exit_is_the_model_cut_off_there(cut, precision):
  model, params = model_of()
  tokens = jax.random.randint(jax.random.key(2), (3, 9), 0, VOCAB)
  segments, positions = jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(9), tokens.shape)
  forced = Forced(jnp.full(tokens.shape, cut), segments > 0, jnp.float32(0.1))

  @jax.jit
  def early(params):
    deep = dataclasses.replace(model, exits=exits.sampled())
    return model.logits(params, deep.states(params, tokens, positions, segments, forced))

  kept = {name: x for name, x in params['policy'].items() if not name.startswith('layer_') or int(name[6:]) < cut}
  kept = {name: x for name, x in kept.items() if name not in ('exit_heads', 'value')}
  cut_off = apply(config(num_layers=cut), kept, tokens)
  limit = of_program(early, params, roundings=of_decoder(model.config, 9))
  np.testing.assert_allclose(early(params), cut_off, rtol=0, atol=limit)


CASES = [(name, False, 'linear', 1) for name in POLICIES if name not in ('threshold', 'ponder_q', 'fixed')] + [
  ('sampled', True, 'mlp', 2),
  ('skipdecode', True, 'linear', 1),
  ('ffn_skip', True, 'linear', 1),
  ('first_router', True, 'mlp', 2),
]


@pytest.mark.parametrize(('name', 'scan', 'kind', 'every'), CASES)
def test_decoding_and_scoring_agree_on_tokens_exits_and_values(name, scan, kind, every):
  rows = rolled(name, scan, kind, every)
  real = np.asarray(rows.mask)

  @jax.jit
  def read(params):
    again = scored(name, rows, rows.depth.blocks, scan, kind, every, params)
    return [jnp.where(real, x, 0.0) for x in (again.logprobs, again.exit_logprobs, again.values)]

  model, params = model_of(scan, kind, every)
  limits = of_program(read, params, roundings=of_decoder(model.config, r.WIDTH + r.HORIZON))
  then = [np.where(real, x, 0.0) for x in (rows.logprobs, rows.depth.logprobs, rows.values)]
  rounding.assert_within(read(params), then, limits)
  assert (rows.depth.blocks[:, 0][real[:, 0]] == LAYERS).all()  # the first token follows the prompt, which is read to the end
  if name != 'never':
    assert (rows.depth.blocks[real] < LAYERS).any()
  if name == 'sampled':
    assert (rows.depth.logprobs[real] < 0).any()
  else:
    assert (rows.depth.logprobs == 0).all()


@pytest.mark.parametrize('scan', [False, True])
def test_mue_similarity_leaves_behind_a_block_that_adds_nothing_and_changes_no_token(scan):
  """All blocks but the first add zero: every exit is behind one of them, and there the stream is the whole model's."""
  model, params = model_of(scan)

  def silent(path, x):
    name = jax.tree_util.keystr(path)
    if not ('o_proj' in name or 'down_proj' in name):
      return x
    return x.at[1:].set(0.0) if scan else x * float('layer_0' in name)

  params = params | {'policy': jax.tree_util.tree_map_with_path(silent, params['policy'])}
  rows, whole = (roll(model, params, POLICIES[name], level) for name, level in (('mue_similarity', 0.999), ('never', 0.0)))
  real = np.asarray(rows.mask)
  assert (rows.depth.blocks[:, 1:][real[:, 1:]] == 2).all() and real[:, 1:].any()  # at 1 the first block has changed the stream
  np.testing.assert_array_equal(rows.tokens, whole.tokens)


@pytest.mark.parametrize(('scan', 'every', 'asked'), [(False, 2, 1), (True, 2, 1), (True, 1, 3)])
def test_a_policy_is_asked_at_exits_alone(scan, every, asked, precision):
  model, params = model_of(scan, every=every)
  calls = []

  def hazard(obs, level):
    jax.debug.callback(lambda: calls.append(1))
    return 0 * obs.logit

  deep = dataclasses.replace(model, exits=exits.ExitPolicy(0.5, hazard=hazard))
  ones, lengths = jnp.ones((2, 1), jnp.int32), jnp.full(2, 3)
  states, caches = model.prefill(params, jnp.full((2, 4), 5), lengths)
  reading = Deciding(ones, jnp.full((2, 1), 0.5), ones > 0, jnp.float32(0.5))
  jax.block_until_ready(deep.extend_policy(params, ones, ones[:, 0], states, caches, jnp.int32(3), reading))
  jax.effects_barrier()
  assert len(calls) == asked


@pytest.mark.parametrize('every', [1, 2])
def test_a_scanned_decoder_gives_exits_the_gradients_of_an_unrolled_one(every, in_float64):
  model, params = model_of(scan=True, every=every)
  tokens = jax.random.randint(jax.random.key(2), (3, 9), 0, VOCAB)
  positions, segments = jnp.broadcast_to(jnp.arange(9), tokens.shape), jnp.ones_like(tokens)
  forced = Forced(jnp.where(positions % 2 > 0, 2, LAYERS), segments > 0, jnp.float32(0.1))

  def loss(policy, scan):
    layers = dict(policy)
    if not scan:
      stack = layers.pop('layers')
      layers |= {f'layer_{i}': jax.tree.map(lambda x, i=i: x[i], stack) for i in range(LAYERS)}
    shape = dataclasses.replace(model.config, scan_layers=scan)
    deep = dataclasses.replace(model, config=shape, exits=exits.sampled(level=0.0))
    return deep.states(params | {'policy': layers}, tokens, positions, segments, forced).depth.logprobs.sum()

  scanned, unrolled = (jax.jit(jax.grad(loss), static_argnums=1)(params['policy'], scan) for scan in (True, False))
  assert (np.asarray(scanned['exit_heads']['bias']) != 0).all()
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9), scanned, unrolled)


def test_another_depth_is_another_distribution():
  """The agreement above is not for want of sensitivity."""
  rows = rolled('sampled')
  elsewhere = scored('sampled', rows, jnp.full_like(rows.depth.blocks, LAYERS))
  real = np.asarray(rows.mask) & (rows.depth.blocks < LAYERS)
  assert np.abs(np.asarray(elsewhere.logprobs)[real] - rows.logprobs[real]).max() > 0.1


def test_a_sample_depends_neither_on_slots_nor_on_its_neighbours(in_float64):
  one, other = rolled('sampled', slots=5), rolled('sampled', slots=0)
  r.assert_same_rows(one, other, limits=r.limits_for(*model_of(), one))
  real = np.asarray(one.mask)
  np.testing.assert_array_equal(one.depth.blocks[real], other.depth.blocks[real])


def test_exits_are_drawn_with_the_heads_probabilities():
  """Chi-square over the exits at the second token of many samples of one prompt, against stick breaking by hand."""
  rows = rolled('sampled', samples=300, slots=0)
  model, params = model_of()
  prompt, count = rows.prompt_tokens[:1, -rows.prompt_lengths[0] :], rows.prompt_lengths[0]
  first = rows.tokens[:300, 0]
  token = np.bincount(first[first != r.EOS]).argmax()
  chosen = (first == token) & (rows.length[:300] > 1)
  tokens = jnp.asarray(np.append(prompt, token)[None])
  positions, ones = jnp.arange(count + 1)[None], jnp.ones((1, count + 1), jnp.int32)
  logits = model.gates(params, model.entering(params, tokens, positions, ones)[1], positions)
  q = 1 / (1 + np.exp(-np.asarray(logits, np.float64)[:, 0, -1]))
  q[q < 0.1] = 0.0
  expected = np.append(q, 1) * np.cumprod(np.append(1, 1 - q)) * chosen.sum()
  seen = np.bincount(rows.depth.blocks[:300, 1][chosen] - 1, minlength=LAYERS)
  used = expected > 0
  assert chosen.sum() > 40 and (seen[~used] == 0).all()
  assert ((seen - expected)[used] ** 2 / expected[used]).sum() < 16.27  # 0.1 % of a chi-square with 3 degrees of freedom


def test_the_gradient_of_an_exits_log_probability_is_that_of_finite_differences():
  rows = jax.tree.map(jnp.asarray, rolled('sampled'))
  model, params = model_of()
  policy = exits.sampled()
  real = rows.mask

  def total(heads):
    changed = params | {'policy': params['policy'] | {'exit_heads': heads}}
    found = score(
      dataclasses.replace(model, exits=policy),
      changed,
      rows.prompt_tokens,
      rows.prompt_lengths,
      rows.tokens,
      temperature=1.0,
      chunk=10_000,
      blocks=rows.depth.blocks,
      exit_level=0.0,
    )
    return jnp.where(real, found.exit_logprobs, 0.0).sum()

  heads = params['policy']['exit_heads']
  gradient = jax.grad(total)(heads)
  for name, leaf in heads.items():
    direction = jax.random.normal(jax.random.key(3), leaf.shape)
    ahead, behind = (total(heads | {name: leaf + step * direction}) for step in (1e-2, -1e-2))
    np.testing.assert_allclose((gradient[name] * direction).sum(), (ahead - behind) / 2e-2, rtol=2e-3)


def test_only_blocks_that_a_live_row_needs_are_run():
  """With nobody deep, what the skipped blocks would add must not matter, not even as a nan."""
  model, params = model_of()
  policy = exits.fixed(level=2.0)
  poisoned = jax.tree.map(lambda x: x, params)
  for block in ('layer_2', 'layer_3'):
    poisoned['policy'][block] = poisoned['policy'][block] | {
      'mlp': jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params['policy'][block]['mlp'])
    }
  tokens, lengths = jnp.array([[3, 4, 5]]), jnp.array([3])
  states, caches = dataclasses.replace(model, exits=None).prefill(params, tokens, lengths)
  wide = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 2), (0, 0))) if x.ndim == 4 else x, caches)
  reading = Deciding(jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1)), jnp.ones((1, 1), bool), jnp.float32(2.0))
  deep = dataclasses.replace(model, exits=policy)
  clean, dirty = (
    deep.extend_policy(p, jnp.array([[6]]), jnp.ones(1, jnp.int32), states, wide, jnp.int32(4), reading)[0]
    for p in (params, poisoned)
  )
  np.testing.assert_array_equal(clean.policy, dirty.policy)
  assert np.isfinite(dirty.policy).all()


def test_depth_is_read_of_any_number_of_answers_on_any_mesh():
  def exiting(config):
    config.exits.every, config.mesh.data = 1, 8

  exp = tiny_experiment(exiting)
  found = read_depth(exp, first_params(exp, 0), 3)
  assert len({answer['question'] for answer in found}) == 3
  assert all(len(answer['tokens']) == len(answer['blocks']) == len(answer['entropy']) > 0 for answer in found)
