"""Our stop rule against ESPO: a budget of lost right answers instead of a share of rows to stop.

  python -m espo_jax.sweep --sweep=experiments/sweeps/own_rule.py --workdir=runs/ablation --output=experiments/results/own_rule

The workdir is that of `ablation.py`. `PPO`, `random` and `ESPO` are runs of that comparison, with its warm starts, and are not
repeated if they are there. The constants of `ESPO` were chosen for this task. `ours` shares only the smoothing with it.

Our rule needs rows that are decoded on after a stop, here one in ten stopped rows. `needed tokens` counts their tokens for our
rule. For the other rules such rows are only a measurement. All runs together took 34.5 minutes, one core each.
"""

from espo_jax.sweep import ACCURACY, FALSE_POSITIVES, GREEDY, TRAINING_TOKENS, Column, Sweep


def needed_tokens(outcome):
  shadow = outcome.summary['shadow_tokens'] if outcome.arm == 'ours' else 0
  return outcome.summary['rollout_tokens'] + shadow


def get_sweep(base='experiments/quickstart.py:slips'):
  ours = {'baselines': (), 'stop.name': 'risk_control', 'stop.shadow_share': 0.1}  # a run of its own
  return Sweep(
    base=base,
    common={'eval.problems': 2048, 'baselines': ('never', 'random')},
    arms={'PPO': {}, 'random': {}, 'ESPO': {}, 'ours': ours},
    rules={'PPO': 'never', 'random': 'random'},
    baseline='ESPO',
    seeds=(0, 1, 2),
    columns=(
      ACCURACY,
      GREEDY,
      TRAINING_TOKENS,
      Column('needed tokens (k)', needed_tokens, 1e-3, against='saved'),
      Column('stop rate %', 'stop_rate', 100),
      FALSE_POSITIVES,
    ),
  )
