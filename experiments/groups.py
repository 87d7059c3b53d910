"""Critic-free objectives on chain arithmetic from scratch, which experiments/sweeps/tepo.py compares; minutes on one core.

  python -m espo_jax.train --config=experiments/groups.py --workdir=runs/groups

In the variant `--config=experiments/groups.py:rechecks`, for experiments/sweeps/hmpo.py, responses can become shorter: the warm
start sees half of the steps written twice, which is right and needless. It also sees fewer wrong steps.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.baselines = ()
  c.stop.name = 'never'
  c.task.options.difficulty = 'easy'
  c.task.options.max_ops = 6
  c.task.options.noise = 0.2
  c.rollout.prompts = 16
  c.rollout.samples = 8
  c.rollout.prompt_width = 20
  c.rollout.horizon = 33
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 24
  c.warm_start.steps = 300
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.objective.name = 'grpo'
  c.learner.updates = 50
  c.learner.learning_rate = 2e-5
  c.eval.problems = 1024
  if arg == 'rechecks':
    _rechecks(c)
  elif arg:
    raise ValueError(f'unknown variant {arg!r} of experiments/groups.py; known: rechecks')
  return c


def _rechecks(c):
  c.task.options.noise = 0.05
  c.task.options.rechecks = 1
  c.task.options.recheck_rate = 0.5
  c.rollout.horizon = 63
  c.objective.clip_high = 0.28  # this and the next two options as in HMPO's paper
  c.objective.dual_clip = 10.0
  c.objective.aggregation = 'token'
  c.learner.updates = 40
  c.eval.problems = 2048
