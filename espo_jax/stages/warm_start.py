"""The stage `warm_start`: supervised training on written solutions.

One random stream per step draws the written solutions. Every process draws all of them and encodes those of its own rows.
"""

import pathlib
import zlib
from collections.abc import Callable

import numpy as np

from espo_jax import objectives, parallel, tasks
from espo_jax.evaluate.policies import start_params
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import SupervisedLearner, TrainState, init_state
from espo_jax.model import Params
from espo_jax.parallel.memory import during
from espo_jax.stages.loop import Interruption, make_stage, run_stage
from espo_jax.stages.optimizers import stage_optimizer
from espo_jax.types import Metrics


@during('warm start')
def warm_start(exp: Experiment, workdir: pathlib.Path, signals: Interruption) -> Params:
  """Returns the parameters that the next stage starts from.

  With `start_from` they are those of another run. Without the stage they are the initial ones, and otherwise those after
  supervised training on written solutions.
  """
  c = exp.config
  if c.start_from:
    return start_params(exp)
  params = exp.init_params()
  if 'warm_start' not in c.stages:
    return params
  never = make_rule(c, 'never')
  state = exp.on_mesh(init_state(params, supervised_learner(exp).optimizer, never))
  stage = make_stage(c, 'warm start', workdir / 'warm_start', last=c.warm_start.steps, step=supervised_step(exp))
  state, _ = run_stage(stage, state, signals)
  return state.params


def supervised_learner(exp: Experiment) -> SupervisedLearner:
  """Returns the learner of the warm start."""
  c = exp.config
  optimizer = stage_optimizer(
    c,
    c.warm_start.learning_rate,
    c.warm_start.learning_rate,
    c.warm_start.warmup_steps,
    decay_steps=c.warm_start.steps - c.warm_start.warmup_steps,
    weight_decay=c.warm_start.weight_decay,
    exit_learning_rate=0.0,  # no token exits early in this stage
    exits_alone=False,
    before=() if c.warm_start.gradients == 'none' else (objectives.GRADIENTS[c.warm_start.gradients](),),
  )
  likelihood = objectives.LIKELIHOODS[c.warm_start.loss]
  return SupervisedLearner(exp.model, optimizer, c.rollout.prompt_width, exp.logit_chunk, likelihood)


def supervised_step(exp: Experiment) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
  """Returns the function that makes one warm-start step, on newly written solutions."""
  c, learner = exp.config, supervised_learner(exp)

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    rng = np.random.default_rng([c.seed, zlib.crc32(b'warm_start'), step])
    problems = exp.problems('train', (step - 1) * c.warm_start.batch, c.warm_start.batch)
    pairs = [(problem.prompt, exp.task.solution(problem, rng)) for problem in problems]  # one random stream for all
    mine = [pairs[i] for i in parallel.my_rows(exp.mesh, len(pairs))]
    batch = tasks.encode_supervised(exp.tokenizer, mine, c.rollout.prompt_width, c.rollout.horizon)
    state, metrics = learner.update(state, exp.put_rows(batch))
    return state, metrics | {'bad_steps': state.bad_steps}

  return step
