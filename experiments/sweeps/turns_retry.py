"""What a policy gains by another turn, at test and in training.

  python -m espo_jax.sweep --sweep=experiments/sweeps/turns_retry.py --workdir=runs/turns_retry \
    --output=experiments/results/turns_retry

| arm | an episode of training |
|---|---|
| `three_turns` | has up to three turns, and pays the verdict on the last one |
| `one_turn` | has one turn, by the budget of an expert who is right at once |

Both start from one warm start, on conversations of up to three turns. They end once they have decoded as many tokens, and are
evaluated with three turns.
"""

from espo_jax.sweep import DECODED, Column, Outcome, Sweep


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
      Column('after turn 3, %', 'accuracy_turn_3', 100),
      Column('test turns', 'test_turns_mean', digits=2),
      Column('updates', updates),
      DECODED,
    ),
  )
