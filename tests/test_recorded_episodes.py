"""Recordings, replays and examples of episodes, and what the report shows of them."""

import json

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from run_folder import write_run
from talking import LINES, talking
from tiny import first_state, rule_of, run, tiny_experiment

from espo_jax import replay, report
from espo_jax.evaluate.answers import sample_answers
from espo_jax.evaluate.estimates import _recorded
from espo_jax.evaluate.examples import write_examples
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.reading import read_graded
from espo_jax.experiment import make_rule
from espo_jax.learner import Checkpoints, restore
from espo_jax.monitor.examples import coloured, draw, read_examples
from espo_jax.stages import rl
from espo_jax.stops import Observation


@pytest.fixture(scope='module')
def exp():
  return tiny_experiment(talking(**LINES, rollout__record=2, stop__shadow_share=1.0))


@pytest.fixture(scope='module')
def examples(exp, tmp_path_factory):
  """What is written of the first problems of the test set, and the folder of its arm."""
  path = tmp_path_factory.mktemp('run') / 'examples.json'
  rule = make_rule(exp.config, 'espo', beta_0=0.8)
  state = first_state(exp, rule)
  write_examples(exp, rule, state.replace(adaptive=state.adaptive.replace(enabled=exp.put(np.bool_(True)))), path)
  return path, json.loads(path.read_text())


def test_a_replay_of_episodes_stops_where_the_training_did(exp, tmp_path):
  rule = make_rule(exp.config, 'espo', beta_0=0.8)
  state = first_state(exp, rule)
  step = rl.reinforcement_step(exp, rule, None, tmp_path / 'rollouts')
  for number in (1, 2):
    adaptive = jax.tree.map(np.asarray, state.adaptive)
    state, _ = step(state, number)
  recordings, (file,) = replay.read_recordings(tmp_path)
  found = dict(np.load(file))
  said = found['turn'] >= 0
  one = jax.tree.map(lambda x: jnp.asarray(x[0]), recordings)
  np.testing.assert_array_equal(one.full_length, said.sum(axis=1))
  for row in range(len(said)):
    np.testing.assert_array_equal(one.regret[row, : one.full_length[row]], found['regret'][row, said[row]])
  observed = Observation(one.regret, one.values, jnp.zeros_like(one.regret))
  ends = replay.replay(rule, jax.tree.map(jnp.asarray, adaptive), observed, one.full_length, one.ends)
  np.testing.assert_array_equal(ends.stopped, found['stopped'])
  before_the_end = np.arange(said.shape[1]) < found['length'][:, None]
  np.testing.assert_array_equal(ends.length, (said & before_the_end).sum(axis=1))
  of_later_turns = found['turn'][np.arange(len(said)), found['length'] - 1] > 0
  assert (found['stopped'] & of_later_turns).any() and not found['stopped'].all()


def test_what_takes_all_tokens_for_the_policys_refuses_recorded_episodes(tmp_path):
  lines = ['{"problem": 0, "answer": "a", "length": 3, "stop_reason": "eos", "correct": true}\n'] * 2
  settings = {'problems': 1, 'samples': 2, 'environment': 'retry', 'prompts_per_batch': 1, 'problems_digest': ''}
  whole = {'temperature': 1.0, 'top_p': 1.0, 'top_k': 0, 'min_p': 0.0}
  (tmp_path / 'settings.json').write_text(json.dumps(settings | whole))
  (tmp_path / 'samples.jsonl').write_text(''.join(lines))
  (tmp_path / 'rollouts').mkdir()
  np.savez(tmp_path / 'rollouts' / 'rows.npz', length=np.full(2, 9))
  with pytest.raises(
    RequestError, match="a decoder reads 'logprobs', and the recording has the tokens of the environment 'retry'"
  ):
    read_graded(tmp_path, ('answers', 'logprobs'))
  assert read_graded(tmp_path, ('answers', 'lengths')).problems[0].lengths.tolist() == [3, 3]
  with pytest.raises(RequestError, match="an episode with the environment 'retry' has tokens that no policy drew; fix: "):
    _recorded(tmp_path)


def test_a_replay_refuses_a_rule_that_began_anew_with_each_turn(tmp_path):
  shape = (2, 3)
  tokens = {name: np.zeros(shape, np.float32) for name in ('regret', 'logprobs', 'values')}
  rows = {'full_length': np.full(2, 3), 'ended': np.ones(2, bool), 'correct': np.array([0.0, 1.0], np.float32)}
  rows |= {name: np.zeros(2, bool) for name in ('stopped', 'shadow')}
  numbers = {'mu': np.float32(0), 'var': np.float32(1), 'shadow_share': np.float32(0), 'samples': np.int32(1)}
  turns = {'turn': np.zeros(shape, np.int16), 'ends': np.zeros(shape, bool)}
  for reset_rule in (False, True):
    np.savez(tmp_path / 'rows.npz', **tokens, **rows, **numbers, **turns, reset_rule=reset_rule)
    if not reset_rule:
      assert replay.read_recordings(tmp_path)[0].ends.shape == (1, *shape)
  with pytest.raises(
    replay.RecordingsError, match=r'rows.npz: its stop rule began anew .*; fix: .*environment.reset_rule = False'
  ):
    replay.read_recordings(tmp_path)


def test_a_resumed_training_on_episodes_is_the_uninterrupted_one(exp, tmp_path):
  rule = rule_of(exp)
  state, step = first_state(exp, rule), rl.reinforcement_step(exp, rule, None)
  for number in (1, 2):
    state, metrics = step(state, number)
    if number == 1:
      with Checkpoints(tmp_path / 'steps') as checkpoints:
        checkpoints.save(1, state, done=True)
  blank = exp.on_mesh(jax.tree.map(jnp.zeros_like, state))
  resumed, again = step(restore(tmp_path / 'steps', blank).state, 2)
  jax.tree.map(np.testing.assert_array_equal, (resumed.params, resumed.history), (state.params, state.history))
  assert float(again['turns/mean']) == float(metrics['turns/mean'])


def test_an_evaluation_of_episodes_is_recorded_with_its_turns(exp):
  state, _ = run(exp, 1)
  (batch,) = sample_answers(exp, state.params, exp.problems('test', 0, 4), 4, 2, 0.8, record=True)
  answers, arrays = batch.answers, batch.recorded
  np.testing.assert_array_equal(arrays['turn'].max(axis=1) + 1, [answer.turns for answer in answers])
  np.testing.assert_array_equal((arrays['turn'] >= 0).sum(axis=1), [answer.length for answer in answers])
  np.testing.assert_array_equal(arrays['correct'], [answer.correct for answer in answers])
  assert not arrays['ends'][arrays['turn'] < 0].any() and arrays['ends'].any()


def test_examples_of_episodes_are_those_of_a_rollout_with_turns(exp, examples):
  _, written = examples
  assert {example['stop_reason'] for example in written} >= {'stopped'}
  for example in written:
    turn = np.array(example['turn'])
    assert len(turn) == len(example['tokens']) == example['full_length'] and turn[0] == 0 and 'entropy' not in example
    observed = ''.join(token for token, its in zip(example['tokens'], turn, strict=True) if its < 0)
    assert observed.replace('<eos>', '') == '##' * turn.max()  # a turn that was cut gets its end mark first
    last = ''.join(token for token, its in zip(example['tokens'], turn, strict=True) if its == turn.max())
    assert example['answer'] == exp.task.stated_answer(last.replace('<eos>', '').replace('<pad>', ''))


def test_tokens_of_an_environment_have_no_numbers(examples):
  path, written = examples
  read = read_examples(path)
  assert len(read) == len(written)
  example = next(example for example in read if -1 in example.turn)
  seen = np.array(example.turn) < 0
  for series in (example.regret, example.z, example.threshold):
    assert np.isnan(series[seen]).all()
  assert np.isfinite(example.regret[~seen]).all()
  assert coloured(example).count('written by the environment') == seen.sum()
  assert 'written by the environment' in draw(plt.figure().gca(), example, 80)
  plt.close()


def test_the_page_has_the_turn_of_each_token(examples, tmp_path):
  _, written = examples
  rollouts = report.read_rollouts(report.read_runs([write_run(tmp_path / 'run', examples=written)])[0], 1000)
  for rollout, example in zip(rollouts, written, strict=True):
    np.testing.assert_array_equal(rollout.turn, example['turn'])
    for name, series in rollout.series.items():
      np.testing.assert_array_equal(np.isnan(series), rollout.turn < 0, err_msg=name)
