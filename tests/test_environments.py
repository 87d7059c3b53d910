"""Environments: what the built-in ones answer, and that a hostile one harms its own episode alone."""

import math
import operator
import pathlib
import random

import numpy as np
import pytest

from espo_jax import environments, registry, tasks
from espo_jax.environments import Episode, Episodes
from espo_jax.environments.calculator import Calculator, calculated, called
from espo_jax.tasks import grid as maps

pytestmark = pytest.mark.quick

HOSTILE = pathlib.Path(__file__).with_name('hostile_environments.py')
QUESTION = tasks.Problem(4, '1+1=', '2')


@pytest.fixture(scope='module')
def playing():
  """Two processes with the hostile environment."""
  with pytest.MonkeyPatch.context() as patch:
    for part in ('_entries', '_methods'):
      patch.setattr(environments.REGISTRY, part, dict(getattr(environments.REGISTRY, part)))
    patch.setattr(registry, '_PLUGINS', {})
    registry.load_plugin(HOSTILE)
    episodes = Episodes('obeys', {}, deadline=2.0, workers=2)
  yield episodes
  episodes.close()


def answers(playing, episodes):
  """What the environments answer, once all have."""
  return [pending.result() for pending in playing.ask(episodes)]


def begun(playing, first, count=4):
  """Episodes of one turn each, half of them in the first process and half in the other."""
  some = [Episode(first + i, QUESTION, seed=10 + i) for i in range(count)]
  assert [reply.observation for reply in answers(playing, some)] == [f'turn 0 of seed {10 + i}' for i in range(count)]
  some = acted(some, ['go'] * count)
  assert [reply.observation for reply in answers(playing, some)] == [f'turn 1 of seed {10 + i}' for i in range(count)]
  return some


def acted(episodes, actions):
  return [its._replace(actions=(*its.actions, (action, None))) for its, action in zip(episodes, actions, strict=True)]


@pytest.mark.parametrize(
  ('action', 'status', 'told'),
  [
    ('raise', 'error', "KeyError: 'asked for it'"),
    ('exit', 'error', 'SystemExit'),
    ('number', 'error', 'the observation is a int; fix: a text'),
    ('huge', 'error', 'the reward is 1e+39; fix: a number that is finite in float32'),
    ('hang', 'timeout', ''),
    ('die', 'error', ''),
  ],
  ids=lambda told: told.split(':')[0],
)
def test_an_environment_that_fails_ends_its_own_episode_alone(playing, action, status, told):
  some = begun(playing, first=100 * len(action))
  failed, *others = answers(playing, acted(some, [action, 'go', 'go', 'go']))
  assert (failed.status, failed.done) == (status, True) and told in failed.message
  assert [reply.status for reply in others] == ['ok'] * 3
  assert [reply.observation for reply in others] == [f'turn 2 of seed {10 + i}' for i in (1, 2, 3)]  # none was forgotten


def test_a_flood_leaves_the_process_shortened_and_printed_text_never(playing):
  some = begun(playing, first=1000)
  flood, forged, *_ = answers(playing, acted(some, ['flood', 'print', 'go', 'go']))
  assert set(flood.observation) == {'x'} and len(flood.observation) == 100_000
  assert forged.observation == 'turn 2 of seed 11'


def test_an_environment_is_prepared_once_by_each_process(playing):
  replies = answers(playing, acted(begun(playing, first=1500), ['prepared'] * 4))
  assert [reply.observation for reply in replies] == ['[3600.0]'] * 4


def test_an_episode_is_forgotten_when_it_ends_and_played_again_when_it_is_asked(playing):
  (one,) = acted(begun(playing, first=2000, count=1), ['end'])
  first, again = answers(playing, [one]), answers(playing, [one])
  assert first == again and first[0].done and first[0].reward == 0.25


def test_an_episode_that_is_over_earlier_when_it_is_played_again_fails_alone(playing, monkeypatch):
  monkeypatch.setattr(playing, '_asked', lambda place, episode, turn: ({'lost': True}, 'ok'))
  (reply,) = answers(playing, [Episode(3000, QUESTION, seed=0)])
  assert reply.status == 'error' and 'fix: an environment that is pure given problem and seed' in reply.message


def test_no_process_starts_for_an_environment_that_is_unknown():
  episodes = Episodes('nobody', {}, deadline=2.0, workers=1)
  with pytest.raises(RuntimeError, match="'nobody' is unknown; known: calculator, grid, retry"):
    answers(episodes, [Episode(0, QUESTION, seed=0)])
  episodes.close()


def test_what_is_no_environment_cannot_be_registered(registers):
  class Mute:
    def reset(self, problem, seed):
      return ''

  with pytest.raises(registry.RegistryError, match="environment 'mute': it has no method 'step'"):
    environments.register('mute')(Mute)
  Mute.step, Mute.role = Mute.reset, 'system'
  with pytest.raises(registry.RegistryError, match="role = 'system'; fix: one of 'user', 'tool'"):
    environments.register('mute')(Mute)


def test_a_class_inherits_who_speaks_and_whether_its_turns_are_graded(registers):
  assert environments.traits('calculator', {}) == ('tool', True, '', True)
  assert environments.traits('retry', {}) == ('user', True, '', True)
  assert environments.traits('grid', {}) == ('user', False, 'grid', True)

  @environments.register('exact')
  class Exact(Calculator):
    pass

  assert environments.traits('exact', {}) == ('tool', True, '', True)

  @environments.register('made')
  def made(*, instruction: str = ''):
    return Calculator(instruction=instruction)

  assert environments.traits('made', {'instruction': 'x', 'other': 1}) == ('tool', True, '', True)


@pytest.mark.parametrize(
  'wrong', [None, type('Mute', (), {'role': 'user'})(), type('Loud', (Calculator,), {'role': 'system'})()]
)
def test_what_a_registered_function_makes_has_to_be_an_environment(wrong, registers):
  @environments.register('wrong')
  def make():
    return wrong

  with pytest.raises(registry.RegistryError, match=r"environment.name = 'wrong': .*; fix: the methods `reset` and `step`"):
    environments.traits('wrong', {})


@pytest.mark.parametrize('name', environments.REGISTRY)
def test_an_environment_is_an_object_with_the_two_methods(name):
  assert isinstance(environments.REGISTRY[name](), environments.Environment)


# ------------------------------------------------------------------------------------------------------------------ calculator


def test_a_calculator_computes_what_fractions_do():
  rng, signs = random.Random(0), {'+': operator.add, '-': operator.sub, '*': operator.mul, '//': operator.floordiv}
  for _ in range(50):
    a, b, c = rng.randint(-99, 99), rng.randint(1, 99), rng.randint(1, 99)
    one, two = rng.choice(list(signs)), rng.choice(list(signs))
    wanted = signs[two](signs[one](a, b), c)
    assert calculated(f'({a} {one} {b}) {two} {c}') == str(wanted)


@pytest.mark.parametrize(
  ('expression', 'value'),
  [('0.1 + 0.2', '0.3'), ('1 / 3', '0.333333333333'), ('2 ** 10 % 7', '2'), ('2 ** -1', '0.5'), (' -(4) ', '-4')],
)
def test_a_calculator_is_exact_and_writes_decimals(expression, value):
  assert calculated(expression) == value


@pytest.mark.parametrize(
  'expression',
  [
    '1 / 0',
    '9 ** 9 ** 9',
    '2 ** 0.5',
    '10 ** 9999',
    '1e999',
    '(' * 500 + '1' + ')' * 500,
    '-' * 999 + '1',
    '__import__("os").system("true")',
    'print(1)',
    'True + 1',
    '1 +',
    '',
    '1' * 2000,
    '1\0',
    '[1] * 10**9',
  ],
)
def test_a_calculator_says_what_is_wrong_and_runs_nothing(expression):
  assert calculated(expression).startswith('error: ')


@pytest.mark.parametrize(
  'text',
  [
    'So\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "3*4"}}\n</tool_call>',
    '{"name": "calculator", "parameters": {"expression": "3*4"}}',
    'functioncalculator\n```json\n{"expression": "3*4"}\n```',
    'a set {1, 2} first, {"x": 1}, then {"expression": "3*4"} and {"expression": "5"}',
  ],
)
def test_a_call_is_found_in_the_formats_of_the_models(text):
  assert called(text) == '3*4'


def test_a_turn_calls_or_answers():
  problem, calculator = tasks.Problem(0, 'How many?', '12'), environments.REGISTRY['calculator']()
  assert calculator.reset(problem, 0).startswith('How many?\nYou may use a calculator.')
  assert calculator.step('<think>{"expression": "1"}</think> {"expression": "3*4"}', 0.0) == ('12', 0.0, False)
  assert calculator.step('<think>{"expression": "1"}</think> It is 12.', 1.0) == ('', 1.0, True)
  bracketed = environments.REGISTRY['calculator'](call=r'\[(.*?)\]', instruction='')
  assert bracketed.reset(problem, 0) == 'How many?'
  assert bracketed.step('so [3*4]', 0.0) == ('12', 0.0, False)


# ----------------------------------------------------------------------------------------------------------------------- retry


def test_retry_pays_by_how_much_a_turn_is_better_than_all_before():
  retry = environments.REGISTRY['retry'](message='no')
  scores = [0.25, 0.0, 0.75, 0.5, 1.0]
  steps = [retry.step('', score) for score in scores]
  np.testing.assert_allclose(np.cumsum([step.reward for step in steps]), np.maximum.accumulate(scores))
  assert [step.done for step in steps] == [score == 1 for score in scores] and steps[0].observation == 'no'


# ------------------------------------------------------------------------------------------------------------------------ grid


def distance(drawn: str) -> float:
  """The length of the shortest way, by powers of the matrix of neighbours."""
  rows = drawn.removesuffix('=').split('/')
  places = [(i, j) for i, row in enumerate(rows) for j, mark in enumerate(row) if mark != '#']
  near = np.array([[abs(a - c) + abs(b - d) == 1 for c, d in places] for a, b in places])
  at = {rows[i][j]: n for n, (i, j) in enumerate(places)}
  reached = np.eye(len(places), dtype=bool)[at['@']]
  for steps in range(len(places) + 1):
    if reached[at['*']]:
      return steps
    reached = reached | (reached @ near)
  return math.inf


def test_the_expert_of_a_map_walks_the_shortest_way():
  task = tasks.Grid(side=4, walls=0.35)
  for index in range(30):
    problem = task.problem('train', index)
    assert len(problem.answer) == distance(problem.prompt) > 0
    assert task.verify(problem, problem.answer) and not task.verify(problem, problem.answer[:-1])
    assert not task.verify(problem, problem.answer + '#')
    assert len(task.tokenizer().encode(problem.prompt)) == len(problem.prompt) == task.max_prompt_tokens
    assert len(problem.answer) + 1 <= task.max_response_tokens
  assert maps.shortest('@#/#*=') is None and distance('@#/#*=') == math.inf


def test_a_walk_turn_by_turn_ends_where_the_whole_walk_ends():
  rng = random.Random(1)
  for index in range(20):
    problem, walker = tasks.Grid().problem('train', index), environments.REGISTRY['grid']()
    assert walker.reset(problem, 0) == problem.prompt
    walk, seen = ''.join(rng.choices('NESW', k=12)), problem.prompt
    for n, letter in enumerate(walk):
      seen, reward, done = walker.step(f'={letter}S', None)  # what is no move and what is one too many does not count
      assert maps.place_of(seen, '@') == maps.walk(problem.prompt, walk[: n + 1])
      assert [mark == '#' for mark in seen] == [mark == '#' for mark in problem.prompt]
      assert reward == done == (maps.place_of(seen, '@') == maps.place_of(problem.prompt, '*'))
      if done:
        break


def test_the_expert_succeeds_in_as_many_turns_as_moves_allow():
  problem = tasks.Grid(side=5).problem('train', 3)
  for moves in (1, 2):
    walker = environments.REGISTRY['grid'](moves=moves)
    walker.reset(problem, 0)
    turns = [problem.answer[i : i + moves] for i in range(0, len(problem.answer), moves)]
    assert [walker.step(turn, None).done for turn in turns] == [False] * (len(turns) - 1) + [True]
  with pytest.raises(ValueError, match=r'environment.moves = 0; fix: at least 1'):
    environments.REGISTRY['grid'](moves=0)
