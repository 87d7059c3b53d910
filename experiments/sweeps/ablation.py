"""ESPO and its ablations against PPO and DAPO, on chain arithmetic.

  python -m espo_jax.sweep --sweep=experiments/sweeps/ablation.py --workdir=runs/ablation --output=experiments/results/ablation

| arm | what it changes |
|---|---|
| `no_warmup` | stops rows from the second update on, because the rule's moments need one update |
| `held_warmup` | opens ESPO's gate by force alone, at the published 10 % of all updates |
| `no_penalty` | gives a stopped row the reward 0, like any other failure |
| `value_only` | drops the regret; its rule starts at `V < 0` |
| `regret_only` | drops the value; its rule starts at the threshold that ESPO has at low V |
| `random` | stops as many rows as ESPO did with the same seed |
| `DAPO` | draws other prompts if all samples of a prompt are equally good, up to ten times per update; those tokens count |

With rewards of 0 and 1 the published test of the critic passes after two updates, so `no_warmup` removes little. Therefore
`held_warmup` is compared too.

`seconds` are those of rollouts, rewards, scoring and updates. An update in which a program was compiled counts as the mean of
the others. All runs together took 105.7 minutes, one core each; experiments/results/ablation.md has the results.
"""

from espo_jax.sweep import (
  ACCURACY,
  FALSE_POSITIVES,
  FINAL_ENTROPY,
  GREEDY,
  RESPONSE_TOKENS,
  SECONDS,
  TRAINING_TOKENS,
  Column,
  Sweep,
)


def get_sweep(base='experiments/quickstart.py:slips'):
  alone = {'baselines': ()}  # a run of its own
  return Sweep(
    base=base,
    common={'eval.problems': 2048, 'baselines': ('never', 'random')},
    arms={
      'PPO': {},
      'random': {},
      'ESPO': {},
      'no_warmup': alone | {'stages': ('rl',)},
      'held_warmup': alone | {'gate.loss_below': 0.0, 'gate.change_below': 0.0},
      'no_penalty': alone | {'stop.fail_reward': 0.0},
      'value_only': alone | {'stop.name': 'value_only', 'stop.value_only.beta_0': 0.0},
      'regret_only': alone | {'stop.name': 'regret_only', 'stop.regret_only.beta_0': 0.4},
      'DAPO': alone | {'stop.name': 'never', 'objective.name': 'dapo'},
    },
    rules={'PPO': 'never', 'random': 'random'},
    baseline='PPO',
    seeds=(0, 1, 2, 3, 4),
    columns=(
      ACCURACY,
      GREEDY,
      TRAINING_TOKENS,
      RESPONSE_TOKENS,
      SECONDS,
      Column('stop rate %', 'stop_rate', 100),
      FALSE_POSITIVES,
      FINAL_ENTROPY,
    ),
  )
