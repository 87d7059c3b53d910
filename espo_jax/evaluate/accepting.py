"""Draws the samples of `speculative`, and fits its head before that."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from espo_jax import stops, tasks
from espo_jax.decoders import Speculative
from espo_jax.evaluate.drawn import Drawn
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Sampler
from espo_jax.rollout.accept_head import AcceptHead, fit_head
from espo_jax.rollout.speculative import Accepting

_PROBLEMS, _LONGEST = 64, 256  # a head is fitted to a response to so many problems, of so many tokens at most


def fitted_head(
  exp: Experiment,
  sampler: Sampler,
  params: Params,
  speculative: Speculative,
  problems: Sequence[tasks.Problem],
  rows: int,
  seed: int,
) -> AcceptHead:
  """Fits a head to drafts in a response to each of the first problems, which do not depend on the size of a batch.

  Args:
    exp: The experiment.
    sampler: The sampler of an evaluation.
    params: The policy's parameters.
    speculative: The options of the head.
    problems: The problems of the evaluation.
    rows: The number of responses in a batch of the evaluation.
    seed: The seed of the evaluation.
  """
  short = dataclasses.replace(sampler, samples=1, horizon=min(sampler.horizon, _LONGEST))
  its, key, adaptive = speculative, exp.key('accept_head', seed), exp.put(stops.adaptive(stops.never()))
  problems, parts = problems[:_PROBLEMS], []
  size = min(rows, len(problems))
  for first in range(0, len(problems), size):
    fresh = problems[first : first + size]
    prompts = exp.prompts([*fresh, *[fresh[-1]] * (size - len(fresh))])
    part = short.acceptances(params, prompts, short(params, stops.never(), adaptive, prompts, key), key, mixing=its.mixing)
    parts.append(part)
  found = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(problems)], *parts)
  return fit_head(found, blocks=its.blocks, mismatch=its.mismatch, steps=its.steps, rate=its.rate)


def speculated(
  exp: Experiment,
  sampler: Sampler,
  params: Params,
  speculative: Speculative,
  head: AcceptHead,
  mine: Sequence[tasks.Problem],
  key: Key[Array, ''],
) -> Drawn:
  """Returns `sampler.samples` samples of each problem, drawn with a head.

  Args:
    exp: The experiment.
    sampler: The sampler of an evaluation.
    params: The policy's parameters.
    speculative: The options of drafting.
    head: The head.
    mine: This process's problems.
    key: The random key of the evaluation.
  """
  threshold, least = exp.put((np.float32(speculative.threshold), np.int32(speculative.least)))
  rows, counts = sampler.speculate(params, exp.prompts(mine), key, Accepting(head, threshold, least))
  return Drawn(*exp.fetch((rows.tokens, rows.length, rows.length, rows.stop_reason, counts.spent)))
