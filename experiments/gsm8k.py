"""GSM8K with a Hugging Face model: ESPO on real text, graded as free text.

  python -m espo_jax.train --config=experiments/gsm8k.py --workdir=runs/gsm8k
    --config.model.path=models/Qwen2.5-1.5B-Instruct --config.data.path=train.jsonl --config.data.eval_path=test.jsonl

A path is a JSON-lines file, a directory that `espo_jax.prepare_data` wrote, or `openai/gsm8k` for the Hugging Face Hub. Without
`data.eval_path` one row in ten is held out. All devices are used (`mesh.fsdp = -1`). The settings are ours and were not tuned.

`--config=experiments/gsm8k.py:tiny` runs five updates on two CPU cores, for a model of a few million random parameters that
`scripts/make_tiny_model.py` writes. It learns nothing. It shows that the whole path works.

`--config=experiments/gsm8k.py:adapters` trains LoRA adapters of a model of about half a billion parameters, PPO against ESPO
from one start, without a GPU. For Qwen2.5-Coder-0.5B `espo_jax.compile_check --topology=local` reports a peak of 4.1 GiB.
`scripts/real_gpu.sh` has larger batches for one GPU.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  c = default_config()
  c.stages = ('critic_warmup', 'rl')
  c.baselines = ()
  c.task.name = 'math'
  c.data.benchmark = 'gsm8k'
  c.model.scan_layers = True
  c.rollout.prompts = 64
  c.rollout.samples = 8
  c.rollout.prompt_width = 512
  c.rollout.horizon = 1024
  c.rollout.slots = 256
  c.learner.updates = 200
  c.learner.minibatches = 8
  c.eval.problems = 1319
  c.eval.batch = 256
  c.mesh.fsdp = -1
  if arg == 'tiny':
    _tiny(c)
  elif arg == 'adapters':
    _adapters(c)
  elif arg:
    raise ValueError(f'unknown variant {arg!r} of experiments/gsm8k.py; known: tiny, adapters')
  return c


def _tiny(c):
  c.model.scan_layers = False
  c.rollout.prompts = 8
  c.rollout.samples = 4
  c.rollout.prompt_width = 288
  c.rollout.horizon = 96
  c.rollout.slots = 0
  c.learner.updates = 5
  c.learner.minibatches = 2
  c.learner.pack_sizes = 1  # fewer programs
  c.gate.force_at = 0.2
  c.stop.beta_0 = 3.0  # with 7, z of this uncertain model does not reach the threshold within five updates
  c.eval.problems = 1319
  c.eval.batch = 128
  c.checkpoint.every = 5
  c.mesh.fsdp = 1


def _adapters(c):
  c.baselines = ('never',)
  c.model.lora.rank = 16
  c.model.remat = 'full'
  c.task.options.instruction = 'Solve it in a few short steps. Put the final answer within \\boxed{}.'
  c.rollout.prompts = 8
  c.rollout.samples = 8
  c.rollout.prompt_width = 288
  c.rollout.horizon = 200
  c.rollout.slots = 64
  c.learner.updates = 30
  c.learner.learning_rate = 5e-5
  c.learner.minibatches = 2
  c.learner.micro_batches = 4
  c.learner.pack_sizes = 1  # fewer programs
  c.gate.force_at = 0.1
  c.eval.problems = 256
  c.eval.batch = 64
  c.checkpoint.every = 1  # a step takes minutes without a GPU
