"""The stage `calibration`: the exits are trained by self-distillation from the model at full depth, or by a lesson."""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from espo_jax import exits, stops
from espo_jax.configs import method_options
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import Calibration, LessonLearner, TrainState, init_state
from espo_jax.model import Params
from espo_jax.parallel.memory import during
from espo_jax.stages.loop import Interruption, copy_tree, make_stage, run_stage
from espo_jax.stages.optimizers import stage_optimizer
from espo_jax.stages.routing import routing_step
from espo_jax.types import Metrics


@during('calibration')
def calibration(exp: Experiment, params: Params, workdir: pathlib.Path, signals: Interruption) -> Params:
  """Runs the stage and returns the trained parameters."""
  c = exp.config
  never = make_rule(c, 'never')
  optimizer = calibration_learner(exp).optimizer
  state = exp.on_mesh(init_state(copy_tree(params), optimizer, never))
  has_router = exp.model.exits is not None and exp.model.exits.router is not None
  step = routing_step(exp, params, optimizer) if has_router else calibration_step(exp, params)
  stage = make_stage(c, 'calibration', workdir / 'calibration', last=c.calibration.steps, step=step)
  state, _ = run_stage(stage, state, signals)
  return state.params


def calibration_learner(exp: Experiment) -> Calibration | LessonLearner:
  """Returns the learner of the calibration: that of the lesson which the config names, or of self-distillation."""
  c = exp.config
  # The critic learns nothing here. With a rate its weights would decay all the same, as would networks that no lesson reads.
  optimizer = functools.partial(stage_optimizer, c, c.calibration.learning_rate, 0.0, c.calibration.warmup_steps)
  if c.lesson.name:
    lesson = functools.partial(exits.LESSONS.find(c.lesson.name), **method_options(c, 'lesson'))
    return LessonLearner(exp.model, optimizer(weight_decay=0.0), lesson, c.rollout.temperature, exp.logit_chunk)
  return Calibration(
    model=exp.model,
    optimizer=optimizer(),
    kappa=c.calibration.kappa,
    patterns=c.calibration.patterns,
    uniform_patterns=c.calibration.uniform_patterns,
    whole_patterns=c.calibration.whole_patterns,
    divergence_weight=c.calibration.divergence_weight,
    exit_weight=c.calibration.exit_weight,
    temperature=c.rollout.temperature,
    logit_chunk=exp.logit_chunk,
  )


def calibration_step(exp: Experiment, teacher: Params) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
  """Returns the function that makes one calibration step, on responses that the teacher samples at full depth.

  Args:
    exp: The experiment.
    teacher: The parameters that the stage started from.
  """
  c, learner = exp.config, calibration_learner(exp)
  sampler, never = exp.with_exits(None).sampler.plain(samples=1), stops.never()

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    problems = exp.my_problems('train', (step - 1) * c.calibration.prompts, c.calibration.prompts)
    key = exp.key('calibration', step)
    rows = sampler(teacher, never, state.adaptive, exp.prompts(problems), key)
    if isinstance(learner, LessonLearner):
      state, metrics = learner.update(state, rows, jax.device_put(np.int32(step)))
    else:
      state, metrics = learner.update(state, teacher, rows, key)
    return state, metrics | {'bad_steps': state.bad_steps}

  return step
