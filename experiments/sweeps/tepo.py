"""TEPO against GRPO and DAPO: speed and entropy.

  python -m espo_jax.sweep --sweep=experiments/sweeps/tepo.py --workdir=runs/tepo --output=experiments/results/tepo

TEPO's paper publishes no clip range. `tepo` has GSPO's, which is our default, and `tepo_0.2` has GRPO's.

`updates to 90 %` is the first update at which the mean training accuracy of the last five updates reaches 90 % of the seed's
final accuracy. The final accuracy is the mean of the last ten updates in the best arm of the seed. An arm that does not reach
90 % of it counts all its updates. All runs together took 24.4 minutes.
"""

import numpy as np

from espo_jax.monitor import column
from espo_jax.sweep import ACCURACY, FINAL_ENTROPY, TRAINING_TOKENS, Column, Counts, Sweep


def final_accuracy(outcome):
  return column(outcome.metrics, 'accuracy')[-10:].mean()


def crossing(outcome):
  """Returns the update at which 90 % are reached, and whether they are reached (1 or 0)."""
  target = 0.9 * max(final_accuracy(peer) for peer in outcome.peers.values())
  accuracy = column(outcome.metrics, 'accuracy')
  smooth = np.convolve(accuracy, np.ones(5) / 5, mode='valid')  # of the updates 1-5, 2-6, ...
  reached = np.flatnonzero(smooth >= target)
  return (int(reached[0]) + 5, 1) if len(reached) else (len(accuracy), 0)


def tokens_to_90(outcome):
  return column(outcome.metrics, 'rollout/tokens')[: crossing(outcome)[0]].sum()


def mean_entropy(outcome):
  return column(outcome.metrics, 'entropy').mean()


def get_sweep():
  return Sweep(
    base='experiments/groups.py',
    arms={
      'grpo': {'objective.name': 'grpo'},
      'dapo': {'objective.name': 'dapo'},
      'tepo': {'objective.name': 'tepo'},
      'tepo_0.2': {'objective.name': 'tepo', 'objective.clip_low': 0.2, 'objective.clip_high': 0.2},
    },
    baseline='grpo',
    seeds=(0, 1, 2),
    columns=(
      ACCURACY,
      Column('final training accuracy %', final_accuracy, 100),
      Column('updates to 90 %', lambda outcome: crossing(outcome)[0], against='saved'),
      Counts('reached %', lambda outcome: (crossing(outcome)[1], 1)),
      Column('training tokens to 90 % (k)', tokens_to_90, 1e-3),
      Column('entropy, mean over updates (nats)', mean_entropy, digits=3, against='difference'),
      FINAL_ENTROPY,
      TRAINING_TOKENS,
    ),
    curves=('accuracy', 'entropy'),
  )
