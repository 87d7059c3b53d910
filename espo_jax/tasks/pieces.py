"""Turns tokens into text, all at once or one by one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_BROKEN = '\ufffd'  # what a tokenizer writes for bytes that are not a whole character
_MOST_PENDING = 64  # tokens; to cut a shorter run of broken bytes would break the character behind it, too


def text_of(tokenizer: 'PreTrainedTokenizerFast', tokens: Sequence[int]) -> str:
  """Returns the text of tokens, special tokens included. No blank is left out, even if the tokenizer cleans them up.

  Args:
    tokenizer: a tokenizer of any kind.
    tokens: the token ids.
  """
  return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def token_texts(tokenizer: 'PreTrainedTokenizerFast', tokens: Sequence[int]) -> list[str]:
  """Returns the text of each token, special tokens included. The texts joined are the text of the whole response.

  If the bytes of a character are spread over several tokens, the last of these tokens has the character as its text, and the
  others have an empty text.

  Args:
    tokenizer: a tokenizer of any kind. A blank is returned as a blank, whether the tokenizer stores it as `Ġ` or as `▁`.
    tokens: the token ids.
  """
  alone: dict[int, str] = {}
  texts: list[str] = []
  pending: list[int] = []  # tokens whose bytes are no whole character yet
  for token in tokens:
    if token not in alone:
      alone[token] = _alone(tokenizer, token)
    if not pending and _BROKEN not in alone[token]:
      texts.append(alone[token])
      continue
    pending.append(token)
    text = text_of(tokenizer, pending)
    texts.append('')
    if not text.endswith(_BROKEN) or len(pending) == _MOST_PENDING:
      texts[-1], pending = text, []
  if pending:
    texts[-1] = text_of(tokenizer, pending)
  return texts


def _alone(tokenizer: 'PreTrainedTokenizerFast', token: int) -> str:
  """Returns a token's text as it is after another token, because many tokenizers drop the blank at the front of a text."""
  once, twice = text_of(tokenizer, [token]), text_of(tokenizer, [token, token])
  return twice.removeprefix(once) if twice.startswith(once) else once
