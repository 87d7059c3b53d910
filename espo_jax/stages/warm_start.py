"""The stage `warm_start`: supervised training on written solutions, or on the examples of `warm_start.data`.

One random stream per step draws the written solutions. With an environment that has an expert they are conversations: the turns
of the expert are learnt, and the observations between them are read. Every process draws all of them and encodes those of its
own rows. Examples are taken in epochs, each in an order of its own. All of them are encoded before the first step, so that one
that does not fit is told then.
"""

import functools
import pathlib
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from espo_jax import objectives, parallel, tasks
from espo_jax.evaluate.policies import start_params
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import SupervisedLearner, TrainState, init_state
from espo_jax.model import Params
from espo_jax.parallel.memory import during
from espo_jax.stages.conversations import conversation, has_expert
from espo_jax.stages.loop import Interruption, make_stage, run_stage
from espo_jax.stages.optimizers import stage_optimizer
from espo_jax.stages.packings import pack_batch
from espo_jax.tasks.allocators import Stream
from espo_jax.types import Metrics, SupervisedBatch

_STREAM = zlib.crc32(b'warm_start')


@during('warm start')
def warm_start(exp: Experiment, workdir: pathlib.Path, signals: Interruption) -> Params:
  """Returns the parameters that the next stage starts from.

  With `start_from` they are those of another run. Without the stage they are the initial ones, and otherwise those after
  supervised training.
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
  """Returns the function that makes one warm-start step, on newly written solutions or on the next examples.

  The first step reads and encodes all examples, and raises DataError if one cannot be used. A run that goes on behind the stage
  does not read them.
  """
  learner = supervised_learner(exp)

  @functools.cache
  def batches() -> Callable[[int], SupervisedBatch]:
    if exp.config.warm_start.data:
      return example_batches(exp)
    return functools.partial(_conversations if has_expert(exp) else _solutions, exp)

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    batch = exp.put_rows(batches()(step))
    state, metrics = learner.update(state, batch, pack_batch(exp, batch))
    return state, metrics | {'bad_steps': state.bad_steps}

  return step


def _solutions(exp: Experiment, step: int) -> SupervisedBatch:
  """Returns this process's rows of a step on written solutions."""
  problems, rng = _written(exp, step)
  pairs = [(problem.prompt, exp.task.solution(problem, rng)) for problem in problems]  # one random stream for all
  mine = [pairs[i] for i in parallel.my_rows(exp.mesh, len(pairs))]
  return tasks.encode_supervised(exp.tokenizer, mine, exp.config.rollout.prompt_width, exp.config.rollout.horizon)


def _conversations(exp: Experiment, step: int) -> SupervisedBatch:
  """Returns this process's rows of a step on conversations of the environment's expert."""
  problems, rng = _written(exp, step)
  examples = [conversation(exp, problem, rng) for problem in problems]
  limits = exp.config.rollout.prompt_width, exp.config.rollout.horizon
  mine = [tasks.encode_example(exp.tokenizer, examples[i], *limits) for i in parallel.my_rows(exp.mesh, len(examples))]
  return tasks.batch_examples(exp.tokenizer, mine, *limits)


def _written(exp: Experiment, step: int) -> tuple[Sequence[tasks.Problem], np.random.Generator]:
  """Returns the problems of a step, and the random stream of what is written to them."""
  c = exp.config
  problems = exp.problems('train', (step - 1) * c.warm_start.batch, c.warm_start.batch)
  return problems, np.random.default_rng([c.seed, _STREAM, step])


def example_batches(exp: Experiment) -> Callable[[int], SupervisedBatch]:
  """Returns the function from a step to this process's rows of the examples."""
  c = exp.config
  examples = tasks.read_examples(c.warm_start.data, 'warm_start.data')
  if parallel.is_first():
    _warn_of_test_problems(exp, examples)
  limits = c.rollout.prompt_width, c.rollout.horizon
  encoded = [tasks.encode_example(exp.tokenizer, example, *limits) for example in examples]
  order = Stream(len(encoded), c.seed)  # of the examples, as of a pool of problems

  def batch_of(step: int) -> SupervisedBatch:
    first = (step - 1) * c.warm_start.batch
    mine = [encoded[order.problem(first + int(i))] for i in parallel.my_rows(exp.mesh, c.warm_start.batch)]
    return tasks.batch_examples(exp.tokenizer, mine, *limits)

  return batch_of


def _warn_of_test_problems(exp: Experiment, examples: Sequence[tasks.Example]) -> None:
  """Warns of examples that ask problems on which the run is evaluated."""
  problems = exp.test_problems(exp.config.eval.problems)
  asked = {problem.prompt for problem in [*problems, *exp.tagged(problems)]}
  if shared := sum(example.prompt in asked for example in examples):
    logging.warning(
      'warm_start.data = %r: %d of %d examples ask one of the %d test problems of this run, so its evaluation says nothing of '
      'new problems; fix: rollouts of other problems',
      exp.config.warm_start.data,
      shared,
      len(examples),
      len(problems),
    )
