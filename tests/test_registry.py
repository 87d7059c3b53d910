"""The registers: a method of a user's own file, every error with its file and line, and the arrays that a method may read."""

import os
import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import loss_arrays, loss_inputs
from tiny import named, run, tiny_experiment

from espo_jax import exits, methods, objectives, registry, rewards, stops, tasks
from espo_jax.objectives import advantages
from espo_jax.registry import RegistryError

pytestmark = pytest.mark.usefixtures('registers')

HEAD = """from espo_jax import exits, objectives, rewards, stops, tasks
from espo_jax.objectives import advantages
from espo_jax.registry import source

"""  # four lines


def load(path, code: str):
  """Runs a user's file; its code begins in line 5."""
  path.write_text(HEAD + code)
  return runpy.run_path(str(path))


BRIEF = """@rewards.register('brief')
def brief(correct, lengths, horizon, *, weight=0.1):
  return correct * (1.0 - weight * lengths / horizon)
"""
WHOLE = """@tasks.register('parity')
class Parity(tasks.Task):
  name = 'parity'
  max_prompt_tokens = max_response_tokens = 4
  def problem(self, split, index): ...
  def solution(self, problem, rng): ...
  def stated_answer(self, response): ...
  def size(self, split): ...
  def tokenizer(self): ...
  def verify(self, problem, response): return len(response) % 2 == 0
"""


# ------------------------------------------------------------------------------------------------------------- what is accepted


def test_a_method_of_every_kind_registers_itself(tmp_path):
  code = f"""{BRIEF}
@objectives.register('plain', advantage='halved')
def plain(logprobs, advantages, mask, *, scale=1.0):
  return {{}}, {{}}

@objectives.register('beside', reads=lambda options: ['old_entropy'] if options['all'] else [])
def beside(entropy, mask, old_entropy=None, *, all=False):
  return {{}}, {{}}

@advantages.register('halved')
def halved(scores, *, by=2.0):
  return scores / by

@advantages.register('one_step', critic=True)
def one_step(rewards, values, mask):
  return rewards - values, rewards

@stops.register('first_regret')
@stops.controlled(beta_0=2.0)
def first_regret():
  return lambda state, obs: obs.regret, stops.at_beta

@exits.register('late')
def late(*, level=0.5):
  return exits.ExitPolicy(level, hazard=lambda obs, level: obs.logit)

{WHOLE}
@tasks.register('two')
def two(difficulty='easy'):
  return tasks.Chain(difficulty=difficulty)
"""
  load(tmp_path / 'mine.py', code)
  np.testing.assert_allclose(rewards.evaluate('0.5 * brief', {'weight': 0.2}, seen())[0], [[0.45, 0.0]])
  assert objectives.default_advantage('plain + beside') == 'halved'
  assert objectives.reads('plain + beside', {}) == {'logprobs', 'advantages', 'mask', 'entropy'}
  assert objectives.reads('plain + beside', {'all': True}) - objectives.reads('plain + beside', {}) == {'old_entropy'}
  assert not objectives.get_advantage('halved').critic and objectives.get_advantage('one_step').critic
  assert stops.arguments('first_regret') == set(stops.Control._fields)
  assert exits.get('late')(level=0.25).level == 0.25
  assert tasks.get('two', difficulty='hard').difficulty == 'hard'
  assert tasks.get('parity').verify(None, 'ab')
  listed = {(method.kind, method.name) for method in methods.methods()}
  assert listed >= {('reward', 'brief'), ('objective', 'beside'), ('advantage', 'halved'), ('stop', 'first_regret')}


def seen():
  return {'correct': jnp.asarray([[1.0, 0.0]]), 'lengths': jnp.asarray([[5, 9]]), 'horizon': 10}


def test_a_method_that_names_no_paper_is_listed_all_the_same(tmp_path):
  load(tmp_path / 'mine.py', BRIEF)
  (method,) = (method for method in methods.methods() if method.name == 'brief')
  assert methods.describe(method).split() == ['brief:', 'paper', 'not', 'said', 'weight', '=', '0.1', '[U]']
  assert '### `brief`' in methods.page(['reward'])


@pytest.mark.parametrize('order', ['register first', 'source first'])
def test_paper_and_name_may_be_said_in_either_order(tmp_path, order):
  decorators = ["@rewards.register('brief')\n", "@source('a paper', 'weight')\n"]
  code = ''.join(decorators if order == 'register first' else decorators[::-1]) + BRIEF.partition('\n')[2]
  load(tmp_path / 'mine.py', code)
  assert registry.source_of(rewards.REGISTRY['brief']) == ('a paper', ('weight',))


def test_a_registered_method_takes_numpys_arrays(tmp_path):
  load(tmp_path / 'mine.py', BRIEF)
  found = rewards.REGISTRY['brief'](np.ones((1, 2)), np.asarray([[5, 300]], np.uint16), 1000)
  assert isinstance(found, jax.Array) and found.dtype == np.float32


def test_a_file_that_is_loaded_twice_takes_its_own_place(tmp_path):
  for _ in range(2):
    last = load(tmp_path / 'mine.py', BRIEF + WHOLE)
  assert rewards.REGISTRY['brief'] is last['brief']
  assert tasks.TASKS['parity'] is last['Parity']


def test_the_same_name_may_stand_in_two_rooms(tmp_path):
  load(
    tmp_path / 'mine.py', BRIEF + BRIEF.replace('rewards.register', 'stops.register').replace('correct, lengths, horizon, ', '')
  )
  assert {'brief'} <= rewards.REGISTRY.keys() & stops.REGISTRY.keys()


# -------------------------------------------------------------------------------------------------------------- what is refused

REWARD = "@rewards.register('mine')\ndef mine({}):\n  return 0.0\n"
OBJECTIVE = "@objectives.register('mine', advantage='loo')\ndef mine({}):\n  return {{}}, {{}}\n"
ADVANTAGE = "@advantages.register('mine'{})\ndef mine({}):\n  return 0.0\n"
STOP = "@stops.register('mine')\ndef mine({}):\n  return stops.never()\n"
EXIT = "@exits.register('mine')\ndef mine({}):\n  return exits.never()\n"


def named_as(code: str, name: str) -> str:
  return code.format('*, level=0.5').replace("'mine'", repr(name))


@pytest.mark.parametrize(
  ('code', 'fragments'),
  [
    (REWARD.format('correct, lenghts'), ["reward 'mine'", "'lenghts'", "did you mean 'lengths' (tokens that count, [P, G])?"]),
    (REWARD.format('correct, reason'), ["did you mean 'reasoned' (whether the text reasons"]),
    (REWARD.format('zebra'), ["'zebra' names nothing to read", '\n  correct: verdicts', '\n  mask: true on']),
    (
      REWARD.format('correct, weight=0.1'),
      ["'weight' names nothing to read", "an option: behind a '*', with a default"],
    ),
    (REWARD.format('correct, *, weight'), ["option 'weight' has no default", 'fix: weight=VALUE']),
    (REWARD.format('*arrays'), ["'*arrays' names nothing to read", 'fix: one of these']),
    (REWARD.format('correct, **options'), ["'**options' hides the options", 'fix: each by its name']),
    (REWARD.format('values, logprobs'), ["'logprobs' names nothing to read"]),  # which an objective reads
    (OBJECTIVE.format('log_probs, mask'), ["objective 'mine'", "did you mean 'logprobs' (log-probabilities of the tokens"]),
    (OBJECTIVE.format('x, *, clip=0.2'), ["'x' names nothing to read", '\n  prefers_short: whether']),
    (
      OBJECTIVE.format('mask, old_entropy=None').replace("'loo'", "'loo', reads=lambda options: ['entropy']"),
      ["objective 'mine': `reads` names 'entropy', no parameter", 'fix: a parameter entropy = None'],
    ),
    (OBJECTIVE.format('logprobs, correct'), ["'correct' names nothing to read"]),
    (
      ADVANTAGE.format('', 'values'),
      ["advantage 'mine'", "'values' names nothing to read", 'scores: the summed rewards'],
    ),
    (ADVANTAGE.format(', critic=True', 'scores'), ["'scores' names nothing to read", '\n  final_values: ']),
    (STOP.format('regret'), ["stop rule 'mine'", "'regret' names nothing to read", "options alone: a '*' in front of them"]),
    (STOP.format('*, patience'), ["option 'patience' has no default"]),
    (EXIT.format('level=0.5'), ["exit policy 'mine'", "'level' names nothing to read", 'and a default for each']),
    (
      named_as(REWARD.replace('{}', '*, level=0.5'), 'my-brief'),
      ['no identifier', 'reward.name is an expression', "'my_brief'"],
    ),
    (named_as(REWARD, 'and'), ['no identifier', "such as 'my_method'"]),
    (named_as(OBJECTIVE, '2nd'), ['no identifier', 'objective.name is an expression']),
    (named_as(STOP, 'a/b'), ['no name, which would be a part of a command line and a folder', "such as 'a_b'"]),
    (named_as(EXIT, ''), ['no name', "such as 'my_method'"]),
    (WHOLE.replace('verify', 'check'), ["task 'parity': it has no method 'verify'", 'fix: inherit from tasks.Task']),
    (WHOLE.replace('(tasks.Task)', ''), ["it has no method 'question'"]),
    (named_as(REWARD, 'hmpo'), ["reward 'hmpo': the name is taken by", 'espo_jax/rewards/hmpo.py:', 'fix: another name']),
    (named_as(STOP, 'espo'), ['the name is taken by', 'espo_jax/stops/espo.py:']),
    (WHOLE.replace("'parity'", "'chain'", 1), ['the name is taken by', 'espo_jax/tasks/chain.py:']),
    (
      '@stops.register("mine")\n@stops.controlled(beta_0=1.0)\ndef mine(*, width):\n  pass\n',
      ["option 'width' has no default"],
    ),
  ],
)
def test_a_slip_is_an_error_where_the_method_stands(tmp_path, code, fragments):
  kinds = (rewards.REGISTRY, objectives.REGISTRY, advantages.ADVANTAGES, stops.REGISTRY, exits.REGISTRY, tasks.TASKS)
  before = [dict(register) for register in kinds]
  with pytest.raises(RegistryError) as caught:
    load(tmp_path / 'mine.py', code)
  message = str(caught.value)
  assert message.startswith(f'{tmp_path / "mine.py"}:5: '), message
  for fragment in fragments:
    assert fragment in message, message
  assert ' fix: ' in message
  assert [dict(register) for register in kinds] == before


def test_a_name_of_two_files_is_an_error_that_names_both(tmp_path):
  load(tmp_path / 'first.py', '\n\n' + BRIEF)
  with pytest.raises(RegistryError, match=r'the name is taken by .*first.py:7; fix: another name'):
    load(tmp_path / 'second.py', BRIEF)
  with pytest.raises(RegistryError, match=r'the name is taken by .*twice.py:5'):
    load(tmp_path / 'twice.py', BRIEF.replace("'brief'", "'other'") + BRIEF.replace("'brief'", "'other'"))


def test_a_decorator_without_a_name_is_an_error_not_a_silence(tmp_path):
  """In a process of its own: here every argument's type is checked first."""
  rooms = ('rewards', 'objectives', 'advantages', 'stops', 'exits', 'tasks')
  tries = (f'try:\n  @{room}.register\n  def mine():\n    return 0.0\nexcept ValueError as e:\n  print(e)\n' for room in rooms)
  (tmp_path / 'mine.py').write_text(HEAD + ''.join(tries))
  command = [sys.executable, str(tmp_path / 'mine.py')]
  environment = os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])}
  printed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
  kinds = ('reward', 'objective', 'advantage', 'stop rule', 'exit policy', 'task')
  for number, (kind, line) in enumerate(zip(kinds, printed, strict=True)):
    assert line == f"{tmp_path / 'mine.py'}:{6 + 6 * number}: {kind}: registered without a name; fix: @register('mine')"


def test_what_has_no_parameters_to_read_is_refused():
  with pytest.raises(RegistryError, match="stop rule 'mine': its parameters cannot be read; fix: a function written in Python"):
    stops.register('mine')(dict)


# ------------------------------------------------------------------------------------------------------------ what there is


def test_an_objective_may_read_every_array_of_the_table():
  """One update with a term that names them all: the learner has each, of the shape that the table says."""
  shapes = {}

  def everything(*arrays):
    shapes.update(zip(objectives.ARRAYS, (x.shape for x in arrays), strict=True))
    return {'everything': (1.0, objectives.token_mean(arrays[0], arrays[list(objectives.ARRAYS).index('mask')]))}, {}

  function = eval(
    f'lambda {", ".join(objectives.ARRAYS)}: everything({", ".join(objectives.ARRAYS)})', {'everything': everything}
  )
  objectives.register('everything')(function)
  _, metrics = run(tiny_experiment(named(objective__name='grpo + everything')), 1)
  assert np.isfinite(metrics[0]['loss/everything'])
  rows, horizon = shapes['mask']
  for name, meaning in objectives.ARRAYS.items():
    wanted = {'[N, T]': (rows, horizon), '[N]': (rows,), '[]': (), '[N, V]': (rows, *shapes[name][1:])}
    assert shapes[name] == wanted[f'[{meaning.rpartition("[")[2]}'], name


def test_what_costs_a_pass_of_the_reference_follows_from_what_is_read():
  for name, options, wanted in (
    ('grpo', {}, set()),
    ('grpo + kl_k3', {}, {'reference_logprobs'}),
    ('ppo + kl_exact', {}, {'reference_kl'}),
    ('tepo', {}, set()),
    ('tepo', {'divergence': 'abs'}, set()),
    ('tepo', {'divergence': 'reference'}, {'reference_logprobs'}),
    ('tepo + entropy', {'divergence': 'exact'}, {'reference_kl'}),
    ('grpo', {'divergence': 'exact'}, set()),  # an option that it does not have
  ):
    read = objectives.reads(name, options)
    assert read & {'reference_logprobs', 'reference_kl'} == wanted, (name, options)
    assert objectives.reads_reference(name, options) == bool(wanted)
  assert {'old_entropy'} == objectives.reads('tepo', {}) - objectives.reads('tepo', {'entropy_test': 'first_order'})


def test_an_array_that_is_missing_is_named():
  x = loss_inputs(loss_arrays())
  for array in (None, ...):
    given = x | {'reference_kl': None} if array is None else {name: y for name, y in x.items() if name != 'reference_kl'}
    with pytest.raises(ValueError, match="objective 'kl_exact' reads 'reference_kl', which is not among the arrays given; fix"):
      objectives.compose('grpo + kl_exact', {})(given)
    assert objectives.compose('tepo', {})(given)[0].keys() == {'policy', 'masked_kl'}  # which does without
