"""Self-braking tuning of SmolLM2-135M: a model that checks its answers too often learns to end, from its own braked samples.

  python -m espo_jax.train --config=experiments/self_braking.py:long --workdir=runs/long
    --config.model.path=models/SmolLM2-135M-Instruct --config.data.path=data/word_problems/train.jsonl
    --config.data.eval_path=data/word_problems/test.jsonl

`:long` learns from the written solutions of `scripts/make_word_problems.py`. Without it the model learns from a file of
examples, which `--config.warm_start.data` names. `experiments/real/self_braking.md` has all commands.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  if arg not in ('', 'long'):
    raise ValueError(f'unknown variant {arg!r} of experiments/self_braking.py; known: long')
  c = default_config()
  c.stages = ('warm_start',)
  c.task.name = 'math'
  c.task.options.prompt = 'plain'
  c.data.benchmark = 'jsonl'
  c.data.problem_field, c.data.answer_field, c.data.solution_field = 'problem', 'answer', 'solution'
  c.model.scan_layers = True
  c.rollout.prompt_width = 32
  c.rollout.horizon = 160
  c.rollout.slots = 64
  c.learner.pack_sizes = 8
  c.warm_start.batch = 16 if arg else 8
  c.warm_start.steps = 24 if arg else 16
  c.warm_start.warmup_steps = 4
  c.warm_start.learning_rate = 2e-4 if arg else 1e-4
  c.eval.problems = 16
  c.eval.batch = 32
  return c
