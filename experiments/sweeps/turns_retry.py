"""What a policy gains by another turn, at test and in training.

  python -m espo_jax.sweep --sweep=experiments/sweeps/turns_retry.py --workdir=runs/turns_retry \
    --output=experiments/results/turns_retry

| arm | an episode of training |
|---|---|
| `three_turns` | has up to three turns, and is paid the verdict on the best one |
| `one_turn` | has one turn, by the budget of an expert who is right at once |

Both start from one warm start, on conversations of up to three turns. They end once they have decoded as many tokens, and are
evaluated with three turns.
"""

from collections.abc import Callable

from espo_jax.sweep import DECODED, Column, Outcome, Sweep


def right_at(turn: int) -> Callable[[Outcome], float]:
  """Returns the function that gives the share of the problems still wrong before a turn that the turn solves."""

  def share(outcome: Outcome) -> float:
    before, after = (outcome.summary[f'accuracy_turn_{k}'] for k in (turn - 1, turn))
    return (after - before) / (1 - before) if before < 1 else 1.0

  return share


def updates(outcome: Outcome) -> float:
  """The number of updates."""
  return float(len(outcome.metrics))


def get_sweep(base='experiments/retry.py', seeds=(0, 1, 2)):
  return Sweep(
    base=base,
    common={'learner.tokens': 90_000, 'learner.updates': 80},
    arms={'three_turns': {}, 'one_turn': {'environment.expert_budget': 1.0}},
    baseline='one_turn',
    seeds=seeds,
    columns=(
      Column('after turn 1, %', 'accuracy_turn_1', 100, against='difference'),
      Column('after turn 2, %', 'accuracy_turn_2', 100),
      Column('after turn 3, %', 'accuracy_turn_3', 100, against='difference'),
      Column('turn 2 right, of the wrong, %', right_at(2), 100),
      Column('turn 3 right, of the wrong, %', right_at(3), 100),
      Column('test turns', 'test_turns_mean', digits=2),
      Column('updates', updates),
      DECODED,
    ),
  )
