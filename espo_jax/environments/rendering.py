"""Writes observations as tokens behind the policy's turns. Tokens of earlier turns are never written again."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from espo_jax.tasks.batching import encode_text
from espo_jax.tasks.pieces import text_of
from espo_jax.tasks.pretrained import PROMPTS, chat_writer, special_tokens, with_thought
from espo_jax.tasks.task import DataError

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_TURN = 'TURN-OF-THE-POLICY'  # stands for the policy's turn while a template writes what follows it
_LONG = 64  # characters per token of room; a longer text is cut before it is split into tokens
_ROUNDS = 8  # in which the special tokens of a text are broken


class Written(NamedTuple):
  """The tokens between two turns of the policy, and whether a part of the observation was left out because it is too long."""

  tokens: list[int]
  cut: bool


TurnWriter = Callable[[str, bool], Written]  # from an observation, and whether the policy's turn wrote its end token


def turn_writer(
  tokenizer: 'PreTrainedTokenizerFast',
  kind: str,
  role: str,
  end_tokens: Sequence[int],
  room: int,
  today: str = '',
) -> TurnWriter:
  """Returns the function that writes what stands between two turns of the policy.

  | kind | what it writes |
  |---|---|
  | 'chat' | what the chat template has between two turns of the assistant: end of turn, message, begin of turn |
  | 'r1' | the same, then an opened thought unless the template opens one |
  | 'plain' | the observation on a line of its own |
  | '' | the observation alone, for tokenizers without lines |

  The template writes a short conversation in which the observation is the last message, and the text behind the assistant's
  message is taken. That text does not depend on what the assistant wrote. So the tokens of a conversation are those that the
  policy read and wrote, also where the template would leave the thoughts of earlier turns out.

  The end of a turn is left out where the policy has written an end token of its own. Special tokens in an observation are
  broken by a blank, so that an environment cannot end the turn or speak for another role.

  Args:
    tokenizer: The tokenizer.
    kind: How the task poses a problem, one of `tasks.pretrained.PROMPTS`; '' for tasks with a tokenizer of their own.
    role: The role of the message in the template.
    end_tokens: Token ids that end a turn.
    room: The most tokens that are written.
    today: The date for templates that write one, YYYY-MM-DD; '' for the current day.

  Raises:
    DataError: The template has no such role or leaves its message out, or the marks around an observation leave no room.
  """
  special = breakable(tokenizer)
  between = _template(tokenizer, kind, role, today) if kind in PROMPTS and kind != 'plain' else None

  def write(observation: str, ended: bool) -> list[int]:
    if between is None:
      tokens = encode_text(tokenizer, observation + '\n' * (kind == 'plain')) if observation or kind else []
      return tokens if ended else [end_tokens[0], *tokens]
    tokens = encode_text(tokenizer, between(observation))
    return tokens[1:] if ended and tokens[0] in end_tokens else tokens

  least = len(write('', False))
  if least >= room:
    raise DataError(
      f'environment.observation_horizon = {room}: the marks around an observation take {least} tokens; fix: more than {least}'
    )

  def fit(observation: str, ended: bool) -> Written:
    text = without_special(observation[: _LONG * room], special)
    tokens, cut = write(text, ended), len(observation) > _LONG * room
    kept = encode_text(tokenizer, text) if len(tokens) > room else []
    while len(tokens) > room:
      cut = True
      kept = kept[: len(kept) - (len(tokens) - room)]
      tokens = write(without_special(text_of(tokenizer, kept), special) if kept else '', ended)
    return Written(tokens, cut)

  return fit


def breakable(tokenizer: 'PreTrainedTokenizerFast') -> tuple[str, ...]:
  """Returns the texts that have to be broken, because the tokenizer would read them as special tokens."""
  return () if tokenizer.split_special_tokens else tuple(special_tokens(tokenizer))


def without_special(text: str, special: Sequence[str]) -> str:
  """Returns the text in which every special token is broken by a blank behind its first character.

  Nothing is left of a text in which that gives special tokens again and again.
  """
  for _ in range(_ROUNDS):
    found = [token for token in special if token in text]
    if not found:
      return text
    for token in found:
      text = text.replace(token, f'{token[0]} {token[1:]}')
  return ''


def reposed(prompt: str, question: str, posed: str, special: Sequence[str]) -> str:
  """Returns the prompt in which an environment's text stands in place of the question.

  Args:
    prompt: The prompt of a task, which contains the question.
    question: The problem without chat template and instruction.
    posed: The text of the environment. Special tokens in it are broken unless it is the question.
    special: The texts of special tokens.
  """
  if posed == question:
    return prompt
  before, _, behind = prompt.rpartition(question)
  return before + without_special(posed, special) + behind


def _template(tokenizer: 'PreTrainedTokenizerFast', kind: str, role: str, today: str) -> Callable[[str], str]:
  """Returns the function from an observation to the text of the chat template between two turns of the assistant.

  Raises:
    DataError: The template cannot write such a message.
  """
  render = chat_writer(tokenizer, today)

  def between(observation: str) -> str:
    messages = [('user', '?'), ('assistant', _TURN), (role, observation)]
    text = render([{'role': its, 'content': content} for its, content in messages]).partition(_TURN)[2]
    behind = text.rpartition(observation.strip())[2] if observation.strip() else text
    return with_thought(text, behind) if kind == 'r1' else text

  where = f'model.path = {tokenizer.name_or_path!r}'
  try:
    sample = between('1 + 1 = 2')
  except Exception as error:  # a template is a program, and may raise anything
    raise DataError(
      f'{where}: its chat template cannot write a message of the role {role!r} ({type(error).__name__}: {error}); '
      'fix: --config.environment.role=user, or a template with tools'
    ) from error
  if '1 + 1 = 2' not in sample:
    raise DataError(
      f'{where}: its chat template leaves out a message of the role {role!r} behind a turn of the assistant; '
      'fix: --config.environment.role=user, or a template with tools'
    )
  return between
