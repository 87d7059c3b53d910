"""GSM8K from scratch."""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.baselines = ()
  c.task.name = 'gsm8k'
  c.task.options.vocab_size = 1024
  c.task.options.max_prompt_tokens = 288  # the longest question of the test split has 273
  c.task.options.max_response_tokens = 224
  c.model.num_layers = 2
  c.rollout.prompts = 8
  c.rollout.samples = 4
  c.rollout.prompt_width = 288
  c.rollout.horizon = 224
  c.rollout.scan_length = 32
  c.stop.beta_0 = 3.5  # with the published 7 no z of a model this uncertain reaches the threshold within 20 updates
  c.warm_start.steps = 60
  c.warm_start.batch = 16
  c.warm_start.warmup_steps = 10
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 20
  c.learner.minibatches = 2
  c.learner.learning_rate = 1e-4
  c.critic.learning_rate = 1e-3
  c.eval.problems = 64
  c.eval.batch = 64
  c.checkpoint.every = 5
  return c
