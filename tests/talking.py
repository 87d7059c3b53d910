"""A tiny experiment whose policy talks to an environment."""

import jax
import jax.numpy as jnp
from tiny import first_params, rule_of

from espo_jax.stages import episodes
from espo_jax.stages.metrics import Clock

ROWS = ('tokens', 'turn', 'length', 'full_length', 'stop_reason', 'shadow')  # what has no rounding
LINES = {'environment__message': '##', 'reward__name': 'per_turn'}


def talking(name='retry', **lines):
  """A config with an environment; `message` is what it says."""

  def configure(c):
    c.rollout.update(prompts=4, samples=4, horizon=24, scan_length=8)
    c.model.num_layers = 1
    c.environment.update(name=name, max_turns=3, turn_horizon=5, observation_horizon=4, workers=1)
    for field, value in lines.items():
      section, _, field = field.rpartition('__')
      (c[section] if section else c)[field] = value

  return configure


def rollout(exp, parts, stops=True):
  """The episodes of a rollout, part by part."""
  params, rule = first_params(exp, 0), rule_of(exp)
  adaptive = exp.put(rule.init(1).adaptive.replace(mu=jnp.float32(1.1), enabled=jnp.asarray(stops)))
  return episodes.play(exp, exp.sampler, params, rule, adaptive, parts, exp.key('rollout', 1), Clock())


def played(exp, stops=True):
  """Rows and verdicts of a rollout, on the host."""
  problems = exp.problems('train', 0, exp.config.rollout.prompts)
  (its,) = rollout(exp, [problems], stops)
  return jax.device_get(its.rows), episodes.verdicts_on(exp, problems, its)
