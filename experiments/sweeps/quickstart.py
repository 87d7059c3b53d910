"""The quickstart without its habit, over three seeds: PPO, ESPO, random stopping.

  python -m espo_jax.sweep --sweep=experiments/sweeps/quickstart.py --workdir=runs/quickstart_seeds

Each seed is one run, which trains the three stop rules from one critic warm-up. `random` stops as often as ESPO did in that
run.
"""

from espo_jax.sweep import ACCURACY, FALSE_POSITIVES, GREEDY, SECONDS, Column, Sweep


def get_sweep():
  return Sweep(
    base='experiments/quickstart.py:slips',
    common={'eval.problems': 2048, 'baselines': ('never', 'random')},
    arms={'PPO': {}, 'random': {}, 'ESPO': {}},
    rules={'PPO': 'never', 'random': 'random'},
    baseline='PPO',
    seeds=(0, 1, 2),
    columns=(
      ACCURACY,
      GREEDY,
      Column('tokens (k)', 'rollout_tokens', 1e-3),
      Column('saved %', 'saving', 100),
      Column('stop rate %', 'stop_rate', 100),
      FALSE_POSITIVES,
      SECONDS,
    ),
  )
