"""RISE's question: what does a policy gain by another turn? Chains of two to five sums, and the word that an answer is wrong.

  python -m espo_jax.train --config=experiments/retry.py --workdir=runs/retry

The warm start learns from conversations in which each written solution has slips, so that the first turn is often wrong and the
next one is another try. It is meant for a CPU core. The comparison is in experiments/results/turns.md.

| variant | difference |
|---|---|
| `:smoke` | in seconds, on a model too small to learn anything |
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.task.options.difficulty = 'easy'
  c.task.options.noise = 0.25
  c.task.options.min_ops = 2
  c.task.options.max_ops = 5
  c.environment.name = 'retry'
  c.environment.message = '##'
  c.environment.max_turns = 3
  c.environment.turn_horizon = 28
  c.environment.observation_horizon = 4
  c.rollout.prompts = 24
  c.rollout.samples = 4
  c.rollout.prompt_width = 17
  c.rollout.horizon = 3 * 28 + 2 * 4
  c.model.hidden_size = 96
  c.model.intermediate_size = 192
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 24
  c.warm_start.steps = 500
  c.warm_start.batch = 32
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 30
  c.learner.pack_widths = 1
  c.learner.pack_sizes = 1  # fewer programs
  c.learner.learning_rate = 2e-5
  c.critic.learning_rate = 3e-4
  c.eval.problems = 256
  c.stop.name = 'never'
  c.baselines = ()
  if arg not in ('', 'smoke'):
    raise ValueError(f'unknown variant {arg!r} of experiments/retry.py; known: smoke')
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
