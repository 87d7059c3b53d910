"""ESPO on DeepSeek-R1-Distill-Qwen-7B (arXiv 2605.29860): the paper's setting, to be run on 8 accelerators of 80 GB or more.

  hf download deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --local-dir models/r1-7b
  python -m espo_jax.train --config=experiments/espo_r1_distill_qwen_7b.py --workdir=runs/espo_r1_7b
    --config.model.path=models/r1-7b --config.data.path=BytedTsinghua-SIA/DAPO-Math-17k --config.data.eval_path=math500.jsonl
  python -m espo_jax.evaluate --checkpoint=runs/espo_r1_7b --benchmark=aime24 --data=aime24.jsonl --samples=32

It trains ESPO and plain PPO from one critic warm-up. The paper reports 73.17 against 71.20 points on average over AIME 2024,
AMC 2023 and MATH-500 (avg@32) with 21.7 % fewer tokens. We have not run it: no machine of that size was at hand.

All settings except the minibatches are those of `espo_r1_distill_qwen_1_5b.py`, which says where each comes from.
"""

import pathlib
import runpy

_SMALLER = runpy.run_path(str(pathlib.Path(__file__).with_name('espo_r1_distill_qwen_1_5b.py')))


def get_config(arg=''):
  c = _SMALLER['get_config'](arg)
  c.learner.minibatches = 16  # [U] smaller ones, for memory
  return c
