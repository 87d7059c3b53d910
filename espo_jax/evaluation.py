"""Accuracy on the test split, sampled and greedy, without a stop rule."""

import jax
import numpy as np

from espo_jax import stops
from espo_jax.experiment import Experiment
from espo_jax.model import Params


def evaluate_params(exp: Experiment, params: Params) -> dict[str, int | float]:
  """One sampled and one greedy answer to each of `eval.problems` test problems.

  Every policy of a seed is asked the same problems with the same random numbers, so that differences are paired.

  Returns:
    `accuracy`, `correct`, `problems`, `greedy_accuracy`, `greedy_correct`, `tokens_mean`.
  """
  c = exp.config
  rule = _NEVER
  size = exp.task.size('test')
  count = c.eval.problems if size is None else min(c.eval.problems, size)
  batch = min(c.eval.batch, count)
  right = {'sampled': 0.0, 'greedy': 0.0}
  tokens = 0
  for start in range(0, count, batch):
    problems = exp.problems('test', min(start, count - batch), batch)
    fresh = slice(start - min(start, count - batch), None)  # the last batch reaches back to keep one shape
    for kind, temperature in (('sampled', c.rollout.temperature), ('greedy', 0.0)):
      rows = exp.rollout(
        params,
        rule,
        rule.init(1).adaptive,
        exp.prompts(problems),
        exp.key('evaluation', 0),
        samples=1,
        temperature=temperature,
      )
      right[kind] += float(exp.grade(problems, rows)[fresh].sum())
      if kind == 'sampled':
        tokens += int(np.sum(jax.device_get(rows.length)[fresh]))
  return {
    'problems': count,
    'accuracy': right['sampled'] / count,
    'correct': right['sampled'],
    'greedy_accuracy': right['greedy'] / count,
    'greedy_correct': right['greedy'],
    'tokens_mean': tokens / count,
  }


_NEVER = stops.never()
