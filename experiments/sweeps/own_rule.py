"""Our stop rule against ESPO: a budget of lost right answers in place of a share of rows to stop.

  python -m espo_jax.sweep --sweep=experiments/sweeps/own_rule.py --workdir=runs/ablation --output=experiments/results/own_rule

The workdir is that of `ablation.py`: `PPO`, `random` and `ESPO` are its runs, with its warm starts, and are not run again where
they are there. `ESPO` has constants chosen for this task, `ours` its smoothing and nothing else that is.

Our rule needs rows that go on after a stop, one in ten here. `needed tokens` counts them where the rule is ours; for the others
they are a measurement.
"""

from espo_jax.sweep import ACCURACY, FALSE_POSITIVES, GREEDY, TRAINING_TOKENS, Column, Sweep


def needed_tokens(outcome):
  shadow = outcome.summary['shadow_tokens'] if outcome.arm == 'ours' else 0
  return outcome.summary['rollout_tokens'] + shadow


def get_sweep(base='experiments/quickstart.py'):
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
