"""The training of FiRST's routers and the repair behind them: the loss by its formula, what is frozen, and what is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from tiny import first_params, named, run, tiny_experiment

from espo_jax import stops
from espo_jax.configs import ConfigError, validate
from espo_jax.learner import init_state, score
from espo_jax.stages import calibration

LAYERS = 4


def experiment(**calibrated):
  def configure(c):
    named(exits__policy='first_router')(c)
    c.model.num_layers = LAYERS
    c.exits.update(every=1, policy='first_router', learning_rate=2e-2)
    c.stages = ('warm_start', 'calibration', 'critic_warmup', 'rl')
    c.calibration.update(learning_rate=1e-2, prompts=16, warmup_steps=0, steps=4, repair_steps=2)
    c.calibration.update(calibrated)
    c.model.lora.update(rank=2, alpha=4.0, targets=('q_proj', 'down_proj'))

  return tiny_experiment(configure)


def training(exp, params):
  optimizer = calibration.calibration_optimizer(exp)
  state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), optimizer, stops.never()))
  return calibration.router_training(exp, repairs=False), calibration.calibration_step(exp, params), state


def with_routers(params, logits):
  heads = params['policy']['exit_heads']
  constant = {'kernel': jnp.zeros_like(heads['kernel']), 'bias': jnp.asarray(logits, heads['bias'].dtype)}
  return params | {'policy': params['policy'] | {'exit_heads': constant}}


def responses(exp, params):
  never = stops.never()
  prompts = exp.prompts(exp.problems('train', 0, 8))
  sampler = exp.with_exits(None).sampler.plain(samples=1, temperature=0.8)
  return sampler(params, never, never.init(1).adaptive, prompts, exp.key('calibration', 1))


def test_the_loss_is_the_cross_entropy_and_two_penalties_on_the_routers(precision):
  exp = experiment(skip_weight=0.3, bimodal_weight=0.7)
  params = first_params(exp, 0)
  learner, _, _ = training(exp, params)
  rows, logits = responses(exp, params), np.array([-1.0, 0.5, 2.0])

  @jax.jit
  def route(params):
    value, metrics = learner._route(params, rows)
    return value, metrics['loss/imitation'], metrics['loss/kept'], metrics['loss/undecided'], metrics['exits/depth']

  value, imitation, kept, undecided, depth = (float(x) for x in route(with_routers(params, logits)))
  s = 1 / (1 + np.exp(-logits))
  np.testing.assert_allclose([kept, undecided], [s.mean(), (s * (1 - s)).mean()], rtol=1e-5)
  np.testing.assert_allclose(value, imitation + 0.3 * s.mean() + 0.7 * (s * (1 - s)).mean(), rtol=1e-5)
  assert depth == 0.75  # the first block has no router, and two of the others are kept
  certain = with_routers(params, [200.0] * 3)

  @jax.jit
  def plain(params):
    tokens = (rows.prompt_tokens, rows.prompt_lengths, rows.tokens)
    scored = score(exp.with_exits(None).model, params, *tokens, temperature=0.8, chunk=10_000)
    return -jnp.where(rows.mask, scored.logprobs, 0).sum() / rows.mask.sum()

  bound = rounding.of_program(plain, certain, roundings=2 * rounding.of_decoder(exp.model.config, 30))
  rounding.assert_within(route(certain)[1], plain(certain), bound)  # with every block kept it is that of the whole model


def test_routers_learn_alone_and_then_the_adapters_alone():
  exp = experiment()
  params = first_params(exp, 0)
  _, step, state = training(exp, params)
  before = jax.device_get(state.params)
  for number in range(1, 5):
    state, metrics = step(state, number)
    after = jax.device_get(state.params)
    moved = jax.tree_util.tree_map_with_path(lambda path, a, b: (tuple(x.key for x in path), (a != b).any()), before, after)
    moved = dict(jax.tree.leaves(moved, is_leaf=lambda x: isinstance(x, tuple)))
    for path, change in moved.items():
      expected = 'exit_heads' in path if number <= 2 else path[-1].startswith('lora')
      assert change == expected, (number, path)
    assert np.isfinite(float(metrics['loss/total'])) and 0 < float(metrics['exits/depth']) <= 1
    before = after


def test_the_penalty_drives_exactly_the_routers_of_blocks_without_effect_below_a_half():
  exp = experiment(steps=60, repair_steps=0)
  params = with_routers(first_params(exp, 0), [0.0] * 3)
  policy = dict(params['policy'])
  zero = {}
  for part, last in (('attention', 'o_proj'), ('mlp', 'down_proj')):
    zero[part] = policy['layer_2'][part] | {last: jax.tree.map(jnp.zeros_like, policy['layer_2'][part][last])}
  policy['layer_2'] = policy['layer_2'] | zero
  params = params | {'policy': policy}
  learner, step, state = training(exp, params)
  for number in range(1, 31):
    state, _ = step(state, number)
  keep = np.asarray(learner._keep(state.params, responses(exp, params)))
  assert (keep[:, 0] == 1).all()
  assert (keep[:, 2] < 0.5).all() and (keep[:, [1, 3]] > 0.5).all()


def reinforced(policy, **mesh):
  def configure(c):
    named(exits__policy=policy)(c)
    c.model.num_layers = 3
    c.exits.update(every=1, policy=policy, level=0.5)
    c.reward.name = 'correct + exit_depth_cost'

  exp = tiny_experiment(configure, **mesh)
  return exp, run(exp, 2)[1]


@pytest.mark.parametrize('policy', ['first_router', 'ffn_skip'])
def test_reinforcement_scores_what_the_sampler_skipped(policy):
  exp, metrics = reinforced(policy)
  gap = 2 * rounding.of_scores(exp.model, first_params(exp, 0), 30, temperature=0.8)
  for row in metrics:
    assert row['sampler_gap/max'] < gap and np.isfinite(row['loss/total'])
    assert 0 < row['exits/depth'] < 1 and row['exits/rate'] > 0


def test_routes_do_not_depend_on_the_mesh(in_float64):
  (_, one), (_, many) = reinforced('first_router'), reinforced('first_router', fsdp=2, data=2, tensor=2)
  for name in ('rollout/checksum', 'exits/depth', 'exits/rate'):
    assert one[0][name] == many[0][name]


def test_a_repair_that_cannot_act_is_refused():
  def problems(**lines):
    config = experiment().config.copy_and_resolve_references()
    config.rollout.horizon = 23
    for name, value in lines.items():
      section, _, field = name.partition('__')
      config[section][field] = value
    with pytest.raises(ConfigError) as raised:
      validate(config)
    return '\n'.join(raised.value.problems)

  assert 'no router fixes a route' in problems(exits__policy='threshold')
  assert 'nothing may learn the routes' in problems(exits__alone=True)
  assert 'none of calibration.steps = 4 is left' in problems(calibration__repair_steps=4)
