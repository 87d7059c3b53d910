r"""Learned early exits: accuracy and depth against the whole model, over the price of depth and the strictness of calibration.

  python -m espo_jax.sweep --sweep=experiments/sweeps/early_exits.py --workdir=runs/early_exits_seeds \
    --output=experiments/results/early_exits

A seed shares its warm start. `whole` is reinforcement learning without exits; the others calibrate, then learn where to exit.
`free` pays nothing for depth; `cost_0.1` and `cost_0.5` pay that for all of it; `lenient` has the calibration's kappa at 4 in
place of 16; `paper` is the published recipe: kappa 1, four patterns, nothing beside them, a price of 0.5. `espo` stops rollouts
besides.
"""

from espo_jax.sweeps import ACCURACY, GREEDY, TRAINING_TOKENS, Column, Sweep


def gflops(outcome):
  return sum(row['rollout/gflops'] for row in outcome.metrics)


def get_sweep():
  exits = {'stages': ('calibration', 'critic_warmup', 'rl')}
  cost = exits | {'reward.name': 'correct + exit_depth_cost'}
  paper = {
    'calibration.kappa': 1.0,
    'calibration.patterns': 4,
    'calibration.uniform_patterns': 0,
    'calibration.whole_patterns': 0,
  }
  return Sweep(
    base='experiments/early_exits.py',
    common={'eval.problems': 2048},
    arms={
      'whole': {'stages': ('critic_warmup', 'rl'), 'exits.policy': 'never', 'reward.name': 'correct'},
      'free': exits | {'reward.name': 'correct'},
      'cost_0.1': cost | {'reward.cost': 0.1},
      'cost_0.5': cost | {'reward.cost': 0.5},
      'lenient': cost | {'reward.cost': 0.1, 'calibration.kappa': 4.0},
      'paper': cost | paper | {'reward.cost': 0.5},
      'espo': cost | {'reward.cost': 0.1, 'stop.name': 'espo'},
    },
    baseline='whole',
    seeds=(0, 1, 2),
    columns=(
      ACCURACY,
      GREEDY,
      Column('blocks run %', 'test_depth', 100),
      TRAINING_TOKENS,
      Column('training GFLOP', gflops, against='saved'),
    ),
    scatter=('test_depth', 'accuracy'),
  )
