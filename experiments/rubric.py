"""An environment of the package verifiers, with a Hugging Face model. Its rubric gives the reward.

  pip install -e '.[verifiers]'
  python -m espo_jax.train --config=experiments/rubric.py --workdir=runs/rubric
    --config.model.path=models/Qwen2.5-1.5B-Instruct --config.environment.load=gsm8k

`environment.load` is the name of an installed environment, or `FILE.py:FUNCTION` with `--plugins=FILE.py`. For one with
tools, set `environment.speaker` to tool. All devices are used (`mesh.fsdp = -1`). The settings are ours and were not tuned.
"""

from espo_jax.configs import default_config


def get_config(arg=''):
  if arg:
    raise ValueError(f'unknown variant {arg!r} of experiments/rubric.py; there is none')
  c = default_config()
  c.task.name = 'verifiers'
  c.environment.name = 'verifiers'
  c.environment.max_turns = 4
  c.environment.turn_horizon = 512
  c.environment.observation_horizon = 256
  c.environment.deadline = 30.0
  c.stages = ('critic_warmup', 'rl')
  c.baselines = ()
  c.model.scan_layers = True
  c.rollout.prompts = 32
  c.rollout.samples = 8
  c.rollout.prompt_width = 1024
  c.rollout.horizon = 2048
  c.learner.updates = 200
  c.learner.minibatches = 8
  c.eval.batch = 256
  c.mesh.fsdp = -1
  return c
