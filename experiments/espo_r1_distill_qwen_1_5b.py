"""ESPO on DeepSeek-R1-Distill-Qwen-1.5B (arXiv 2605.29860): the paper's setting, to be run on 8 accelerators of 80 GB or more.

  hf download deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --local-dir models/r1-1.5b
  python -m espo_jax.train --config=experiments/espo_r1_distill_qwen_1_5b.py --workdir=runs/espo_r1_1_5b
    --config.model.path=models/r1-1.5b --config.data.path=BytedTsinghua-SIA/DAPO-Math-17k --config.data.eval_path=math500.jsonl
  python -m espo_jax.evaluate --checkpoint=runs/espo_r1_1_5b --benchmark=aime24 --data=aime24.jsonl --samples=32

It trains ESPO and plain PPO from one critic warm-up. The paper reports 59.09 against 57.03 points on average over AIME 2024,
AMC 2023 and MATH-500 (avg@32) with 13.2 % fewer tokens. We have not run it: no machine of that size was at hand.

[P] marks a value of the paper, and [U] our choice where the paper gives none. Every field that is not set here has its default.
`python -m espo_jax.methods config` says which defaults are the paper's.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.stages = ('critic_warmup', 'rl')  # [P] the policy starts from the distilled weights
  c.task.name = 'math'
  c.task.options.prompt = 'r1'  # [U]
  c.data.benchmark = 'dapo_math_17k'  # [P]
  c.data.eval_benchmark = 'math500'  # [P] one of its three
  c.model.scan_layers = True
  c.model.remat = 'full'  # ours: sequences are long
  c.model.dtype = 'bfloat16'  # [U]
  c.model.param_dtype = 'float32'  # [U] updates of 1e-6 are lost in bfloat16
  c.critic.kind = 'separate'  # [U]
  c.critic.learning_rate = 1e-5  # [U]
  c.rollout.prompts = 64  # [P] "global batch 64", read as prompts [U]
  c.rollout.samples = 8  # [P]
  c.rollout.prompt_width = 1024  # [U]
  c.rollout.horizon = 8192  # [P]
  c.rollout.temperature = 1.0  # [U]
  c.rollout.slots = 256  # ours: half of the rows at a time
  c.stop.shadow_share = 0.05  # ours: shadow rows only measure, and they are expensive here
  c.learner.updates = 500  # [P] about 256,000 trajectories
  c.learner.minibatches = 8  # [U]
  c.learner.learning_rate = 1e-6  # [P]
  c.eval.problems = 500
  c.eval.batch = 256
  c.mesh.fsdp = 8  # [P] 8 GPUs
  return c
