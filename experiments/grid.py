"""Navigation in turns: the agent moves one step, sees the map, and goes on. It is meant for a CPU core.

  python -m espo_jax.train --config=experiments/grid.py --workdir=runs/grid

The warm start learns from conversations of an expert, of whose moves a part slips. It is short, so that the policy loses its
way now and then. The comparison is in experiments/results/turns.md.

| variant | difference |
|---|---|
| `:smoke` | in seconds, on a model too small to learn anything |
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.name = 'grid'
  c.rollout.prompts = 24
  c.rollout.samples = 4
  c.rollout.prompt_width = 20
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 24
  c.warm_start.steps = 200
  c.warm_start.batch = 32
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 30
  c.learner.learning_rate = 1e-4
  c.learner.pack_widths = 1
  c.learner.pack_sizes = 1  # fewer programs
  c.critic.learning_rate = 3e-4
  c.eval.problems = 256
  c.stop.returns = 'zero'
  c.stop.smoothing = 0.5
  c.stop.beta_0 = 2.0
  c.stop.beta_min = 0.5
  c.environment.name = 'grid'
  c.environment.slips = 0.4
  c.environment.max_turns = 6
  c.environment.turn_horizon = 2
  c.environment.observation_horizon = 21
  c.rollout.horizon = 6 * 2 + 5 * 21
  if arg not in ('', 'smoke'):
    raise ValueError(f'unknown variant {arg!r} of experiments/grid.py; known: smoke')
  if arg == 'smoke':
    _smoke(c)
  return c


def _smoke(c):
  c.rollout.prompts = 8
  c.rollout.samples = 2
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
  c.gate.force_at = 0.3
  c.eval.problems = 16
  c.eval.batch = 16
