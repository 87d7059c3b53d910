"""A rollout in parts is the rollout, and the device has its work before the host grades."""

import contextlib
import dataclasses
import functools

import jax
import numpy as np
import pytest
import rounding
from tiny import first_params, rule_of, tiny_experiment

from espo_jax.experiment import Experiment
from espo_jax.stages.rollouts import collect
from espo_jax.stops import StopRule

SEEN = []


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Experiment):
  """An experiment that notes when a rollout is dispatched and when one is graded."""

  @functools.cached_property
  def sampler(self):
    sampler = super().sampler

    def noting(*args):
      SEEN.append('rollout')
      return sampler(*args)

    noting.turns = sampler.turns
    return noting

  def grade(self, problems, rows):
    SEEN.append('grade')
    return super().grade(problems, rows)


def collected(parts: int):
  exp = tiny_experiment(lambda c: c.rollout.update(parts=parts))
  exp = Watched(**{field.name: getattr(exp, field.name) for field in dataclasses.fields(Experiment)})
  rule: StopRule = rule_of(exp)
  size = exp.config.rollout.prompts // parts
  problems = [exp.my_problems('train', i * size, size) for i in range(parts)]
  params, adaptive = first_params(exp, 0), exp.put(rule.init(1).adaptive)
  SEEN.clear()
  return collect(exp, params, rule, adaptive, lambda phase: contextlib.nullcontext(), problems, exp.key('rollout', 1))


@pytest.mark.parametrize('parts', [2, 4])
def test_parts_are_the_whole_and_are_graded_while_others_decode(parts, in_float64):
  rows, grades = collected(1)
  assert SEEN == ['rollout', 'grade']
  by_part, part_grades = collected(parts)
  assert ['rollout'] * parts + ['grade'] * parts == SEEN
  for name in ('prompt_tokens', 'tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(by_part, name), getattr(rows, name))
  exp = tiny_experiment()
  bound = 2 * rounding.of_scores(exp.model, first_params(exp, 0), 30, temperature=0.8)  # a regret is of two log-probabilities
  for name in ('logprobs', 'values', 'regret', 'z'):  # z is a mean of regrets on the scale of their first deviation, which is 1
    rounding.assert_within(getattr(by_part, name), getattr(rows, name), bound)
  jax.tree.map(np.testing.assert_array_equal, part_grades, grades)
