"""Written conversations: an expert plays an environment, so that the warm start learns to talk in turns.

The environment plays in this process, as the task writes its solutions here. An episode of the policy has the same tokens
between its turns.
"""

from typing import Any

import numpy as np

from espo_jax import environments, tasks
from espo_jax.configs import method_options
from espo_jax.environments import breakable, reposed
from espo_jax.experiment import Experiment
from espo_jax.stages.table import hosted, seed_of
from espo_jax.tasks import DataError, Segment


def has_expert(exp: Experiment) -> bool:
  """Returns whether an experiment has an environment whose expert writes turns."""
  return exp.sampler.turns is not None and hosted(exp).expert


def conversation(exp: Experiment, problem: tasks.Problem, rng: np.random.Generator) -> tasks.Example:
  """Returns an episode of the expert, of at most `environment.max_turns` turns. Only the expert's turns have loss.

  Args:
    exp: The experiment, whose environment has an expert.
    problem: The problem.
    rng: The random generator of the expert and of written solutions.

  Raises:
    DataError: A turn of the expert is longer than the policy's may be.
  """
  c, host, question, most = exp.config, hosted(exp), exp.task.question(problem), exp.sampler.turns
  assert most is not None
  environment: Any = environments.REGISTRY.find(c.environment.name)(**method_options(c, 'environment'))
  posed = environment.reset(problem._replace(prompt=question), seed_of(exp, problem))
  segments: list[Segment] = []
  for left in reversed(range(most.most)):
    turn = environment.expert(rng)
    turn = exp.task.solution(problem, rng) if turn is None else turn
    segments.append(Segment(turn, True, True))
    count = len(exp.tokenizer.encode(turn, add_special_tokens=False)) + 1
    if count > most.horizon:
      raise DataError(
        f'environment.turn_horizon = {most.horizon}: a turn of the expert has {count} tokens, {turn[:80]!r}; '
        f'fix: at least {count}'
      )
    step = environment.step(turn, float(exp.task.verify(problem, turn)) if host.graded else None)
    if step.done or not left:
      break
    segments.append(Segment(tasks.text_of(exp.tokenizer, host.write(step.observation, True).tokens), False))
  prompt = reposed(problem.prompt, question, posed, breakable(exp.tokenizer))
  return tasks.Example(prompt, tuple(segments), place=f'the conversation on {question!r}')
