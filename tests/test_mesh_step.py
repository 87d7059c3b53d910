"""One ESPO step is the same on every mesh: loss and gradient of given rows, its samples, and what a checkpoint carries over."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import first_params, rule_of, tiny_experiment

from espo_jax import steps
from espo_jax.learner import Checkpoints, init_state, pack, put
from espo_jax.rollout import Sampling
from espo_jax.rollout import sampling as draws
from espo_jax.types import Reward

MESHES = {'8x1x1': {'data': 8}, '1x8x1': {'fsdp': 8}, '1x1x8': {'tensor': 8}, '2x2x2': {'data': 2, 'fsdp': 2, 'tensor': 2}}
TEMPERATURE = 0.8


@functools.cache
def experiment(mesh: str, rank: int):
  """One whose heads, channels and vocabulary divide by eight."""

  def configure(c):
    c.task.options.max_ops = 8
    c.model.update(num_layers=1, num_heads=8, num_kv_heads=8, head_dim=4)
    c.model.lora.update(rank=rank, alpha=4.0)
    c.objective.update(name='ppo + entropy', entropy_coef=0.01)

  exp = tiny_experiment(configure, **MESHES.get(mesh, {}))
  return exp, dataclasses.replace(steps.reinforcement_learner(exp, rule_of(exp)), optimizer=optax.trace(decay=0.0))


@functools.cache
def samples(mesh: str):
  """A rollout with the stop rule on, on the host."""
  exp, _ = experiment(mesh, 0)
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


def step(mesh: str, rank: int, state=None):
  """Advantages of the rows that one device sampled, and an update on all of them; the state whose optimizer is the gradient."""
  exp, learner = experiment(mesh, rank)
  given = samples('one')
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
def on_one(rank: int):
  state, metrics = step('one', rank)
  return jax.device_get(state.opt_state.trace), metrics


def gap(tree, other) -> float:
  """How far apart two trees are, in parts of the second one's norm."""
  flat = [
    np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(jax.device_get(t))]) for t in (tree, other)
  ]
  return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))


@pytest.mark.parametrize(('mesh', 'rank'), [*((mesh, 0) for mesh in MESHES), ('1x1x8', 2), ('2x2x2', 2)])
def test_loss_and_gradient_of_a_step_do_not_depend_on_the_mesh(mesh, rank):
  gradient, metrics = on_one(rank)
  state, found = step(mesh, rank)
  assert found.keys() == metrics.keys()
  assert metrics['grad_norm'] > 1e-2
  assert gap(state.opt_state.trace, gradient) <= 1e-5
  for name in ('loss/total', 'loss/value', 'loss/entropy', 'grad_norm', 'critic/loss', 'entropy'):
    np.testing.assert_allclose(found[name], metrics[name], rtol=1e-5, err_msg=name)
  # Before the first step it is the advantages' mean, which is 0 but for rounding: there is nothing to be relative to.
  np.testing.assert_allclose(found['loss/policy'], metrics['loss/policy'], rtol=0, atol=1e-6)


def uniforms_and_edges(rows):
  """For every token of the rows the uniform that drew it, and the CDF in float64 of the distribution that it was drawn from."""
  exp, _ = experiment('one', 0)
  problems = exp.problems('train', 0, exp.config.rollout.prompts)
  ids = jnp.asarray([problem.id for problem in problems], jnp.uint32)
  keys = draws.row_keys(exp.key('rollout', 1), ids, exp.config.rollout.samples)
  count, horizon = rows.tokens.shape
  width = rows.prompt_tokens.shape[1]
  noise = [draws.token_noise(keys, jnp.full(count, t))[:, 0] for t in range(horizon)]
  tokens = np.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  positions = np.arange(width + horizon) - (width - rows.prompt_lengths)[:, None]
  params = first_params(exp, 0)
  columns = (tokens, np.maximum(positions, 0), positions >= 0)
  states = exp.model.states(params, *(jnp.asarray(x, jnp.int32) for x in columns))
  logits = draws.sampled_logits(exp.model.logits(params, states)[:, width - 1 : -1], Sampling(TEMPERATURE))
  weights = np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64))
  return np.stack(noise, axis=1), np.cumsum(weights, axis=-1)


@pytest.mark.parametrize('mesh', MESHES)
def test_samples_do_not_depend_on_the_mesh(mesh):
  """Exactly under data and fsdp; where tensor reorders sums, up to a token whose uniform lies on an edge of its interval."""
  one, other = samples('one'), samples(mesh)
  alike = np.ones(one.length.shape, bool)
  uniforms, edges = uniforms_and_edges(one)
  upper = np.take_along_axis(edges, one.tokens[..., None], axis=-1)[..., 0]
  lower = np.where(one.tokens > 0, np.take_along_axis(edges, np.maximum(one.tokens - 1, 0)[..., None], axis=-1)[..., 0], 0.0)
  margin = np.minimum(uniforms - lower, upper - uniforms)  # to the nearest other token
  real = np.arange(one.tokens.shape[1]) < one.full_length[:, None]
  assert margin[real].min() > -1e-6  # the uniforms and the CDF are those that drew
  print(f'{mesh}: smallest margin of {real.sum()} tokens: {margin[real].min():.1e}')
  if 'tensor' in MESHES[mesh]:
    for row in np.flatnonzero((one.tokens != other.tokens).any(axis=1)):
      first = int(np.argmax(one.tokens[row] != other.tokens[row]))
      assert margin[row, first] < 1e-6, (row, first)
      alike[row] = False
  for name in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(other, name)[alike], getattr(one, name)[alike], err_msg=name)
  np.testing.assert_allclose(other.logprobs[alike], one.logprobs[alike], atol=1e-5)
  assert {0, 1, 2} >= set(one.stop_reason.tolist()) >= {2}


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
  """8x1x1, then 2x2x2, then one device: the same bits wherever they lie, and the next update is the same."""
  meshes = ('8x1x1', '2x2x2', 'one')
  state, _ = step(meshes[0], 0)
  first = jax.device_get(state)
  for number, mesh in enumerate(meshes):
    exp, learner = experiment(mesh, 0)
    like = exp.on_mesh(init_state(first_params(exp, 1), learner.optimizer, rule_of(exp)))
    with Checkpoints(tmp_path / str(number)) as checkpoints:
      checkpoints.save(1, state, done=False)
    with Checkpoints(tmp_path / str(number)) as checkpoints:
      loaded = checkpoints.load(like)
    for a, b, wanted in zip(*map(jax.tree.leaves, (loaded, state, like)), strict=True):
      assert a.sharding.is_equivalent_to(wanted.sharding, a.ndim)
      np.testing.assert_array_equal(a, b)
    state = loaded
  _, metrics = step(meshes[-1], 0, state)
  exp, _ = experiment(meshes[0], 0)
  _, again = step(meshes[0], 0, exp.put(first))
  np.testing.assert_allclose(metrics['loss/total'], again['loss/total'], rtol=1e-5)
