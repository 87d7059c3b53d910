"""The steps of the stage `calibration` where the exit policy has a router: routers learn, then the model."""

from collections.abc import Callable

import optax

from espo_jax import stops
from espo_jax.experiment import Experiment
from espo_jax.learner import RouterTraining, TrainState
from espo_jax.model import Params
from espo_jax.types import Metrics


def router_training(exp: Experiment, optimizer: optax.GradientTransformation, *, repairs: bool) -> RouterTraining:
  """Returns the learner of the routers, or of the repair."""
  assert exp.model.exits is not None
  return RouterTraining(
    model=exp.model,
    optimizer=optimizer,
    repairs=repairs,
    level=exp.model.exits.level,
    skip_weight=exp.config.calibration.skip_weight,
    bimodal_weight=exp.config.calibration.bimodal_weight,
    temperature=exp.config.rollout.temperature,
    logit_chunk=exp.logit_chunk,
  )


def routing_step(
  exp: Experiment, teacher: Params, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
  """Returns the function that makes one step, on responses that the teacher samples with all blocks.

  Args:
    exp: The experiment.
    teacher: The parameters that the stage started from.
    optimizer: The stage's optimizer.
  """
  c = exp.config
  learns, repairs = (router_training(exp, optimizer, repairs=repairs) for repairs in (False, True))
  sampler, never = exp.with_exits(None).sampler.plain(samples=1), stops.never()

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    problems = exp.my_problems('train', (step - 1) * c.calibration.prompts, c.calibration.prompts)
    rows = sampler(teacher, never, state.adaptive, exp.prompts(problems), exp.key('calibration', step))
    learner = repairs if step > c.calibration.steps - c.calibration.repair_steps else learns
    state, metrics = learner.update(state, rows)
    return state, metrics | {'bad_steps': state.bad_steps}

  return step
