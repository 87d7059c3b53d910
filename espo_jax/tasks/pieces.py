"""A response token by token, as text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_BROKEN = '\ufffd'  # what a tokenizer writes for bytes that are no whole character
_MOST_BYTES = 4  # of a character


def token_texts(tokenizer: 'PreTrainedTokenizerFast', tokens: Sequence[int]) -> list[str]:
  """The text of each token, special ones included; joined they are the text of all.

  A character whose bytes are spread over several tokens is the text of the last of them, and the others have none.

  Args:
    tokenizer: a tokenizer of any kind: byte-level BPE writes a blank as `Ġ`, others as `▁`, and here it is a blank.
    tokens: ids.
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
    text = _decode(tokenizer, pending)
    texts.append('')
    if not text.endswith(_BROKEN) or len(pending) == _MOST_BYTES:
      texts[-1], pending = text, []
  if pending:
    texts[-1] = _decode(tokenizer, pending)
  return texts


def _alone(tokenizer: 'PreTrainedTokenizerFast', token: int) -> str:
  """A token's text behind itself: at the front of a text many tokenizers leave out its blank."""
  once, twice = _decode(tokenizer, [token]), _decode(tokenizer, [token, token])
  return twice.removeprefix(once) if twice.startswith(once) else once


def _decode(tokenizer: 'PreTrainedTokenizerFast', tokens: list[int]) -> str:
  return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
