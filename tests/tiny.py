"""An experiment of seconds: an untrained policy that is right now and then."""

import atexit
import dataclasses
import functools
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from rounding import precision
from small import randomised

from espo_jax import parallel, tasks
from espo_jax.configs import default_config, uses_reference
from espo_jax.experiment import Experiment, make_experiment, make_rule
from espo_jax.learner import Checkpoints, init_state
from espo_jax.stages import rl
from espo_jax.types import Reward


class Parity(tasks.Chain):
  """Right is a response of even length: an untrained model earns something, and not always the same."""

  def verify(self, problem, response):
    return len(response) % 2 == 0


def tiny_experiment(configure=lambda c: None, **mesh) -> Experiment:
  c = default_config()
  c.task.options.update(min_ops=2, max_ops=4)
  c.model.update(dtype=precision(), param_dtype=precision())
  c.model.update(hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)
  c.rollout.update(prompts=8, samples=2, prompt_width=14, horizon=16, scan_length=8, temperature=0.8)
  c.learner.update(epochs=2, minibatches=2, learning_rate=3e-3, warmup_steps=2, weight_decay=0.01)
  c.learner.pack_sizes = 1  # one program per experiment; test_packing has more
  c.critic.learning_rate = 1e-2
  c.stop.update(smoothing=0.5, beta_0=2.5, shadow_share=0.5)
  c.mesh.update(mesh)
  configure(c)
  return dataclasses.replace(make_experiment(c), task=Parity(min_ops=2, max_ops=4))


def first_params(exp: Experiment, seed: int):
  shapes = jax.eval_shape(exp.model.init_boxed, exp.root_key)
  shardings = parallel.param_shardings(shapes, exp.mesh)
  values = randomised(jax.eval_shape(exp.model.init, exp.root_key), seed)
  return jax.tree.map(jax.device_put, values, shardings)


RULES = {}  # a rule is compiled into the rollout: the same one for all


def rule_of(exp):
  return RULES.setdefault('espo', make_rule(exp.config, 'espo'))


def rolled_out(exp, seed=0):
  """A rollout of the experiment's policy with its stop rule on, and random outcomes."""
  params, rule = first_params(exp, seed), rule_of(exp)
  adaptive = rule.init(1).adaptive.replace(mu=jnp.float32(1.1), enabled=jnp.asarray(True))
  prompts = exp.prompts(exp.problems('train', 0, exp.config.rollout.prompts))
  sampler = exp.sampler.plain(samples=exp.config.rollout.samples, temperature=0.8, shadow_share=0.5)
  rows = sampler(params, rule, adaptive, prompts, exp.key('rollout', 1))
  outcomes = np.random.default_rng(seed).random(rows.length.shape).astype(precision())
  return params, rows, Reward(jnp.asarray(outcomes))


@functools.cache
def _saved(step: int) -> pathlib.Path:
  folder = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder)
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(step, {'nothing': jnp.zeros(1)}, done=True)
  return folder / str(step)


def write_checkpoint(folder: pathlib.Path) -> None:
  """A checkpoint of a stage that is done: whole, with nothing of use in it."""
  shutil.copytree(_saved(int(folder.name)), folder, dirs_exist_ok=True)


def first_state(exp, rule):
  """The state before the first update, in which the rule acts."""
  learner = rl.reinforcement_learner(exp, rule)
  state = init_state(first_params(exp, 0), learner.optimizer, rule, learner.turns)
  return exp.on_mesh(rl.fork(state.replace(adaptive=state.adaptive.replace(mu=jnp.float32(1.1))), rule))


def run(exp, count=3):
  """`count` updates with ESPO acting from the first, and their metrics."""
  rule = rule_of(exp)
  state = first_state(exp, rule)
  step = rl.reinforcement_step(exp, rule, first_params(exp, 1) if uses_reference(exp.config) else None)
  metrics = []
  with jax.transfer_guard('disallow'):
    for i in range(1, count + 1):
      state, part = step(state, i)
      metrics.append({name: float(value) for name, value in jax.device_get(part).items()})
  return state, metrics


def named(**lines):
  """A config with some lines changed, written as in `objective__name='grpo'`."""

  def configure(c):
    c.rollout.update(prompts=4, samples=4)
    c.model.num_layers = 1
    for name, value in lines.items():
      section, _, field = name.partition('__')
      c[section][field] = value

  return configure
