"""What the task and the tokenizer of recorded rollouts say of a text."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ml_collections

from espo_jax.environments import TurnWriter, turn_writer
from espo_jax.experiment import kind_of_turns, make_task
from espo_jax.sources.rollouts import Asked
from espo_jax.tasks import Task, text_of
from espo_jax.tasks.reasoning import has_thought_tag, without_thought_tags

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_ANY_WIDTH = 2**20  # tokens, a limit that no prompt and no message reaches


@dataclasses.dataclass(frozen=True)
class Judge:
  """Answers what sources ask of a text.

  Attributes:
    task: The task of the rollouts.
    tokenizer: The task's tokenizer.
    write: The function that writes what stands between two turns of the policy, as tokens.
  """

  task: Task
  tokenizer: 'PreTrainedTokenizerFast'
  write: TurnWriter

  def right(self, asked: Asked, parts: Sequence[str]) -> list[bool]:
    """Returns whether each part of a response, taken alone, solves the problem by the task's verifier.

    A part of a thought is graded as if it stood behind the thought, where an answer counts.
    """
    thinks = any(map(has_thought_tag, (asked.problem.prompt, *(rollout.response for rollout in asked.rollouts))))
    texts = [without_thought_tags(part) for part in parts] if thinks else list(parts)
    verdicts = self.task.verify_all([asked.problem] * len(texts), texts)
    return [verdict.correct >= 1 for verdict in verdicts]

  def tokens(self, text: str) -> int:
    """Returns the number of tokens of a text."""
    return len(self.tokenizer.encode(text, add_special_tokens=False))

  @property
  def ends_apart(self) -> bool:
    """Whether the tokenizer reads the text of an end token as plain text, so that a segment has to say where a turn ends."""
    return bool(self.tokenizer.split_special_tokens)

  def reply(self, message: str) -> str:
    """Returns the text between two turns of the policy in which a message stands, as episodes of the task have it.

    The end token of the first turn is left out if `ends_apart`.
    """
    return text_of(self.tokenizer, self.write(message, self.ends_apart).tokens)


def make_judge(config: ml_collections.ConfigDict) -> Judge:
  """Makes the judge of the rollouts of an evaluation from the evaluation's config.

  Raises:
    DataError: The data of the task cannot be used.
  """
  config = config.copy_and_resolve_references()
  config.rollout.prompt_width = _ANY_WIDTH  # problems that were not asked may be longer than those that were
  task = make_task(config)
  tokenizer = task.tokenizer()
  kind = kind_of_turns(config, tokenizer)

  @functools.cache
  def writer() -> TurnWriter:  # made late, because a template may have no way to write a message that nothing asks for
    return turn_writer(tokenizer, kind, 'user', (tokenizer.eos_token_id,), _ANY_WIDTH, config.data.today)

  return Judge(task, tokenizer, lambda message, ended: writer()(message, ended))
