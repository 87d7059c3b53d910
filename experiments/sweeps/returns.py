"""What a stopped row returns, and by what it is stopped: ESPO's trigger and the mean log-probability.

  python -m espo_jax.sweep --sweep=experiments/sweeps/returns.py --workdir=runs/returns --output=experiments/results/returns

| arm | what it changes |
|---|---|
| `ESPO` | a stopped row returns -1, as published |
| `zero` | a stopped row returns 0, like any other failure |
| `value` | a stopped row returns the critic's value of the state after the stop |
| `mean_logprob` | rows stop by the mean log-probability of their tokens |
| `mean_logprob_zero` | both |

No row decodes on after a stop, because these rules need no shadow rows. So all decoded tokens are counted.
"""

from espo_jax.sweep import ACCURACY, GREEDY, RESPONSE_TOKENS, SECONDS, TRAINING_TOKENS, Column, Sweep


def get_sweep(base='experiments/quickstart.py', seeds=tuple(range(8))):
  by_mean = {'stop.name': 'mean_logprob', 'stop.mean_logprob.beta_0': 0.3, 'stop.least_tokens': 8}
  return Sweep(
    base=base,
    common={'eval.problems': 2048, 'baselines': (), 'stop.shadow_share': 0.0},
    arms={
      'PPO': {'stop.name': 'never'},
      'ESPO': {},
      'zero': {'stop.returns': 'zero'},
      'value': {'stop.returns': 'value'},
      'mean_logprob': by_mean,
      'mean_logprob_zero': by_mean | {'stop.returns': 'zero'},
    },
    baseline='ESPO',
    seeds=seeds,
    columns=(ACCURACY, GREEDY, TRAINING_TOKENS, RESPONSE_TOKENS, SECONDS, Column('stop rate %', 'stop_rate', 100)),
  )
