"""What a stopped row returns, and by what it is stopped.

  python -m espo_jax.sweep --sweep=experiments/sweeps/returns.py --workdir=runs/returns --output=experiments/results/returns

| arm | what stops a row | what a stopped row returns | stopped rows that decode on |
|---|---|---|---|
| `PPO` | nothing | - | - |
| `PPO_signed` | nothing, and a wrong answer returns -1 in place of 0 | - | - |
| `fewer_rows` | nothing, but a problem has 3 rows in place of 4, which takes about as many tokens as ESPO | - | - |
| `ESPO` | ESPO's rule | -1, as published | none |
| `ESPO_signed` | ESPO's rule, and a wrong answer returns -1 like a stopped row | -1 | none |
| `zero` | ESPO's rule | 0, like any other failure | none |
| `value` | ESPO's rule | the critic's value of the state after the stop | none |
| `head` | ESPO's rule | the head's probability of success | 5 % |
| `roulette` | ESPO's rule | the critic's value; the 25 % that decode on are trained on to their end, with weight 4 | 25 % |
| `mean_logprob` | the mean log-probability of its tokens | 0 | none |
| `own_price` | success per token, against a fresh row of the problem | the head's probability of success | 5 % |
| `own_price+fail` | the same | -1, as under ESPO | 5 % |
| `own_price+fail_early` | the same, but the critic warm-up fits the head, so that the rule need not wait | -1 | 5 % |
| `wald` | what is left to learn per token, against a fresh row | the head's probability of success | 5 % |

All decoded tokens are counted, those of shadow rows included. The area is the mean test accuracy without stops, from the start
to half of the tokens that PPO decodes.
"""

from espo_jax.sweep import (
  ACCURACY,
  DECODED,
  GREEDY,
  LONG,
  MIDDLE,
  RESPONSE_TOKENS,
  SECONDS,
  SHORT,
  Column,
  Sweep,
  accuracy_at,
  area_to,
  share_of_tokens,
)

HALF = share_of_tokens('PPO', 0.5)


def get_sweep(base='experiments/quickstart.py:slips', seeds=tuple(range(8))):
  by_head = {'stop.returns': 'head', 'stop.shadow_share': 0.05}
  signed = {'reward.low': -1.0}
  late = {'stop.least_batches': 5}  # the default at the commits of the first eleven arms, whose critic warm-up fitted no head
  return Sweep(
    base=base,
    common={'eval.problems': 1024, 'eval.every': 10, 'baselines': (), 'stop.shadow_share': 0.0, **late},
    arms={
      'PPO': {'stop.name': 'never'},
      'PPO_signed': signed | {'stop.name': 'never'},
      'fewer_rows': {'stop.name': 'never', 'rollout.samples': 3},
      'ESPO': {},
      'ESPO_signed': signed,
      'zero': {'stop.returns': 'zero'},
      'value': {'stop.returns': 'value'},
      'head': by_head,
      'roulette': {'stop.returns': 'roulette', 'stop.shadow_share': 0.25},
      'mean_logprob': {
        'stop.name': 'mean_logprob',
        'stop.mean_logprob.beta_0': 0.3,
        'stop.least_tokens': 8,
        'stop.returns': 'zero',
      },
      'own_price': by_head | {'stop.name': 'own_price'},
      'own_price+fail': by_head | {'stop.name': 'own_price', 'stop.returns': 'fail'},
      'own_price+fail_early': by_head | {'stop.name': 'own_price', 'stop.returns': 'fail', 'stop.least_batches': 2},
      'wald': by_head | {'stop.name': 'wald'},
    },
    baseline='ESPO',
    seeds=seeds,
    primary='area to half of PPO, %',
    curves=('eval/accuracy', 'rollout/length_mean'),
    over='rollout/decoded',
    columns=(
      Column('area to half of PPO, %', area_to(HALF), 100, digits=2, against='difference'),
      Column('accuracy at half of PPO, %', accuracy_at(HALF), 100, against='difference'),
      DECODED,
      ACCURACY,
      GREEDY,
      SHORT,
      MIDDLE,
      LONG,
      RESPONSE_TOKENS,
      SECONDS,
      Column('stop rate %', 'stop_rate', 100),
    ),
  )
