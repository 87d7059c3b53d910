"""Which problems of a pool are asked, and how many rows each has.

  python -m espo_jax.sweep --sweep=experiments/sweeps/pool.py --workdir=runs/pool --output=experiments/results/pool

Training repeats 256 problems, 16 in each rollout.

| arm | problems | rows of a problem |
|---|---|---|
| `uniform` | as they come | 8 |
| `four_rows` | as they come | 4 |
| `two_draws` | as they come; groups of one kind are replaced from a second rollout | 8 |
| `GRESO` | those whose last groups were of one kind are often passed over; replaced as well | 8 |
| `DUET` | as they come | 1 to 16 by their gradient and length, within half of the tokens of `uniform` |
| `DUET+abort` | as they come | likewise, and rows much longer than most are ended |
| `Pilot-Commit` | those that were never solved by all pilots | 4, and 12 more where 1/8 to 3/4 of the 4 are right |
| `reuse` | as they come; a row keeps what the policy accepts of the last one, with exact residuals | 8 |
| `coupled` | likewise, by the uniforms that drew the last one | 8 |
| `SPEC-RL` | likewise, in the published form, which is biased | 8 |

The area is the mean test accuracy, from the start to half of the tokens that `uniform` decodes.
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

HALF = share_of_tokens('uniform', 0.5)


def get_sweep(base='experiments/groups.py', seeds=tuple(range(8))):
  duet = {'allocation.name': 'duet', 'rollout.samples': 16}
  abort = {'stop.name': 'duet_abort', 'stop.returns': 'drop', 'stop.duet_abort.grace': 3, 'advantage.baseline': 'all'}
  return Sweep(
    base=base,
    common={'eval.every': 5, 'stop.shadow_share': 0.0, 'allocation.pool': 256},
    arms={
      'uniform': {},
      'four_rows': {'rollout.samples': 4},
      'two_draws': {'rollout.max_draws': 2},
      'GRESO': {'allocation.name': 'greso', 'rollout.max_draws': 2},
      'DUET': duet,
      'DUET+abort': duet | abort,
      'Pilot-Commit': {'allocation.name': 'pilot_commit', 'allocation.pilots': 4, 'rollout.samples': 16},
      'reuse': {'rollout.reuse.form': 'exact'},
      'coupled': {'rollout.reuse.form': 'coupled'},
      'SPEC-RL': {'rollout.reuse.form': 'published'},
    },
    baseline='uniform',
    seeds=seeds,
    primary='area to half of uniform, %',
    curves=('eval/accuracy', 'rollout/length_mean'),
    over='rollout/decoded',
    columns=(
      Column('area to half of uniform, %', area_to(HALF), 100, digits=2, against='difference'),
      Column('accuracy at half of uniform, %', accuracy_at(HALF), 100, against='difference'),
      DECODED,
      ACCURACY,
      GREEDY,
      RESPONSE_TOKENS,
      SECONDS,
    ),
  )
