"""The default experiment: chain arithmetic from scratch on two CPU cores, PPO against ESPO from one warm start.

  scripts/quickstart.sh

or, in an environment of your own,

  python -m espo_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart

The warm start learns from solutions with a habit: where a sum leaves 0 .. 9, the result is more often one too large than right.
So greedy decoding is wrong wherever that happens, and reinforcement learning has to find out that the less likely token is the
right one. Other steps go wrong at random. A row that ESPO stops returns 0 here, as a wrong answer does. The published -1 would
reward the habit: see experiments/results/habits.md.

| variant | difference |
|---|---|
| `:smoke` | without the habit and in seconds, on a model too small to learn anything |
| `:slips` | without the habit, so that all mistakes are unlikely tokens; the comparisons of `experiments/sweeps` use it |
| `:rechecks` | without the habit, and with shorter chains in which a step may be written twice, which is right and unlikely |
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.options.difficulty = 'easy'
  c.task.options.noise = 0.2
  c.rollout.prompts = 40
  c.rollout.samples = 4
  c.rollout.prompt_width = 38
  c.rollout.horizon = 63
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 24
  c.warm_start.steps = 400
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 60
  c.learner.pack_widths = 1  # this small model computes less than it compiles
  c.learner.learning_rate = 2e-5
  c.critic.learning_rate = 3e-4
  c.stop.smoothing = 0.5
  c.stop.beta_0 = 2.0
  c.stop.beta_min = 0.5
  if arg not in ('', 'smoke', 'slips', 'rechecks'):
    raise ValueError(f'unknown variant {arg!r} of experiments/quickstart.py; known: smoke, slips, rechecks')
  if not arg:
    _habit(c)
  if arg == 'smoke':
    _smoke(c)
  if arg == 'rechecks':
    _rechecks(c)
  return c


def _habit(c):
  c.task.options.noise = 0.1
  c.task.options.habit = 0.6
  c.stop.returns = 'zero'


def _rechecks(c):
  c.task.options.max_ops = 8
  c.task.options.rechecks = 1
  c.task.options.recheck_rate = 0.25
  c.rollout.prompt_width = 26
  c.rollout.horizon = 83


def _smoke(c):
  c.task.options.min_ops = 1
  c.task.options.max_ops = 3
  c.rollout.prompts = 8
  c.rollout.samples = 2
  c.rollout.prompt_width = 11
  c.rollout.horizon = 18
  c.model.hidden_size = 16
  c.model.intermediate_size = 32
  c.model.num_layers = 2
  c.model.num_heads = 2
  c.model.num_kv_heads = 1
  c.model.head_dim = 8
  c.warm_start.steps = 12
  c.warm_start.batch = 16
  c.warm_start.warmup_steps = 4
  c.learner.updates = 10
  c.learner.minibatches = 2
  c.learner.pack_sizes = 1  # fewer programs
  c.gate.force_at = 0.3
  c.gate.patience = 100  # the gate opens by force, so that every stage has a few steps
  c.gate.change_below = 0.0
  c.stop.beta_0 = 0.5
  c.stop.beta_min = 0.05
  c.eval.problems = 16
  c.eval.batch = 16
  c.checkpoint.every = 2
