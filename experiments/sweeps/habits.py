"""Stop rules where the likeliest answer is wrong: the quickstart, whose warm start has a habit.

  python -m espo_jax.sweep --sweep=experiments/sweeps/habits.py --workdir=runs/habits --output=experiments/results/habits

| arm | what stops a row | a stopped row returns | a wrong answer returns |
|---|---|---|---|
| `PPO` | nothing | - | 0 |
| `ESPO` | ESPO's rule | -1, as published | 0 |
| `ESPO_signed` | ESPO's rule | -1 | -1 |
| `zero` | ESPO's rule, with the quickstart's constants | 0 | 0 |
| `own_price` | success per token, against a fresh row of the problem | the head's probability of success | 0 |

A mistake by habit is the likeliest token, so that its regret is 0, and the right token has a regret. Under `own_price` 5 % of
the stopped rows decode on. All decoded tokens are counted. The area is the mean test accuracy without stops, from the start to
half of the tokens that PPO decodes.
"""

import dataclasses
import pathlib
import runpy

_RETURNS = runpy.run_path(str(pathlib.Path(__file__).with_name('returns.py')))
_ARMS = ('PPO', 'ESPO', 'ESPO_signed', 'zero')


def get_sweep():
  sweep = _RETURNS['get_sweep'](base='experiments/quickstart.py', seeds=tuple(range(6)))
  own_price = sweep.arms['own_price'] | {'stop.least_batches': 2}
  common = sweep.common | {'reward.low': -1.0, 'stop.returns': 'fail'}
  arms = {name: {'reward.low': 0.0} | sweep.arms[name] for name in _ARMS} | {'own_price': {'reward.low': 0.0} | own_price}
  return dataclasses.replace(sweep, common=common, arms=arms, baseline='PPO', curves=('eval/accuracy', 'eval/greedy_accuracy'))
