"""Countdown by written search: a failing attempt can go on to the horizon, so there is more to save than in the quickstart.

  python -m espo_jax.train --config=experiments/countdown.py --workdir=runs/countdown

`--config=experiments/countdown.py:medium` and `:hard` are the other difficulties.
"""

from espo_jax import tasks
from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.name = 'countdown'
  c.task.options.difficulty = arg or 'easy'
  task = tasks.get('countdown', difficulty=c.task.options.difficulty)
  c.rollout.prompts = 32
  c.rollout.samples = 4
  c.rollout.prompt_width = task.max_prompt_tokens
  c.rollout.horizon = task.max_response_tokens
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.head_dim = 24
  c.warm_start.steps = 600
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 60
  c.learner.learning_rate = 3e-5
  c.critic.learning_rate = 3e-4
  c.stop.smoothing = 0.5
  c.stop.beta_0 = 2.0
  c.stop.beta_min = 0.5
  return c
