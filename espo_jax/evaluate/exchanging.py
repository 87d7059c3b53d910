"""Draws the paths of `leap`: they write by turns, and between these each reads the summaries of others.

The rows stay on the device, as in episodes with an environment (`rollout.turns`), and what a path reads is an observation.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Key

from espo_jax import stops, tasks
from espo_jax.decoders import Exchange, routed
from espo_jax.evaluate.drawn import Drawn
from espo_jax.evaluate.policies import RequestError
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Observations, Paused, Sampler, Turns
from espo_jax.stages.table import lay, take
from espo_jax.types import Prompts, StopReason, Trajectories


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
    answers: The number of the turn that answers, alone; empty if no path was asked to.
  """

  rows: Trajectories
  reasoning: list[int]
  answers: list[int]


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
  rows, reasoning, answers = paths(exp, sampler, params, exchange, mine, key)
  tokens, turn, reasons = exp.fetch((rows.tokens, rows.turn, rows.stop_reason))
  asked = inserted(exp, exchange).answer
  said, written = [], np.isin(turn, reasoning + answers).sum(axis=1, dtype=np.int32)
  for row, its in zip(tokens, turn, strict=True):
    last = row[np.isin(its, answers)]
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
  walk = _Walk(exp, dataclasses.replace(sampler, horizon=sampler.horizon + (len(parts) - 1) * between + end), params, width)
  walk.begin(mine, key, parts[0])
  open_, reasoning, answers = walk.unended, [0], list[int]()
  for part in parts[1:]:
    groups = [np.flatnonzero(its) + p * sampler.samples for p, its in enumerate(open_.reshape(-1, sampler.samples))]
    groups = [group for group in groups if group.size > 1]
    walk.go_on({n: texts.ask for group in groups for n in group.tolist()}, exchange.summary)
    read: dict[int, list[int]] = {n: [] for n in np.flatnonzero(open_).tolist()}
    for group in groups:
      own = [walk.written(n) for n in group.tolist()]
      for n, peers in zip(group.tolist(), routed(own, exchange.peers, exchange.routing), strict=True):
        read[n] = [token for peer in peers for token in (*texts.peer, *own[peer])] + texts.resume
    walk.go_on(read, part)
    reasoning.append(walk.number)
    open_ = open_ & walk.unended
  if exchange.peers:
    walk.go_on({n: texts.answer for n in np.flatnonzero(open_).tolist()}, exchange.answer_tokens)
    answers.append(walk.number)
  return Paths(walk.finished(), reasoning, answers)


class _Walk:
  """This process's paths between their turns."""

  def __init__(self, exp: Experiment, sampler: Sampler, params: Params, width: int):
    self._exp, self._sampler, self._params, self._width = exp, sampler, params, max(width, 1)
    self._adaptive, self.number = exp.put(stops.adaptive(stops.never())), 0

  def begin(self, mine: Sequence[tasks.Problem], key: Key[Array, ''], most: int) -> None:
    """Begins all paths with a turn of at most `most` tokens."""
    self._prompts: Prompts = self._exp.prompts(mine)
    self._keep(self._turn(most).begin(self._params, stops.never(), self._adaptive, self._prompts, key))

  def go_on(self, read: dict[int, list[int]], most: int) -> None:
    """Lets paths read tokens and write a turn of at most `most` tokens."""
    rows = self._found.reason.size
    tokens, counts = np.full((rows, self._width), self._exp.tokenizer.pad_token_id, np.int32), np.zeros(rows, np.int32)
    goes_on = np.zeros(rows, bool)
    for n, its in read.items():
      tokens[n, : len(its)], counts[n], goes_on[n] = its, len(its), True
    observed = Observations(*self._exp.put_rows((tokens, counts, goes_on)))
    self.number += 1
    if self._exp.fetch(observed.goes_on).any():  # of all processes
      ahead = self._params, stops.never(), self._paused, self._prompts, observed, self.number
      self._keep(self._turn(most).go_on(*ahead))

  def written(self, row: int) -> list[int]:
    """Returns what a path wrote in the last turn, without its end token."""
    own = self._found.tokens[row, self._found.turn[row] == self.number].tolist()
    return [token for token in own if token not in self._exp.end_tokens]

  @property
  def unended(self) -> Bool[np.ndarray, 'N']:
    """Whether the last turn of each path was cut."""
    return self._found.reason == StopReason.LENGTH

  def finished(self) -> Trajectories:
    """Returns the paths of all processes."""
    done = self._exp.put_rows(~self.unended)
    return self._sampler.finished(self._paused, self._prompts, done)

  def _turn(self, most: int) -> Sampler:
    return dataclasses.replace(self._sampler, turns=Turns(self.number + 1, most, self._width))

  def _keep(self, paused: Paused) -> None:
    """Waits for a turn, and keeps the paths behind it."""
    self._paused, self._found = paused, take(self._exp, lay(self._exp, paused))
