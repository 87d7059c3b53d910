"""Every method by its one config line, on one device and on eight; and the list of them."""

import math
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from loss_cases import applied, loss_arrays, loss_inputs
from tiny import named, run, tiny_experiment

from espo_jax import exits, methods, monitor, objectives, registry, rewards, stops
from espo_jax.configs import ConfigError, advantage_name, validate
from espo_jax.configs.defaults import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / 'experiments' / 'plugins'


def smoke(**lines):
  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  for name, value in lines.items():
    section, _, field = name.partition('__')
    config[section][field] = value
  return config


TERMS = [name for name, entry in objectives.REGISTRY.items() if not entry.advantage]
LINES = (
  [{'objective__name': name} for name, entry in objectives.REGISTRY.items() if entry.advantage]
  + [{'objective__name': ' + '.join(['grpo', *terms])} for terms in (TERMS[::2], TERMS[1::2])]
  + [{'reward__name': ' + '.join(rewards.REGISTRY)}]
  + [{'objective__name': 'grpo', 'advantage__name': 'mean_only'}]
)


@pytest.mark.parametrize('lines', LINES, ids=lambda lines: ','.join(lines.values()))
def test_a_method_is_a_config_line(lines):
  validate(smoke(**lines))
  exp = tiny_experiment(named(**lines))
  state, metrics = run(exp)
  for row in metrics:
    assert all(math.isfinite(value) for value in row.values()), row
    assert row['grad_norm'] > 0
  wanted = {f'reward/{name}' for name in rewards.names(exp.config.reward.name)} | {'reward/mean', 'loss/policy', 'loss/total'}
  wanted |= {f'loss/{name}' for name in objectives.parts(exp.config.objective.name) if not objectives.REGISTRY[name].advantage}
  assert wanted <= metrics[-1].keys()
  assert ('critic/loss' in metrics[-1]) == objectives.ADVANTAGES[advantage_name(exp.config)].critic
  assert any(0 < row['stop/rate'] < 1 for row in metrics)  # the stop rule acts, with a critic or without
  assert state.history.updates == 3
  assert [name for row in metrics for name in row if monitor.meaning(name) is None] == []


def test_groups_and_rankings_are_those_of_the_global_batch(in_float64):
  """Where a gradient is 0, Adam divides what rounding leaves of it by its epsilon, 1e-8."""
  limit = 2 * rounding.gamma(1000, np.float64) / 1e-8  # two updates of a thousand operations
  lines = {'objective__name': 'dapo', 'reward__name': 'grpo_lambda', 'rollout__max_draws': 2}
  results = [run(tiny_experiment(named(**lines), **mesh), 2) for mesh in ({}, {'data': 2, 'fsdp': 2, 'tensor': 2})]
  (one, one_metrics), (eight, metrics) = results
  for a, b in zip(one_metrics, metrics, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      if not name.startswith(('seconds/', 'tokens_per_second', 'sampler_gap/', 'pad_fraction')):  # padded to divide by a mesh
        np.testing.assert_allclose(b[name], a[name], rtol=limit, atol=limit, err_msg=name)
  assert any(row['reward/equal_groups'] > 0 and row['rollout/draws'] == 2 for row in metrics)
  moved = jax.tree.map(lambda x, y: float(abs(np.asarray(x) - np.asarray(y)).max()), one.params, eight.params)
  assert max(jax.tree.leaves(moved)) < limit


# ------------------------------------------------------------------------------------------------------------------ the list


def test_every_method_says_where_it_comes_from():
  for method in methods.methods():
    paper, published = registry.source_of(method.function)
    assert paper
    assert set(published) <= registry.options(method.function).keys(), method.name
    text = methods.describe(method)
    assert f'  {method.name}: {paper.split()[0]}' in text
    for name in registry.options(method.function):
      value = re.search(rf'\b{name} =.*?(?=, *\w+ =|$)', ' '.join(text.split()))
      assert value and value[0].endswith('[U]') != (name in published), (method.name, name)


def test_every_option_is_explained_in_the_docstring_of_its_method():
  for method in methods.methods():
    assert registry.options(method.function).keys() <= methods.meanings_of(method.function).keys(), method.name


def test_every_option_has_a_default_of_a_type_that_the_config_checks():
  for method in methods.methods():
    for name, parameter in registry.options(method.function).items():
      assert type(parameter.default) in (bool, int, float, str, tuple), (method.name, name)


def test_the_command(capsys):
  methods.main(['reward', 'advantage'])
  out = capsys.readouterr().out
  assert 'hmpo: HMPO, arXiv 2606.01934' in out and 'lam = 0.8,' in out and 'fixed_budget = 0.0 [U]' in out
  assert 'loo: RLOO' in out and 'dapo: ' not in out
  methods.main([])
  assert re.search(r'dapo: DAPO.*group_zscore; up to 10 draws', capsys.readouterr().out)
  with pytest.raises(SystemExit, match="unknown kind 'rewards'; fix: some of stop, exit, lesson"):
    methods.main(['rewards'])


def test_the_command_lists_the_fields_of_a_config(capsys):
  methods.main(['config', 'stop', 'rollout.serial'])
  out = capsys.readouterr().out
  assert '  stop.target_rate = 0.25; in [0, 1]; published\n      tau: the share of rows to stop.\n' in out
  assert 'stop.risk_control.beta_0 = 1.4; ours' in out and 'rollout.serial.answer_tokens = 32; above 0; [U]' in out
  assert 'rollout.horizon' not in out and max(map(len, out.splitlines())) <= 128
  methods.main(['config'])
  out = capsys.readouterr().out
  assert all(f'\n  {name} = {field.default!r}' in out for name, field in FIELDS.items())
  with pytest.raises(SystemExit, match=r"config 'stopp': no such section; fix: stop$"):
    methods.main(['config', 'stopp'])


def test_the_page_of_methods_is_current(capsys):
  methods.main(['--markdown'])
  page = capsys.readouterr().out
  assert page == (ROOT / 'docs' / 'methods.md').read_text(), 'fix: python -m espo_jax.methods --markdown > docs/methods.md'
  assert '| `clip_high` | `0.28` | yes | How far above 1 the ratio counts. |' in page
  assert page.count('\n### `') == len(list(methods.methods()))
  assert page.count('    loss = ') >= 12
  assert "| `learner.learning_rate` | `1e-06` | above 0 | yes | The policy's learning rate. |" in page
  assert all(f'\n| `{name}` | ' in page for name in FIELDS)


def test_the_page_of_metrics_is_current(capsys):
  methods.main(['metrics'])
  page = capsys.readouterr().out
  assert page == (ROOT / 'docs' / 'metrics.md').read_text(), 'fix: python -m espo_jax.methods metrics > docs/metrics.md'
  assert '| `stop/rate` | share | Rows that the rule stopped or pruned.' in page and '| `seconds/*` | s |' in page


# ----------------------------------------------------------------------------------------------------------- the worked example


def block(section: str) -> str:
  """The code block of a section of BUILD.md, as it stands there."""
  return re.search(r'```python\n(.*?)```', (ROOT / 'BUILD.md').read_text().partition(f'## {section}\n')[2], re.DOTALL)[1]


def test_the_worked_example_of_the_build_guide(registers):
  """The code gives an objective and a reward that train."""
  code = block('Add an objective or reward')
  assert len(code.splitlines()) <= 21
  exec(code, {})
  lines = {'objective__name': 'soft_clip', 'objective__width': 0.3, 'reward__name': 'brief'}
  validate(smoke(**lines))
  _, metrics = run(tiny_experiment(named(**lines)))
  assert metrics[-1]['grad_norm'] > 0 and 0 < metrics[-1]['reward/brief'] < metrics[-1]['accuracy']
  x = loss_inputs(loss_arrays(per_row=True))
  wide, plain = applied('soft_clip', x, width=1e3)[0], applied('kl_cov', x, kl_cov_coef=0.0)[0]
  size = jnp.abs(x['advantages']).max() * jnp.exp(jnp.where(x['mask'], x['logprobs'] - x['old_logprobs'], 0.0)).max()
  roundings = x['mask'].size + 10
  rounding.assert_close(wide['policy'][1].mean, plain['policy'][1].mean, roundings=roundings, size=size)  # never clips
  assert 'soft_clip: ours' in '\n'.join(map(methods.describe, methods.methods()))


def test_the_stop_rule_among_the_example_plugins(registers):
  registry.load_plugin(str(EXAMPLES / 'first_regret.py'))
  rule = stops.REGISTRY['first_regret'](beta_0=1.5)
  regret = jnp.asarray([0.1, 3.0, 2.4, 9.0])
  seen = stops.Observation(regret, jnp.zeros(4), jnp.zeros(4))
  _, stop, score = rule.update(rule.init(4, stops.adaptive(rule, mu=1.0, var=1.0)), seen)
  np.testing.assert_array_equal(stop, [False, True, False, True])
  rounding.assert_close(score, regret - 1.0, roundings=4, size=10.0)
  options = registry.defaults(stops.REGISTRY['first_regret'])
  assert options == {'delta': 1e-8} | stops.Control(2.0, beta_min=0.5)._asdict()


def test_the_exit_policy_among_the_example_plugins(registers):
  registry.load_plugin(str(EXAMPLES / 'late.py'))
  config = runpy.run_path(str(ROOT / 'experiments' / 'early_exits.py'))['get_config']('smoke')
  config.exits.update(policy='late', first=16)
  validate(config)
  config.exits.update(alone=True, translator='token')
  config.lesson.name = 'lgvit_distill'
  with pytest.raises(ConfigError, match=r"exits.policy = 'late', whose gates it does not train"):
    validate(config)
  policy = exits.get('late')(first=2)
  state = jnp.zeros((1, 3, 4))
  logit = jnp.asarray([[5.0, -5.0, 5.0]])
  seen = exits.Observation(logit, logit, state, state, lambda x: x, jnp.asarray([[1, 2, 3]]), jnp.zeros((1, 3)))
  leaves = policy.hazard(seen, jnp.float32(0.5))
  np.testing.assert_array_equal(leaves, [[0.0, 0.0, 1.0]])


def test_what_is_no_registered_method_is_where_the_list_says(capsys):
  methods.main(['elsewhere'])
  told = capsys.readouterr().out
  for its in methods.NOT_REGISTERED:
    assert f'  {its.name}: {its.paper}\n' in told
    files = re.findall(r'(?:scripts|notebooks)/\w+\.\w+', its.place)
    fields = re.findall(r'(?:field|section) ([\w.]+)', its.place)
    assert files or fields
    assert all((ROOT / file).is_file() for file in files)
    assert all(any(f'{field}.'.startswith(f'{name}.') or name.startswith(f'{field}.') for name in FIELDS) for field in fields)


# The papers from which this project grew that have something to do here, by what tells each apart.
NEIGHBOURS = [
  '2505.18149',
  '1705.10823',
  'early_warning',
  '2204.03276',
  '2510.08308',
  '2211.11152',
  '2509.12618',
  '2310.09163',
  '2508.01969',
  '1807.01774',
  '2504.20922',
  '2407.16221',
  '2410.12513',
  '2505.14604',
  'Longstaff',
  '1806.07572',
  '2505.18086',
  '2508.01287',
  '2505.07961',
  '2307.02628',
  '2509.22576',
  '2405.19715',
  '2505.21178',
  '2402.02515',
  '2505.07686',
  '1904.07272',
  '2505.11896',
  'hazard_head',
  '2505.20101',
  '2301.10846',
  '2407.18219',
  '2308.00255',
  '2508.20395',
  'is_cv_estimate',
  '2505.20732',
  '2501.04697',
  '2505.07787',
  '2505.20023',
  '2404.03865',
  '2510.10494',
  '1905.08772',
  '2504.07052',
]


def test_every_neighbouring_paper_is_in_the_list(capsys):
  methods.main([])
  told = capsys.readouterr().out
  assert [paper for paper in NEIGHBOURS if paper not in told] == []
