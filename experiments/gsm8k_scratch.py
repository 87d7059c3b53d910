"""GSM8K from scratch: ESPO on worded problems, with a byte-level BPE trained on the file and a decoder of random weights.

  python -m espo_jax.train --config=experiments/gsm8k_scratch.py --workdir=runs/gsm8k_scratch
    --config.data.path=FILE [--config.data.eval_path=FILE]

Without `data.eval_path` one row in ten of `data.path` is the test split.

Hardware: two CPU cores, shared with other jobs (load 3 to 5). Time: 319 s from start to report, of which the tokenizer takes
10 s, the warm start 122 s and the 20 updates 148 s.

Result, on the 7473 rows of GSM8K's train split (311 of them too long, and left out) and the first 64 of its test split: nothing
is learned in so short a run. The warm start's loss falls from 10.3 to 3.7 nats a token; 0 of 64 problems are solved before and
after RL, sampled or greedy, and 1 of the 640 training rollouts is right. ESPO stops 11.6 % of the rollouts while its beta falls
from 3.5 to 3.3; none of 17 shadow rows would have been right. This shows that the path from a file to a report works, no more.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.baselines = ()
  c.task.name = 'gsm8k'
  c.task.options.vocab_size = 1024
  c.task.options.max_prompt_tokens = 288  # the longest question of the test split has 273
  c.task.options.max_response_tokens = 224
  c.model.num_layers = 2
  c.rollout.prompts = 8
  c.rollout.samples = 4
  c.rollout.prompt_width = 288
  c.rollout.horizon = 224
  c.rollout.scan_length = 32
  c.stop.beta_0 = 3.5  # with the published 7 no z of a model this uncertain reaches the threshold within 20 updates
  c.warm_start.steps = 60
  c.warm_start.batch = 16
  c.warm_start.warmup_steps = 10
  c.warm_start.learning_rate = 3e-3
  c.learner.updates = 20
  c.learner.minibatches = 2
  c.learner.learning_rate = 1e-4
  c.critic.learning_rate = 1e-3
  c.eval.problems = 64
  c.eval.batch = 64
  c.checkpoint.every = 5
  return c
