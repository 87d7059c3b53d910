"""One ESPO step is the same on every mesh: loss and gradient of given rows, its samples, and what a checkpoint carries over.

Two cases: all weights learn, and every token runs through every block; exits are drawn, and so are actions, adapters learn, and
rows share their prompt.
"""

import dataclasses
import functools

import elsewhere
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rounding
from tiny import first_params, rule_of, tiny_experiment

from espo_jax.learner import Checkpoints, Groups, init_state, pack, put_packing, restore
from espo_jax.learner.optimizer import of_trained
from espo_jax.model import Forced
from espo_jax.rollout import Sampling
from espo_jax.rollout import sampling as draws
from espo_jax.stages import rl
from espo_jax.types import Reward

CASES = ('plain', 'exits and adapters')
MESHES = {'8x1x1': {'data': 8}, '1x8x1': {'fsdp': 8}, '1x1x8': {'tensor': 8}, '2x2x2': {'data': 2, 'fsdp': 2, 'tensor': 2}}
TEMPERATURE = 0.8
LEVEL = 0.2  # heads with a smaller probability count as 0


@rounding.cached
def experiment(mesh: str, case: str):
  """One whose heads, channels and vocabulary divide by eight."""

  def configure(c):
    c.task.options.max_ops = 8
    c.model.update(num_layers=1, num_heads=8, num_kv_heads=8, head_dim=4)
    if 'exits' in case:
      c.model.num_layers = 2
      c.exits.update(every=1, policy='sampled', level=LEVEL)
    if 'splash' in case:
      c.model.update(attention='splash', remat='full')
    c.model.lora.update(rank=2 if 'adapters' in case else 0, alpha=4.0)
    c.objective.update(name='ppo + entropy', entropy_coef=0.01)

  exp = tiny_experiment(configure, **MESHES.get(mesh, {}))
  return exp, dataclasses.replace(rl.reinforcement_learner(exp, rule_of(exp)), optimizer=of_trained(optax.trace(decay=0.0)))


@rounding.cached
def samples(mesh: str, case: str):
  """A rollout with the stop rule on, on the host."""
  exp, _ = experiment(mesh, case)
  rule = rule_of(exp)
  adaptive = exp.put(rule.init(1).adaptive.replace(mu=jnp.float32(1.1), enabled=jnp.asarray(True)))
  sampler = exp.sampler.plain(samples=exp.config.rollout.samples, temperature=TEMPERATURE, shadow_share=0.5)
  prompts = exp.prompts(exp.my_problems('train', 0, exp.config.rollout.prompts))
  return exp.fetch(sampler(first_params(exp, 0), rule, adaptive, prompts, exp.key('rollout', 1)))


def step(mesh: str, case: str, state=None, given=None):
  """Advantages of the rows that one device sampled, and an update on all of them; the state whose optimizer is the gradient."""
  exp, learner = experiment(mesh, case)
  given = samples('one', case) if given is None else given
  outcomes = np.random.default_rng(0).random(given.length.shape).astype(rounding.precision())
  rows, reward = exp.put_rows((given, Reward(outcomes)))
  lengths = (given.prompt_lengths + given.length)[None]
  groups = Groups(np.arange(len(outcomes))[None] // exp.config.rollout.samples, given.prompt_lengths[None])
  groups = groups if 'exits' in case and 'splash' not in case else None
  packing = put_packing(pack(lengths, 30, sizes=4, multiple=8, widths=13, cost=float, groups=groups), exp.mesh)
  if state is None:
    state = exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule_of(exp)))
  batch, measured = learner.prepare(state.params, None, rows, reward, packing)
  chosen = exp.put(np.arange(len(outcomes), dtype=np.int32)[None])
  state, metrics = learner.update(state, batch, None, chosen, packing)
  return state, {name: float(x) for name, x in jax.device_get(measured | metrics).items()}


METRICS = ('loss/total', 'loss/policy', 'loss/value', 'loss/entropy', 'grad_norm', 'critic/loss', 'entropy')


def found_by(mesh: str, case: str, params, given):
  """Gradient and metrics of a step."""
  exp, learner = experiment(mesh, case)
  state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), learner.optimizer, rule_of(exp)))
  state, metrics = step(mesh, case, state, jax.device_get(given))
  return jax.device_get(state.opt_state.trace), {name: np.asarray(metrics[name], rounding.precision()) for name in METRICS}


@rounding.cached
def on_one(case: str):
  """What one device finds, and how far rounding may put another: through the decoder and back, whitened over all tokens."""
  exp, _ = experiment('one', case)
  given = (first_params(exp, 0), samples('one', case))
  roundings = 3 * rounding.of_decoder(exp.model.config, 30) + 4 * given[1].tokens.size
  program = functools.partial(found_by, 'one', case)
  return program(*given), rounding.of_program(program, *given, roundings=roundings)


def named(tree, word: str) -> list:
  """The arrays whose path has the word."""
  return [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if word in jax.tree_util.keystr(path)]


IN_FLOAT64 = [(mesh, 'plain', 'float64') for mesh in MESHES]
IN_FLOAT64 += [(mesh, case, 'float64') for mesh, case in (('2x2x2', CASES[1]), ('2x2x2', 'exits'))]


@pytest.mark.parametrize(('mesh', 'case', 'dtype'), [*IN_FLOAT64, ('2x2x2', 'plain', 'float32')])
def test_loss_and_gradient_of_a_step_do_not_depend_on_the_mesh(mesh, case, dtype):
  with rounding.computed_in(dtype):
    wanted, limits = on_one(case)
    exp, _ = experiment(mesh, case)
    got = found_by(mesh, case, first_params(exp, 0), samples('one', case))
    assert wanted[1]['grad_norm'] > 1e-2
    rounding.assert_within(got, wanted, limits)
    for word in ('exit_heads', 'lora'):  # there is something to compare
      theirs = named(wanted[0], word)
      assert bool(theirs) == ({'exit_heads': 'exits', 'lora': 'adapters'}[word] in case)
      assert not theirs or optax.tree.norm(theirs) > 1e-3


def test_loss_and_gradient_of_a_step_do_not_depend_on_the_form_of_attention():
  """Splash is interpreted, and the gradient recomputes its layers."""
  mesh, case = '2x2x2', CASES[1]
  wanted, limits = on_one(case)
  with elsewhere.interpreted():
    exp, _ = experiment(mesh, f'{case} by splash')
    got = found_by(mesh, f'{case} by splash', first_params(exp, 0), samples('one', case))
  rounding.assert_within(got, wanted, limits)


def margins(rows, case: str):
  """How far each decision of the rows is from another one, `[N, T, 2]`: the exit before a token, and the token.

  And how much of that rounding may account for.

  The uniforms are those that drew; what they are held against is computed in float64 from the logits of a pass over whole
  sequences. A decision that this gives otherwise has a margin below 0.
  """
  exp, _ = experiment('one', case)
  problems = exp.problems('train', 0, exp.config.rollout.prompts)
  ids = jnp.asarray([problem.id for problem in problems], jnp.uint32)
  keys = draws.row_keys(exp.key('rollout', 1), ids, exp.config.rollout.samples)
  count, horizon = rows.tokens.shape
  width, layers = rows.prompt_tokens.shape[1], exp.config.model.num_layers
  noise = np.stack([draws.token_noise(keys, jnp.full(count, t), 3) for t in range(horizon)], axis=1)
  tokens = np.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  positions = np.arange(width + horizon) - (width - rows.prompt_lengths)[:, None]
  params = first_params(exp, 0)
  columns = [jnp.asarray(x, jnp.int32) for x in (tokens, np.maximum(positions, 0), positions >= 0)]

  forced, of_exits, head_limit = None, np.full(rows.tokens.shape, np.inf), 0.0
  off = functools.partial(rounding.of_program, roundings=rounding.of_decoder(exp.model.config, width + horizon))
  if rows.depth is not None:
    blocks = np.full(tokens.shape, layers, np.int32)
    blocks[:, width:-1] = rows.depth.blocks[:, 1:]
    of_response = jnp.broadcast_to(jnp.arange(width + horizon) >= width, tokens.shape)
    forced = Forced(jnp.asarray(blocks), of_response, jnp.float32(LEVEL))

    @jax.jit
    def head(params):  # in front of the last block
      return exp.model.gates(params, exp.model.entering(params, *columns)[1], columns[1])[0, :, width:-1]

    heads, head_limit = np.asarray(head(params), np.float64), off(head, params)  # and a sigmoid is less steep than 1
    over = 1 / (1 + np.exp(-heads)) - np.maximum(noise[:, :-1, 2], LEVEL)
    of_exits[:, 1:] = np.where(rows.depth.blocks[:, 1:] < layers, over, -over)  # the first token's state is read to the end

  @jax.jit
  def tempered(params):
    logits = exp.model.logits(params, exp.model.states(params, *columns, forced))
    return draws.sampled_logits(logits[:, width - 1 : -1], Sampling(TEMPERATURE))

  logits = tempered(params)
  edges = np.cumsum(np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64)), axis=-1)
  upper = np.take_along_axis(edges, rows.tokens[..., None], axis=-1)[..., 0]
  lower = np.take_along_axis(edges, np.maximum(rows.tokens - 1, 0)[..., None], axis=-1)[..., 0]
  lower = np.where(rows.tokens > 0, lower, 0.0)
  margin = np.stack([of_exits, np.minimum(noise[..., 0] - lower, upper - noise[..., 0])], axis=-1)
  # A log-probability is off by twice what a logit is, and an edge by less than the probabilities under it.
  return margin, max(2 * off(tempered, params) + rounding.gamma(logits.shape[-1]), head_limit)


SAMPLED = [(mesh, 'plain') for mesh in MESHES] + [(mesh, 'exits and adapters') for mesh in ('1x1x8', '2x2x2')]


@pytest.mark.parametrize(('mesh', 'case'), SAMPLED)
def test_samples_do_not_depend_on_the_mesh(mesh, case):
  """Exactly under data and fsdp; where tensor reorders sums, up to a decision whose uniform lies on the edge of another."""
  one, other = samples('one', case), samples(mesh, case)
  alike = np.ones(one.length.shape, bool)
  margin, limit = margins(one, case)
  real = np.arange(one.tokens.shape[1]) < one.full_length[:, None]
  smallest = margin[real].min(axis=0)
  assert (smallest > -limit).all()  # the uniforms, the heads and the CDF are those that drew
  print(f'{mesh}, {case}: smallest margin of {real.sum()} tokens: {smallest[1]:.1e}, of their exits: {smallest[0]:.1e}')
  blocks = [np.zeros_like(rows.tokens) if rows.depth is None else rows.depth.blocks for rows in (one, other)]
  if 'tensor' in MESHES[mesh]:
    differ = np.stack([blocks[0] != blocks[1], one.tokens != other.tokens], axis=-1).reshape(len(alike), -1)
    for row in np.flatnonzero(differ.any(axis=1)):
      first = int(np.argmax(differ[row]))
      assert margin[row].ravel()[first] < limit, (row, first)
      alike[row] = False
  np.testing.assert_array_equal(*(x[alike] for x in blocks))
  for name in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(other, name)[alike], getattr(one, name)[alike], err_msg=name)
  np.testing.assert_allclose(other.logprobs[alike], one.logprobs[alike], rtol=0, atol=limit)
  assert {0, 1, 2} >= set(one.stop_reason.tolist()) >= {2}
  if case != 'plain':
    np.testing.assert_allclose(other.depth.logprobs[alike], one.depth.logprobs[alike], rtol=0, atol=limit / LEVEL)
    assert set(blocks[0][real].tolist()) == {1, 2}


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
  """8x1x1, then 2x2x2, then one device: the same bits wherever they lie, and the next update is the same."""
  meshes = ('8x1x1', '2x2x2', 'one')
  state, _ = step(meshes[0], 'plain')
  first = jax.device_get(state)
  for number, mesh in enumerate(meshes):
    exp, learner = experiment(mesh, 'plain')
    like = exp.on_mesh(init_state(first_params(exp, 1), learner.optimizer, rule_of(exp)))
    with Checkpoints(tmp_path / str(number)) as checkpoints:
      checkpoints.save(1, state, done=False)
    loaded = restore(tmp_path / str(number), like).state
    for a, b, wanted in zip(*map(jax.tree.leaves, (loaded, state, like)), strict=True):
      assert a.sharding.is_equivalent_to(wanted.sharding, a.ndim)
      np.testing.assert_array_equal(a, b)
    state = loaded
  _, metrics = step(meshes[-1], 'plain', state)
  exp, _ = experiment(meshes[0], 'plain')
  _, again = step(meshes[0], 'plain', exp.put(first))
  limit = on_one('plain')[1][1]['loss/total']
  np.testing.assert_allclose(metrics['loss/total'], again['loss/total'], rtol=0, atol=limit)
