"""ESPO and our stop rule with the constants of ESPO's paper, on shorter responses than the paper's.

  python -m espo_jax.sweep --sweep=experiments/sweeps/published_constants.py --workdir=runs/ablation \
    --output=experiments/results/published_constants

`ESPO_published` has every constant of the paper. They are meant for trajectories of thousands of tokens. `ours_published` has
the paper's smoothing, and one in ten of its stopped rows is decoded on. The workdir is that of `ablation.py`, whose warm starts
and `PPO` runs are used. All runs together took 40.5 minutes, one core each.
"""

from espo_jax.sweep import ACCURACY, FALSE_POSITIVES, GREEDY, TRAINING_TOKENS, Column, Sweep


def get_sweep(base='experiments/quickstart.py:slips'):
  published = {'baselines': (), 'stop.smoothing': 0.9, 'stop.beta_0': 7.0, 'stop.beta_min': 0.0}
  return Sweep(
    base=base,
    common={'eval.problems': 2048, 'baselines': ('never', 'random')},
    arms={
      'PPO': {},
      'ESPO_published': published,
      'ours_published': published | {'stop.name': 'risk_control', 'stop.shadow_share': 0.1},
    },
    rules={'PPO': 'never'},
    baseline='PPO',
    seeds=(0, 1, 2),
    columns=(ACCURACY, GREEDY, TRAINING_TOKENS, Column('stop rate %', 'stop_rate', 100), FALSE_POSITIVES),
  )
