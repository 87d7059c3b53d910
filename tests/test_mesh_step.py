"""One ESPO step is the same on every mesh: loss and gradient of given rows, its samples, and what a checkpoint carries over.

Two cases: all weights learn, and every token runs through every block; exits are drawn, and so are actions, and adapters learn.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import first_params, rule_of, tiny_experiment

from espo_jax import steps
from espo_jax.learner import Checkpoints, init_state, pack, put, restore
from espo_jax.model import Forced
from espo_jax.rollout import Sampling
from espo_jax.rollout import sampling as draws
from espo_jax.types import Reward

CASES = ('plain', 'exits and adapters')
MESHES = {'8x1x1': {'data': 8}, '1x8x1': {'fsdp': 8}, '1x1x8': {'tensor': 8}, '2x2x2': {'data': 2, 'fsdp': 2, 'tensor': 2}}
TEMPERATURE = 0.8
LEVEL = 0.2  # heads with a smaller probability count as 0


@functools.cache
def experiment(mesh: str, case: str):
  """One whose heads, channels and vocabulary divide by eight."""

  def configure(c):
    c.task.options.max_ops = 8
    c.model.update(num_layers=1, num_heads=8, num_kv_heads=8, head_dim=4)
    if 'exits' in case:
      c.model.num_layers = 2
      c.exits.update(every=1, policy='sampled', level=LEVEL)
    c.model.lora.update(rank=2 if 'adapters' in case else 0, alpha=4.0)
    c.objective.update(name='ppo + entropy', entropy_coef=0.01)

  exp = tiny_experiment(configure, **MESHES.get(mesh, {}))
  return exp, dataclasses.replace(steps.reinforcement_learner(exp, rule_of(exp)), optimizer=optax.trace(decay=0.0))


@functools.cache
def samples(mesh: str, case: str):
  """A rollout with the stop rule on, on the host."""
  exp, _ = experiment(mesh, case)
  rule = rule_of(exp)
  adaptive = exp.put(rule.init(1).adaptive.replace(mu=jnp.float32(1.1), enabled=jnp.asarray(True)))
  rows = exp.rollout(
    first_params(exp, 0),
    rule,
    adaptive,
    exp.prompts(exp.my_problems('train', 0, exp.config.rollout.prompts)),
    exp.key('rollout', 1),
    samples=exp.config.rollout.samples,
    temperature=TEMPERATURE,
    shadow_share=0.5,
  )
  return exp.fetch(rows)


def step(mesh: str, case: str, state=None):
  """Advantages of the rows that one device sampled, and an update on all of them; the state whose optimizer is the gradient."""
  exp, learner = experiment(mesh, case)
  given = samples('one', case)
  outcomes = np.random.default_rng(0).random(given.length.shape).astype(np.float32)
  rows, reward = exp.put_rows((given, Reward(outcomes)))
  lengths = (given.prompt_lengths + given.length)[None]
  packing = put(pack(lengths, 30, sizes=4, multiple=8), exp.mesh)
  if state is None:
    state = exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule_of(exp)))
  batch, measured = learner.prepare(state.params, None, rows, reward, packing)
  chosen = exp.put(np.arange(len(outcomes), dtype=np.int32)[None])
  state, metrics = learner.update(state, batch, None, chosen, packing)
  return state, {name: float(x) for name, x in jax.device_get(measured | metrics).items()}


@functools.cache
def on_one(case: str):
  state, metrics = step('one', case)
  return jax.device_get(state.opt_state.trace), metrics


def gap(tree, other) -> float:
  """How far apart two trees are, in parts of the second one's norm."""
  flat = [
    np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(jax.device_get(t))]) for t in (tree, other)
  ]
  return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))


def named(tree, word: str) -> list:
  """The arrays whose path has the word."""
  return [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if word in jax.tree_util.keystr(path)]


@pytest.mark.parametrize(('mesh', 'case'), [*itertools.product(MESHES, CASES), ('2x2x2', 'exits')])
def test_loss_and_gradient_of_a_step_do_not_depend_on_the_mesh(mesh, case):
  gradient, metrics = on_one(case)
  state, found = step(mesh, case)
  assert found.keys() == metrics.keys()
  assert metrics['grad_norm'] > 1e-2
  assert gap(state.opt_state.trace, gradient) <= 1e-5
  for name in ('loss/total', 'loss/value', 'loss/entropy', 'grad_norm', 'critic/loss', 'entropy'):
    np.testing.assert_allclose(found[name], metrics[name], rtol=1e-5, err_msg=name)
  # Before the first step it is the advantages' mean, which is 0 but for rounding: there is nothing to be relative to.
  np.testing.assert_allclose(found['loss/policy'], metrics['loss/policy'], rtol=0, atol=1e-6)
  for word in ('exit_heads', 'lora'):  # what is small beside the rest is compared by itself
    mine, theirs = named(state.opt_state.trace, word), named(gradient, word)
    assert bool(theirs) == ({'exit_heads': 'exits', 'lora': 'adapters'}[word] in case)
    if theirs:
      assert optax.tree.norm(theirs) > 1e-3
      assert gap(mine, theirs) <= 1e-5


def margins(rows, case: str):
  """How far each decision of the rows is from another one, `[N, T, 2]`: the exit before a token, and the token.

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

  forced, of_exits = None, np.full(rows.tokens.shape, np.inf)
  if rows.depth is not None:
    blocks = np.full(tokens.shape, layers, np.int32)
    blocks[:, width:-1] = rows.depth.blocks[:, 1:]
    of_response = jnp.broadcast_to(jnp.arange(width + horizon) >= width, tokens.shape)
    forced = Forced(jnp.asarray(blocks), of_response, jnp.float32(LEVEL))
    heads = np.asarray(exp.model.entering(params, *columns)[2][0, :, width:-1], np.float64)  # in front of the last block
    over = 1 / (1 + np.exp(-heads)) - np.maximum(noise[:, :-1, 2], LEVEL)
    of_exits[:, 1:] = np.where(rows.depth.blocks[:, 1:] < layers, over, -over)  # the first token's state is read to the end

  states = exp.model.states(params, *columns, forced)
  logits = draws.sampled_logits(exp.model.logits(params, states)[:, width - 1 : -1], Sampling(TEMPERATURE))
  edges = np.cumsum(np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64)), axis=-1)
  upper = np.take_along_axis(edges, rows.tokens[..., None], axis=-1)[..., 0]
  lower = np.take_along_axis(edges, np.maximum(rows.tokens - 1, 0)[..., None], axis=-1)[..., 0]
  lower = np.where(rows.tokens > 0, lower, 0.0)
  return np.stack([of_exits, np.minimum(noise[..., 0] - lower, upper - noise[..., 0])], axis=-1)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('mesh', MESHES)
def test_samples_do_not_depend_on_the_mesh(mesh, case):
  """Exactly under data and fsdp; where tensor reorders sums, up to a decision whose uniform lies on the edge of another."""
  one, other = samples('one', case), samples(mesh, case)
  alike = np.ones(one.length.shape, bool)
  margin = margins(one, case)
  real = np.arange(one.tokens.shape[1]) < one.full_length[:, None]
  smallest = margin[real].min(axis=0)
  assert (smallest > -1e-6).all()  # the uniforms, the heads and the CDF are those that drew
  print(f'{mesh}, {case}: smallest margin of {real.sum()} tokens: {smallest[1]:.1e}, of their exits: {smallest[0]:.1e}')
  blocks = [np.zeros_like(rows.tokens) if rows.depth is None else rows.depth.blocks for rows in (one, other)]
  if 'tensor' in MESHES[mesh]:
    differ = np.stack([blocks[0] != blocks[1], one.tokens != other.tokens], axis=-1).reshape(len(alike), -1)
    for row in np.flatnonzero(differ.any(axis=1)):
      first = int(np.argmax(differ[row]))
      assert margin[row].ravel()[first] < 1e-6, (row, first)
      alike[row] = False
  np.testing.assert_array_equal(*(x[alike] for x in blocks))
  for name in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(other, name)[alike], getattr(one, name)[alike], err_msg=name)
  np.testing.assert_allclose(other.logprobs[alike], one.logprobs[alike], atol=1e-5)
  assert {0, 1, 2} >= set(one.stop_reason.tolist()) >= {2}
  if case != 'plain':
    np.testing.assert_allclose(other.depth.logprobs[alike], one.depth.logprobs[alike], atol=1e-5)
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
  np.testing.assert_allclose(metrics['loss/total'], again['loss/total'], rtol=1e-5)
