"""ESPO and each of its parts left out, on chain arithmetic, beside PPO and DAPO.

  python -m espo_jax.sweep --sweep=experiments/sweeps/ablation.py --workdir=runs/ablation --output=experiments/results/ablation

`no_warmup` stops rows from the second update on, which the rule's moments need at the least. With rewards of 0 and 1 the
published test of the critic passes after two updates, so that there is little to leave out: `held_warmup` is ESPO whose gate
opens by force alone, at the published 10 % of all updates. `no_penalty` pays a stopped row 0, as any other failure.
`value_only` and `regret_only` drop the other half of the rule: the first starts at `V < 0`, the second at the threshold that
ESPO has where V is low. `random` stops as many rows as ESPO did under its seed. `DAPO` draws other prompts where all samples
of one are equally good, up to ten times an update; those tokens count.

`seconds`: of rollouts, rewards, scoring and updates; an update in which a program was compiled counts as the mean of the
others.
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


def get_sweep(base='experiments/quickstart.py'):
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
