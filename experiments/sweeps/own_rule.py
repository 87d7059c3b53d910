"""Our stop rule against ESPO: a budget of lost right answers in place of a share of rows to stop.

  python -m espo_jax.sweep --sweep=experiments/sweeps/own_rule.py --workdir=runs/own_rule --output=experiments/results/own_rule

`PPO`, `ESPO`, `random` and `ours` are one run a seed, from one critic warm-up, at the constants that the quickstart has for
ESPO; `random` stops as many rows as ours did under its seed. `ESPO_published` and `ours_published` have the paper's constants,
which are for trajectories of thousands of tokens. Our rule needs rows that go on after a stop, one in ten here; `with shadow
rows` counts their tokens too, for all arms alike.
"""

from espo_jax.sweeps import ACCURACY, FALSE_POSITIVES, GREEDY, TRAINING_TOKENS, Column, Sweep


def with_shadow_rows(outcome):
  return outcome.summary['rollout_tokens'] + outcome.summary['shadow_tokens']


def get_sweep(base='experiments/quickstart.py'):
  published = {'baselines': ('espo',), 'stop.smoothing': 0.9, 'stop.beta_0': 7.0, 'stop.beta_min': 0.0}
  return Sweep(
    base=base,
    common={
      'eval.problems': 2048,
      'stop.name': 'risk_control',
      'stop.shadow_share': 0.1,
      'baselines': ('never', 'espo', 'random'),
    },
    arms={'PPO': {}, 'ESPO': {}, 'random': {}, 'ours': {}, 'ESPO_published': published, 'ours_published': published},
    rules={'PPO': 'never', 'ESPO': 'espo', 'random': 'random', 'ESPO_published': 'espo'},
    baseline='ESPO',
    seeds=(0, 1, 2, 3, 4),
    columns=(
      ACCURACY,
      GREEDY,
      TRAINING_TOKENS,
      Column('with shadow rows (k)', with_shadow_rows, 1e-3, against='saved'),
      Column('stop rate %', 'stop_rate', 100),
      FALSE_POSITIVES,
    ),
  )
