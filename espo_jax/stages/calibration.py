"""The stage `calibration`: exits learn by self-distillation from the model at full depth, by a lesson, or as routers."""

import functools
import pathlib
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from espo_jax import exits, stops
from espo_jax.configs import method_options
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import Calibration, LessonLearner, RouterTraining, TrainState, init_state
from espo_jax.model import Params
from espo_jax.parallel.memory import during
from espo_jax.stages.loop import Interruption, copy_tree, make_stage, run_stage
from espo_jax.stages.optimizers import stage_optimizer
from espo_jax.types import Metrics, Trajectories

# From the state, responses, a random key and the number of the step, of which the first is 1.
Update: TypeAlias = Callable[[TrainState, Trajectories, Key[Array, ''], int], tuple[TrainState, Metrics]]


@during('calibration')
def calibration(exp: Experiment, params: Params, workdir: pathlib.Path, signals: Interruption) -> Params:
  """Runs the stage and returns the trained parameters."""
  c = exp.config
  state = exp.on_mesh(init_state(copy_tree(params), calibration_optimizer(exp), make_rule(c, 'never')))
  step = calibration_step(exp, params)
  stage = make_stage(c, 'calibration', workdir / 'calibration', last=c.calibration.steps, step=step)
  state, _ = run_stage(stage, state, signals)
  return state.params


def calibration_optimizer(exp: Experiment) -> optax.GradientTransformation:
  """Returns the stage's optimizer."""
  c = exp.config
  # The critic learns nothing here. With a rate its weights would decay all the same.
  return stage_optimizer(c, c.calibration.learning_rate, 0.0, c.calibration.warmup_steps)


def self_distillation(exp: Experiment) -> Calibration:
  """Returns the learner of exits that are actions of the model."""
  c = exp.config
  return Calibration(
    model=exp.model,
    optimizer=calibration_optimizer(exp),
    kappa=c.calibration.kappa,
    patterns=c.calibration.patterns,
    uniform_patterns=c.calibration.uniform_patterns,
    whole_patterns=c.calibration.whole_patterns,
    divergence_weight=c.calibration.divergence_weight,
    exit_weight=c.calibration.exit_weight,
    temperature=c.rollout.temperature,
    logit_chunk=exp.logit_chunk,
  )


def lesson_learner(exp: Experiment) -> LessonLearner:
  """Returns the learner of the lesson that the config names."""
  c = exp.config
  lesson = functools.partial(exits.LESSONS.find(c.lesson.name), **method_options(c, 'lesson'))
  return LessonLearner(exp.model, calibration_optimizer(exp), lesson, c.rollout.temperature, exp.logit_chunk)


def router_training(exp: Experiment, *, repairs: bool) -> RouterTraining:
  """Returns the learner of the policy's routers, or of the repair behind them."""
  c = exp.config
  return RouterTraining(
    model=exp.model,
    optimizer=calibration_optimizer(exp),
    repairs=repairs,
    skip_weight=c.calibration.skip_weight,
    bimodal_weight=c.calibration.bimodal_weight,
    temperature=c.rollout.temperature,
    logit_chunk=exp.logit_chunk,
  )


def calibration_step(exp: Experiment, teacher: Params) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
  """Returns the function that makes one calibration step, on responses that the teacher samples at full depth.

  Args:
    exp: The experiment.
    teacher: The parameters that the stage started from.
  """
  c, update = exp.config, calibration_update(exp, teacher)
  sampler, never = exp.with_exits(None).sampler.plain(samples=1), stops.never()

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    problems = exp.my_problems('train', (step - 1) * c.calibration.prompts, c.calibration.prompts)
    key = exp.key('calibration', step)
    rows = sampler(teacher, never, state.adaptive, exp.prompts(problems), key)
    state, metrics = update(state, rows, key, step)
    return state, metrics | {'bad_steps': state.bad_steps}

  return step


def calibration_update(exp: Experiment, teacher: Params) -> Update:
  """Returns the update of what the config trains: the policy's routers, the exits of a lesson, or exits by self-distillation.

  Args:
    exp: The experiment.
    teacher: The parameters that the stage started from.
  """
  c = exp.config
  if exp.model.exits is not None and exp.model.exits.router is not None:
    learns, repairs = (router_training(exp, repairs=repairs) for repairs in (False, True))
    last = c.calibration.steps - c.calibration.repair_steps  # of the routers
    return lambda state, rows, key, step: (repairs if step > last else learns).update(state, rows)
  if c.lesson.name:
    taught = lesson_learner(exp)
    return lambda state, rows, key, step: taught.update(state, rows, jax.device_put(np.int32(step)))
  distilled = self_distillation(exp)
  return lambda state, rows, key, step: distilled.update(state, teacher, rows, key)
