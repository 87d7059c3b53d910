"""The engines' arguments are those of the config, whoever samples and whoever only compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import first_params, rule_of, tiny_experiment

from espo_jax import compile_check, parallel, stops
from espo_jax.experiment import make_rule
from espo_jax.rollout import sampler as room
from espo_jax.stages.allocation import first_drafts
from espo_jax.stages.drafts import drafts_of


def configure(c):
  c.rollout.update(samples=3, horizon=17, slots=8, scan_length=5, temperature=0.7, top_p=0.9, top_k=6, min_p=0.05)
  c.stop.shadow_share = 0.25
  c.critic.update(kind='separate', every=2)


def with_exits(c):
  c.exits.update(every=1, policy='threshold', level=0.4)


def serial(c):
  c.rollout.samples = 4
  c.rollout.serial.update(inducer='=', answer_tokens=4)
  c.stop.name, c.reward.name, c.advantage.name = 'never', 'serial_decay', 'mean_only'


def reusing(c):
  c.allocation.pool, c.rollout.reuse.form = 8, 'exact'


class Recorded(Exception):
  """The arguments of an engine, which does not run."""


class Recorder:
  """Takes an engine's place."""

  def __init__(self, name):
    self.name = name

  def __call__(self, model, *arguments, **options):
    raise Recorded(self.name, model, arguments, options)

  lower = __call__


@pytest.fixture(autouse=True)
def engines(monkeypatch):
  for name in ('generate', 'generate_serial', 'speculate'):
    monkeypatch.setattr(room, name, Recorder(name))


def asked(call):
  """Which engine was asked, and its model, arguments and options."""
  with pytest.raises(Recorded) as recorded:
    call()
  return recorded.value.args


def arguments_of(exp):
  rule = rule_of(exp)
  problems, drafts = exp.my_problems('train', 0, exp.config.rollout.prompts), first_drafts(exp)
  prompts = exp.prompts(problems, drafts=None if drafts is None else drafts_of(drafts, np.arange(len(problems))))
  return first_params(exp, 0), rule, exp.put(rule.init(1).adaptive), prompts, exp.key('rollout', 1)


def numbers(options):
  return jax.tree.map(lambda x: np.asarray(x).item() if isinstance(x, jax.Array) else x, options)


@pytest.mark.quick
def test_training_samples_by_its_config():
  exp = tiny_experiment(configure)
  name, model, _, options = asked(lambda: exp.sampler(*arguments_of(exp)))
  assert (name, model) == ('generate', exp.model)
  sampling = options.pop('sampling')
  np.testing.assert_allclose([sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p], [0.7, 0.9, 6, 0.05])
  assert numbers(options) == {
    'samples': 3,
    'horizon': 17,
    'slots': 8,
    'scan_length': 5,
    'critic_every': 2,
    'end_tokens': exp.end_tokens,
    'pad_token': exp.tokenizer.pad_token_id,
    'mesh': None,
    'shadow_share': 0.25,
    'exit_level': 0.0,
    'reuse': None,
    'processor': None,
  }


@pytest.mark.quick
@pytest.mark.parametrize('mesh', [{}, {'fsdp': 2, 'tensor': 2}])
@pytest.mark.parametrize('change', [configure, with_exits, serial, reusing])
def test_what_is_lowered_from_descriptions_is_what_is_called(change, mesh):
  """Training and compile_check name one engine with the same options, traced ones of the same shapes, types and places."""
  exp = tiny_experiment(change, **mesh)
  called = asked(lambda: exp.sampler(*arguments_of(exp)))
  lowered = asked(lambda: compile_check.Programs(exp.config, exp.mesh).lower('rollout'))
  assert called[0] == lowered[0]

  def described(x):
    return (x.shape, x.dtype, x.sharding) if isinstance(x, jax.Array | jax.ShapeDtypeStruct) else x

  not_read = ('end_tokens', 'pad_token', 'serial')  # by compile_check, which has no tokenizer for them
  one, other = (
    jax.tree.map(described, {name: x for name, x in options.items() if name not in not_read})
    for *_, options in (called, lowered)
  )
  assert one == other
  assert ('serial' in called[3]) == ('serial' in lowered[3]) == (change is serial)
  assert (one.get('reuse') is not None) == (change is reusing)
  for a, b in zip(*(jax.tree.leaves(found[2]) for found in (called, lowered)), strict=True):
    if isinstance(a, jax.Array):
      assert (a.shape, a.dtype) == (b.shape, b.dtype)
      assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.quick
def test_others_have_full_responses_without_shadow_rows():
  exp = tiny_experiment(serial)
  name, _, _, options = asked(lambda: exp.sampler.plain(samples=1, temperature=0.0)(*arguments_of(exp)))
  assert name == 'generate'
  assert (options['samples'], float(options['sampling'].temperature), float(options['shadow_share'])) == (1, 0.0, 0.0)
  exp = tiny_experiment(with_exits)
  for asks, level in ((None, 0.4), (0.9, 0.9)):
    sampler = exp.sampler.plain(samples=1, exit_level=asks)
    options = asked(lambda sampler=sampler: sampler(*arguments_of(exp)))[3]
    np.testing.assert_allclose(options['exit_level'], level)
    np.testing.assert_allclose(options['sampling'].temperature, 0.8)  # training's
  options = asked(lambda: exp.with_exits(None).sampler.plain(samples=1)(*arguments_of(exp)))[3]
  assert options['exit_level'] == 0


@pytest.mark.quick
def test_drafts_are_those_of_the_evaluations_config():
  exp = tiny_experiment(lambda c: c.eval.update(draft_blocks=1, draft_tokens=3))
  params, _, _, prompts, key = arguments_of(exp)
  name, _, _, options = asked(lambda: exp.sampler.plain(samples=2).speculate(params, prompts, key))
  assert name == 'speculate'
  assert {name: options[name] for name in ('samples', 'draft_blocks', 'draft_tokens', 'horizon')} == {
    'samples': 2,
    'draft_blocks': 1,
    'draft_tokens': 3,
    'horizon': 16,
  }


@pytest.mark.parametrize('change', [serial, reusing])
def test_rows_are_described_as_they_come(change, monkeypatch):
  monkeypatch.undo()  # the engines are asked
  exp = tiny_experiment(change, fsdp=2, tensor=2)
  arguments = arguments_of(exp)
  described = exp.sampler.describe(*arguments)
  rows = exp.sampler(*arguments)
  assert jax.tree.structure(described) == jax.tree.structure(rows)
  for one, other in zip(*map(jax.tree.leaves, (described, rows)), strict=True):
    assert (one.shape, one.dtype, one.sharding) == (other.shape, other.dtype, other.sharding)
    assert other.sharding == parallel.over_batch(exp.mesh)
  assert jnp.isfinite(rows.logprobs).all()


@pytest.mark.parametrize('changes', [{}, {'stop.returns': 'head'}, {'stop.returns': 'drop', 'stop.name': 'value_only'}])
def test_a_second_run_with_equal_constants_compiles_no_rollout_again(changes, monkeypatch):
  monkeypatch.undo()  # the engine is asked
  before = room.generate._cache_size()
  for seed in (1, 2):
    exp = tiny_experiment(lambda c, seed=seed: c.update_from_flattened_dict({'seed': seed, 'model.num_layers': 1} | changes))
    rule = make_rule(exp.config, exp.config.stop.name)
    exp.sampler(first_params(exp, 0), rule, exp.put(rule.init(1).adaptive), *arguments_of(exp)[3:])
  assert room.generate._cache_size() == before + 1


@pytest.mark.quick
def test_rules_with_other_constants_are_others(registers):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  rules = [make_rule(config, 'espo', beta_0=beta) for beta in (2, 2.0, 3.0)]
  config.stop.returns = 'head'
  rules += [make_rule(config, 'espo', beta_0=2.0)]
  config.stop.memory = 0.5
  rules += [make_rule(config, 'espo', beta_0=2.0)]
  assert len(set(rules)) == 5 and rules[-1] == make_rule(config, 'espo', beta_0=2.0)

  @stops.register('listed')
  def listed(*, of=(1, 2)):
    assert isinstance(of, list)
    rule = stops.never()
    return rule._replace(init=lambda rows: rule.init(rows))  # another function in each rule

  config.stop.listed = {'of': [1, 2]}
  assert make_rule(config, 'listed') != make_rule(config, 'listed')
