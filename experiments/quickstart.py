"""The default experiment: chain arithmetic from scratch, PPO against ESPO, on two CPU cores."""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.name = 'chain'
  c.task.options.noise = 0.1
  c.task.options.difficulty = 'easy'
  c.task.options.min_ops = 4
  c.task.options.max_ops = 12
  c.rollout.prompts = 40
  c.rollout.samples = 4
  c.rollout.prompt_width = 38
  c.rollout.horizon = 63
  c.rollout.scan_length = 21
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 24
  c.warm_start.steps = 400
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 50
  c.learner.learning_rate = 3e-4
  c.critic.learning_rate = 1e-3
  return c
