"""PPO against ESPO at the paper's constants, on derivations of a thousand tokens, for a GPU.

  python -m espo_jax.sweep --sweep=experiments/sweeps/scale.py --workdir=runs/scale --output=experiments/results/scale

Both arms of a seed start from one warm start and one critic warm-up. `seconds` are those of rollouts, rewards, scoring and
updates. An update in which a program was compiled counts as the mean of the others.
"""

from espo_jax.sweep import ACCURACY, FALSE_POSITIVES, GREEDY, RESPONSE_TOKENS, SECONDS, TRAINING_TOKENS, Column, Sweep


def get_sweep(base='experiments/scale.py'):
  return Sweep(
    base=base,
    arms={'PPO': {}, 'ESPO': {}},
    rules={'PPO': 'never'},
    baseline='PPO',
    seeds=(0, 1, 2),
    columns=(
      ACCURACY,
      GREEDY,
      TRAINING_TOKENS,
      SECONDS,
      RESPONSE_TOKENS,
      Column('stop rate %', 'stop_rate', 100),
      FALSE_POSITIVES,
    ),
  )
