"""Lets a stop rule end answers, and measures what it saves and loses against the answers decoded to their end."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from espo_jax import stops
from espo_jax.evaluate.answers import Acting
from espo_jax.evaluate.measures import aucm, erde
from espo_jax.evaluate.policies import Policy
from espo_jax.evaluate.recording import Scale
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.replay.measures import measure


def with_scale(acting: Acting, scale: Scale) -> Acting:
  """Returns a stop rule in its first state, with the measured moments of the regret."""
  return acting._replace(adaptive=stops.adaptive(acting.rule, mu=np.float32(scale.mu), var=np.float32(scale.var)))


def with_value(exp: Experiment, policy: Policy, params: Params, scale: Scale) -> Params:
  """Returns the parameters in which a Hugging Face directory's policy has the measured share of right answers as its value.

  A run has a critic or a success rate of its own, so its parameters are returned unchanged.
  """
  return params if policy.is_run else params | {'critic': {'success': exp.put(np.float32(scale.success))}}


def summarise_stops(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """Measures stopped answers against their own continuations.

  Args:
    answers: The records of `samples.jsonl`.

  Returns:
    The measures of `replay.Measured`; `right`, the number of answers that are right if nothing is stopped; `lost`, the number
    of these that were stopped; the early risk errors `erde_5` and `erde_50`; and `aucm`, the counts and rates of abstention.
  """
  names = ('problem', 'length', 'stop_reason', 'full_length', 'full_correct')
  problem, length, reason, full_length, correct = (
    np.array(x) for x in zip(*([row[name] for name in names] for row in answers), strict=True)
  )
  stopped = reason == 'stopped'
  (measured,) = measure(length, stopped, full_length, correct.astype(np.float64), np.ones(len(correct)))
  counts = {'right': int(correct.sum()), 'lost': int((correct & stopped).sum())}
  errors = {f'erde_{deadline}': erde(stopped, correct, length, deadline=deadline) for deadline in (5, 50)}
  return measured._asdict() | counts | errors | {'aucm': aucm(stopped, correct, problem)._asdict()}


def format_stops(summary: Mapping[str, Any]) -> str:
  """Formats the measures, a line for each kind."""
  s = summary['stop']
  matrix = s['aucm']
  lines = [
    f'{summary["settings"]["stop"]} stopped {100 * s["stop_rate"]:.1f} % of the answers and saved {100 * s["saved"]:.1f} % of '
    f'the tokens; {s["lost"]} of {s["right"]} right answers were lost.',
    f'Early risk error: {s["erde_5"]:.3f} with a deadline of 5 segments, {s["erde_50"]:.3f} with 50.',
  ]
  for rate, told in (
    ('over_abstention', 'Of the answers to problems with a right answer, {:.1f} % were right and stopped.'),
    ('abstention', 'Of the answers to the other problems, {:.1f} % were stopped.'),
  ):
    if not math.isnan(matrix[rate]):  # there are such problems
      lines.append(told.format(100 * matrix[rate]))
  return '\n'.join(lines)
