"""A tool: sums of three or four numbers of two digits, with a calculator or by head. It is meant for a CPU core.

  python -m espo_jax.train --config=experiments/calculator.py --workdir=runs/calculator

The expert of the warm start calls the calculator for three problems in ten and answers the others by head. The model copies an
expression, and hardly learns to add, so reinforcement learning has to find out that a call is worth its tokens. What is known
of it is in experiments/results/turns.md.

| variant | difference |
|---|---|
| `:smoke` | in seconds, on a model too small to learn anything |
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.name = 'reasoning_gym'
  c.task.options.dataset = 'chain_sum'
  c.task.options.min_terms = 3
  c.task.options.max_terms = 4
  c.task.options.min_digits = 2
  c.task.options.max_digits = 2
  c.environment.name = 'calculator'
  c.environment.instruction = ''
  c.environment.calls = 0.3
  c.environment.max_turns = 2
  c.environment.turn_horizon = 34
  c.environment.observation_horizon = 5
  c.rollout.prompts = 24
  c.rollout.samples = 4
  c.rollout.prompt_width = 30
  c.rollout.horizon = 34 + 5 + 12
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 24
  c.warm_start.steps = 1000
  c.warm_start.batch = 32
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 30
  c.learner.pack_widths = 1
  c.learner.pack_sizes = 1  # fewer programs
  c.learner.learning_rate = 5e-5
  c.critic.learning_rate = 3e-4
  c.eval.problems = 256
  c.stop.name = 'never'
  c.baselines = ()
  if arg not in ('', 'smoke'):
    raise ValueError(f'unknown variant {arg!r} of experiments/calculator.py; known: smoke')
  if arg == 'smoke':
    _smoke(c)
  return c


def _smoke(c):
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
  c.learner.updates = 4
  c.learner.minibatches = 2
  c.gate.force_at = 0.4
  c.eval.problems = 16
  c.eval.batch = 16
