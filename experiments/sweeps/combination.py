r"""ESPO, learned early exits and HMPO: each alone, and all in one run.

  python -m espo_jax.sweep --sweep=experiments/sweeps/combination.py --workdir=runs/combination \
    --output=experiments/results/combination

| arm | method |
|---|---|
| `ppo` | none of them, at full depth |
| `espo` | stops rollouts |
| `exits` | exits where a calibrated head gives more than 0.9 |
| `hmpo` | rewards short responses |
| `all` | all three |

The arms of a seed share its warm start and its calibration. Operations are those of the tokens that were sampled in training.
`seconds` are those of rollouts, rewards, scoring and updates. An update in which a program was compiled counts as the mean of
the others. All runs together took 26.8 minutes, one core each.
"""

from espo_jax.sweep import ACCURACY, GREEDY, RESPONSE_TOKENS, SECONDS, TRAINING_GFLOP, TRAINING_TOKENS, Column, Sweep


def get_sweep():
  whole = {'exits.policy': 'never'}
  espo = {'stop.name': 'espo'}
  decided = {'exits.policy': 'threshold', 'exits.level': 0.9}
  return Sweep(
    base='experiments/early_exits.py:rechecks',
    common={'eval.problems': 2048},
    arms={
      'ppo': whole | {'reward.name': 'correct'},
      'espo': whole | espo | {'reward.name': 'correct'},
      'exits': decided | {'reward.name': 'correct'},
      'hmpo': whole | {'reward.name': 'hmpo'},
      'all': espo | decided | {'reward.name': 'hmpo'},
    },
    baseline='ppo',
    seeds=(0, 1, 2),
    shared_stages=('warm_start', 'calibration'),
    columns=(
      ACCURACY,
      GREEDY,
      RESPONSE_TOKENS,
      Column('blocks run %', 'test_depth', 100),
      TRAINING_TOKENS,
      TRAINING_GFLOP,
      SECONDS,
    ),
    scatter=('test_tokens_mean', 'accuracy'),
  )
