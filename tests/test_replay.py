"""Replayed stops are the engine's; what they are measured by is the arithmetic it claims to be; the flags are a config."""

import json
import pathlib
import runpy
import shlex
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from rollouts import HORIZON, NEVER, PROMPTS, STATE, G, run
from test_head import random_head
from tiny import first_params, tiny_experiment

from espo_jax import monitor, replay, stops
from espo_jax.configs import validate
from espo_jax.experiment import make_rule
from espo_jax.learner import init_state
from espo_jax.replay.__main__ import compare, main
from espo_jax.rollout import sampling
from espo_jax.stages import rl, rollouts
from espo_jax.stops import Observation
from espo_jax.types import StopReason

EOS = 1
MAKESPAN = {
  'success': 0.4,
  'success_tokens': 30.0,
  'failure_tokens': 60.0,
  'true_positives': 0.8,
  'false_positives': 0.1,
  'true_alarm_tokens': 20.0,
  'false_alarm_tokens': 15.0,
  'reset_tokens': 5.0,
}


# ------------------------------------------------------------------------------------------------------------------ stops


@pytest.mark.parametrize(
  ('rule', 'beta'),
  [
    (stops.espo(smoothing=0.6, clip=4.0, epsilon=0.25), 1.6),
    (stops.value_only(), 0.3),
    (stops.random_stop(), 2.5),
    (stops.mean_logprob(least_tokens=3), 1.4),
    (stops.own_price(least_batches=0), 0.125),
  ],
  ids=['espo', 'value_only', 'random', 'mean_logprob', 'own_price'],
)
def test_a_replay_stops_where_the_engine_does(rule, beta):
  adaptive = STATE.replace(beta=jnp.float32(beta), head=random_head(12))
  whole, wanted = run(rule=NEVER), run(rule=rule, state=adaptive, shadow=0.0)
  keys = sampling.row_keys(jax.random.key(7), jnp.asarray(PROMPTS.ids), G)
  noise = [sampling.token_noise(keys, jnp.full(len(keys), t))[:, 1] for t in range(HORIZON)]
  at_end = (whole.stop_reason == StopReason.EOS)[:, None] & (np.arange(HORIZON) == whole.length[:, None] - 1)
  read = {name: jnp.asarray(getattr(whole, name)) for name in rule.reads}
  observed = Observation(jnp.asarray(whole.regret), jnp.asarray(whole.values), jnp.stack(noise, axis=1), **read)
  ends = replay.replay(rule, adaptive, observed, jnp.asarray(whole.length), jnp.asarray(at_end))
  np.testing.assert_array_equal(ends.length, wanted.length)
  np.testing.assert_array_equal(ends.stopped, wanted.stop_reason == StopReason.STOPPED)
  assert 0.1 < np.mean(ends.stopped) < 0.9
  assert (wanted.stop_reason == StopReason.EOS).any() and (wanted.length < whole.length).any()


def test_a_row_that_would_be_stopped_at_its_end_is_not():
  rule = stops.value_only()
  adaptive = rule.init(1).adaptive.replace(beta=jnp.float32(0.0), enabled=jnp.asarray(True))
  values = jnp.asarray([[0.5, 0.5, -0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, 0.5]])
  observed = Observation(jnp.zeros((3, 4)), values, jnp.zeros((3, 4)))
  at_end = np.array([[False, False, True, False], [False] * 4, [False, False, False, True]])
  ends = replay.replay(rule, adaptive, observed, jnp.asarray([3, 3, 4]), at_end)
  np.testing.assert_array_equal(ends.stopped, [False, True, True])
  np.testing.assert_array_equal(ends.length, [3, 3, 2])


# --------------------------------------------------------------------------------------------------------------- measures


def test_expected_tokens_are_those_of_a_simulation():
  np.testing.assert_allclose(replay.expected_tokens(**MAKESPAN), 87.2222, atol=1e-4)
  without = MAKESPAN | {
    'true_positives': 0.0,
    'false_positives': 0.0,
    'true_alarm_tokens': np.nan,
    'false_alarm_tokens': np.nan,
  }
  np.testing.assert_allclose(replay.expected_tokens(**without), 127.5)
  assert replay.expected_tokens(**MAKESPAN | {'false_positives': 1.0}) == np.inf
  rng = np.random.default_rng(0)
  right, alarm = rng.random(400_000) < 0.4, rng.random(400_000)
  stopped = np.where(right, alarm < 0.1, alarm < 0.8)
  tokens = np.where(stopped, np.where(right, 15, 20), np.where(right, 30, 60)) + 5 * ~(right & ~stopped)
  np.testing.assert_allclose(replay.expected_tokens(**MAKESPAN), tokens.sum() / (right & ~stopped).sum(), rtol=0.01)


def test_measures_are_counts_of_rows():
  rng = np.random.default_rng(0)
  full, weight = rng.integers(5, 30, 60), rng.integers(0, 4, 60)
  correct, stopped = rng.integers(0, 2, 60), rng.random((2, 60)) < [[0.3], [0.6]]
  length = np.where(stopped, rng.integers(1, full, (2, 60)), full)
  each = np.repeat(np.arange(60), weight)  # a row stands for as many as its weight says
  found = replay.measure(length, stopped, full, correct.astype(np.float32), weight.astype(np.float32))
  for one, its_length, its_stopped in zip(found, length[:, each], stopped[:, each], strict=True):
    right = correct[each] == 1
    solved = right & ~its_stopped
    np.testing.assert_allclose(one.stop_rate, its_stopped.mean(), rtol=1e-6)
    np.testing.assert_allclose(one.saved, 1 - its_length.sum() / full[each].sum(), rtol=1e-6)
    np.testing.assert_allclose(one.true_positives, its_stopped[~right].mean(), rtol=1e-6)
    np.testing.assert_allclose(one.false_positives, its_stopped[right].mean(), rtol=1e-6)
    np.testing.assert_allclose(one.wrongly_stopped, right[its_stopped].mean(), rtol=1e-6)
    np.testing.assert_allclose(one.tokens_per_solved, its_length.sum() / solved.sum(), rtol=1e-6)
    np.testing.assert_allclose(one.solved, solved.mean(), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- recordings


def test_a_training_step_writes_down_what_its_rule_saw(tmp_path):
  def configure(c):
    c.rollout.record, c.critic.kind, c.critic.every, c.stop.shadow_share = 2, 'separate', 3, 1.0

  exp = tiny_experiment(configure)
  rule = make_rule(exp.config, 'espo', beta_0=0.8)
  state = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, rule).optimizer, rule)
  state = exp.on_mesh(rl.fork(state.replace(adaptive=state.adaptive.replace(mu=jnp.float32(1.1))), rule))
  step = rl.reinforcement_step(exp, rule, None, tmp_path / 'rollouts')
  for number in (1, 2):
    adaptive = jax.tree.map(np.asarray, state.adaptive)
    state, metrics = step(state, number)
  assert [path.name for path in (tmp_path / 'rollouts').iterdir()] == ['000002.npz']

  recordings, files = replay.read_recordings(tmp_path)
  one = jax.tree.map(lambda x: jnp.asarray(x[0]), recordings)
  with np.load(files[0]) as archive:
    np.testing.assert_array_equal(archive['mu'], adaptive.mu)
    stopped = archive['stopped']
  np.testing.assert_allclose(stopped.mean(), float(metrics['stop/rate']), rtol=1e-6)
  observed = Observation(one.regret, one.values, jnp.zeros_like(one.regret))
  ends = replay.replay(rule, jax.tree.map(jnp.asarray, adaptive), observed, one.full_length, one.ends)
  np.testing.assert_array_equal(ends.stopped, stopped)  # with the values held between two readings of the critic
  assert 0 < stopped.mean() < 1
  assert int(ends.length.sum()) == int(metrics['rollout/tokens'])

  with np.load(files[0]) as archive:
    found = dict(archive)
  before_end = np.arange(found['z'].shape[1]) < (found['full_length'] - found['ended'])[:, None]
  over = (found['z'] > found['threshold']) & before_end
  np.testing.assert_array_equal(over.any(axis=1), stopped)
  np.testing.assert_array_equal(np.where(stopped, over.argmax(axis=1) + 1, found['full_length']), found['length'])
  (problems,) = rollouts.problems_of(exp, 2, 0)
  prompts = exp.prompts(problems)
  np.testing.assert_array_equal(found['prompt'], np.repeat(prompts.tokens, exp.config.rollout.samples, axis=0))
  np.testing.assert_array_equal(found['prompt_length'], np.repeat(prompts.lengths, exp.config.rollout.samples))


def recorded(folder: pathlib.Path, seed: int = 0, **changes) -> None:
  """A recording whose failures begin with a token of high regret."""
  rng = np.random.default_rng(seed)
  count, width = 160, 20
  full = rng.integers(8, width + 1, count)
  correct = (rng.random(count) < 0.5).astype(np.float32)
  regret = rng.exponential(0.2, (count, width)) * (rng.random((count, width)) < 0.3)
  slip = rng.integers(1, 6, count)
  regret[np.arange(count), slip] += np.where(correct, 0.0, 4.0)
  arrays = {
    'regret': regret.astype(np.float32),
    'logprobs': -rng.exponential(0.3, (count, width)).astype(np.float32),
    'values': rng.normal(0.5, 0.1, (count, width)).astype(np.float32),
    'full_length': full.astype(np.int32),
    'ended': full < width,
    'correct': correct,
    'stopped': np.zeros(count, bool),
    'shadow': np.zeros(count, bool),
    'shadow_share': np.float32(0.25),
    'mu': np.float32(regret.mean()),
    'var': np.float32(regret.var()),
    'samples': np.int32(4),
  } | changes
  monitor.atomic_write_arrays(folder / 'arms/never/rollouts' / f'{seed:06d}.npz', arrays)


@pytest.fixture
def run_folder(tmp_path):
  config = runpy.run_path('experiments/quickstart.py')['get_config']()
  monitor.write_run_info(tmp_path, config.to_dict())
  for seed in (1, 2):
    recorded(tmp_path, seed)
  return tmp_path


@pytest.fixture
def espo_alone(monkeypatch):
  """What a test does not ask of the other rules is not replayed with each of them."""
  takes = replay.rules()['espo']
  monkeypatch.setattr(sys.modules[replay.candidates.__module__], 'rules', lambda: {'espo': takes})


def test_rows_that_were_stopped_are_stood_for_by_their_shadows(tmp_path):
  rng = np.random.default_rng(3)
  stopped = rng.random(160) < 0.5
  recorded(tmp_path, stopped=stopped, shadow=stopped & (rng.random(160) < 0.25))
  found, _ = replay.read_recordings(tmp_path)
  shadow = np.load(tmp_path / 'arms/never/rollouts/000000.npz')['shadow']
  np.testing.assert_array_equal(found.weight[0], np.where(stopped, 4.0 * shadow, 1.0))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({}, 'no rollouts were recorded there; fix: train with --config.rollout.record=10'),
    ({'stopped': np.ones(160, bool), 'shadow_share': np.float32(0)}, 'none went on; fix: record with --config.stop.shadow'),
    ({'stopped': np.ones(160, bool)}, 'all rows were stopped and none went on; fix: record with a larger'),
    ({'samples': np.int32(160)}, 'no row of the odd problems is right, .* fix: rollouts of more problems'),
    ({'correct': np.arange(160) // 4 % 2 == 1}, 'no row of the even problems is right'),
    ({'correct': np.zeros(160, np.float32)}, 'no row is right'),
    ({'correct': np.ones(160, np.float32)}, 'every row is right'),
    ({'lacking': 'regret'}, "000000.npz: holds no 'regret'"),
  ],
)
def test_what_cannot_be_replayed_is_said(tmp_path, changes, message):
  if changes:
    lacking = changes.get('lacking')
    recorded(tmp_path, **{name: x for name, x in changes.items() if name != 'lacking'})
    path = tmp_path / 'arms/never/rollouts/000000.npz'
    with np.load(path) as archive:
      monitor.atomic_write_arrays(path, {name: x for name, x in archive.items() if name != lacking})
  with pytest.raises(SystemExit, match=message):
    main([f'--rollouts={tmp_path}'])
  with pytest.raises(SystemExit, match='no such folder; fix: the folder of a run'):
    main([f'--rollouts={tmp_path / "none"}'])


def test_a_run_is_replayed_without_its_evaluations(run_folder):
  evaluation = run_folder / 'evaluations/espo-2-test/rollouts/rows.npz'
  recorded(run_folder / 'elsewhere')
  evaluation.parent.mkdir(parents=True)
  (run_folder / 'elsewhere/arms/never/rollouts/000000.npz').rename(evaluation)
  assert [path.name for path in replay.read_recordings(run_folder)[1]] == ['000001.npz', '000002.npz']
  assert replay.read_recordings(run_folder / 'evaluations')[1] == [evaluation]


def test_recordings_that_differ_in_their_rows_are_named(run_folder):
  path = run_folder / 'arms/never/rollouts/000002.npz'
  with np.load(path) as archive:
    monitor.atomic_write_arrays(path, {name: x[:80] if x.ndim else x for name, x in archive.items()})
  with pytest.raises(replay.RecordingsError, match=r'000001.npz has 160 rows and .*000002.npz has 80; fix: a folder whose'):
    replay.read_recordings(run_folder)


def test_rows_that_a_rule_settled_do_not_show_their_own_end(run_folder):
  path = run_folder / 'arms/never/rollouts/000002.npz'
  with np.load(path) as archive:
    reasons = np.where(np.arange(160) < 4, StopReason.SETTLED, StopReason.EOS)
    monitor.atomic_write_arrays(path, dict(archive.items()) | {'stop_reason': reasons})
  with pytest.raises(replay.RecordingsError, match=r'000002.npz: a rule settled rows, whose own end is not known; fix: record'):
    replay.read_recordings(run_folder)


# ---------------------------------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
  ('grid', 'message'),
  [
    ('segment=0.5', r'--grid segment=0.5: not a whole number'),
    ('window=64,0', r'--grid window=0: out of range; fix: a number above 0'),
    ('reset_tokens=1', r'--grid reset_tokens=...: no constant of a stop rule'),
    ('least_batches=0', r'--grid least_batches=...: no constant of a stop rule'),
    ('directions=2', r'--grid directions=...: no constant of a stop rule'),
  ],
)
def test_a_grid_has_values_that_the_rules_take(tmp_path, grid, message):
  with pytest.raises(SystemExit, match=message):
    main([f'--rollouts={tmp_path}', '--grid', grid])


def test_a_gate_with_a_beta_that_is_given_is_the_rule_without_a_critic():
  assert 'makespan_gate' not in replay.rules() and 'regret_only' in replay.rules()
  rng = np.random.default_rng(8)
  seen = Observation(*(jnp.asarray(rng.exponential(size=4), jnp.float32) for _ in range(3)))
  for beta in (0.01, 0.1):
    gate, known = (
      rule.update(rule.init(4, stops.adaptive(rule)), seen)
      for rule in (stops.makespan_gate(beta_0=beta), stops.regret_only(beta_0=beta))
    )
    np.testing.assert_array_equal(gate[1], known[1])
    np.testing.assert_allclose(gate[2], known[2], rtol=1e-6)


def test_a_head_does_not_change_where_a_rule_that_reads_states_ends_rows(run_folder):
  for seed in (1, 2):
    recorded(run_folder, seed, projections=np.random.default_rng(seed).normal(size=(160, 20, 3)).astype(np.float32))
  recordings, _ = replay.read_recordings(run_folder)
  config = runpy.run_path('experiments/quickstart.py')['get_config']()
  points = []
  for returns in ('fail', 'head'):
    config.stop.returns = returns
    by_name = {one.name: one for one in replay.candidates(config, {'segment': (3,)}, recordings)}
    points.append(replay.search(by_name['latent_trajectory'], recordings, (0.3,)))
  assert points[0] == points[1] and points[0]


def test_the_command_chooses_constants_that_a_run_takes(run_folder, monkeypatch, capsys):
  main([f'--rollouts={run_folder}', '--grid', 'smoothing=0,0.9', '--rates=0.1,0.3,0.4,0.7', '--most_lost=1'])
  printed = capsys.readouterr().out
  record = json.loads((run_folder / 'replay/frontier.json').read_text())
  assert (run_folder / 'replay/frontier.png').stat().st_size > 10_000
  best = record['best']
  assert set(best) == set(replay.rules()) - {'deepconf', 'latent_trajectory'}  # which read what was not recorded
  # Failures are told by one token: the rule stops most and loses nothing; at random as many of the others are lost.
  assert best['regret_only']['held_out']['true_positives'] > 0.7 > 0.02 > best['regret_only']['held_out']['false_positives']
  assert best['random']['held_out']['tokens_per_solved'] > 0.95 * record['unstopped']['tokens_per_solved']
  for point in record['points']:
    assert point['seen']['stop_rate'] <= 0.7
    solved = [point[third]['solved'] for third in replay.THIRDS]
    assert np.mean(solved) == pytest.approx(point['held_out']['solved'], abs=0.02)  # 40 problems do not make three equal parts
  unstopped = [best['regret_only'][third]['solved'] for third in replay.THIRDS]
  assert unstopped == sorted(unstopped) and '| rule | hard: saved % |' in printed
  for rule, values in record['configs'].items():
    line = next(line for line in printed.splitlines() if f'--config.stop.name={rule}' in line)
    arguments = ['train', f'--config={pathlib.Path("experiments/quickstart.py").absolute()}', *shlex.split(line)]
    parsed = flags.FlagValues()
    config_flags.DEFINE_config_file('config', lock_config=False, flag_values=parsed)
    monkeypatch.setattr('sys.argv', arguments)  # where config_flags looks for overrides
    parsed(arguments)
    validate(parsed.config)
    assert parsed.config.stop.name == rule
    np.testing.assert_allclose(make_rule(parsed.config, rule).init(1).adaptive.beta, best[rule]['beta'], rtol=1e-3)
    if rule == 'risk_control':
      np.testing.assert_allclose(parsed.config.stop.budget, max(best[rule]['seen']['false_positives'], 0.01), rtol=1e-2)
    assert values['stop.name'] == rule


def test_a_frontier_that_cannot_be_drawn_costs_a_warning(run_folder, espo_alone, monkeypatch, caplog, capsys):
  monkeypatch.setattr('espo_jax.monitor.frontier.plot_frontier', mock.Mock(side_effect=ValueError('broken')))
  main([f'--rollouts={run_folder}', '--grid', 'smoothing=0.5', '--rates=0.3', '--most_lost=1'])
  assert json.loads((run_folder / 'replay/frontier.json').read_text())['best']
  printed = capsys.readouterr().out
  assert '| espo |' in printed and 'frontier.png' not in printed
  assert 'frontier.png: was not written' in caplog.text and 'ValueError: broken' in caplog.text


def test_constants_that_lose_too_much_are_not_chosen(run_folder):
  record = compare(run_folder, run_folder / 'a', {'smoothing': (0.5,)}, (0.3, 0.7), most_lost=0.05)
  sighted = {
    'espo',
    'risk_control',
    'regret_only',
    'own_price',
    'wald',
    'hazard_head',
    'makespan_gate',
  }  # others are blind to slips
  assert {'espo', 'risk_control', 'own_price'} <= set(record['best']) <= sighted
  for point in record['best'].values():
    assert point['seen']['false_positives'] <= 0.05 and point['seen']['stop_rate'] < 0.5


def test_a_replay_does_not_see_what_it_is_measured_on(run_folder, espo_alone):
  def constants_and_held_out(record):
    return record['best']['espo']['constants'], record['best']['espo']['beta'], record['best']['espo']['held_out']

  before = constants_and_held_out(compare(run_folder, run_folder / 'a', {}, (0.3, 0.5)))
  for seed in (1, 2):
    with np.load(run_folder / f'arms/never/rollouts/{seed:06d}.npz') as archive:
      odd = np.arange(160) // 4 % 2 == 1
      recorded(run_folder, seed, correct=np.where(odd, 1 - archive['correct'], archive['correct']))
  after = constants_and_held_out(compare(run_folder, run_folder / 'b', {}, (0.3, 0.5)))
  assert before[:2] == after[:2]
  assert before[2] != after[2]


def test_unknown_constants_and_rates_are_refused(run_folder):
  with pytest.raises(
    SystemExit, match=r'--grid smoothin=\.\.\.: no constant of a stop rule; fix: one of aligned, clip, cumulative'
  ):
    main([f'--rollouts={run_folder}', '--grid', 'smoothin=0.5'])
  with pytest.raises(SystemExit, match=r'--rates=1.5: out of range; fix: shares in \(0, 1\)'):
    main([f'--rollouts={run_folder}', '--rates=0.1,1.5'])
  (run_folder / 'config.json').unlink()
  with pytest.raises(SystemExit, match='no config'):
    main([f'--rollouts={run_folder}'])
