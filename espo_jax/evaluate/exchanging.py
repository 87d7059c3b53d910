"""Draws the paths of `leap`: they write by turns, and between these each reads the summaries of others.

The rows stay on the device, as in episodes with an environment (`rollout.turns`), and what a path reads is an observation.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Key

from espo_jax import parallel, stops, tasks
from espo_jax.decoders import Exchange, routed
from espo_jax.evaluate.drawn import Drawn
from espo_jax.evaluate.policies import RequestError
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Observations, Paused, Sampler, Turns
from espo_jax.types import Prompts, StopReason, Trajectories

_NEVER = stops.never()


class Texts(NamedTuple):
  """The tokens of the texts that are inserted, as the options of `leap` name them."""

  ask: list[int]
  peer: list[int]
  resume: list[int]
  answer: list[int]


class Paths(NamedTuple):
  """The paths of all problems.

  Attributes:
    rows: The paths with all that was inserted; `rows.turn` is -1 there.
    reasoning: The numbers of the turns that are no summaries, the answer left out.
    answer: The number of the turn that answers; -1 if no path was asked to.
  """

  rows: Trajectories
  reasoning: list[int]
  answer: int


def exchanged(
  exp: Experiment, sampler: Sampler, params: Params, exchange: Exchange, mine: Sequence[tasks.Problem], key: Key[Array, '']
) -> Drawn:
  """Returns `sampler.samples` paths of each problem, without summaries and what they read.

  Args:
    exp: The experiment.
    sampler: The sampler of an evaluation, whose horizon bounds a path.
    params: The policy's parameters.
    exchange: The options of the exchange.
    mine: This process's problems.
    key: The random key of the evaluation.

  Raises:
    RequestError: The tokenizer has no tokens for a text.
  """
  rows, reasoning, answer = paths(exp, sampler, params, exchange, mine, key)
  tokens, turn, reasons = exp.fetch((rows.tokens, rows.turn, rows.stop_reason))
  asked = inserted(exp, exchange).answer
  said, written = [], np.isin(turn, [*reasoning, *([answer] if answer >= 0 else [])]).sum(axis=1, dtype=np.int32)
  for row, its in zip(tokens, turn, strict=True):
    last = row[its == answer] if answer >= 0 else row[:0]
    said.append([*row[np.isin(its, reasoning)].tolist(), *(asked if last.size else []), *last.tolist()])
  lengths = np.array([*map(len, said)], np.int32)
  packed = np.full((len(said), lengths.max()), exp.tokenizer.pad_token_id, np.int32)
  for out, row in zip(packed, said, strict=True):
    out[: len(row)] = row
  return Drawn(packed, lengths, written, reasons, (turn >= 0).sum(axis=1, dtype=np.int32))


def inserted(exp: Experiment, exchange: Exchange) -> Texts:
  """Returns the tokens of the texts that are inserted.

  Raises:
    RequestError: The tokenizer has no tokens for a text.
  """
  found = []
  for name in Texts._fields:
    try:
      found.append(tasks.encode_text(exp.tokenizer, getattr(exchange, name)))
    except ValueError as error:
      raise RequestError(f'--decoder=leap: {name}={getattr(exchange, name)!r}: {error}') from error
  return Texts(*found)


def paths(
  exp: Experiment, sampler: Sampler, params: Params, exchange: Exchange, mine: Sequence[tasks.Problem], key: Key[Array, '']
) -> Paths:
  """Writes the paths of all problems. Where no path exchanges anything, they are independent samples.

  The arguments are those of `exchanged`.
  """
  texts, size = inserted(exp, exchange), exchange.tokens if exchange.peers else sampler.horizon
  parts = [min(size, sampler.horizon - begun) for begun in range(0, sampler.horizon, size)]
  heard = exchange.peers * (len(texts.peer) + exchange.summary) + len(texts.resume)
  between = len(texts.ask) + exchange.summary + heard
  end = len(texts.answer) + exchange.answer_tokens if exchange.peers else 0
  width = max(heard, len(texts.ask), len(texts.answer))
  table = _Table(exp, dataclasses.replace(sampler, horizon=sampler.horizon + (len(parts) - 1) * between + end), params, width)
  table.begin(mine, key, parts[0])
  open_, reasoning, answer = table.unended(), [0], -1
  for part in parts[1:]:
    groups = [np.flatnonzero(its) + p * sampler.samples for p, its in enumerate(open_.reshape(-1, sampler.samples))]
    groups = [group for group in groups if group.size > 1]
    summaries = table.go_on({n: texts.ask for group in groups for n in group.tolist()}, exchange.summary)
    read: dict[int, list[int]] = {n: [] for n in np.flatnonzero(open_).tolist()}
    for group in groups:
      own = [summaries[n] for n in group.tolist()]
      for n, peers in zip(group.tolist(), routed(own, exchange.peers, exchange.routing), strict=True):
        read[n] = [token for peer in peers for token in (*texts.peer, *own[peer])] + texts.resume
    table.go_on(read, part)
    reasoning.append(table.number)
    open_ &= table.unended()
  if exchange.peers:
    table.go_on({n: texts.answer for n in np.flatnonzero(open_).tolist()}, exchange.answer_tokens)
    answer = table.number
  return Paths(table.finished(), reasoning, answer)


class _Table:
  """This process's paths between their turns."""

  def __init__(self, exp: Experiment, sampler: Sampler, params: Params, width: int):
    self._exp, self._sampler, self._params, self._width = exp, sampler, params, max(width, 1)
    self._adaptive, self.number = exp.put(stops.adaptive(_NEVER)), 0

  def begin(self, mine: Sequence[tasks.Problem], key: Key[Array, ''], most: int) -> None:
    """Begins all paths with a turn of at most `most` tokens."""
    self._prompts: Prompts = self._exp.prompts(mine)
    self._paused: Paused = self._turn(most).begin(self._params, _NEVER, self._adaptive, self._prompts, key)

  def go_on(self, read: dict[int, list[int]], most: int) -> dict[int, list[int]]:
    """Lets paths read tokens and write a turn of at most `most` tokens; returns the turn of each without its end token."""
    rows = self.unended().size
    tokens, counts = np.full((rows, self._width), self._exp.tokenizer.pad_token_id, np.int32), np.zeros(rows, np.int32)
    goes_on = np.zeros(rows, bool)
    for n, its in read.items():
      tokens[n, : len(its)], counts[n], goes_on[n] = its, len(its), True
    observed = Observations(*self._exp.put_rows((tokens, counts, goes_on)))
    self.number += 1
    if self._exp.fetch(observed.goes_on).any():  # of all processes
      ahead = self._params, _NEVER, self._paused, self._prompts, observed, self.number
      self._paused = self._turn(most).go_on(*ahead)
    written, turn = self._mine((self._paused.record.tokens.tokens, self._paused.turn))
    ends = self._exp.end_tokens
    return {n: [x for x in written[n, turn[n] == self.number].tolist() if x not in ends] for n in read}

  def unended(self) -> Bool[np.ndarray, 'N']:
    """Returns whether the last turn of each path was cut."""
    (reason,) = self._mine((self._paused.record.reason,))
    return reason == StopReason.LENGTH

  def finished(self) -> Trajectories:
    """Returns the paths of all processes."""
    done = self._exp.put_rows(~self.unended())
    return self._sampler.finished(self._paused, self._prompts, done)

  def _turn(self, most: int) -> Sampler:
    return dataclasses.replace(self._sampler, turns=Turns(self.number + 1, most, self._width))

  def _mine(self, arrays: tuple[Array, ...]) -> list[np.ndarray]:
    laid = parallel.lay(arrays, parallel.over_batch(self._exp.mesh))
    return [parallel.take_rows(x, self._exp.mesh) for x in laid]
