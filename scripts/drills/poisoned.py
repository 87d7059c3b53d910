"""Numbers that are not finite, in rewards, losses, gradients, log-probabilities, values and regrets.

Each case makes two updates with such a number in one place. It holds if every optimizer step was skipped and counted, if
parameters and moments are those from before, bit for bit, if the state has no nan where it had none, and if a stage of such
updates ends with the error that `learner.max_bad_steps` promises. A number that no loss reads must let the steps be taken.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from drills import small
from drills.record import Case
from drills.runs import same
from espo_jax import objectives, rewards
from espo_jax.experiment import Experiment, make_experiment, make_rule
from espo_jax.learner import init_state, policy
from espo_jax.monitor import read_metrics
from espo_jax.objectives import Term
from espo_jax.registry import source
from espo_jax.stages import rl
from espo_jax.stages.loop import Interruption, TrainingFailed, make_stage, run_stage

AIM = (
  'each step whose loss reads the number is skipped and counted, the state is that from before, and the run ends after '
  'learner.max_bad_steps; all other steps are taken'
)
COUNT = 15
NAN, INF = float('nan'), float('inf')


@source('ours')
def poisoned_reward(correct: Any, *, value: float = NAN, everywhere: bool = False) -> Any:
  """The outcome, with `value` in place of the first row's or of all rows'."""
  return jnp.full_like(correct, value) if everywhere else correct.at[0, 0].set(value)


@source('ours')
def poisoned_loss(logprobs: Any, mask: Any, *, poison: float = NAN) -> Any:
  """A term whose numerator is `poison`."""
  return {'poison': (1.0, Term(jnp.where(mask, logprobs, 0.0).sum() + poison, jnp.ones(())))}, {}


@source('ours')
def poisoned_gradient(logprobs: Any, mask: Any, *, half: bool = False) -> Any:
  """A term that is 0 and has no finite gradient: nan where masked tokens are, or infinite at each token."""
  zero = jnp.where(mask, logprobs - jax.lax.stop_gradient(logprobs), 0.0)
  return {'poison': (1.0, Term(jnp.sqrt(zero if half else 0.0 * zero).sum(), jnp.ones(())))}, {}


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Makes poisoned updates in up to `count` ways.

  Args:
    folder: An empty folder.
    count: The number of cases.
    seed: The seed of the run.
    figures: The dict that gets the numbers of optimizer steps that were skipped and taken.
  """
  rewards.register('poisoned_reward')(poisoned_reward)
  for function in (poisoned_loss, poisoned_gradient):
    objectives.register(function.__name__)(function)
  skipped = taken = 0
  for place, (name, (fields, patch, harmless)) in enumerate(list(_ways().items())[:count]):
    config = small.config(seed)
    config.update_from_flattened_dict({'learner.max_bad_steps': 3, **{k: v for k, v in fields.items() if '.name' in k}})
    for field, value in fields.items():
      section, _, option = field.partition('.')
      config[section][option] = value
    exp = make_experiment(config)
    with patch() if patch else contextlib.nullcontext():
      lost, wrong = _poisoned(exp, folder / str(place), harmless)
    skipped, taken = skipped + lost, taken + 2 * _steps(exp) - lost
    yield Case(name, not wrong, wrong)
  figures.update({'steps skipped': skipped, 'steps taken': taken})


def _ways() -> dict[str, tuple[dict[str, Any], Callable[[], Any] | None, bool]]:
  """Returns config fields, a patch, and whether steps are taken all the same, for each place of the poison."""

  def reward(value: float, everywhere: bool) -> dict[str, Any]:
    return {'reward.name': 'poisoned_reward', 'reward.value': value, 'reward.everywhere': everywhere}

  def loss(value: float) -> dict[str, Any]:
    return {'objective.name': 'ppo+poisoned_loss', 'objective.poison': value}

  gradient = {'objective.name': 'ppo+poisoned_gradient'}
  return {
    'the gradient is nan': (gradient, None, False),
    'a regret is nan': ({}, lambda: _rolled_out(NAN), True),
    "the learner's entropy is nan": ({}, lambda: _scored('entropy', NAN), True),
    'the reward of one row is nan': (reward(NAN, False), None, False),
    'the reward of one row is infinite': (reward(INF, False), None, False),
    'all rewards are nan': (reward(NAN, True), None, False),
    'all rewards are minus infinity': (reward(-INF, True), None, False),
    'the loss is nan': (loss(NAN), None, False),
    'the loss is infinite': (loss(INF), None, False),
    'the gradient is infinite': (gradient | {'objective.half': True}, None, False),
    "the learner's log-probabilities are nan": ({}, lambda: _scored('logprobs', NAN), False),
    "the learner's probabilities are 0": ({}, lambda: _scored('logprobs', -INF), True),
    "the learner's values are nan": ({}, lambda: _scored('values', NAN), False),
    "the learner's values are infinite": ({}, lambda: _scored('values', INF), False),
    'a regret is infinite': ({}, lambda: _rolled_out(INF), True),
  }


def _scored(field: str, value: float) -> Any:
  real = policy.score

  def score(*args: Any, **kwargs: Any) -> Any:
    found = real(*args, **kwargs)
    return found._replace(**{field: getattr(found, field) + value})

  return mock.patch.object(policy, 'score', score)


def _rolled_out(value: float) -> Any:
  real = rl.collect

  def collect(*args: Any, **kwargs: Any) -> Any:
    rows, verdicts = real(*args, **kwargs)
    return rows.replace(regret=rows.regret.at[:, 0].set(value)), verdicts

  return mock.patch.object(rl, 'collect', collect)


def _poisoned(exp: Experiment, folder: pathlib.Path, harmless: bool) -> tuple[int, str]:
  """Makes two updates, then a stage. Returns the optimizer steps that the two skipped, and what is wrong; '' if nothing is."""
  rule = make_rule(exp.config, 'espo' if harmless else 'never')  # the reward of a stopped row would not count
  fresh = init_state(exp.init_params(), rl.reinforcement_learner(exp, rule).optimizer, rule)
  before = jax.device_get(exp.on_mesh(rl.fork(fresh, rule)))
  step = rl.reinforcement_step(exp, rule, None)
  state, skipped = exp.on_mesh(jax.tree.map(jnp.asarray, before)), []
  for number in (1, 2):
    state, metrics = step(state, number)
    skipped.append(int(metrics['skipped_steps']))
  after = jax.device_get(state)
  wrong = _lost(before, after)
  if harmless:
    return skipped[1], wrong or ('steps were skipped' if skipped[1] else '')
  if skipped != [_steps(exp), 2 * _steps(exp)] or int(after.bad_steps) != skipped[1]:
    return skipped[1], f'the skipped steps were counted as {skipped}, of which {after.bad_steps} in a row'
  if not same((before.params, before.opt_state), (after.params, after.opt_state)):
    return skipped[1], 'parameters or moments of the optimizer changed'
  stage = make_stage(exp.config, 'poisoned', folder, last=9, step=step)
  try:
    run_stage(stage, exp.on_mesh(jax.tree.map(jnp.asarray, before)), Interruption())
  except TrainingFailed as error:
    wrong = wrong or ('' if 'learner.max_bad_steps' in str(error) else f'the error does not name the field: {error}')
    return skipped[1], wrong or ('' if read_metrics(folder)[-1]['skipped_steps'] else 'the metrics count no skipped step')
  return skipped[1], 'the stage did not end'


def _steps(exp: Experiment) -> int:
  """Returns the optimizer steps of an update."""
  return exp.config.learner.minibatches * exp.config.learner.epochs


def _lost(before: Any, after: Any) -> str:
  """Returns the first array that has a nan or an infinity where it had none; '' if none has."""
  pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
  lost = [jax.tree_util.keystr(path) for (path, old), new in pairs if np.isfinite(old).all() and not np.isfinite(new).all()]
  known = ('.gate.last_loss',)  # it is compared with the next loss alone
  return next((f'{path} is no longer finite' for path in lost if path not in known), '')
