"""A calculator or none: sums of three or four numbers of two digits.

  python -m espo_jax.sweep --sweep=experiments/sweeps/turns_calculator.py --workdir=runs/turns_calculator \
    --output=experiments/results/turns_calculator

| arm | what the policy has |
|---|---|
| `calculator` | two turns and the calculator; its expert calls for three problems in ten and answers the others by head |
| `alone` | one turn; its expert answers all problems by head |

Each arm has a warm start of its own, of as many steps.
"""

from espo_jax.sweep import ACCURACY, DECODED, GREEDY, RESPONSE_TOKENS, Column, Outcome, Sweep


def begun(outcome: Outcome) -> float:
  """The success of the arm's own warm start."""
  return outcome.start['accuracy']


def calls(outcome: Outcome) -> float:
  """The share of the sampled answers that called, each of which has a second turn."""
  return outcome.summary['test_turns_mean'] - 1


def begun_calls(outcome: Outcome) -> float:
  """The share of the sampled answers that called after the arm's own warm start."""
  return outcome.start['test_turns_mean'] - 1


def get_sweep(base='experiments/calculator.py', seeds=(0, 1, 2)):
  alone = {'environment.name': '', 'rollout.horizon': 12}
  return Sweep(
    base=base,
    arms={'calculator': {}, 'alone': alone},
    baseline='alone',
    seeds=seeds,
    shared_stages=(),
    columns=(
      Column('warm start %', begun, 100),
      ACCURACY,
      GREEDY,
      Column('calls after the warm start %', begun_calls, 100),
      Column('calls %', calls, 100),
      RESPONSE_TOKENS,
      DECODED,
    ),
  )
