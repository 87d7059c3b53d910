"""PPO against ESPO at the paper's constants, on derivations of a thousand tokens: for a GPU.

  python -m espo_jax.train --config=experiments/scale.py --workdir=runs/scale

A decoder of 38 million parameters learns chain arithmetic of up to 200 steps from written solutions, in which one step in 200
is wrong. It is then trained by reinforcement learning in bfloat16. The sizes are meant for half an hour of an H200 with the
three seeds of experiments/sweeps/scale.py. We have not run it. `:smoke` is the same in seconds, on a model too small to learn
anything.
"""

from espo_jax import tasks
from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.options.difficulty = 'medium'
  c.task.options.noise = 0.005
  c.task.options.min_ops = 60
  c.task.options.max_ops = 200
  c.rollout.prompts = 32
  c.model.hidden_size = 512
  c.model.intermediate_size = 1536
  c.model.num_layers = 12
  c.model.num_heads = 8
  c.model.num_kv_heads = 4
  c.model.head_dim = 64
  c.model.scan_layers = True
  c.model.remat = 'full'
  c.model.dtype = 'bfloat16'
  c.warm_start.steps = 1000
  c.warm_start.batch = 32
  c.learner.updates = 30
  c.learner.learning_rate = 1e-5
  c.critic.learning_rate = 1e-4
  if arg == 'smoke':
    _smoke(c)
  elif arg:
    raise ValueError(f'unknown variant {arg!r} of experiments/scale.py; known: smoke')
  task = tasks.get('chain', **c.task.options.to_dict())
  c.rollout.prompt_width = task.max_prompt_tokens
  c.rollout.horizon = task.max_response_tokens
  return c


def _smoke(c):
  c.task.options.min_ops = 20
  c.task.options.max_ops = 28
  c.rollout.prompts = 8
  c.rollout.samples = 2
  c.model.hidden_size = 16
  c.model.intermediate_size = 32
  c.model.num_layers = 2
  c.model.num_heads = 2
  c.model.num_kv_heads = 1
  c.model.head_dim = 8
  c.warm_start.steps = 4
  c.warm_start.warmup_steps = 2
  c.warm_start.batch = 8
  c.learner.updates = 4
  c.learner.minibatches = 2
  c.learner.pack_sizes = 1  # fewer programs
  c.gate.force_at = 0.3
  c.gate.patience = 100  # the gate opens by force
  c.gate.change_below = 0.0
  c.eval.problems = 16
  c.eval.batch = 16
