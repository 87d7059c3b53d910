"""The ways to draw the samples of a problem, of decoders that do not only choose among independent ones.

A decoder of this package computes nothing on a device. It says here how its samples are to be drawn, and `espo_jax.evaluate`
draws them so. What such samples took is in `Samples.spent`. Samples of `Speculative` are independent, and all others depend on
each other. No other decoder is compared on them: it would be charged for drafts or for a search that it does not need.
"""

from typing import NamedTuple


class Beams(NamedTuple):
  """Samples side by side, of which those with low scores are replaced by copies of the others.

  Attributes:
    factor: The number `M` of samples per sample that goes on: of `n` unfinished ones the best `ceil(n / M)`.
    prefix: The number of tokens of a step after which samples are scored.
    step: The number of tokens of a step.
    score: The score, as in `decoders.scores`.
  """

  factor: int
  prefix: int
  step: int
  score: str


class Revision(NamedTuple):
  """Samples one after another, each of which reads the last ones.

  Attributes:
    window: The number of earlier samples that a sample reads.
    message: The text behind each earlier sample that is read.
  """

  window: int
  message: str


class Exchange(NamedTuple):
  """Samples side by side that read summaries of each other. The attributes are the options of `leap`."""

  peers: int
  tokens: int
  summary: int
  routing: str
  answer_tokens: int
  ask: str
  peer: str
  resume: str
  answer: str


class Speculative(NamedTuple):
  """Independent samples that are drafted and verified. The attributes are the options of `speculative`."""

  draft_blocks: int
  threshold: float
  least: int
  most: int
  blocks: int
  mismatch: float
  mixing: float
  steps: int
  rate: float


Dependent = Beams | Revision | Exchange
Drawing = Dependent | Speculative
