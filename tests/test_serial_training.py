"""Training on serial rollouts: from their config lines, against rows whose given tokens are prompts, and what is refused."""

import dataclasses
import functools
import math
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rounding
from loss_cases import MASK, loss_arrays, loss_inputs, total
from tiny import first_params, named, tiny_experiment

from espo_jax import learner, objectives
from espo_jax.configs import ConfigError, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import Batch, init_state
from espo_jax.stages import rl
from espo_jax.types import Reward

ROOT = pathlib.Path(__file__).parents[1]
LINES = {
  'rollout__serial__inducer': '##',
  'rollout__serial__answer_tokens': 4,
  'stop__name': 'never',
  'baselines': (),
  'objective__name': 'grpo',
  'advantage__name': 'mean_only',
  'reward__name': 'serial_decay',
}


def with_lines(c, **lines):
  for name, value in lines.items():
    *sections, last = name.split('__')
    functools.reduce(lambda holder, section: holder[section], sections, c)[last] = value
  return c


def serial_experiment(**lines):
  def configure(c):
    named()(c)
    with_lines(c, **(LINES | lines))

  return tiny_experiment(configure)


def started(exp):
  rule = make_rule(exp.config, 'never')
  state = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, rule).optimizer, rule)
  return rule, exp.on_mesh(rl.fork(state, rule))


def test_three_steps_from_the_config_line():
  lines = {'rollout__parts': 2, 'rollout__slots': 3, 'learner__micro_batches': 2}
  for more in ({}, lines):
    smoke = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
    validate(with_lines(smoke, **(LINES | more)))
  exp = serial_experiment(**lines)
  rule, state = started(exp)
  step = rl.reinforcement_step(exp, rule, None)
  moved = False
  gap = rounding.of_scores(exp.model, first_params(exp, 0), 30, temperature=0.8)
  with jax.transfer_guard('disallow'):
    for i in range(1, 4):
      state, metrics = step(state, i)
      metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
      assert all(math.isfinite(value) for value in metrics.values()), metrics
      assert {
        'loss/total',
        'reward/serial_decay',
        'serial/accuracy',
        'serial/kept_mean',
        'serial/answer_mean',
      } <= metrics.keys()
      assert metrics['sampler_gap/max'] < gap  # the learner scores what the sampler drew, from a copied cache
      moved |= metrics['grad_norm'] > 0
  assert moved
  assert state.history.updates == 3


def given_as_prompt(batch: Batch) -> Batch:
  """The same rows with the tokens that they were given moved from the response to the prompt."""
  rows = jax.device_get(batch.trajectories)
  count, horizon = rows.tokens.shape
  shift = (np.arange(horizon) + rows.trained_from[:, None]) % horizon

  def moved(x):
    return jnp.asarray(np.take_along_axis(np.asarray(x), shift, axis=1))

  width = rows.prompt_tokens.shape[1] + horizon
  prompts = np.zeros((count, width), np.int32)
  for n in range(count):
    whole = np.concatenate([rows.prompt_tokens[n, -rows.prompt_lengths[n] :], rows.tokens[n, : rows.trained_from[n]]])
    prompts[n, width - len(whole) :] = whole
  lengths = rows.prompt_lengths + rows.trained_from
  per_token = {name: moved(getattr(rows, name)) for name in ('tokens', 'logprobs', 'values', 'regret', 'z')}
  trajectories = jax.tree.map(jnp.asarray, rows).replace(
    prompt_tokens=jnp.asarray(prompts),
    prompt_lengths=jnp.asarray(lengths),
    length=jnp.asarray(rows.length - rows.trained_from),
    full_length=jnp.asarray(rows.full_length - rows.trained_from),
    trained_from=jnp.zeros(count, jnp.int32),
    **per_token,
  )
  wide = ('advantages', 'returns', 'old_logprobs', 'old_entropy', 'reference_logprobs')
  return batch.replace(trajectories=trajectories, **{name: moved(getattr(batch, name)) for name in wide})


def test_an_update_is_that_of_rows_whose_given_tokens_are_their_prompts(precision):
  """The prefix is read and not learned, as a prompt is: log-probabilities, masks, lengths and packing line up."""
  exp = serial_experiment()
  rule, state = started(exp)
  teacher = dataclasses.replace(rl.reinforcement_learner(exp, rule), optimizer=optax.trace(decay=0.5))  # keeps the gradient
  prompts = exp.prompts(exp.problems('train', 0, exp.config.rollout.prompts))
  rows = exp.sampler(state.params, rule, state.adaptive, prompts, exp.key('rollout', 1))
  correct = np.random.default_rng(0).integers(0, 2, rows.length.shape).astype(precision)
  batch, _ = teacher.prepare(state.params, None, rows, Reward(jnp.asarray(correct)))
  moved = given_as_prompt(batch)

  def updated(params, batch):
    given, width = batch.trajectories, batch.trajectories.prompt_tokens.shape[1] + batch.trajectories.tokens.shape[1]
    everyone = np.arange(given.length.shape[0], dtype=np.int32)[None]
    lengths = np.asarray(given.prompt_lengths + given.length)[everyone]
    packing = learner.pack(lengths, width, sizes=4, multiple=1, widths=13, cost=float)
    before = exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), teacher.optimizer, rule))
    after, metrics = teacher.update(before, batch, None, jnp.asarray(everyone), learner.put_packing(packing, exp.mesh))
    return after.opt_state.trace, metrics['grad_norm']

  one, two = updated(state.params, batch), updated(state.params, moved)
  assert one[1] > 1e-3
  # There and back through the decoder, and a sum over the tokens; of one and the other.
  roundings = 2 * (3 * rounding.of_decoder(exp.model.config, 30) + rows.tokens.size)
  rounding.assert_within(two, one, rounding.of_program(updated, state.params, batch, roundings=roundings))


@pytest.mark.parametrize('name', [name for name, entry in objectives.REGISTRY.items() if entry.advantage not in ('', 'gae')])
def test_nothing_flows_into_what_a_row_was_given(name):
  x = loss_arrays(spread=1e-3, per_row=True)
  trained = MASK & (np.arange(MASK.shape[1]) >= np.arange(MASK.shape[0])[:, None] % 4)
  assert (MASK & ~trained).any()

  def loss(logprobs, entropy):
    inputs = loss_inputs(x | {'logprobs': logprobs, 'entropy': entropy}, trained)
    return total(objectives.compose(name, {})(inputs)[0])

  by_logprobs, by_entropy = jax.grad(loss, argnums=(0, 1))(jnp.asarray(x['logprobs']), jnp.asarray(x['entropy']))
  assert np.any(by_logprobs)
  for gradient in (by_logprobs, by_entropy):
    assert not np.any(np.asarray(gradient)[~trained])


# ------------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
  ('lines', 'fragments'),
  [
    ({'rollout__samples': 1}, ['rollout.samples = 1', 'fix: --config.rollout.samples=5']),
    ({'stop__name': 'espo'}, ["stop.name = 'espo'", "fix: stop.name = 'never'"]),
    ({'baselines': ('never', 'regret_only')}, ['baselines', "the rule 'regret_only'", 'baselines = ()']),
    ({'objective__name': 'ppo', 'advantage__name': ''}, ["advantage.name = 'gae'", "fix: objective.name = 'grpo'"]),
    ({'exits__every': 1}, ['exits.every = 1', 'fix: exits.every = 0']),
    ({'rollout__serial__answer_tokens': 16}, ['rollout.serial.answer_tokens = 16', 'fix: rollout.horizon > 16']),
    ({'rollout__record': 5}, ['rollout.record = 5', 'fix: rollout.record = 0']),
    ({'rollout__serial__answer_tokens': 0}, ['rollout.serial.answer_tokens = 0', 'above 0']),
    ({'rollout__serial__inducer': '', 'rollout__serial__end_of_thinking': '#'}, ["end_of_thinking = '#'", 'fix: an inducer']),
  ],
)
def test_what_does_not_go_together_is_refused(lines, fragments):
  c = tiny_experiment(named()).config.copy_and_resolve_references()
  with_lines(c, **(LINES | lines))
  with pytest.raises(ConfigError) as caught:
    validate(c)
  assert any(all(fragment in line for fragment in fragments) for line in caught.value.problems), caught.value


@pytest.mark.parametrize(
  ('lines', 'fragments'),
  [
    ({'inducer': 'Time is limited'}, ["'Time is limited'", 'has no token', 'fix']),
    ({'inducer': '#' * 12}, ['its 12 tokens', 'answer_tokens = 4', 'rollout.horizon = 16', 'fix: rollout.horizon > 16']),
    ({'end_of_thinking': '=='}, ["end_of_thinking = '=='", '2 tokens', "fix: a text that is one token, or ''"]),
  ],
)
def test_texts_that_the_tokenizer_cannot_serve_are_refused(lines, fragments):
  with pytest.raises(ConfigError) as caught:
    serial_experiment(**{f'rollout__serial__{name}': value for name, value in lines.items()})
  assert all(fragment in str(caught.value) for fragment in fragments), caught.value
