"""Encodes text into token arrays and decodes them back into text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from espo_jax.tasks.examples import EncodedExample
from espo_jax.tasks.reasoning import TAGS
from espo_jax.tasks.task import Problem
from espo_jax.types import Prompts, SupervisedBatch

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast


def encode_prompts(tokenizer: 'PreTrainedTokenizerFast', problems: Sequence[Problem], width: int) -> Prompts:
  """Encodes the problems' prompts into numpy arrays, padded on the left to `width`."""
  rows = _encode(tokenizer, [problem.prompt for problem in problems])
  tokens = np.full((len(rows), width), tokenizer.pad_token_id, np.int32)
  for problem, row, out in zip(problems, rows, tokens, strict=True):
    _check_fits(f'the prompt of problem {problem.id}, {problem.prompt!r},', row, width, 'rollout.prompt_width')
    out[width - len(row) :] = row
  return Prompts(
    tokens=tokens,
    lengths=np.array([len(row) for row in rows], np.int32),
    ids=np.array([problem.id for problem in problems], np.uint32),
  )


def encode_supervised(
  tokenizer: 'PreTrainedTokenizerFast', pairs: Sequence[tuple[str, str]], prompt_width: int, horizon: int
) -> SupervisedBatch:
  """Encodes (prompt, response) pairs and ends every response with the end token."""
  prompts = _encode(tokenizer, [prompt for prompt, _ in pairs])
  responses = [[*row, tokenizer.eos_token_id] for row in _encode(tokenizer, [response for _, response in pairs])]
  for (text, _), prompt, response in zip(pairs, prompts, responses, strict=True):
    _check_fits(f'the prompt {text!r}', prompt, prompt_width, 'rollout.prompt_width')
    _check_fits(f'the response to {text!r}, with its end token,', response, horizon, 'rollout.horizon')
  return _supervised(tokenizer, prompts, responses, prompt_width, horizon)


def batch_examples(
  tokenizer: 'PreTrainedTokenizerFast', examples: Sequence[EncodedExample], prompt_width: int, horizon: int
) -> SupervisedBatch:
  """Pads encoded examples, which `encode_example` has checked, into a batch with the weight of each token."""
  batch = _supervised(tokenizer, [x.prompt for x in examples], [x.response for x in examples], prompt_width, horizon)
  weights = np.zeros((len(examples), horizon), np.float32)
  for example, out in zip(examples, weights, strict=True):
    out[: len(example.weights)] = example.weights
  return batch._replace(weights=weights)


def decode_responses(
  tokenizer: 'PreTrainedTokenizerFast',
  tokens: Int[np.ndarray, 'N T'],
  lengths: Int[np.ndarray, 'N'],
  tags: frozenset[str] = TAGS,
  turn: Int[np.ndarray, 'N T'] | None = None,
) -> list[str]:
  """Decodes the first `length` tokens of each row without special tokens such as end, padding and chat turns.

  The text of an episode is what the policy says, each turn on lines of its own.

  Args:
    tokenizer: the tokenizer of the tokens.
    tokens: the token ids.
    lengths: the number of tokens per row that are decoded.
    tags: the special tokens that are kept in the text, because a grader or a reward reads them.
    turn: the turn of each token, as `decode_turns` takes it; None if a row is no episode.
  """
  if turn is not None:
    within = np.arange(turn.shape[1]) < lengths[:, None]
    return ['\n'.join(turns) for turns in decode_turns(tokenizer, tokens, np.where(within, turn, -1), tags)]
  added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}
  roles = {token for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) if token}
  left_out = {number for number, token in added.items() if token.content in roles or token.content not in tags}
  rows = [
    [token for token in row[:length].tolist() if token not in left_out]
    for row, length in zip(np.asarray(tokens), np.asarray(lengths), strict=True)
  ]
  if not rows:
    return []  # for no rows `batch_decode` returns one text
  return tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def decode_turns(
  tokenizer: 'PreTrainedTokenizerFast',
  tokens: Int[np.ndarray, 'N T'],
  turn: Int[np.ndarray, 'N T'],
  tags: frozenset[str] = TAGS,
) -> list[list[str]]:
  """Decodes the turns of each row one by one, as `decode_responses` does.

  Args:
    tokenizer: the tokenizer of the tokens.
    tokens: the token ids.
    turn: the turn of each token, from 0; -1 on tokens that are left out, such as those of an observation.
    tags: the special tokens that are kept in the text.
  """
  parts = [row[its == number] for row, its in zip(tokens, turn, strict=True) for number in range(its.max(initial=-1) + 1)]
  lengths = np.array([len(part) for part in parts], np.int32)
  padded = np.zeros((len(parts), lengths.max(initial=0)), np.int32)
  for row, part in zip(padded, parts, strict=True):
    row[: len(part)] = part
  texts = iter(decode_responses(tokenizer, padded, lengths, tags))
  return [[next(texts) for _ in range(its.max(initial=-1) + 1)] for its in turn]


def _supervised(
  tokenizer: 'PreTrainedTokenizerFast',
  prompts: Sequence[list[int]],
  responses: Sequence[list[int]],
  prompt_width: int,
  horizon: int,
) -> SupervisedBatch:
  """Pads prompts on the left and responses on the right."""
  tokens = np.full((len(prompts), prompt_width + horizon), tokenizer.pad_token_id, np.int32)
  for prompt, response, out in zip(prompts, responses, tokens, strict=True):
    out[prompt_width - len(prompt) : prompt_width] = prompt
    out[prompt_width : prompt_width + len(response)] = response
  return SupervisedBatch(
    tokens, np.array([len(row) for row in prompts], np.int32), np.array([len(row) for row in responses], np.int32)
  )


def _encode(tokenizer: 'PreTrainedTokenizerFast', texts: list[str]) -> list[list[int]]:
  return [encode_text(tokenizer, text) for text in texts]


def encode_text(tokenizer: 'PreTrainedTokenizerFast', text: str) -> list[int]:
  """Encodes a text without adding special tokens.

  Raises:
    ValueError: A part of the text has no token.
  """
  try:
    return tokenizer.encode(text, add_special_tokens=False)
  except Exception as error:  # tokenizers raises nothing narrower, and does not name the text
    raise ValueError(f'the tokenizer has no token for a part of {text!r}; fix: use the tokenizer of the task') from error


def _check_fits(what: str, row: list[int], width: int, field: str) -> None:
  if len(row) > width:
    raise ValueError(f'{what} has {len(row)} tokens, more than {field} = {width}; fix: {field} >= {len(row)}')
