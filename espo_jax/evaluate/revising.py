"""Draws the turns of `revise`: each one reads the question and the last turns.

A window leaves the oldest turns out, and so moves all later ones to other positions. No cache of the turn before holds them
there. So every turn is a rollout of its own, whose prompt is the question with the window. All later turns have prompts of one
width.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Key, UInt32

from espo_jax import parallel, stops, tasks
from espo_jax.decoders import Revision
from espo_jax.environments import TurnWriter, turn_writer
from espo_jax.evaluate.drawn import Drawn
from espo_jax.evaluate.policies import RequestError
from espo_jax.experiment import Experiment, kind_of_turns
from espo_jax.model import Params
from espo_jax.rollout import Sampler
from espo_jax.types import Prompts

_ROOM = 1024  # the most tokens of a message with its marks


def revised(
  exp: Experiment, sampler: Sampler, params: Params, revision: Revision, mine: Sequence[tasks.Problem], key: Key[Array, '']
) -> Drawn:
  """Returns `sampler.samples` turns of each problem; the first equals sample 0 of independent samples.

  Args:
    exp: The experiment.
    sampler: The sampler of an evaluation.
    params: The policy's parameters.
    revision: The options of the turns.
    mine: This process's problems.
    key: The random key of the evaluation.

  Raises:
    RequestError: The tokenizer has no tokens for the message, or its tokens are too many.
  """
  behind = messages(exp, revision)
  alone = dataclasses.replace(sampler, samples=1)
  first = tasks.encode_prompts(exp.tokenizer, exp.tagged(mine), exp.config.rollout.prompt_width)
  questions = [row[len(row) - n :].tolist() for row, n in zip(first.tokens, first.lengths, strict=True)]
  width = first.tokens.shape[1] + revision.window * (sampler.horizon + max(map(len, behind.values())))
  past: list[list[list[int]]] = [[] for _ in mine]  # the turns of each problem, with the message behind each
  adaptive, found, prompts = exp.put(stops.adaptive(stops.never())), [], first
  for turn in range(sampler.samples):
    if turn:
      read = ([question, *its[-revision.window :]] for question, its in zip(questions, past, strict=True))
      contexts = [list(itertools.chain.from_iterable(parts)) for parts in read]
      prompts = _padded(contexts, np.asarray(first.ids), width, exp.tokenizer.pad_token_id)
    rows = alone(params, stops.never(), adaptive, exp.put_rows(prompts), jax.random.fold_in(key, turn) if turn else key)
    found.append(exp.fetch((rows.tokens, rows.length, rows.stop_reason)))
    tokens, lengths, _ = found[-1]
    own = parallel.my_rows(exp.mesh, len(tokens))
    for its, row, n in zip(past, tokens[own], lengths[own], strict=True):
      its.append([*row[:n].tolist(), *behind[bool(row[n - 1] in exp.end_tokens)]])
  tokens, lengths, reasons = (np.stack(x, axis=1).reshape(-1, *x[0].shape[1:]) for x in zip(*found, strict=True))
  return Drawn(tokens, lengths, lengths, reasons, lengths)


def messages(exp: Experiment, revision: Revision) -> dict[bool, list[int]]:
  """Returns the tokens between two turns, by whether the first one has written its end token.

  Raises:
    RequestError: The tokenizer has no tokens for the message, or its tokens are too many.
  """
  try:
    write: TurnWriter = turn_writer(
      exp.tokenizer, kind_of_turns(exp.config, exp.tokenizer), 'user', exp.end_tokens, _ROOM, exp.config.data.today
    )
    written = {ended: write(revision.message, ended) for ended in (False, True)}
  except ValueError as error:
    raise RequestError(f'--decoder=revise: message={revision.message!r}: {error}') from error
  if any(its.cut for its in written.values()):
    raise RequestError(f'--decoder=revise: message={revision.message!r}: more than {_ROOM} tokens; fix: a shorter text')
  return {ended: its.tokens for ended, its in written.items()}


def _padded(contexts: Sequence[Sequence[int]], ids: UInt32[np.ndarray, 'P'], width: int, pad: int) -> Prompts:
  tokens = np.full((len(contexts), width), pad, np.int32)
  for out, context in zip(tokens, contexts, strict=True):
    out[width - len(context) :] = context
  return Prompts(tokens, np.array([*map(len, contexts)], np.int32), ids)
