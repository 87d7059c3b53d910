"""Training with an environment, from the config line to the update."""

import dataclasses
import json
import math
import pathlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from talking import LINES, played, talking
from tiny import first_params, first_state, rule_of, run, tiny_experiment

from espo_jax import monitor, objectives, registry, tasks
from espo_jax.configs import default_config
from espo_jax.evaluate.__main__ import _report
from espo_jax.evaluate.answers import Answer, evaluate_params, prompts_per_batch, sample_answers
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.learner import score
from espo_jax.learner.entropies import entropy_metrics
from espo_jax.stages import episodes, rl
from espo_jax.stages.metrics import Clock
from espo_jax.stages.rollouts import collect
from espo_jax.stages.table import Table, Turned, budget_of
from espo_jax.types import StopReason, by_a_rule

HOSTILE = pathlib.Path(__file__).with_name('hostile_environments.py')


@pytest.fixture(scope='module')
def trained():
  exp = tiny_experiment(talking(**LINES))
  return exp, *run(exp, 2)


def test_an_experiment_trains_on_episodes(trained):
  _, state, metrics = trained
  assert state.history.updates == 2
  for row in metrics:
    assert all(math.isfinite(value) for value in row.values()), row
    assert row['grad_norm'] > 0 and 1 < row['turns/mean'] <= 3 and 0 < row['turns/observed'] < 1
    assert row['grading/errors'] == row['grading/timeouts'] == 0
    assert [name for name in row if monitor.meaning(name) is None] == []


def test_the_rewards_of_turns_stand_on_their_last_tokens_and_add_up_to_the_verdict(trained):
  exp, *_ = trained
  rows, verdicts = played(exp)
  cut = by_a_rule(rows.stop_reason) & ~rows.shadow
  assert not cut.all() and (rows.turn.max(axis=1) == 2).any() and 0 < verdicts.correct[~cut].mean() < 1
  np.testing.assert_allclose(verdicts.paid.sum(axis=1), verdicts.correct)
  n, t = np.nonzero(verdicts.paid)
  after = np.pad(rows.turn, ((0, 0), (0, 1)), constant_values=-1)[n, t + 1]
  assert (rows.turn[n, t] >= 0).all() and (after != rows.turn[n, t]).all()
  texts = [exp.decode(rows.tokens[[i]], rows.full_length[[i]])[0] for i in range(len(cut))]
  for i, text in enumerate(texts):  # a turn that is right ends the episode, and is followed by nothing
    *_, last = [rows.tokens[i][rows.turn[i] == number] for number in range(rows.turn[i].max() + 1)]
    right = len(exp.decode(last[None], np.array([len(last)]))[0]) % 2 == 0
    assert cut[i] or verdicts.correct[i] == right, text


def _check_entropies(exp, told, path):
  """The entropies that the first update tells are means over the recorded tokens of each turn."""
  with np.load(path) as archive:
    found = dict(archive)
  tokens = np.pad(found['tokens'], ((0, 0), (0, exp.config.rollout.horizon - found['tokens'].shape[1])))
  prompts = jnp.asarray(found['prompt']), jnp.asarray(found['prompt_length'])
  scored = score(
    exp.model, first_params(exp, 0), *prompts, jnp.asarray(tokens), temperature=exp.config.rollout.temperature, chunk=4096
  )
  entropy = np.asarray(scored.entropy)[:, : found['turn'].shape[1]]
  before_the_end = np.arange(entropy.shape[1]) < found['length'][:, None]
  for turn in range(3):
    mean = entropy[before_the_end & (found['turn'] == turn)].mean()
    np.testing.assert_allclose(told[f'turns/entropy_{turn + 1}'], mean, rtol=1e-4)


def test_the_entropy_of_a_turn_that_no_row_has_is_not_a_number(trained):
  rows = jax.tree.map(jnp.asarray, played(trained[0])[0])
  most = int(rows.turn.max()) + 1
  found = entropy_metrics(jnp.full(rows.tokens.shape, 2.0), rows, most + 1)
  np.testing.assert_array_equal([found[f'turns/entropy_{k + 1}'] for k in range(most + 1)], [2.0] * most + [np.nan])


def test_a_turn_that_no_row_has_leaves_the_memory_of_its_entropy(trained):
  exp, state, metrics = trained
  learner, (rows, verdicts) = rl.reinforcement_learner(exp, rule_of(exp)), played(exp)
  told = {name: jnp.float32(value) for name, value in metrics[0].items()} | {'turns/entropy_3': jnp.float32(np.nan)}
  found = learner.finish(state, jax.tree.map(jnp.asarray, rows), jnp.asarray(verdicts.correct), told)
  np.testing.assert_array_equal(found.history.measured, [3, 3, 2])
  assert found.history.entropy[2] == state.history.entropy[2]
  wanted = (2 * np.array(state.history.entropy[:2]) + [metrics[0]['turns/entropy_1'], metrics[0]['turns/entropy_2']]) / 3
  np.testing.assert_allclose(found.history.entropy[:2], wanted, rtol=1e-6)


def test_the_entropy_of_each_turn_is_remembered_and_read_by_its_tokens(trained, registers, tmp_path):
  _, state, metrics = trained
  by_turn = [[row[f'turns/entropy_{turn}'] for turn in (1, 2, 3)] for row in metrics]
  np.testing.assert_allclose(state.history.entropy, np.mean(by_turn, axis=0), rtol=1e-6)
  assert np.ptp(by_turn, axis=1).min() > 0

  @objectives.register('spy')
  def spy(past_entropy, entropy, mask, *, unit: float = 1.0):
    """Writes down the means of what it reads."""
    return {'spy': (0.0 * unit, objectives.token_mean(entropy, mask))}, {'spy/past': objectives.masked_mean(past_entropy, mask)}

  exp = tiny_experiment(talking(**LINES, objective__name='ppo + spy', learner__minibatches=1, rollout__record=1))
  rule = rule_of(exp)
  step, state = rl.reinforcement_step(exp, rule, None, tmp_path), first_state(exp, rule)
  state, told = step(state, 1)
  assert np.isnan(told['spy/past'])
  _check_entropies(exp, told, tmp_path / '000001.npz')
  past = np.array([1, 10, 100], np.float32)
  _, told = step(state.replace(history=state.history.replace(entropy=exp.put(past))), 2)
  with np.load(tmp_path / '000002.npz') as found:
    turn = found['turn'][(found['turn'] >= 0) & (np.arange(found['turn'].shape[1]) < found['length'][:, None])]
  np.testing.assert_allclose(told['spy/past'], past[turn].mean(), rtol=1e-5)


def test_a_rollout_of_episodes_is_the_same_again(trained):
  exp, *_ = trained
  (rows, verdicts), (again, too) = played(exp), played(exp)
  jax.tree.map(np.testing.assert_array_equal, (rows, verdicts), (again, too))


def test_a_rollout_of_episodes_does_not_depend_on_the_mesh(in_float64):
  (one, verdicts), (eight, too) = (
    played(tiny_experiment(talking(**LINES), **mesh), stops=False) for mesh in ({}, {'data': 2, 'fsdp': 2, 'tensor': 2})
  )
  assert (one.turn.max(axis=1) > 0).any()
  for name in ('tokens', 'turn', 'length', 'stop_reason'):
    np.testing.assert_array_equal(getattr(one, name), getattr(eight, name), name)
  np.testing.assert_array_equal(verdicts.paid, too.paid)


def test_hostile_environments_harm_the_rows_that_provoke_them_alone(registers):
  registry.load_plugin(HOSTILE)
  rows, verdicts = played(tiny_experiment(talking('moody', environment__deadline=2.0)), stops=False)
  assert (verdicts.correct >= 0.125).all() and not verdicts.error.any()
  turns = [tuple(row[row_turn == 0]) for row, row_turn in zip(rows.tokens, rows.turn, strict=True)]
  alone = [n for n in np.flatnonzero(rows.turn.max(axis=1) > 0) if turns.count(turns[n]) == 1][:5]
  exp = tiny_experiment(talking('moody', environment__deadline=2.0))
  texts = exp.decode(rows.tokens[alone], (rows.turn[alone] == 0).sum(axis=1))
  moods = dict(zip(texts, ('raise', 'hang', 'die', 'flood', 'special'), strict=True))
  exp.config.environment.moods = json.dumps(moods)
  harmed, judged = played(exp, stops=False)
  others = np.setdiff1d(np.arange(len(turns)), alone)
  for name in ('tokens', 'logprobs', 'turn', 'stop_reason', 'length'):
    np.testing.assert_array_equal(getattr(harmed, name)[others], getattr(rows, name)[others], name)
  np.testing.assert_array_equal(judged.correct[others], verdicts.correct[others])
  np.testing.assert_array_equal(np.flatnonzero(judged.timeout), alone[1:2])
  np.testing.assert_array_equal(np.flatnonzero(judged.error), np.sort([alone[i] for i in (0, 2, 3, 4)]))
  assert (judged.correct[alone] == 0).all() and not judged.paid[alone].any()
  assert (harmed.turn[alone].max(axis=1) == 0).all() and (harmed.stop_reason[alone] == StopReason.EOS).all()


def test_parts_of_an_update_add_up_on_episodes(trained):
  _, _, (whole, _) = trained
  _, (parts,) = run(tiny_experiment(talking(**LINES, learner__micro_batches=2)), 1)
  assert parts['rollout/checksum'] == whole['rollout/checksum']
  for name in ('loss/total', 'loss/policy', 'grad_norm', 'critic/loss'):
    np.testing.assert_allclose(parts[name], whole[name], rtol=rounding.gamma(10_000), atol=rounding.gamma(10_000), err_msg=name)


@pytest.mark.parametrize(('tolerance', 'repeats'), [(0.0, 0), (1.0, 0), (1.5, 0), (0.0, 2)])
def test_budgets_of_an_expert_and_repeated_turns_end_an_episode(tolerance, repeats):
  """The policy always walks north, and never arrives: an episode has as many turns as it may."""
  c = default_config()
  c.task.name = 'grid'
  c.environment.update(name='grid', max_turns=5, turn_horizon=1, observation_horizon=22, workers=1)
  c.environment.repeats = repeats
  exp = make_experiment(c)
  problems = [problem for problem in exp.problems('train', 0, 6) if set(problem.answer) != {'N'}][:4]
  table, length = Table(exp, problems, 1, tolerance), np.zeros(4, np.int32)
  assert table.pose(table.open()) == problems
  tokens, turn, goes_on = np.zeros((4, 160), np.int32), np.full((4, 160), -1), np.ones(4, bool)
  for number in range(5):
    rows = np.flatnonzero(goes_on)
    tokens[rows, length[rows]], turn[rows, length[rows]] = exp.tokenizer.encode('N')[0], number
    length[rows] += 1
    found = Turned(np.zeros(4, np.int32), length, np.zeros(4, bool), tokens, turn)
    _, counts, goes_on = table.observe(found, table.act(found))
    length = length + np.where(goes_on, counts, 0)
  budget = [math.ceil(tolerance * len(problem.answer)) if tolerance else 5 for problem in problems]
  assert len(set(budget)) > 1 or not tolerance
  np.testing.assert_array_equal(turn.max(axis=1) + 1, np.minimum(budget, repeats or 5))
  assert not table.done.any() and [verdict.correct for verdict in table.graded()] == [0.0] * 4


def test_the_budget_of_an_expert_bounds_episodes_of_training_and_none_of_an_evaluation():
  c = default_config()
  c.task.name = 'grid'
  c.environment.update(name='grid', max_turns=4, turn_horizon=2, observation_horizon=21, workers=1, expert_budget=1.0)
  c.rollout.update(prompts=4, samples=4, prompt_width=20, horizon=4 * 2 + 3 * 21)
  c.model.update(hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8)
  exp = make_experiment(c)
  params, rule, problems = first_params(exp, 0), make_rule(c, 'never'), exp.problems('train', 0, 4)
  adaptive = exp.put(rule.init(1).adaptive)
  rows, verdicts = collect(exp, params, rule, adaptive, Clock(), [problems], exp.key('rollout', 1))
  expert = np.repeat([len(problem.answer) for problem in problems], 4)
  failed, turns = np.asarray(verdicts.correct) == 0, np.asarray(rows.turn).max(axis=1) + 1
  assert failed.any() and min(expert) < 4
  np.testing.assert_array_equal(turns[failed], np.minimum(expert, 4)[failed])
  answers = [answer for batch in sample_answers(exp, params, exp.problems('test', 0, 8), 8, 1, 1.0) for answer in batch.answers]
  assert not all(answer.correct for answer in answers) and all(answer.correct or answer.turns == 4 for answer in answers)


def test_an_evaluation_tells_how_many_problems_are_solved_within_each_number_of_turns(trained):
  exp, state, _ = trained
  found = evaluate_params(exp, state.params, 'turns')
  problems, size = (
    exp.test_problems(exp.config.eval.problems),
    prompts_per_batch(exp, 512, samples=1, rows=exp.config.eval.batch),
  )
  sampled = sample_answers(exp, state.params, problems, size, 1, exp.config.rollout.temperature)
  answers = [answer for batch in sampled for answer in batch.answers]
  for k in (1, 2, 3):
    assert found[f'accuracy_turn_{k}'] == sum(answer.correct and answer.turns <= k for answer in answers) / len(answers)
  assert found['accuracy_turn_1'] < found['accuracy_turn_3'] == found['accuracy']
  assert found['turns_mean'] == sum(answer.turns for answer in answers) / len(answers)


def test_an_evaluation_plays_episodes(trained):
  exp, state, _ = trained
  problems = exp.problems('test', 0, 6)
  answers = [answer for batch in sample_answers(exp, state.params, problems, 4, 2, 0.8) for answer in batch.answers]
  assert [answer.problem for answer in answers] == [n for n in range(6) for _ in range(2)]
  assert {answer.correct for answer in answers} == {True, False} and len({answer.turns for answer in answers}) > 1
  for answer in answers:  # the environment asks again until an answer is right
    assert answer.correct or answer.turns == 3
    assert answer.status == 'ok' and 0 < answer.length <= 5 * answer.turns
    said = answer.response.split('\n')  # the policy's words alone: the task has no line breaks
    assert len(said) == answer.turns and max(map(len, said)) <= 5
    assert [len(turn) % 2 == 0 for turn in said] == [False] * (answer.turns - 1) + [answer.correct]
    assert answer.answer == exp.task.stated_answer(said[-1])


class Scores:
  """Keeps what a reward that reads text is asked."""

  asked = ()

  def score(self, seen, read):
    self.asked = (*self.asked, read['responses'])
    no = np.zeros(seen['correct'].shape, bool)
    return {}, no, no


def test_rewards_on_text_read_the_policys_words_up_to_the_stop_and_in_training_alone(trained):
  exp = dataclasses.replace(trained[0])
  exp.__dict__['_text_scorer'] = scores = Scores()
  rows, _ = played(exp)
  assert rows.shadow.any() and (rows.full_length > rows.length).any()
  (responses,) = scores.asked
  for n, text in enumerate(text for group in responses for text in group):
    own = (rows.turn[n] >= 0) & (np.arange(24) < rows.length[n])
    turns = [rows.tokens[n][own & (rows.turn[n] == number)] for number in range(rows.turn[n][own].max() + 1)]
    assert text == '\n'.join(exp.decode(turn[None], np.array([len(turn)]))[0] for turn in turns)
  list(sample_answers(exp, first_params(exp, 0), exp.problems('test', 0, 2), 2, 1, 0.8))
  assert len(scores.asked) == 1


def table_of(task=None, turns=('N', 'N'), **lines):
  """The episodes of two problems of the task 'grid', whose policy has written `turns`."""
  c = default_config()
  c.task.name = 'grid'
  c.environment.update(name='retry', max_turns=5, turn_horizon=3, observation_horizon=22, workers=1)
  c.environment.message = '..='
  c.rollout.update(lines)
  exp = dataclasses.replace(make_experiment(c), **({} if task is None else {'task': task}))
  table, length = Table(exp, exp.problems('train', 0, 2), 1), 0
  table.pose(table.open())
  tokens, turn = np.zeros((2, 60), np.int32), np.full((2, 60), -1)
  for number, text in enumerate(turns):
    words = exp.tokenizer.encode(text)
    tokens[:, length : length + len(words)], turn[:, length : length + len(words)] = words, number
    length += len(words)
    found = Turned(np.ones(2, np.int32), np.full(2, length, np.int32), np.zeros(2, bool), tokens, turn)
    _, counts, _ = table.observe(found, table.act(found))
    length += counts[0]
  return table


class Judging(tasks.Grid):
  """A grader with a status for each text, which keeps what it is asked."""

  asked: ClassVar[list] = []
  statuses: ClassVar[dict] = {}

  def verify_all(self, problems, responses):
    self.asked.append(list(responses))
    return [tasks.Verdict(False, self.statuses.get(text, 'ok')) for text in responses]


@pytest.mark.parametrize(
  ('statuses', 'worst'), [({}, 'ok'), ({'N': 'timeout'}, 'timeout'), ({'N': 'error', 'S': 'timeout'}, 'error')]
)
def test_an_episode_whose_turn_could_not_be_graded_counts_as_ungraded(statuses, worst, monkeypatch):
  monkeypatch.setattr(Judging, 'statuses', statuses)
  assert table_of(Judging(), ('N', 'S', 'E')).graded() == [tasks.Verdict(0.0, worst)] * 2


def test_the_tag_of_a_prompt_stands_before_the_first_turn_alone(monkeypatch):
  monkeypatch.setattr(Judging, 'asked', [])
  table_of(Judging(), ('N', 'S'), tags=('<think>',))
  assert Judging.asked == [['<think>N'] * 2, ['S'] * 2]


@pytest.mark.parametrize(
  ('tolerance', 'turns', 'budget'), [(2.2, 25, 55), (1.1, 10, 11), (1.4, 5, 7), (1.5, 3, 5), (2.0, 7, 14), (0.3, 11, 4)]
)
def test_the_budget_is_the_whole_number_at_or_above_the_decimal_product(tolerance, turns, budget):
  assert budget_of(tolerance, turns) == budget


def test_the_width_of_prompts_is_that_of_the_posed_ones(registers):
  registry.load_plugin(HOSTILE)
  lines = {'rollout__prompt_width': 40}  # as an evaluation has it: wider than every prompt
  exp = tiny_experiment(talking('moody', **lines, environment__tail='##'))
  problems = exp.problems('test', 0, 5)
  longest = max(len(problem.prompt) for problem in problems)
  assert episodes.posed_width(exp, problems) == longest + 2
  assert episodes.posed_width(tiny_experiment(), problems) == longest


@pytest.mark.parametrize('said', [{}, {'environment': 'retry'}])
def test_an_evaluation_of_episodes_calls_for_no_longer_horizon(said):
  """Episodes that run out of turns count as cut."""
  numbers = {'correct': False, 'length': 9, 'full_length': 9, 'full_correct': False, 'depth': 1.0, 'stop_reason': 'length'}
  answers = [Answer(problem=0, id=1, sample=0, prompt='', response='', answer='', expected='', status='ok', **numbers)]
  settings = {'arm': 'espo', 'step': 1, 'benchmark': '', 'temperature': 1.0, 'horizon': 9, **said}
  summary = monitor.summarise_samples([answer._asdict() for answer in answers], 1)
  told = _report(summary | {'settings': settings, 'session': None, 'output': 'there'})
  assert ('fix: more than --horizon=9' in told) == (not said)
