"""A config for the example plugins: a small model and few updates, for the task that `--config.task.name` names."""

from espo_jax.configs import default_config


def get_config():
  c = default_config()
  c.rollout.update(prompts=16, samples=2, prompt_width=38, horizon=63)
  c.model.update(hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16)
  c.warm_start.update(steps=60, batch=32, learning_rate=3e-3, warmup_steps=10)
  c.learner.update(updates=12, learning_rate=1e-4, warmup_steps=2)
  c.critic.learning_rate = 1e-3
  c.stop.update(smoothing=0.5, beta_0=2.0, beta_min=0.5)
  c.eval.update(problems=64, batch=64)
  return c
