"""Conversations of experts, from which the warm start learns to talk in turns."""

import json
import zlib

import numpy as np
import pytest
import rounding
from tiny import first_state

from espo_jax import environments, tasks
from espo_jax.configs import default_config
from espo_jax.environments import Step
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.stages.conversations import conversation, has_expert
from espo_jax.stages.table import Table, Turned, seed_of
from espo_jax.stages.warm_start import supervised_step
from espo_jax.tasks import grid


def experiment(name, task='chain', noise=None, data='', **options):
  c = default_config()
  c.task.name, c.environment.name, c.warm_start.data = task, name, data
  if noise is not None:
    c.task.options.noise = noise
  c.environment.update({'max_turns': 3, 'turn_horizon': 63, 'observation_horizon': 24, 'workers': 1} | options)
  c.rollout.update(prompt_width=38, horizon=200)
  c.model.update(hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8)
  c.warm_start.update(steps=2, batch=4)
  return make_experiment(c)


def written(exp, number, seed=0):
  problem = exp.problems('train', number, 1)[0]
  return problem, conversation(exp, problem, np.random.default_rng(seed))


@pytest.mark.parametrize('moves', [1, 2])
def test_an_expert_without_slips_walks_the_shortest_way_and_reads_each_map(moves):
  exp = experiment('grid', 'grid', moves=moves)
  for number in range(8):
    problem, found = written(exp, number)
    turns = [segment.text for segment in found.segments if segment.loss]
    assert ''.join(turns) == problem.answer[: 3 * moves] and {segment.ends for segment in found.segments if segment.loss} == {
      True
    }
    maps = [segment.text for segment in found.segments if not segment.loss]
    ends = [grid.walk(problem.prompt, problem.answer[: n * moves]) for n in range(1, len(turns))]
    assert [grid.place_of(shown, grid.AGENT) for shown in maps] == ends and found.prompt == problem.prompt


def test_the_moves_of_an_expert_slip_with_their_probability():
  slipping = environments.REGISTRY.find('grid')(slips=0.4)
  problem, rng = tasks.Problem(0, '@..*=', 'EEE'), np.random.default_rng(0)
  slipping.reset(problem, 0)
  found = [slipping.expert(rng) for _ in range(2000)]
  share, right = np.mean([move == 'E' for move in found]), 0.6 + 0.4 / 4
  assert abs(share - right) < 4 * np.sqrt(right * (1 - right) / 2000)


def test_a_conversation_has_the_tokens_of_an_episode():
  """The rows of an episode in which the policy writes what the expert wrote."""
  exp = experiment('retry', message='##', noise=0.3)
  several = 0
  for number in range(6):
    problem, found = written(exp, number)
    wanted = tasks.encode_example(exp.tokenizer, found, 38, 200)
    table, tokens, turn = Table(exp, [problem], 1), np.zeros((1, 200), np.int32), np.full((1, 200), -1)
    assert table.pose(table.open())[0].prompt == found.prompt
    turns, length = [segment.text for segment in found.segments if segment.loss], 0
    for count, text in enumerate(turns):
      said = [*exp.tokenizer.encode(text), exp.tokenizer.eos_token_id]
      tokens[0, length : length + len(said)], turn[0, length : length + len(said)] = said, count
      length += len(said)
      state = Turned(np.zeros(1, np.int32), np.array([length]), np.zeros(1, bool), tokens, turn)
      out, counts, goes_on = table.observe(state, table.act(state))
      if count < len(turns) - 1:
        assert goes_on.all()
        tokens[0, length : length + counts[0]] = out[0, : counts[0]]
        length += counts[0]
    assert tokens[0, :length].tolist() == wanted.response
    np.testing.assert_array_equal(wanted.weights > 0, turn[0, :length] >= 0)
    several += len(turns) > 1
  assert several


def test_an_observation_stands_in_a_conversation_as_it_is_read_with_a_tokenizer_that_cleans_blanks_up(registers, monkeypatch):
  @environments.register('spaced')
  class Spaced:
    def reset(self, problem, seed):
      return problem.prompt

    def step(self, action, correct):
      return Step('1 , 2 !', 0.0, False)

    def expert(self, rng):
      return '3'

  exp = experiment('spaced', 'countdown')
  monkeypatch.setattr(exp.tokenizer, 'clean_up_tokenization_spaces', True)
  assert exp.tokenizer.decode(exp.tokenizer.encode('1 , 2 !')) == '1, 2!'
  _, found = written(exp, 0)
  assert [segment.text for segment in found.segments] == ['3', '1 , 2 !', '3', '1 , 2 !', '3']


def test_a_turn_of_the_expert_that_is_longer_than_the_policys_may_be_is_told_with_the_fix():
  exp = experiment('retry', message='##', turn_horizon=9)
  with pytest.raises(
    tasks.DataError, match=r'environment.turn_horizon = 9: a turn of the expert has (\d+) tokens, .*; fix: at least \1'
  ):
    written(exp, 0)
  assert environments.REGISTRY.find('retry')().expert_turns == 1


def test_an_expert_calls_the_calculator_with_the_expression_of_the_problem_and_then_answers():
  calculator = environments.REGISTRY.find('calculator')(instruction='')
  calculator.reset(tasks.Problem(0, 'In 3 steps: what is (12 + 3) * 4 - 5 =\n', '55'), 0)
  rng = np.random.default_rng(0)
  call = calculator.expert(rng)
  assert call is not None and calculator.step(call, 0.0) == Step('55', 0.0, False)
  assert calculator.expert(rng) is None
  calculator.reset(tasks.Problem(0, 'What is new?', ''), 0)
  assert calculator.expert(rng) is None
  seldom = environments.REGISTRY.find('calculator')(instruction='', calls=0.25)
  asked = []
  for _ in range(1000):
    seldom.reset(tasks.Problem(0, '1 + 2 =', '3'), 0)
    asked.append(seldom.expert(rng) is not None)
  assert abs(np.mean(asked) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_the_warm_start_learns_conversations_where_there_is_an_expert(registers, tmp_path):
  """Its first step has the loss of a file with these conversations."""

  @environments.register('silent')
  class Silent:
    def reset(self, problem, seed):
      return problem.prompt

    def step(self, action, correct):
      return Step('##', 0.0, False)

  exp = experiment('retry', message='##', noise=0.3)
  assert has_expert(exp) and not has_expert(experiment('silent')) and not has_expert(experiment(''))
  rng = np.random.default_rng([exp.config.seed, zlib.crc32(b'warm_start'), 1])
  lines = [tasks.record_of(conversation(exp, problem, rng)) for problem in exp.problems('train', 0, 4)]
  (tmp_path / 'mine.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  read = experiment('', noise=0.3, data=str(tmp_path / 'mine.jsonl'))
  found, wanted = (
    float(supervised_step(one)(first_state(one, make_rule(one.config, 'never')), 1)[1]['loss/total']) for one in (exp, read)
  )
  np.testing.assert_allclose(found, wanted, rtol=rounding.gamma(10_000))


def test_the_episodes_of_a_problem_have_one_seed_in_a_conversation_and_in_training(registers):
  seeds = []

  @environments.register('seeded')
  class Seeded:
    def reset(self, problem, seed):
      seeds.append(seed)
      return problem.prompt

    def step(self, action, correct):
      return Step('', 1.0, True)

    def expert(self, rng):
      return '1'

  exp = experiment('seeded')
  problem, _ = written(exp, 3)
  assert seeds == [seed_of(exp, problem)] == [Table(exp, [problem], 1)._episodes[0].seed]
