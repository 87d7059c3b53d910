"""Our rule `own_price` against ESPO, with 4 rows per problem and with 3.

  python -m espo_jax.sweep --sweep=experiments/sweeps/own_price.py --workdir=runs/own_price \
    --output=experiments/results/own_price

| arm | what stops a row | rows per problem | stopped rows that decode on |
|---|---|---|---|
| `PPO` | nothing | 4 | - |
| `ESPO` | ESPO's rule | 4 | none |
| `ESPO_3_rows` | ESPO's rule | 3 | none |
| `own_price` | success per token, against a fresh row of the problem, by a head that the critic warm-up fits | 4 | 5 % |
| `own_price_3_rows` | the same | 3 | 5 % |

A stopped row returns -1 in all arms, as under ESPO. The columns are those of `returns.py`.
"""

import dataclasses
import pathlib
import runpy

_RETURNS = runpy.run_path(str(pathlib.Path(__file__).with_name('returns.py')))


def get_sweep():
  sweep = _RETURNS['get_sweep']()
  ours = sweep.arms['own_price+fail']
  fewer = {'rollout.samples': 3}
  arms = {
    'PPO': sweep.arms['PPO'],
    'ESPO': sweep.arms['ESPO'],
    'ESPO_3_rows': fewer,
    'own_price': ours,
    'own_price_3_rows': ours | fewer,
  }
  return dataclasses.replace(sweep, arms=arms)
