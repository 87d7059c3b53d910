"""A data set of the package reasoning-gym, with a Hugging Face model or with a small one that is trained from scratch.

  pip install -e '.[gym]'
  python -m espo_jax.train --config=experiments/gym_tasks.py --workdir=runs/gym
    --config.model.path=models/Qwen2.5-1.5B-Instruct --config.task.options.dataset=chain_sum --config.task.options.max_terms=4

The options of the data set are set beside its name. All devices are used (`mesh.fsdp = -1`). The settings are ours and were not
tuned.

`--config=experiments/gym_tasks.py:scratch` trains 279 thousand parameters from scratch on sums of two or three one-digit
numbers: PPO against ESPO from one warm start. It takes minutes on two CPU cores, and has not been compared over seeds.

`--config=experiments/gym_tasks.py:smoke` is the same with three updates of a model too small to learn anything.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.name = 'reasoning_gym'
  c.task.options.dataset = 'chain_sum'
  if not arg:
    _pretrained(c)
  elif arg == 'scratch':
    _scratch(c)
  elif arg == 'smoke':
    _scratch(c)
    _smoke(c)
  else:
    raise ValueError(f'unknown variant {arg!r} of experiments/gym_tasks.py; known: scratch, smoke')
  return c


def _pretrained(c):
  c.stages = ('critic_warmup', 'rl')
  c.baselines = ()
  c.model.scan_layers = True
  c.rollout.prompts = 64
  c.rollout.samples = 8
  c.rollout.prompt_width = 512
  c.rollout.horizon = 1024
  c.rollout.slots = 256
  c.learner.updates = 200
  c.learner.minibatches = 8
  c.eval.batch = 256
  c.mesh.fsdp = -1


def _scratch(c):
  c.task.options.max_terms = 3
  c.task.options.max_digits = 1
  c.rollout.prompts = 40
  c.rollout.samples = 4
  c.rollout.prompt_width = 32
  c.rollout.horizon = 16
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.head_dim = 24
  c.warm_start.steps = 400
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 60
  c.learner.learning_rate = 2e-5
  c.critic.learning_rate = 3e-4
  c.stop.smoothing = 0.5
  c.stop.beta_0 = 2.0
  c.stop.beta_min = 0.5


def _smoke(c):
  c.baselines = ()
  c.rollout.prompts = 8
  c.rollout.samples = 2
  c.model.hidden_size = 16
  c.model.intermediate_size = 32
  c.model.num_layers = 1
  c.model.num_heads = 2
  c.model.num_kv_heads = 1
  c.model.head_dim = 8
  c.warm_start.steps = 6
  c.warm_start.batch = 16
  c.warm_start.warmup_steps = 2
  c.learner.updates = 3
  c.learner.minibatches = 2
  c.learner.pack_sizes = 1  # fewer programs
  c.gate.force_at = 0.4
  c.eval.problems = 16
  c.eval.batch = 16
  c.checkpoint.every = 2
