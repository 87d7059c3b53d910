r"""The calibration of exits: its strictness kappa, and the published recipe.

  python -m espo_jax.sweep --sweep=experiments/sweeps/early_exits_kappa.py --workdir=runs/early_exits_kappa \
    --output=experiments/results/early_exits_kappa

The arms of a seed share its warm start. `whole` is reinforcement learning without exits. Each other arm calibrates with its own
kappa. The arms `kappa_...` exit where the calibrated head gives more than 0.9. `paper` has the published recipe: drawn exits,
kappa 1, four patterns and no further ones, and a cost of 0.5. It differs in one point: there is an exit in front of every
block, where the paper has one per five blocks. All runs together took 38.7 minutes, one core each.
"""

from espo_jax.sweep import ACCURACY, GREEDY, TRAINING_TOKENS, Column, Sweep


def get_sweep():
  stages = {'stages': ('calibration', 'critic_warmup', 'rl')}
  decided = {'exits.policy': 'threshold', 'exits.level': 0.9, 'reward.name': 'correct'}
  alone = {'calibration.patterns': 4, 'calibration.uniform_patterns': 0, 'calibration.whole_patterns': 0}
  return Sweep(
    base='experiments/early_exits.py',
    common={'eval.problems': 2048},
    arms={
      'whole': {'stages': ('critic_warmup', 'rl'), 'exits.policy': 'never', 'reward.name': 'correct'},
      'paper': stages | {'reward.name': 'correct + exit_depth_cost'} | alone | {'calibration.kappa': 1.0, 'reward.cost': 0.5},
      **{f'kappa_{kappa:g}': stages | decided | {'calibration.kappa': kappa} for kappa in (4.0, 16.0, 64.0)},
    },
    baseline='whole',
    seeds=(0, 1, 2),
    columns=(ACCURACY, GREEDY, Column('blocks run %', 'test_depth', 100), TRAINING_TOKENS),
    scatter=('test_depth', 'accuracy'),
  )
