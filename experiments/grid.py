"""Navigation in turns: the agent walks, sees the map, and walks on. It is meant for two CPU cores.

  python -m espo_jax.train --config=experiments/grid.py --workdir=runs/grid

The warm start learns whole walks from few solutions, so a walk may end beside the goal. With turns the policy gets the map
again and may mend its walk. RISE's question is how much each turn gains. A turn has up to eight moves. Only `:smoke` and the
warm start were run so far, so the time and the result of the whole are not known.

| variant | difference |
|---|---|
| `:alone` | one turn without an environment, on the same maps |
| `:budget` | a turn has up to two moves, and an episode twice as many turns as the expert's: ActiveVLN's budget |
| `:smoke` | in seconds, on a model too small to learn anything |
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.name = 'grid'
  c.rollout.prompts = 32
  c.rollout.samples = 4
  c.rollout.prompt_width = 20
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.head_dim = 24
  c.warm_start.steps = 250
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 40
  c.learner.learning_rate = 1e-4
  c.learner.pack_widths = 1
  c.critic.learning_rate = 3e-4
  c.stop.returns = 'zero'
  c.stop.smoothing = 0.5
  c.stop.beta_0 = 2.0
  c.stop.beta_min = 0.5
  c.rollout.horizon = 16
  if arg not in ('', 'alone', 'budget', 'smoke'):
    raise ValueError(f'unknown variant {arg!r} of experiments/grid.py; known: alone, budget, smoke')
  if arg != 'alone':
    _in_turns(c)
  if arg == 'budget':
    c.environment.moves = 2
    c.environment.max_turns = 10  # twice an expert's 5; hardly a map needs more than 10 moves
    c.environment.expert_budget = 2.0
    c.rollout.horizon = 10 * 9 + 9 * 21
  if arg == 'smoke':
    _smoke(c)
  return c


def _in_turns(c):
  c.environment.name = 'grid'
  c.environment.moves = 8
  c.environment.max_turns = 3
  c.environment.turn_horizon = 9
  c.environment.observation_horizon = 21
  c.rollout.horizon = 3 * 9 + 2 * 21


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
