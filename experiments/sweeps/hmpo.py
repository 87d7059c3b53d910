"""HMPO and its ablations: shorter responses, and their cost in accuracy.

  python -m espo_jax.sweep --sweep=experiments/sweeps/hmpo.py --workdir=runs/hmpo --output=experiments/results/hmpo

The arms differ in the reward only.

| arm | reward |
|---|---|
| `correct` | the verdict, whatever the length |
| `hmpo` | the paper's: the budget is the median length of the group's right answers; cosine; product with the verdict |
| `mean` | the budget is the mean length of the group's right answers |
| `additive` | the token reward is added to the verdict |
| `linear` | a line replaces the cosine |
| `fixed` | the verdict up to 33 tokens, which the longest problem needs, and nothing beyond |

All runs together took 44.6 minutes, one core each.
"""

from espo_jax.sweep import ACCURACY, GREEDY, RESPONSE_TOKENS, TRAINING_TOKENS, Column, Sweep


def fewer_than_start(outcome):
  return outcome.start['test_tokens_mean'] - outcome.summary['test_tokens_mean']


def saved_of_start(outcome):
  return fewer_than_start(outcome) / outcome.start['test_tokens_mean']


def fewer_than_correct(outcome):
  return outcome.peers['correct'].summary['test_tokens_mean'] - outcome.summary['test_tokens_mean']


def get_sweep():
  hmpo = {'reward.name': 'hmpo'}
  return Sweep(
    base='experiments/groups.py:rechecks',
    arms={
      'correct': {'reward.name': 'correct'},
      'hmpo': hmpo,
      'mean': hmpo | {'reward.budget': 'mean'},
      'additive': hmpo | {'reward.combine': 'sum'},
      'linear': hmpo | {'reward.shape': 'linear'},
      'fixed': hmpo | {'reward.budget': 'fixed', 'reward.shape': 'indicator', 'reward.fixed_budget': 33.0},
    },
    baseline='correct',
    seeds=(0, 1, 2),
    columns=(
      ACCURACY,
      GREEDY,
      RESPONSE_TOKENS,
      Column('tokens fewer than correct', fewer_than_correct),
      Column('tokens fewer than the start', fewer_than_start),
      Column('saved of the start, %', saved_of_start, 100),
      TRAINING_TOKENS,
    ),
    scatter=('test_tokens_mean', 'accuracy'),
  )
