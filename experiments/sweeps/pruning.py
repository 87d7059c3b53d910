"""Rows that are pruned, and rows that are not sampled or not trained on, in groups of eight.

  python -m espo_jax.sweep --sweep=experiments/sweeps/pruning.py --workdir=runs/pruning --output=experiments/results/pruning

| arm | which rows are left out | what is saved |
|---|---|---|
| `GRPO` | none | - |
| `fewer_rows` | two of eight rows are never sampled | decoding and the update |
| `random` | half of the rows at their 12th token, by lot | both |
| `ARRoL` | half of the rows at their 12th token; likely successes more often, as its formula says | both |
| `signed` | about half of the rows at their 12th token; the more frequent verdict more often, as its text says | both |
| `ESPO` | rows that ESPO's rule stops; they score 0 | both |
| `ESPO+drop` | the same, but they leave the batch | both |
| `DUET_abort` | rows much longer than most; they score 0 and are not trained on | both |
| `PODS` | the four rows of eight whose scores vary least | the update |

The head of ARRoL's rules learns from 5 % of the pruned rows, which decode on. All decoded tokens are counted, these included.
The area is the mean test accuracy without stops, from the start to half of the tokens that GRPO decodes.
"""

from espo_jax.sweep import (
  ACCURACY,
  DECODED,
  GREEDY,
  RESPONSE_TOKENS,
  SECONDS,
  Column,
  Sweep,
  accuracy_at,
  area_to,
  share_of_tokens,
)

HALF = share_of_tokens('GRPO', 0.5)


def judged(rule, **constants):
  """Returns the fields of a rule that judges each row at its 12th token, of about 20."""
  own = {f'stop.{rule}.{name}': value for name, value in {'probe': 12, **constants}.items()}
  return {'stop.name': rule, 'stop.returns': 'drop', 'stop.shadow_share': 0.05, **own}


def get_sweep(base='experiments/groups.py', seeds=tuple(range(8))):
  espo = {'stop.name': 'espo', 'stop.smoothing': 0.5, 'stop.beta_0': 2.0, 'stop.beta_min': 0.5}
  return Sweep(
    base=base,
    common={'eval.every': 5, 'stop.shadow_share': 0.0},
    arms={
      'GRPO': {},
      'fewer_rows': {'rollout.samples': 6},
      'random': judged('arrol', balance=0.0),
      'ARRoL': judged('arrol'),
      'signed': judged('arrol_signed'),
      'ESPO': espo | {'stop.returns': 'zero'},
      'ESPO+drop': espo | {'stop.returns': 'drop'},
      'DUET_abort': {
        'stop.name': 'duet_abort',
        'stop.returns': 'drop',
        'stop.duet_abort.grace': 3,
        'advantage.baseline': 'all',
      },
      'PODS': {'advantage.rows': 4},
    },
    baseline='GRPO',
    seeds=seeds,
    primary='area to half of GRPO, %',
    curves=('eval/accuracy', 'rollout/length_mean'),
    over='rollout/decoded',
    columns=(
      Column('area to half of GRPO, %', area_to(HALF), 100, digits=2, against='difference'),
      Column('accuracy at half of GRPO, %', accuracy_at(HALF), 100, against='difference'),
      DECODED,
      ACCURACY,
      GREEDY,
      RESPONSE_TOKENS,
      SECONDS,
      Column('stop rate %', 'stop_rate', 100),
    ),
  )
