"""Environments of the package `verifiers`: conversation, reward and rows are those of the package, and harm is contained.

The package is in a folder of its own (requirements-test-verifiers.txt), and only processes apart import it.
"""

import asyncio
import dataclasses
import gc
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from benchmark_data import TEMPLATE, tokenizer
from talking import played
from tiny import tiny_experiment

from espo_jax import environments, registry, tasks
from espo_jax.configs import ConfigError, default_config, task_arguments, validate
from espo_jax.environments import Episode, Episodes, turn_writer
from espo_jax.environments.driven import Asked, Rollout
from espo_jax.environments.verifiers import Verifiers, _message
from espo_jax.experiment import make_task
from espo_jax.tasks import verifiers
from espo_jax.tasks.verifiers import Told
from espo_jax.tasks.verifiers_rows import rows_of, spoken

PATHS = [*sys.path, str(pathlib.Path(sys.prefix) / 'verifiers')]
needs_verifiers = pytest.mark.skipif(
  importlib.machinery.PathFinder.find_spec('verifiers', PATHS) is None,
  reason='the package verifiers is not there: scripts/test.sh installs it',
)
FILE = pathlib.Path(__file__).with_name('verifiers_environments.py')
STUB = pathlib.Path(__file__).with_name('verifiers_stub.py')
CALL = 'So\n<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 1}}\n</tool_call>'


@pytest.fixture(scope='module')
def plugged():
  """The file of environments, as `--plugins` loads it, and the folder of the package, where other tests do not find it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'path', PATHS)
    patch.setattr(registry, '_PLUGINS', {})
    registry.load_plugin(FILE)
    yield


@pytest.fixture(scope='module')
def logged(plugged, tmp_path_factory):
  """The environment that talks, in one process, and the file of the conversations that it has seen."""
  log = tmp_path_factory.mktemp('log') / 'conversations.jsonl'
  options = {'load': f'{FILE}:talking', 'arguments': json.dumps({'log': str(log)})}
  playing = Episodes('verifiers', options, deadline=5.0, workers=1)
  yield playing, log
  playing.close()


@pytest.fixture(scope='module')
def tools(plugged):
  """The environment with a tool, in one process."""
  playing = Episodes('verifiers', {'load': f'{FILE}:tools', 'speaker': 'tool'}, deadline=5.0, workers=1)
  yield playing
  playing.close()


def asked(playing, first, questions, actions):
  """The replies to the last of the actions of each episode. All episodes go on side by side."""
  replies = []
  for turn in range(len(actions[0]) + 1):
    episodes = [
      Episode(first + i, tasks.Problem(0, question, ''), 7, tuple((action, None) for action in actions[i][:turn]))
      for i, question in enumerate(questions)
    ]
    replies = [pending.result() for pending in playing.ask(episodes)]
  return replies


def by_stub(function, scripts):
  """The conversations and rewards that the package computes with a client of its own that says given turns."""
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  command = [sys.executable, str(STUB), function, json.dumps(scripts)]
  return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


# ---------------------------------------------------------------------------------------------------------- with the package


@needs_verifiers
def test_conversations_and_rewards_are_those_of_the_package_with_a_client_of_its_own(logged):
  playing, log = logged
  turns = [['1', '2', '0'], ['x', 'y', '5'], ['5', 'é {"a"}', ' 2 ']]
  log.write_text('')
  replies = asked(playing, 0, [f'Guess {n}' for n in range(3)], turns)
  wanted = by_stub('talking', [[n, turns[n]] for n in range(3)])
  assert [reply.reward for reply in replies] == [reward for _, reward in wanted] == [1 / 3, 0.0, 0.0]
  assert [(reply.status, reply.done) for reply in replies] == [('ok', True)] * 3
  seen = [[[said['role'], said['content']] for said in json.loads(line)] for line in log.read_text().splitlines()]
  assert seen == [conversation for conversation, _ in wanted]


@needs_verifiers
def test_the_policy_reads_and_writes_the_conversation_that_the_environment_sees(logged, tmp_path):
  playing, log = logged
  path = tokenizer(tmp_path)
  load, arguments = f'{FILE}:talking', json.dumps({'log': str(log)})
  task = tasks.Verifiers(load, arguments, tokenizer_path=path)
  its = task.tokenizer()
  write = turn_writer(its, 'chat', 'user', (its.convert_tokens_to_ids('<|end|>'),), 64)
  problem = task.problem('train', 0)
  text, turns = problem.prompt, ['first', 'second, in two\nlines', 'third']
  log.write_text('')
  for turn in range(3):
    (reply,) = asked(playing, 100 + turn, [task.question(problem)], [turns[:turn]])
    text += its.decode(write(reply.observation, False).tokens) if turn else ''
    text += turns[turn]
  asked(playing, 200, [task.question(problem)], [turns])
  (seen,) = [json.loads(line) for line in log.read_text().splitlines()]
  assert [said['role'] for said in seen] == ['system', *['user', 'assistant'] * 3]
  assert its.apply_chat_template(seen, tokenize=False) == f'{text}<|end|>\n'


@needs_verifiers
def test_an_environment_that_fails_ends_its_own_episode_alone(logged):
  playing, _ = logged
  told = {
    'raise': "KeyError: 'asked for it'",
    'twice': "environment.speaker = 'user': the environment appended messages of the roles ['user', 'user']",
    'system': "environment.speaker = 'user': the environment appended messages of the roles ['system']",
    'rewrite': 'the environment has changed or left out message 0 between two turns',
    'forget': 'the environment has changed or left out message 0 between two turns',
    'hang': '',
    'flood': '',
    'go': '',
  }
  replies = asked(playing, 300, [f'Guess {n}' for n in range(len(told))], [['on', action] for action in told])
  for (action, words), reply in zip(told.items(), replies, strict=True):
    assert words in reply.message, action
    assert reply.status == ('timeout' if action == 'hang' else 'ok' if action in ('flood', 'go') else 'error'), action
  assert len(replies[-2].observation) == 100_000 and replies[-1].observation == '2: not go'  # played again after the hang
  (unknown,) = asked(playing, 400, ['Guess me'], [[]])
  assert unknown.status == 'error' and "no row asks 'Guess me'" in unknown.message
  (empty,) = asked(playing, 401, ['Guess 1'], [['']])  # the package takes it for an error of the model
  assert (empty.status, empty.done, empty.reward) == ('ok', True, 0.0)


@needs_verifiers
def test_a_tool_is_called_as_the_package_calls_it(tools):
  first, last = asked(tools, 0, ['3 + 1 = ?'], [[CALL]]), asked(tools, 1, ['3 + 1 = ?'], [[CALL, 'It is 4.']])
  ((conversation, reward),) = by_stub('tools', [[3, [['So', 'add', {'a': 3, 'b': 1}], 'It is 4.']]])
  assert first[0].observation == conversation[2][1] == '4' and conversation[2][0] == 'tool'
  assert (last[0].reward, last[0].done) == (reward, True) == (1.0, True)


@needs_verifiers
def test_the_splits_share_no_question_and_the_environments_own_test_rows_come_first(plugged):
  arguments = json.dumps({'rows': 40, 'evaluated': 8})
  task, again = (tasks.Verifiers(f'{FILE}:single', arguments, seed=3) for _ in range(2))
  train, test = ([task.problem(split, i) for i in range(task.size(split))] for split in ('train', 'test'))
  assert [task.question(problem) for problem in test] == [f'What is {n} + {n}?' for n in range(32, 48)]
  assert {task.question(problem) for problem in train} == {f'What is {n} + {n}?' for n in range(32)}
  assert all(problem.prompt == f'Be brief.\n{task.question(problem)}\n' for problem in train)
  assert [again.problem('train', i) for i in range(32)] == train
  second = [task.question(task.problem('train', 32 + i)) for i in range(32)]
  assert set(second) == {task.question(problem) for problem in train} and second != [
    task.question(problem) for problem in train
  ]
  assert task.solution(test[0], np.random.default_rng(0)) == '64' == test[0].answer
  assert '8 with the question of an earlier row; there remain 32 train and 16 test rows' in task.findings()[0].message
  short = tasks.Verifiers(f'{FILE}:single', arguments, max_prompt_tokens=1)
  with pytest.raises(tasks.DataError, match=r'rollout.prompt_width = 1 tokens; fix: --config.rollout.prompt_width=\d+'):
    short.size('train')


@needs_verifiers
def test_a_rollout_is_graded_by_the_rubric(plugged):
  """The policy is untrained, so a row earns only what the rubric gives for a short text."""

  def configure(c):
    c.task = default_config().task
    c.task.name = 'verifiers'
    c.environment.update(
      name='verifiers',
      load=f'{FILE}:single',
      arguments='{"rows": 60}',
      max_turns=2,
      turn_horizon=6,
      observation_horizon=8,
      workers=1,
    )
    c.rollout.update(prompts=4, samples=2, prompt_width=48, horizon=24, scan_length=8)
    c.model.num_layers = 1

  exp = tiny_experiment(configure)
  exp = dataclasses.replace(exp, task=make_task(exp.config))
  rows, verdicts = played(exp, stops=False)
  texts = exp.decode(rows.tokens, rows.full_length)
  assert not verdicts.error.any() and (rows.turn.max(axis=1) == 0).all()
  np.testing.assert_allclose(verdicts.correct, [0.25 / (1 + len(text)) if text else 0.0 for text in texts], rtol=1e-6)
  assert len(np.unique(verdicts.correct)) > 1


# ------------------------------------------------------------------------------------------------------- without the package


def test_what_names_no_environment_is_told_before_a_run(registers, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  registry.load_plugin(FILE)
  for given, told in [
    ({}, "environment.load = '': the task 'verifiers' has the problems of an environment"),
    ({'environment_load': 'gsm8k', 'environment_arguments': '[1]'}, "environment.arguments = '[1]': no JSON object"),
    ({'environment_load': 'mine.py:make'}, 'a file is only run if a flag names it; fix: --plugins=mine.py'),
    ({'environment_load': 'gsm8k'}, "the package verifiers is not installed; fix: pip install -e '.[verifiers]'"),
    ({'environment_load': f'{FILE}:single'}, 'the package verifiers is not installed'),
  ]:
    with pytest.raises(tasks.DataError) as error:
      tasks.Verifiers(**given)
    assert told in str(error.value)


def test_the_task_gets_the_options_of_the_environment():
  c = default_config()
  c.task.name = 'verifiers'
  assert 'environment_load' not in task_arguments(c)
  c.environment.update(name='verifiers', load='gsm8k', arguments='{"n": 1}')
  assert task_arguments(c)['environment_load'] == 'gsm8k' and task_arguments(c)['environment_arguments'] == '{"n": 1}'
  c.task.options.environment_load = 'other'
  with pytest.raises(ConfigError, match=r"task.options.environment_load = 'other': no option of the task 'verifiers'"):
    validate(c)


def test_who_speaks_is_an_option():
  assert environments.traits('verifiers', {}) == ('user', False, 'verifiers', False)
  assert environments.traits('verifiers', {'speaker': 'tool'}).role == 'tool'


@pytest.mark.parametrize(
  ('action', 'content', 'call'),
  [
    (CALL, 'So', ('add', '{"a": 3, "b": 1}')),
    ('{"name": "add", "parameters": {}} then {"name": "add", "arguments": {"a": 1}}', None, ('add', '{}')),
    ('<think>{"name": "add", "arguments": {}}</think>none', '<think>{"name": "add", "arguments": {}}</think>none', None),
    ('{"name": ["add"], "arguments": {}}', '{"name": ["add"], "arguments": {}}', None),
    ('{"name": "other", "arguments": {}} {"name": "add"} {', '{"name": "other", "arguments": {}} {"name": "add"} {', None),
  ],
)
def test_the_first_call_of_a_known_tool_behind_the_thought_is_read(action, content, call):
  message = _message(action, {'add'})
  calls = [(of['function']['name'], of['function']['arguments']) for of in message.get('tool_calls', ())]
  assert (message['role'], message['content'], calls) == ('assistant', content, [call] if call else [])
  assert _message(action, set()) == {'role': 'assistant', 'content': action}


def test_a_message_is_read_by_its_texts_alone():
  parts = [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]
  assert spoken({'role': 'user', 'content': parts, 'name': None}) == {'role': 'user', 'content': 'ab'}
  assert spoken({'role': 'assistant', 'content': None, 'tool_calls': None}) == {'role': 'assistant', 'content': ''}
  with pytest.raises(ValueError, match="of the role 'user' has a part that is no text"):
    spoken({'role': 'user', 'content': [{'type': 'image_url', 'image_url': 'x'}]})


CALLED = {'role': 'assistant', 'content': '', 'tool_calls': [{'function': {'name': 'add', 'arguments': '{}'}}]}


def test_a_row_whose_prompt_calls_a_tool_is_refused():
  rows = [{'prompt': [CALLED, {'role': 'user', 'content': 'Hm?'}]}]
  with pytest.raises(ValueError, match='a prompt with a tool call'):
    rows_of(types.SimpleNamespace(build_eval_dataset=lambda: None, build_dataset=lambda: rows))


@pytest.mark.parametrize('prompt', ['a text', [], [{'role': 'assistant', 'content': 'hm'}], [{'role': 'user', 'content': ' '}]])
def test_a_row_without_a_question_is_refused(prompt):
  of = types.SimpleNamespace(build_eval_dataset=lambda: None, build_dataset=lambda: [{'prompt': prompt}])
  with pytest.raises(ValueError, match='no messages of which the last is a text of the user'):
    rows_of(of)


def test_a_rollout_that_is_given_up_ends():
  """The environment is a stand-in whose rollout never asks again."""
  ended, loop = [], asyncio.new_event_loop()

  async def play(row, line):
    try:
      line.heard.put_nowait(Asked([], []))
      await line.told.get()
    finally:
      ended.append(row)

  rollout = Rollout(types.SimpleNamespace(loop=loop, play=play), {'a': 1})
  assert rollout.hear() == ([], []) and not ended
  del rollout
  gc.collect()
  loop.run_until_complete(asyncio.sleep(0))
  assert ended == [{'a': 1}]
  loop.close()


def test_a_template_describes_the_tools(registers, monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
  rows = [(True, [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hm?'}], '')]
  told = Told(rows, 0, [{'type': 'function', 'function': {'name': 'add', 'description': 'Adds.', 'parameters': {}}}])
  monkeypatch.setattr(verifiers, '_told', lambda load, arguments: told)
  template = "{% for tool in tools or [] %}[{{ tool['function']['name'] }}]{% endfor %}" + TEMPLATE
  task = tasks.Verifiers('hm', tokenizer_path=tokenizer(tmp_path, template))
  wanted = '[add]<|start|>system\nBe brief.<|end|>\n<|start|>user\nHm?<|end|>\n<|start|>assistant\n'
  assert task.problem('test', 0).prompt == wanted and task.question(task.problem('test', 0)) == 'Hm?'
  with pytest.raises(tasks.DataError, match=r'no train row has a prompt of at most .*; fix: an environment with more rows'):
    task.problem('train', 0)


def test_without_options_nothing_is_imported():
  assert Verifiers().role == 'user' and ('verifiers' in sys.modules) is False
