"""Navigation in turns: what a budget of an expert's turns and ESPO save, at which success.

  python -m espo_jax.sweep --sweep=experiments/sweeps/turns_grid.py --workdir=runs/turns_grid \
    --output=experiments/results/turns_grid

| arm | what ends an episode of training early |
|---|---|
| `never` | nothing: an episode has up to six turns |
| `expert_budget` | twice as many turns as the expert takes (ActiveVLN) |
| `ESPO` | ESPO's rule, whose statistic goes on from turn to turn |
| `ESPO_reset` | ESPO's rule, whose statistic begins anew with each turn |

A stopped episode returns 0, as a failed one does. All arms are evaluated without any of this.
"""

from espo_jax.sweep import (
  ACCURACY,
  DECODED,
  FALSE_POSITIVES,
  GREEDY,
  Column,
  Outcome,
  Sweep,
  accuracy_at,
  area_to,
  share_of_tokens,
)

HALF = share_of_tokens('never', 0.5)


def turns(outcome: Outcome) -> float:
  """The policy's turns in all episodes of training, in thousands."""
  return sum(row['turns/mean'] * row['rollout/rows'] for row in outcome.metrics) / 1000


def get_sweep(base='experiments/grid.py', seeds=(0, 1, 2)):
  return Sweep(
    base=base,
    common={'eval.every': 10, 'baselines': ('never',), 'stop.name': 'espo'},
    arms={
      'never': {},
      'ESPO': {},
      'ESPO_reset': {'baselines': (), 'environment.reset_rule': True},
      'expert_budget': {'baselines': (), 'stop.name': 'never', 'environment.expert_budget': 2.0},
    },
    rules={'never': 'never', 'ESPO': 'espo'},
    baseline='never',
    seeds=seeds,
    curves=('eval/accuracy', 'turns/mean'),
    over='rollout/decoded',
    columns=(
      Column('area to half of never, %', area_to(HALF), 100, digits=2, against='difference'),
      Column('success at half of never, %', accuracy_at(HALF), 100, against='difference'),
      ACCURACY,
      GREEDY,
      DECODED,
      Column('turns of training (k)', turns, digits=2, against='saved'),
      Column('test turns', 'test_turns_mean', digits=2),
      Column('stop rate %', 'stop_rate', 100),
      FALSE_POSITIVES,
    ),
  )
