r"""Learned early exits against the full model: accuracy and depth at several prices of depth, with and without ESPO.

  python -m espo_jax.sweep --sweep=experiments/sweeps/early_exits.py --workdir=runs/early_exits_seeds \\
    --output=experiments/results/early_exits

The arms of a seed share its warm start and its calibration.

| arm | exits |
|---|---|
| `whole` | none: the calibrated model is trained at full depth |
| `free` | drawn and trained as in the paper; depth costs nothing |
| `cost_0.1`, `cost_0.5` | drawn and trained as in the paper; full depth costs this much reward |
| `threshold_0.9` to `threshold_0.98` | ours: exits where the calibrated head gives more than this; the model adapts to it |
| `whole_espo`, `threshold_0.9_espo` | like the arms without `_espo`; ESPO also stops rollouts |

All runs together took 82.3 minutes, one core each.
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
