r"""Learned early exits: accuracy and depth against the whole model, over the price of depth; with and without ESPO.

  python -m espo_jax.sweep --sweep=experiments/sweeps/early_exits.py --workdir=runs/early_exits_seeds \\
    --output=experiments/results/early_exits

A seed shares its warm start and its calibration. `whole` trains the calibrated model at full depth. The paper's exits are
drawn, and learn when to: `free` pays nothing for depth, `cost_0.1` and `cost_0.5` pay that for all of it. Ours leave where the
calibrated head is that sure, `threshold_0.9` to `threshold_0.98`; reinforcement learning teaches the model to get along with
it. `whole_espo` and `threshold_0.9_espo` stop rollouts besides.
"""

from espo_jax.sweep import ACCURACY, GREEDY, TRAINING_GFLOP, TRAINING_TOKENS, Column, Sweep


def get_sweep():
  whole = {'exits.policy': 'never', 'reward.name': 'correct'}
  price = {'reward.name': 'correct + exit_depth_cost', 'reward.cost': 0.1}
  decided = {'exits.policy': 'threshold', 'reward.name': 'correct'}
  espo = {'stop.name': 'espo'}
  return Sweep(
    base='experiments/early_exits.py',
    common={'eval.problems': 2048},
    arms={
      'whole': whole,
      'threshold_0.9': decided | {'exits.level': 0.9},
      'threshold_0.95': decided | {'exits.level': 0.95},
      'threshold_0.98': decided | {'exits.level': 0.98},
      'free': {'reward.name': 'correct'},
      'cost_0.1': price,
      'cost_0.5': price | {'reward.cost': 0.5},
      'whole_espo': whole | espo,
      'threshold_0.9_espo': decided | {'exits.level': 0.9} | espo,
    },
    baseline='whole',
    seeds=(0, 1, 2),
    shared_stages=('warm_start', 'calibration'),
    columns=(
      ACCURACY,
      GREEDY,
      Column('blocks run %', 'test_depth', 100),
      TRAINING_TOKENS,
      TRAINING_GFLOP,
    ),
    scatter=('test_depth', 'accuracy'),
  )
