"""What a training or an evaluation with an environment refuses, and how it says so."""

import functools
import pathlib
import runpy

import pytest
from talking import LINES, talking
from tiny import first_params, rule_of, tiny_experiment

from espo_jax import environments, stops, tasks
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.configs.environment import environment_problems
from espo_jax.evaluate.asked import asked_for
from espo_jax.evaluate.options import Named
from espo_jax.evaluate.policies import Policy, RequestError
from espo_jax.evaluate.request import Request, experiment_for
from espo_jax.train import train

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
  ('flags', 'told'),
  [
    ({'stop': 'espo'}, '--stop=espo: '),
    ({'record': True, 'features': 2}, '--features=2: '),
    ({'record': True, 'decoders': asked_for([('weighted', ())])}, '--decoder=weighted: '),
    ({'processors': [Named('budget', {})]}, '--processor=budget: '),
  ],
)
def test_flags_that_take_an_answer_for_one_turn_are_refused_before_anything_is_written(flags, told):
  config = default_config()
  config.environment.name = 'retry'
  policy = Policy(config, True, 'espo', 1, '', None)
  with pytest.raises(RequestError) as error:
    experiment_for(policy, Request(checkpoint='runs/mine', **flags))
  assert str(error.value).startswith(told) and "runs/mine learned with environment.name = 'retry'" in str(error.value)


def test_a_sampler_of_turns_is_not_called_for_one_turn():
  exp = tiny_experiment(talking(**LINES))
  rule, prompts = rule_of(exp), exp.prompts(exp.problems('train', 0, 4))
  with pytest.raises(ValueError, match='Sampler: turns is set'):
    exp.sampler(first_params(exp, 0), rule, exp.put(rule.init(1).adaptive), prompts, exp.key('rollout', 1))


@pytest.mark.parametrize(
  ('lines', 'problem'),
  [
    ({'environment__name': 'retri'}, "environment.name = 'retri': 'retri' is unknown; did you mean 'retry'?"),
    ({'environment__mesage': ''}, 'environment.mesage'),
    ({'environment__role': 'system'}, "environment.role = 'system'; fix: one of 'user', 'tool'"),
    ({'environment__name': 'grid', 'environment__moves': 0}, 'environment.moves = 0; fix: at least 1'),
    ({'environment__name': 'calculator', 'environment__call': '('}, 'its options are refused (missing )'),
    ({'environment__deadline': 0.0}, 'environment.deadline = 0.0: out of range'),
    ({'rollout__slots': 3}, "rollout.slots = 3 with environment.name = 'retry'"),
    ({'exits__every': 1}, "exits.every = 1 with environment.name = 'retry'"),
    ({'critic__every': 2, 'critic__kind': 'separate'}, "critic.every = 2 with environment.name = 'retry'"),
    ({'stop__returns': 'roulette'}, "stop.returns = 'roulette' with environment.name = 'retry'"),
    ({'environment__name': 'grid'}, "environment.name = 'grid' with task.name = 'chain': it plays the task 'grid' alone"),
    (
      {'environment__name': 'calculator', 'environment__call': r'calc\(.*\)'},
      r"environment.call = 'calc\\(.*\\)': no group is the expression; fix: parentheses around it",
    ),
    ({'stop__name': 'dead_groups'}, "the rule 'dead_groups' with environment.name = 'retry'"),
    ({'stop__name': 'risk_control'}, "the rule 'risk_control' with environment.name = 'retry'"),
    ({'eval__draft_blocks': 1}, "eval.draft_blocks = 1 with environment.name = 'retry'"),
    ({'environment__repeats': 1}, "environment.repeats = 1 with environment.name = 'retry'"),
    ({'rollout__serial__inducer': 'so'}, "rollout.serial.inducer = 'so' with environment.name = 'retry'"),
    ({'rollout__reuse__form': 'exact'}, "rollout.reuse.form = 'exact' with environment.name = 'retry'"),
    ({'allocation__name': 'pilot_commit'}, "allocation.name = 'pilot_commit' with environment.name = 'retry'"),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_what_cannot_be_combined_is_told_before_a_run(lines, problem):
  smoke = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  smoke.environment.name = 'retry'
  validate(smoke)
  for field, value in lines.items():
    *sections, name = field.split('__')
    functools.reduce(lambda part, section: part[section], sections, smoke)[name] = value
  with pytest.raises(ConfigError) as error:
    validate(smoke)
  assert problem in str(error.value)


def test_an_unknown_environment_is_told_before_an_evaluation_too():
  smoke = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  smoke.environment.name = 'retri'
  with pytest.raises(ConfigError) as error:
    validate(smoke, training=False)
  known = ', '.join(environments.REGISTRY)
  assert error.value.problems == (f"environment.name = 'retri': 'retri' is unknown; did you mean 'retry'? known: {known}",)


def test_rules_that_read_columns_are_refused_by_what_they_are(registers):
  """A user's rule is refused like the rule that it is made from."""
  smoke = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  smoke.environment.name = 'retry'

  def refused():
    return any('reads groups or ends of rows' in problem for problem in environment_problems(smoke))

  found = set()
  for name in sorted(stops.REGISTRY):
    smoke.stop.name = name
    found |= {name} if refused() else set()
  assert found == {
    *('arrol', 'arrol_signed', 'dead_groups', 'duet_abort', 'hazard_head'),
    *('makespan_gate', 'own_price', 'risk_control', 'wald'),
  }
  for name in ('dead_groups', 'own_price', 'risk_control', 'espo'):
    stops.register(f'mine_{name}')(functools.partial(_made, name))
    smoke.stop.name = f'mine_{name}'
    assert refused() == (name != 'espo')


def _made(name):
  return stops.REGISTRY[name]()


def test_observations_without_room_are_told_before_the_first_stage(tmp_path):
  smoke = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  smoke.environment.update(name='retry', observation_horizon=1)
  with pytest.raises(tasks.DataError, match=r'environment\.observation_horizon = 1: the marks .*; fix: more than 1'):
    train(smoke, tmp_path)
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(RequestError, match=r'environment\.observation_horizon = 1: the marks'):
    experiment_for(Policy(smoke, True, 'espo', 1, '', None), Request(checkpoint='runs/mine'))
