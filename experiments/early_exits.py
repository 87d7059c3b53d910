"""Learned early exits on chain arithmetic: a decoder of eight blocks, calibrated by self-distillation, then trained by PPO.

  python -m espo_jax.train --config=experiments/early_exits.py --workdir=runs/early_exits

With `--config.exits.policy=threshold` a threshold decides the exits, which are otherwise drawn. In the variant
`--config=experiments/early_exits.py:rechecks`, for experiments/sweeps/combination.py, the warm start sees half of the steps
written twice, so that responses can become shorter. `:smoke` is the first experiment in seconds, on a model too small to learn
anything.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.stages = ('warm_start', 'calibration', 'critic_warmup', 'rl')
  c.baselines = ()
  c.task.options.difficulty = 'easy'
  c.task.options.min_ops = 1
  c.task.options.max_ops = 4
  c.task.options.noise = 0.1
  c.rollout.prompts = 20
  c.rollout.samples = 4
  c.rollout.prompt_width = 14
  c.rollout.horizon = 23
  c.model.hidden_size = 64
  c.model.intermediate_size = 128
  c.model.num_layers = 8
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 16
  c.warm_start.steps = 500
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 2e-3
  c.exits.every = 1
  c.exits.learning_rate = 3e-3
  c.calibration.steps = 250
  c.calibration.kappa = 64.0
  c.calibration.patterns = 2
  c.calibration.uniform_patterns = 1
  c.calibration.whole_patterns = 1
  c.calibration.prompts = 16
  c.calibration.learning_rate = 5e-4
  c.reward.name = 'correct + exit_depth_cost'
  c.stop.name = 'never'
  c.stop.smoothing = 0.5
  c.stop.beta_0 = 2.0
  c.stop.beta_min = 0.5
  c.learner.updates = 40
  c.learner.learning_rate = 5e-5
  c.critic.learning_rate = 3e-4
  if arg == 'rechecks':
    _rechecks(c)
  elif arg == 'smoke':
    _smoke(c)
  elif arg:
    raise ValueError(f'unknown variant {arg!r} of experiments/early_exits.py; known: rechecks, smoke')
  return c


def _rechecks(c):
  c.task.options.rechecks = 1
  c.task.options.recheck_rate = 0.5
  c.rollout.horizon = 43


def _smoke(c):
  c.task.options.max_ops = 3
  c.rollout.prompts = 8
  c.rollout.samples = 2
  c.rollout.prompt_width = 11
  c.rollout.horizon = 18
  c.model.hidden_size = 16
  c.model.intermediate_size = 32
  c.model.num_layers = 3
  c.model.num_heads = 2
  c.model.num_kv_heads = 1
  c.model.head_dim = 8
  c.warm_start.steps = 8
  c.warm_start.batch = 16
  c.warm_start.warmup_steps = 4
  c.calibration.steps = 4
  c.calibration.prompts = 8
  c.calibration.levels = (0.5,)
  c.learner.updates = 4
  c.learner.minibatches = 2
  c.learner.pack_sizes = 1  # fewer programs
  c.gate.force_at = 0.3
  c.eval.problems = 16
  c.eval.batch = 16
  c.checkpoint.every = 2
