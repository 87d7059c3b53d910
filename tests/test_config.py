"""What cannot run is refused before a device is touched, with the field, its value and the fix."""

import pathlib
import re
import runpy

import ml_collections
import pytest
from forked import run_each

from espo_jax import monitor, registry, stops
from espo_jax.configs import STAGES, ConfigError, default_config, load_config, validate
from espo_jax.configs.defaults import FIELDS, SCHEMA
from espo_jax.configs.fields import flatten, get_field
from espo_jax.configs.schema import PUBLISHED, Range, sections
from espo_jax.configs.validate import field_problems

ROOT = pathlib.Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / 'experiments').glob('*.py'))
NAN, INF = float('nan'), float('inf')
LEFT_OPEN = ("model.path = ''", "data.path = ''", "data.eval_path = ''", "environment.load = ''")


def changed(**fields) -> ml_collections.ConfigDict:
  """The quickstart with fields changed; a new option is written with two underscores, as `task__options__x`."""
  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']()
  for name, value in fields.items():
    *sections, last = name.split('__')
    holder = config
    for section in sections:
      holder = holder[section]
    holder[last] = value
  return config


def problems(config: ml_collections.ConfigDict) -> str:
  with pytest.raises(ConfigError) as caught:
    validate(config)
  return str(caught.value)


# Fields changed in the quickstart, and what one line of the message must hold.
BAD = [
  ({'stages': ()}, ['stages = ()', 'warm_start']),
  ({'stages': ('rl', 'warm_start')}, ["stages = ('rl', 'warm_start')", "fix: ('warm_start', 'rl')"]),
  ({'stages': ('warmstart', 'rl')}, ["stages = ('warmstart', 'rl')", "did you mean 'warm_start'?"]),
  ({'stages': ('warm_start', 'critic_warmup')}, ['stages', "add 'rl'"]),
  ({'task__name': 'chian'}, ["task.name = 'chian'", "did you mean 'chain'?"]),
  ({'task__options__difficulty': 'hrad'}, ['task.options', "difficulty 'hrad'", "did you mean 'hard'?"]),
  ({'task__options__noise': 1.5}, ['task.options', 'noise = 1.5', 'fix: choose a value in [0, 1]']),
  ({'task__options__nose': 0.1}, ['task.options.nose = 0.1', 'did you mean noise?']),
  ({'task__options__seed': NAN}, ['task.options.seed = nan', 'fix: a finite one']),
  ({'stop__name': 'epso'}, ["stop.name = 'epso'", "did you mean 'espo'?"]),
  ({'baselines': ('never', 'regret')}, ['baselines', "did you mean 'regret_only'?"]),
  ({'stop__name': 'random'}, ["stop.name = 'random'", "fix: stop.name = 'espo'"]),
  (
    {'stop__name': 'risk_control', 'stop__shadow_share': 0.0},
    ['stop.shadow_share = 0.0', "'risk_control'", 'fix: stop.shadow_share = 0.05'],
  ),
  ({'stop__name': 'risk_control', 'stop__risk_control__beta_0': 9.0}, ['stop.risk_control.beta_0 = 9.0', 'fix: inside']),
  (
    {'stop__name': 'risk_control', 'stop__risk_control__beta_min': 0.0},
    ['stop.risk_control.beta_min = 0.0', 'fix: a number above 0'],
  ),
  ({'stop__budget': 1.5}, ['stop.budget = 1.5', 'fix: a number in [0, 1]']),
  ({'rollout__record': -1}, ['rollout.record = -1', 'fix: a number of at least 0']),
  ({'objective__name': 'pppo'}, ["objective.name = 'pppo'", "did you mean 'ppo'?"]),
  ({'objective__clip_hihg': 0.2}, ['objective.clip_hihg = 0.2', "'ppo'", 'did you mean clip_high?']),
  ({'objective__clip_low': 1}, ['objective.clip_low = 1', 'int instead of float', 'fix: a value such as 0.2']),
  ({'objective__kl_coef': 0.1}, ['objective.kl_coef = 0.1', "no option of 'ppo'; it is one of kl_exact, kl_k1, kl_k2, kl_k3"]),
  ({'objective__name': 'ppo + grpo'}, ["objective.name = 'ppo + grpo'", '2 objectives', 'fix: exactly one of']),
  ({'objective__name': 'ppo + kl_k4'}, ["'kl_k4' is unknown", "did you mean 'kl_k"]),
  ({'objective__name': 'tepo', 'objective__divergence': 'k4'}, ["objective.divergence = 'k4'", "fix: one of 'k3', 'abs'"]),
  (
    {'objective__name': 'grpo', 'advantage__name': 'gae'},
    ["advantage.name = 'gae'", 'trains no critic', "fix: one of 'gdpo', 'group_zs"],
  ),
  ({'advantage__name': 'loo'}, ["advantage.name = 'loo'", "'ppo' trains a critic", "fix: 'gae', or grpo"]),
  ({'advantage__name': 'gea'}, ["advantage.name = 'gea'", "did you mean 'gae'?"]),
  ({'advantage__lam': 1.5}, ['advantage.lam = 1.5', 'in [0, 1]']),
  (
    {'objective__name': 'grpo', 'advantage__lam': 0.9},
    ['advantage.lam = 0.9', "no option of 'group_zscore'; it is one of gae"],
  ),
  ({'objective__name': 'grpo', 'rollout__samples': 1}, ['rollout.samples = 1', "'group_zscore' compares the samples", 'fix']),
  ({'objective__name': 'grpo', 'baselines': ('value_only',)}, ['baselines', "'value_only' asks a critic", 'fix: leave it out']),
  ({'reward__name': 'hmpp'}, ["reward.name = 'hmpp'", "did you mean 'hmpo'?"]),
  ({'reward__name': 'hmpo - 1'}, ["reward.name = 'hmpo - 1'", 'not understood', "fix: rewards, numbers, '+'"]),
  ({'reward__name': 'hmpo', 'reward__low': -1.0}, ['reward.low = -1.0', "no option of 'hmpo'"]),
  ({'reward__name': 'hmpo', 'reward__shape': 'round'}, ["reward.shape = 'round'", "fix: one of 'cosine', 'linear'"]),
  ({'reward__kl': 'k4'}, ["reward.kl = 'k4'", 'fix: one of k1, k2, k3, exact']),
  ({'reward__format': '('}, ["reward.format = '('", 'no regular expression']),
  ({'objective__dual_clip': 0.5}, ['objective.dual_clip = 0.5', 'no gradient', 'a number above 1']),
  ({'stop__name': 'mean_logprob', 'stop__mean_logprob__beta_min': -1.0}, ['stop.mean_logprob.beta_min = -1.0', 'at least 0']),
  (
    {'stop__name': 'risk_control', 'stop__risk_control__beta_min': 6.0, 'stop__risk_control__beta_0': 7.0},
    ['stop.risk_control.beta_min = 6.0', 'can never fire', 'fix: a lower one'],
  ),
  ({'objective__name': 'rwr', 'learner__importance_cap': 2.0}, ['learner.importance_cap = 2.0', "'rwr' are not linear", 'fix']),
  ({'rollout__max_draws': -1}, ['rollout.max_draws = -1', 'of at least 0']),
  ({'rollout__top_p': 0.9}, ['rollout.top_p = 0.9', 'fix: 1.0, and truncate in espo_jax.evaluate']),
  ({'rollout__parts': 3}, ['rollout.parts = 3', 'does not divide rollout.prompts']),
  ({'rollout__slots': -1}, ['rollout.slots = -1', 'of at least 0']),
  ({'critic__every': 4}, ['critic.every = 4', "critic.kind = 'separate'"]),
  ({'model__lora__rank': -2}, ['lora.rank = -2', '0 (no adapters) or positive']),
  ({'critic__kind': 'share'}, ["critic.kind = 'share'", "did you mean 'shared'?"]),
  ({'model__dtype': 'bf16'}, ["model.dtype = 'bf16'", "did you mean 'bfloat16'?"]),
  ({'model__num_heads': 3}, ['model.num_heads = 3', 'model.num_kv_heads = 2', 'multiple']),
  ({'model__head_dim': 23}, ['model.head_dim = 23', 'even']),
  ({'model__num_layers': 0}, ['model.num_layers = 0', 'fix: a number above 0']),
  ({'model__num_kv_heads': 0}, ['model.num_kv_heads = 0', 'above 0']),
  ({'learner__updates': -1}, ['learner.updates = -1', 'above 0']),
  ({'learner__minibatches': 0}, ['learner.minibatches = 0', 'above 0']),
  ({'learner__learning_rate': 0.0}, ['learner.learning_rate = 0.0', 'above 0']),
  ({'learner__learning_rate': NAN}, ['learner.learning_rate = nan', 'fix: a finite one']),
  ({'stop__beta_max': INF}, ['stop.beta_max = inf', 'fix: a finite one']),
  ({'gate__min_explained_variance': INF}, ['gate.min_explained_variance = inf', 'fix: a finite one']),
  ({'rollout__temperature': 0.0}, ['rollout.temperature = 0.0', 'above 0']),
  ({'objective__value_coef': -0.1}, ['objective.value_coef = -0.1', 'of at least 0']),
  ({'seed': -1}, ['seed = -1', 'of at least 0']),
  ({'stop__target_rate': 25.0}, ['stop.target_rate = 25.0', 'in [0, 1]']),
  ({'stop__shadow_share': -0.1}, ['stop.shadow_share = -0.1', 'in [0, 1]']),
  ({'stop__smoothing': 1.0}, ['stop.smoothing = 1.0', 'in [0, 1)']),
  ({'gate__force_at': 0.0}, ['gate.force_at = 0.0', 'in (0, 1]']),
  ({'gate__force_at': 1.0}, ['learner.updates = 60', 'gate.force_at = 1.0', 'fix: learner.updates > 60']),
  ({'learner__updates': 1}, ['learner.updates = 1', 'fix: learner.updates > 1']),
  ({'reward__low': 1.0}, ['reward.low = 1.0', 'reward.high = 1.0']),
  ({'warm_start__warmup_steps': 400}, ['warm_start.warmup_steps = 400', 'warm_start.steps = 400']),
  ({'learner__minibatches': 3}, ['learner.minibatches = 3', '160 rows', 'fix: a divisor of 160']),
  ({'rollout__horizon': 60}, ['rollout.horizon = 60', 'max_response_tokens = 63', 'fix: --config.rollout.horizon=63']),
  ({'rollout__prompt_width': 37}, ['rollout.prompt_width = 37', '= 38', 'fix: --config.rollout.prompt_width=38']),
  ({'mesh__data': 0}, ["'data': 0", 'fix: mesh.data = -1']),
  ({'mesh__data': -1, 'mesh__fsdp': -1}, ["'data': -1, 'fsdp': -1", 'one may be -1']),
  ({'mesh__data': 3}, ['rollout.prompts = 40', '3 * 1', 'fix: a multiple of 3']),
  ({'mesh__data': -1, 'mesh__fsdp': 3}, ['warm_start.batch = 64', '1 * 3', 'fix: a multiple of 3']),
  ({'mesh__data': 16, 'eval__problems': 24}, ['eval.problems = 24', '16 * 1']),
  ({'mesh__data': 16, 'rollout__prompts': 48, 'learner__minibatches': 24}, ['rows of a minibatch', '= 8', '16 * 1']),
  ({'mesh__tensor': 4}, ['model.num_kv_heads = 2', 'mesh.tensor = 4', 'fix']),
  ({'mesh__tensor': 4, 'task__options__max_ops': 11}, ['mesh.tensor = 4', '27 tokens of the vocabulary']),
  ({'data__path': 'rows.jsonl'}, ["data.path = 'rows.jsonl'", "'chain' reads no such data", 'fix: leave it empty']),
  ({'data__eval_benchmark': 'aime24'}, ["data.eval_benchmark = 'aime24'", "'chain' reads no such data"]),
  ({'data__on_error': 'ignore'}, ["data.on_error = 'ignore'", 'fix: one of raise, skip']),
  ({'task__name': 'math'}, ["data.path = ''", 'fix: --config.data.path=FILE']),
  ({'task__name': 'math'}, ["model.path = ''", 'fix: --config.model.path=DIR']),
  ({'exits__every': 1, 'exits__kind': 'foo', 'learner__updates': 1}, ["exits.kind = 'foo'", 'fix: linear or']),
  ({'exits__every': 1, 'exits__kind': 'foo', 'learner__updates': 1}, ['learner.updates = 1', 'fix: learner.updates > 1']),
  ({'exits__every': 1, 'exits__translator': 'bar', 'stages': ()}, ["exits.translator = 'bar'", 'fix: none or']),
  ({'exits__every': 1, 'exits__translator': 'bar', 'stages': ()}, ['stages = ()', 'warm_start']),
  ({'stop__target_rat': 0.2}, ['stop.target_rat = 0.2', 'did you mean stop.target_rate?']),
  ({'temperature': 0.5}, ['temperature = 0.5', 'did you mean rollout.temperature?']),
]


@pytest.mark.parametrize(('fields', 'fragments'), BAD, ids=str)
def test_a_bad_field_is_named_with_its_value_and_the_fix(fields, fragments):
  message = problems(changed(**fields))
  assert any(all(fragment in line for fragment in fragments) for line in message.splitlines()), message


@pytest.mark.parametrize(
  ('fields', 'fragments'),
  [
    # Published numbers: z <= clip, and the threshold starts at beta_0 * epsilon = 7 * 0.2 = 1.4.
    ({'beta_0': 7.0, 'clip': 1.4}, ['stop.clip = 1.4', 'stop.beta_0 = 7.0', 'stop.epsilon = 0.2', 'fix: stop.clip > 1.4']),
    ({'beta_0': 30.0}, ['stop.clip = 5.0', 'stop.beta_0 = 30.0', 'stop.beta_0 < 25']),
    ({'beta_0': 50.0, 'beta_min': 40.0}, ['stop.clip = 5.0', 'stop.beta_min = 40.0', 'fix: stop.beta_min = 0']),
    ({'beta_0': 7.0, 'smoothing': 0.999}, ['stop.smoothing = 0.999', 'rollout.horizon = 63', 'less smoothing']),
    ({'name': 'regret_only', 'regret_only__beta_0': 7.0}, ['stop.clip = 5.0', "'regret_only'", 'stop.regret_only.beta_0 < 5']),
    ({'name': 'value_only', 'value_only__beta_0': 1.0}, ['stop.value_only.beta_0 = 1.0', "'value_only'", 'V < -beta_0 = -1.0']),
  ],
)
def test_a_rule_that_can_never_fire_is_refused(fields, fragments):
  message = problems(changed(**{f'stop__{name}': value for name, value in fields.items()}))
  assert 'never fire' in message
  for fragment in fragments:
    assert fragment in message


@pytest.mark.parametrize(('beta_0', 'beta_min'), [(0.1, 0.5), (101.0, 0.5)])
def test_the_first_beta_lies_between_its_bounds(beta_0, beta_min):
  message = problems(changed(stop__beta_0=beta_0, stop__beta_min=beta_min, stop__clip=100.0))
  assert f'stop.beta_0 = {beta_0} is outside [stop.beta_min, stop.beta_max] = [{beta_min}, 100.0]' in message


def test_plain_ppo_may_have_any_stop_constants():
  validate(changed(baselines=(), stop__name='never', stop__clip=0.1))


def test_a_method_without_a_critic_needs_no_room_for_its_warm_up():
  validate(changed(objective__name='grpo', learner__updates=2, gate__force_at=1.0))
  assert 'none is left' in problems(changed(objective__name='grpo', learner__updates=1))


def test_options_of_every_composed_part_are_known():
  validate(changed(objective__name='dapo + kl_k3 + entropy', objective__kl_coef=0.1, objective__entropy_coef=0.0))
  validate(changed(reward__name='correct + 0.5 * overlong', reward__low=-1.0, reward__buffer=0.1))
  validate(changed(reward__name='tldr', reward__weights=(0.5, 0.1)))


def test_all_problems_are_reported_at_once():
  message = problems(changed(stop__eta=NAN, learner__minibatches=3, task__options__difficulty='hrad', mesh__data=7))
  assert all(part in message for part in ('stop.eta', 'learner.minibatches', 'hrad', 'mesh.data'))


def test_a_field_of_another_type_is_refused():
  config = changed()
  del config.learner.updates
  config.learner.updates = '60'
  assert "learner.updates = '60': str instead of int; fix: a value such as 100" in problems(config)


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_are_valid(path):
  module = runpy.run_path(str(path))
  variants = ['', *re.findall(rf'{path.name}:(\w+)', module['__doc__'])]
  for variant in variants:
    config = module['get_config'](variant)
    try:
      validate(config)
    except ConfigError as error:  # one on a given model and data leaves their places to the command line, and nothing else
      assert config.task.name in ('math', 'reasoning_gym', 'verifiers')
      assert all(problem.startswith(LEFT_OPEN) for problem in error.problems), error


def test_the_defaults_hold_no_field_that_nobody_reads():
  sources = '\n'.join(
    path.read_text() for path in (ROOT / 'espo_jax').rglob('*.py') if 'configs' not in path.relative_to(ROOT).parts
  )
  passed_whole = ('stop.', 'gate.', 'model.', 'mesh.', 'data.')
  unread = [
    field
    for field in flatten(default_config())
    if not field.startswith(passed_whole) and not re.search(rf'\b{field}\b', sources)
  ]
  assert not unread


RANGED = {name: field for name, field in FIELDS.items() if isinstance(field.allowed, Range)}


@pytest.mark.parametrize('name', RANGED)
def test_a_number_outside_its_declared_range_is_refused(name):
  config = default_config()
  config.stages = STAGES
  section, _, last = name.rpartition('.')
  holder = get_field(config, section) if section else config
  for value in (type(holder[last])(-1), type(holder[last])(2)):
    holder[last] = value
    refused = any(line.startswith(f'{name} = {value}: out of range; fix: a number ') for line in field_problems(config))
    assert refused == (value < 0 or ' 1' in RANGED[name].allowed.text)


@pytest.mark.parametrize('name', [name for name, field in RANGED.items() if field.allowed.stage])
def test_what_no_stage_reads_may_be_anything(name):
  config = default_config()
  config.stages = ('rl',)
  section, _, last = name.rpartition('.')
  config[section][last] = type(config[section][last])(-1)
  assert not list(field_problems(config))


def test_every_field_says_what_it_means_in_one_line():
  for name, field in FIELDS.items():
    assert len(field.help) < 110 and field.help.endswith('.') and '\n' not in field.help, name
    assert type(field.default) in (bool, int, float, str, tuple), name
  for name, section in sections(SCHEMA):
    assert section.help.endswith('.') and (section.entries or section.is_open), name


def test_the_published_constants_of_espo_are_those_of_its_rule():
  rule = stops.REGISTRY['espo']
  declared = {name: FIELDS[f'stop.{name}'] for name in registry.options(rule)}
  assert {name: field.default for name, field in declared.items()} == registry.defaults(rule)
  assert {name for name, field in declared.items() if field.mark == PUBLISHED} == set(registry.source_of(rule).published)
  assert all(field.mark for field in declared.values())


def test_a_saved_config_reads_back_as_it_was(tmp_path):
  config = changed(task__options__max_ops=None, baselines=('never', 'random'), learner__learning_rate=1e-6)
  monitor.write_run_info(tmp_path, config.to_dict())
  assert load_config(tmp_path / 'config.json').to_dict() == config.to_dict()


def test_a_saved_config_of_another_version_is_refused(tmp_path):
  monitor.write_run_info(tmp_path, {'stop': {'target_rat': 0.2}})
  with pytest.raises(ConfigError, match=r'stop.target_rat .* did you mean stop.target_rate\?'):
    load_config(tmp_path / 'config.json')


# ------------------------------------------------------------------------------------------------------- the command line


REFUSED = {
  '--config={quickstart} --config.stop.target_rat=0.2': ['--config.stop.target_rat=0.2', 'did you mean stop.target_rate?'],
  '--config={quickstart} --config.stop.eta=fast': ['--config.stop.eta=fast', 'could not convert string to float'],
  '--config={quickstart} --config.stop.clip=0.3': ['stop.clip = 0.3', 'can never fire', 'fix: stop.clip > 0.4'],
  '--config={quickstart}:smok': ["unknown variant 'smok'", 'known: smoke'],
  '--config=experiments/quickstat.py': ['--config=experiments/quickstat.py', 'no such file', 'fix'],
  '--config={broken}': ['broken.py', 'line 3', "name 'c' is not defined"],
  '': ['--config is missing', 'experiments/quickstart.py'],
}


@pytest.fixture(scope='module')
def refused(tmp_path_factory):
  """What the command prints for each of these, where touching a device would raise; and whether it made its folder."""
  folder = tmp_path_factory.mktemp('refused')
  broken = folder / 'broken.py'
  broken.write_text('\ndef get_config():\n  return c\n')
  runs = [
    [*arguments.format(quickstart='experiments/quickstart.py', broken=broken).split(), f'--workdir={folder / str(i)}']
    for i, arguments in enumerate(REFUSED)
  ]
  (folder / 'told').mkdir()
  told = run_each('espo_jax.train', runs, folder / 'told', {'JAX_PLATFORMS': 'none_such'})
  return {arguments: (run, (folder / str(i)).exists()) for i, (arguments, run) in enumerate(zip(REFUSED, told, strict=True))}


@pytest.mark.parametrize('arguments', REFUSED)
def test_the_command_says_what_is_wrong_before_it_touches_a_device(arguments, refused):
  run, began = refused[arguments]
  assert run.returncode == 1 and not began
  assert 'Traceback' not in run.stderr
  for fragment in REFUSED[arguments]:
    assert fragment in run.stderr
