"""Answers recorded without training are what a replay reads, and a rule that ends answers ends them where the replay does."""

import json
import os
import pathlib
import signal

import benchmark_data
import jax
import numpy as np
import pytest
from run_folder import write_random_run

from espo_jax import replay, stops, tasks
from espo_jax.configs import load_config
from espo_jax.evaluate import evaluation
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.recording import join_parts
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.model import ModelConfig, init, save_hf
from espo_jax.monitor import read_samples
from espo_jax.tasks.pretrained import load_tokenizer

PROBLEMS, SAMPLES = 11, 4
ROWS = PROBLEMS * SAMPLES
CONSTANTS = {'smoothing': 0.5, 'epsilon': 0.4, 'beta_0': 1.5}
STOP = ['--stop=espo', '--constants', *(f'{name}={value}' for name, value in CONSTANTS.items())]
PER_TOKEN = ('tokens', 'logprobs', 'regret', 'values')
INTEGERS = ('tokens', 'length', 'full_length', 'ended', 'correct', 'stopped', 'shadow', 'problem', 'id')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> pathlib.Path:
  """A run whose policy is random."""
  return write_random_run(tmp_path_factory.mktemp('recording') / 'run')


def grade_by_length(patch: pytest.MonkeyPatch) -> None:
  """A response of even length is right, which an untrained policy writes now and then."""

  def verdicts(_, problems, responses):
    return [tasks.Verdict(len(response) % 2 == 0, 'ok') for _, response in zip(problems, responses, strict=True)]

  patch.setattr(tasks.Task, 'verify_all', verdicts)
  patch.setattr(tasks.Math, 'verify_all', verdicts)


@pytest.fixture(autouse=True)
def right_now_and_then(monkeypatch):
  grade_by_length(monkeypatch)


def evaluated(workdir: pathlib.Path, output: pathlib.Path, *flags: str) -> tuple[dict, dict, list[dict]]:
  """Evaluates with recording; the summary, the recorded arrays, and the answers."""
  given = [f'--samples={SAMPLES}', f'--problems={PROBLEMS}', '--batch=32', '--record', *flags]
  evaluate_main([f'--checkpoint={workdir}', f'--output={output}', *given])
  with np.load(output / 'rollouts/rows.npz') as archive:
    return json.loads((output / 'summary.json').read_text()), dict(archive), list(read_samples(output))


def ends(rows: dict, mu: float, var: float, smoothing: float, epsilon: float, beta_0: float) -> tuple[np.ndarray, np.ndarray]:
  """Where ESPO would end the recorded rows, token by token in float64."""
  lengths, stopped = rows['full_length'].copy(), np.zeros(len(rows['correct']), bool)
  for i, full in enumerate(rows['full_length']):
    z = 0.0
    for t in range(full - rows['ended'][i]):  # an end token ends the row itself
      z = smoothing * z + (1 - smoothing) * np.clip((float(rows['regret'][i, t]) - mu) / np.sqrt(var + 1e-8), -5, 5)
      if z > beta_0 * max(float(rows['values'][i, t]), epsilon):
        lengths[i], stopped[i] = t + 1, True
        break
  return lengths, stopped


def equal(found: dict, wanted: dict) -> None:
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    if name in INTEGERS:
      np.testing.assert_array_equal(found[name], x, err_msg=name)
    else:
      np.testing.assert_allclose(found[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope='module')
def free(workdir, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    grade_by_length(patch)
    output = tmp_path_factory.mktemp('free')
    return output, *evaluated(workdir, output)


def test_recorded_answers_are_the_answers_and_replay_to_the_direct_numbers(free, workdir):
  output, summary, rows, answers = free
  assert 'stop' not in summary and not rows['stopped'].any() and not (output / 'recorded').exists()
  for name, field in (('length', 'length'), ('correct', 'correct'), ('problem', 'problem'), ('id', 'id')):
    np.testing.assert_array_equal(rows[name], [answer[field] for answer in answers])
  np.testing.assert_array_equal(rows['ended'], [answer['stop_reason'] == 'eos' for answer in answers])
  exp = make_experiment(load_config(output / 'config.json'))
  assert exp.decode(rows['tokens'], rows['length']) == [answer['response'] for answer in answers]
  taken = np.concatenate([row[:n] for row, n in zip(rows['regret'], rows['full_length'], strict=True)]).astype(np.float64)
  np.testing.assert_allclose([rows['mu'], rows['var']], [taken.mean(), taken.var()], rtol=1e-6)
  assert (rows['logprobs'] + rows['regret'] <= 1e-5).all()  # no probability is above 1

  recordings, files = replay.read_recordings(output)
  assert files == [output / 'rollouts/rows.npz'] and (recordings.weight == 1).all()
  np.testing.assert_array_equal(recordings.problem[0], np.repeat(np.arange(PROBLEMS), SAMPLES))
  rule = make_rule(load_config(output / 'config.json'), 'espo', **CONSTANTS)
  state = stops.adaptive(rule, mu=recordings.mu[0], var=recordings.var[0])
  seen = stops.Observation(recordings.regret[0], recordings.values[0], np.zeros_like(recordings.regret[0]))
  found = replay.replay(rule, state, seen, recordings.full_length[0], recordings.ends[0])
  lengths, stopped = ends(rows, float(rows['mu']), float(rows['var']), **CONSTANTS)
  np.testing.assert_array_equal(found.length, lengths)
  np.testing.assert_array_equal(found.stopped, stopped)
  assert 0.1 < stopped.mean() < 0.9


def test_a_part_that_a_kill_left_beside_the_whole_file_is_removed(free):
  output = free[0]
  before = (output / 'rollouts/rows.npz').read_bytes()
  (output / 'recorded').mkdir()
  (output / 'recorded' / '000000.npz').touch()
  join_parts(output, {}, SAMPLES, PROBLEMS * SAMPLES, constant_value=False)
  assert (output / 'rollouts/rows.npz').read_bytes() == before and not (output / 'recorded').exists()


def test_answers_recorded_in_one_batch_are_those_recorded_in_two(free, workdir, tmp_path):
  _, _, rows, answers = free
  _, one, same = evaluated(workdir, tmp_path, '--batch=64')
  equal(one, rows)
  assert [answer['response'] for answer in same] == [answer['response'] for answer in answers]


def test_features_of_the_states_are_recorded_beside_the_same_answers(free, workdir, tmp_path):
  _, summary, rows, _ = free
  with_features, found, _ = evaluated(workdir, tmp_path, '--features=5')
  equal({name: found[name] for name in rows}, rows)
  assert found.keys() - rows.keys() == {'confidence', 'entropy', 'margin', 'projections'}
  assert found['projections'].shape == (*rows['tokens'].shape, 5) and found['projections'].dtype == np.float16
  real = np.arange(rows['tokens'].shape[1]) < rows['full_length'][:, None]
  assert (found['entropy'][real] > 0).all() and (found['margin'][real] > 0).all() and found['projections'][real].all()
  assert not any(found[name][~real].any() for name in ('confidence', 'entropy', 'margin', 'projections'))
  assert with_features['settings'] == summary['settings'] | {'features': 5}


def test_there_are_no_more_directions_than_a_state_has_numbers(workdir, tmp_path):
  with pytest.raises(SystemExit, match=r'--features=17: a state has 16 numbers; fix: at most 16'):
    evaluate_main([f'--checkpoint={workdir}', f'--output={tmp_path}/none', '--record', '--features=17'])


def test_a_rule_that_acts_ends_the_answers_where_the_replay_of_the_free_ones_does(free, workdir, tmp_path):
  _, _, whole, answers = free
  acted, rows, cut = evaluated(workdir, tmp_path, *STOP)
  stop, scale = acted['stop'], json.loads((tmp_path / 'stop.json').read_text())
  first = whole['regret'][:32][np.arange(whole['regret'].shape[1]) < whole['full_length'][:32, None]].astype(np.float64)
  np.testing.assert_allclose([scale['mu'], scale['var']], [first.mean(), first.var()], rtol=1e-4)
  np.testing.assert_array_equal(rows['mu'], np.float32(scale['mu']))
  for name in ('tokens', 'full_length', 'ended', 'correct'):  # the answers go on as they would have without the rule
    np.testing.assert_array_equal(rows[name], whole[name])
  lengths, stopped = ends(whole, scale['mu'], scale['var'], **CONSTANTS)
  np.testing.assert_array_equal(rows['length'], lengths)
  np.testing.assert_array_equal(rows['stopped'], stopped)
  right = whole['correct'] == 1
  assert 0 < (right & stopped).sum() < right.sum() and 0.1 < stopped.mean() < 0.9
  np.testing.assert_allclose(stop['saved'], 1 - lengths.sum() / whole['full_length'].sum())
  np.testing.assert_allclose(stop['stop_rate'], stopped.mean())
  assert (stop['right'], stop['lost']) == (right.sum(), (right & stopped).sum())
  np.testing.assert_allclose(acted['scores'][f'avg@{SAMPLES}']['value'], (right & ~stopped).mean())
  read = make_experiment(load_config(tmp_path / 'config.json')).decode(whole['tokens'], lengths)
  for answer, before, text, n, ended in zip(cut, answers, read, lengths, stopped, strict=True):
    assert answer['length'] == n and answer['full_length'] == before['length']
    assert answer['full_correct'] == before['correct']
    if ended:
      assert answer['stop_reason'] == 'stopped' and answer['answer'] == '' and not answer['correct']
      assert answer['response'] == text and before['response'].startswith(text)
    else:
      assert answer == before


def test_a_recording_that_was_interrupted_goes_on_to_the_same_file(workdir, tmp_path, monkeypatch):
  sample = evaluation.sample_answers

  def signalled(*args, **kwargs):
    for batch in sample(*args, **kwargs):
      if 'acting' in kwargs:  # not while the moments are measured
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  _, whole, answers = evaluated(workdir, tmp_path / 'whole', *STOP)
  monkeypatch.setattr(evaluation, 'sample_answers', signalled)
  with pytest.raises(SystemExit):
    evaluated(workdir, tmp_path / 'parts', *STOP)
  assert [path.name for path in (tmp_path / 'parts/recorded').iterdir()] == ['000000.npz']
  monkeypatch.setattr(evaluation, 'sample_answers', sample)
  _, rows, same = evaluated(workdir, tmp_path / 'parts', *STOP)
  assert same == answers
  for name, x in whole.items():
    np.testing.assert_array_equal(rows[name], x)
  assert evaluated(workdir, tmp_path / 'parts', *STOP)[2] == answers  # nothing is left to do
  (tmp_path / 'parts/rollouts/rows.npz').unlink()
  with pytest.raises(SystemExit, match=rf'recorded: 0 of {ROWS} answers are recorded; fix: another --output'):
    evaluated(workdir, tmp_path / 'parts', *STOP)


def test_the_value_of_a_directory_without_a_critic_is_the_share_of_right_answers(tmp_path, capsys):
  tokenizer = load_tokenizer(benchmark_data.tokenizer(tmp_path / 'tokenizer'))
  shape = {'hidden_size': 16, 'intermediate_size': 24, 'num_layers': 1, 'num_heads': 2, 'num_kv_heads': 1, 'head_dim': 8}
  config = ModelConfig(vocab_size=len(tokenizer), family='qwen2', qkv_bias=True, **shape)
  save_hf(tmp_path / 'model', config, init(config, jax.random.key(0)), tokenizer=tokenizer)
  data = benchmark_data.write(tmp_path / 'test.jsonl', [benchmark_data.gsm8k(i) for i in range(PROBLEMS)])
  flags = ['--benchmark=gsm8k', f'--data={data}', '--horizon=16']
  _, free, _ = evaluated(tmp_path / 'model', tmp_path / 'free', *flags)
  mask = np.arange(free['regret'].shape[1]) < free['full_length'][:, None]
  assert 0 < free['correct'].mean() < 1
  np.testing.assert_allclose(free['values'], mask * np.float32(free['correct'].mean()))
  constants = {'smoothing': 0.5, 'epsilon': 0.1, 'beta_0': 0.5}  # below the share of right answers
  stop = ['--stop=espo', '--constants', *(f'{name}={value}' for name, value in constants.items())]
  acted, rows, _ = evaluated(tmp_path / 'model', tmp_path / 'acted', *flags, *stop)
  scale = json.loads((tmp_path / 'acted/stop.json').read_text())
  np.testing.assert_allclose(scale['success'], free['correct'][:32].mean())
  lengths, stopped = ends(rows, scale['mu'], scale['var'], **constants)
  np.testing.assert_array_equal(rows['length'], lengths)
  assert 0 < stopped.sum() == rows['stopped'].sum() and scale['success'] > constants['epsilon']
  assert f'{acted["stop"]["lost"]} of {acted["stop"]["right"]} right answers were lost' in capsys.readouterr().out
  recordings, _ = replay.read_recordings(tmp_path / 'acted')
  np.testing.assert_array_equal(recordings.weight, 1)  # all stopped rows were decoded on


def test_a_settled_answer_is_graded_on_what_it_has(workdir, tmp_path, capsys, monkeypatch):
  status = lambda text: 'ok' if len(text) % 3 else 'timeout'
  verdicts = lambda _, problems, texts: [tasks.Verdict(len(text) % 2 == 0, status(text)) for text in texts]
  monkeypatch.setattr(tasks.Task, 'verify_all', verdicts)
  _, rows, free = evaluated(workdir, tmp_path / 'free')
  marker = int(np.bincount(rows['tokens'][:, 2:10].reshape(-1)).argmax())
  flags = ['--stop=candidate_answer', '--constants', f'marker={marker}']
  summary, its, answers = evaluated(workdir, tmp_path / 'settled', *flags)
  assert not (tmp_path / 'settled/stop.json').exists()  # no moments of the regret are measured that the rule does not read
  np.testing.assert_array_equal(its['tokens'], rows['tokens'])  # decoded on to the same ends
  lost = gained = saved = 0
  for one, whole, tokens in zip(answers, free, rows['tokens'], strict=True):
    places = np.flatnonzero(tokens[: whole['length'] - (whole['stop_reason'] == 'eos')] == marker)
    assert one['stop_reason'] == ('settled' if len(places) else whole['stop_reason'])
    assert one['length'] == (places[0] + 1 if len(places) else whole['length'])
    assert whole['response'].startswith(one['response']) and one['correct'] == (len(one['response']) % 2 == 0)
    assert one['status'] == status(one['response'])
    assert (one['full_length'], one['full_correct']) == (whole['length'], whole['correct'])
    lost, gained = lost + (whole['correct'] > one['correct']), gained + (one['correct'] > whole['correct'])
    saved += whole['length'] - one['length']
  found = summary['stop']
  assert 0 < found['settled'] < 1 and lost and gained
  assert (found['lost'], found['gained'], found['probed']) == (lost, gained, 0)
  assert found['saved'] == pytest.approx(saved / sum(whole['length'] for whole in free))
  assert f'{lost} right answers were lost and {gained} gained' in capsys.readouterr().out


def test_token_ids_are_no_number_and_a_number_is_no_token_ids(workdir):
  for stop, constants, message in (
    ('candidate_answer', 'marker=1.5', 'marker=1.5: of another kind; fix: token ids such as 17,4'),
    ('espo', 'beta_0=1,2', 'beta_0=1,2: of another kind; fix: one number'),
  ):
    with pytest.raises(SystemExit, match=message):
      evaluate_main([f'--checkpoint={workdir}', f'--stop={stop}', '--constants', constants])


@pytest.mark.parametrize(
  ('stop', 'constants', 'message'),
  [
    ('candidate_answer', ['allowed=2'], r'marker = \(\): the rule waits for these token ids; fix: --constants marker=17,4'),
    ('duet_settled', ['streak=2'], r'--stop=duet_settled: marker = \(\): the rule waits for these token ids'),
    ('duet_settled', ['marker=3,999999'], r'marker = \(3, 999999\): the policy has no token 999999; fix: ids from 0 to \d+'),
    ('candidate_answer', ['marker=3', 'allowed=2.5'], r'allowed=2.5: not a whole number below 2\^31; fix: such as 1'),
    ('candidate_answer', ['marker=nan'], r'marker=nan: of another kind; fix: token ids such as 17,4'),
    ('deer', ['inducer=inf'], r'inducer=inf: of another kind; fix: token ids such as 17,4'),
    ('deer', ['inducer=99999999999'], r'inducer=99999999999: of another kind; fix: token ids'),
    ('deer', ['inducer=5,100000'], r'--stop=deer: inducer = \(5, 100000\): the policy has no token 100000'),
    ('deer', ['inducer=5', 'marker=100000'], r'--stop=deer: marker = \(100000,\): the policy has no token 100000'),
    ('deer', ['inducer=5', 'most=0'], r'--constants most=0: out of range; fix: a number above 0'),
    ('deer', ['inducer=5', 'every=0'], r'--constants every=0: out of range; fix: a number above 0'),
    ('deer', ['inducer=5', 'every=0.5'], r'--constants every=0.5: not a whole number'),
    ('deer', ['inducer=5', 'geometric=0.3'], r'--constants geometric=0.3: neither yes nor no; fix: 1 or 0'),
    ('answer_convergence', ['inducer=5', 'agree=0'], r'--constants agree=0: out of range'),
    ('latent_trajectory', ['segment=0'], r'--constants segment=0: out of range; fix: a number above 0'),
    ('espo', ['smoothing=1'], r'--constants smoothing=1: out of range; fix: a number in \[0, 1\)'),
    ('espo', ['beta_0=nan'], r'--constants beta_0=nan: not a finite number; fix: a finite one'),
  ],
)
def test_a_constant_of_a_rule_has_the_type_and_the_range_of_its_field(workdir, tmp_path, stop, constants, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--checkpoint={workdir}', f'--output={tmp_path}', f'--stop={stop}', '--constants', *constants])


@pytest.mark.quick
@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--record', '--temperature=0', '--samples=1'], r'--record with --temperature=0: the regret .* is 0; fix: a '),
    (['--stop=espo', '--temperature=0', '--samples=1'], r'--stop=espo with --temperature=0: .*; fix: a --temperature above 0'),
    (['--features=8'], r'--features=8: nothing is recorded; fix: --record beside it'),
    (['--record', '--features=-1'], r'--features=-1: out of range; fix: a number of at least 0'),
    (['--constants', 'beta_0=2'], r'--constants beta_0=2: no stop rule reads it; fix: --stop=espo, or leave it out'),
    (['--stop=never'], r'--stop=never: it stops no answer; fix: leave it out'),
    (['--stop=esop'], r"--stop=esop: unknown stop rule 'esop'; did you mean 'espo'\?"),
    (['--stop=espo', '--constants', 'beta=2'], r"--constants beta=2: no constant of the rule 'espo'; fix: one of beta_0, "),
    (['--stop=espo', '--constants', 'beta_0=two'], r'--constants beta_0=two: .*; fix: NAME=VALUE, as in smoothing=0.5'),
  ],
)
def test_flags_that_do_not_go_together_are_told(flags, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main(['--checkpoint=runs/none', *flags])
