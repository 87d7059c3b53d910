"""Written searches with backtracking beside direct solutions of the same problems: best of n can be set against a search.

  python -m espo_jax.train --config=experiments/searches.py:countdown_dfs --workdir=runs/dfs
  python -m espo_jax.train --config=experiments/searches.py:countdown --workdir=runs/direct

`scripts/measure_equal_flops.py` compares evaluations of both at equal operations. With `"--config.stages=('warm_start',)"` the
models learn from the written solutions alone.

| variant | problems | solutions of the warm start |
|---|---|---|
| `:countdown_dfs` | Countdown | a depth-first search with its dead ends |
| `:countdown` | the same | the right attempt alone |
| `:sudoku_search` | Sudoku, 4 by 4 | a depth-first search, then the grid |
| `:sudoku` | the same | the grid |
"""

from espo_jax import tasks
from espo_jax.configs import default_config

VARIANTS = {
  'countdown_dfs': ('countdown_dfs', {}),
  'countdown': ('countdown', {'max_attempts': 1}),
  'sudoku_search': ('sudoku', {'search': True, 'dead_ends': 2}),  # longer searches are rare, and all pay for the room
  'sudoku': ('sudoku', {}),
}


def get_config(arg=''):
  if (arg or 'countdown_dfs') not in VARIANTS:
    raise ValueError(f'unknown variant {arg!r} of experiments/searches.py; known: {", ".join(VARIANTS)}')
  name, options = VARIANTS[arg or 'countdown_dfs']
  task = tasks.get(name, **options)
  c = default_config()
  c.task.name = name
  c.task.options.update(options)
  c.rollout.prompts = 32
  c.rollout.samples = 4
  c.rollout.prompt_width = task.max_prompt_tokens
  c.rollout.horizon = task.max_response_tokens
  c.model.num_layers = 2
  c.model.hidden_size = 64
  c.model.intermediate_size = 128
  c.model.head_dim = 16
  c.learner.pack_widths = 1  # these small models compute less than they compile
  c.warm_start.steps = 1500
  c.warm_start.batch = 64
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 60
  c.learner.learning_rate = 3e-5
  c.critic.learning_rate = 3e-4
  return c
