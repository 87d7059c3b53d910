"""HMPO on Qwen3-8B (arXiv 2606.01934): the paper's setting on a dense model near its smallest, for 16 accelerators of 80 GB.

  hf download Qwen/Qwen3-8B --local-dir models/qwen3-8b
  python -m espo_jax.train --config=experiments/hmpo_qwen3_8b.py --workdir=runs/hmpo_qwen3_8b
    --config.model.path=models/qwen3-8b --config.data.path=train.jsonl --config.data.eval_path=math500.jsonl
  python -m espo_jax.evaluate --checkpoint=runs/hmpo_qwen3_8b --benchmark=math500 --data=math500.jsonl --samples=4

The paper trains Qwen3.5 9B, 35B-A3B and 122B-A10B on 6,977 problems of its own and reports 19 to 46 % fewer tokens with at most
0.7 points of accuracy lost. Other problems with answers can be used with `data.benchmark=jsonl` and the names of their fields.
We have not run it: no machine of that size was at hand.

[P] marks a value of the paper, and [U] our choice where the paper gives none. Every field that is not set here has its default.
`python -m espo_jax.methods` and `python -m espo_jax.methods config` say which defaults are a paper's.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.stages = ('rl',)
  c.baselines = ()
  c.stop.name = 'never'
  c.task.name = 'math'
  c.task.options.prompt = 'chat'  # [U] Qwen3's template lets the model think
  c.data.benchmark = 'dapo_math_17k'  # [U] the paper's problems are not published
  c.data.eval_benchmark = 'math500'  # [U]
  c.model.scan_layers = True
  c.model.remat = 'full'  # ours: sequences are long
  c.model.dtype = 'bfloat16'  # [U]
  c.model.param_dtype = 'float32'  # [U] updates of 5e-7 are lost in bfloat16
  c.reward.name = 'hmpo'  # [P] median budget, cosine, product with the verdict
  c.reward.lam = 0.8  # [P]
  c.reward.kl_coef = 0.001  # [P]
  c.reward.kl = 'k1'  # [U]
  c.objective.name = 'grpo + kl_k3'  # [P] a low-variance KL term
  c.objective.clip_low = 0.2  # [P]
  c.objective.clip_high = 0.28  # [P]
  c.objective.dual_clip = 10.0  # [P]
  c.objective.aggregation = 'token'  # [P]
  c.objective.kl_coef = 0.001  # [P]
  c.rollout.prompts = 64  # [P]
  c.rollout.samples = 10  # [P]
  c.rollout.prompt_width = 1024  # [U]
  c.rollout.horizon = 24576  # [P]
  c.rollout.temperature = 1.0  # [U]
  c.rollout.slots = 320  # ours: half of the rows at a time
  c.learner.updates = 109  # [P] one epoch over 6,977 problems
  c.learner.minibatches = 4  # [P] 16 prompts each
  c.learner.learning_rate = 5e-7  # [P]
  c.learner.warmup_steps = 0  # [U]
  c.eval.problems = 500
  c.eval.batch = 320
  c.mesh.fsdp = 16
  return c
