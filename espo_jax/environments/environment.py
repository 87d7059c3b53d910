"""The protocol of an environment: what it gets, and what it answers."""

from typing import NamedTuple, Protocol, runtime_checkable

from espo_jax.tasks.task import Problem

ROLES = ('user', 'tool')  # who an observation comes from, in the words of chat templates


class Step(NamedTuple):
  """What an environment answers to a turn. The rewards of an episode add up to how successful it is, in [0, 1]."""

  observation: str  # the text that the next turn follows; not read where the episode is done
  reward: float
  done: bool


@runtime_checkable
class Environment(Protocol):
  """One episode. It is pure: equal problems, seeds and actions give equal answers in every process.

  An environment may also have these attributes:

  | attribute | meaning | without it |
  |---|---|---|
  | `role` | who its observations come from in a chat, one of `ROLES` | 'user' |
  | `graded` | whether `step` gets the verdict of the task's verifier on each turn | False |
  | `task` | the only task that it plays | '': every task |
  | `prepare` | a static method: does what takes long, given the options, when a process starts | nothing |
  | `expert_turns` | the turns that an expert takes, once `reset` has posed the problem | no budget of an expert |
  | `expert` | a method: the next turn of an expert, given a random generator | written solutions of one turn |

  The warm start learns from conversations of the expert. Where `expert` returns None, the turn is a solution of
  the task.
  """

  def reset(self, problem: Problem, seed: int) -> str:
    """Begins the episode, and returns the text that poses the problem in the prompt.

    Args:
      problem: The problem, whose `prompt` is its plain text, without a chat template.
      seed: The seed of everything random in the episode.
    """
    ...

  def step(self, action: str, correct: float | None) -> Step:
    """Answers a turn.

    Args:
      action: The text of the turn, without special tokens.
      correct: How correct the task's verifier finds the text, in [0, 1]; None unless the environment is `graded`.
    """
    ...
