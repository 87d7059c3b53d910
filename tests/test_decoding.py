"""The evaluate command with decoders: the same numbers from a recording to the digit, and errors with the fix."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from run_folder import write_random_run

from espo_jax import decoders, monitor, parallel, tasks
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.lengths import by_length
from espo_jax.evaluate.reading import Graded
from espo_jax.monitor import read_samples

PROBLEMS, SAMPLES = 11, 4
FIFTHS = {0: [], 1: [2], 2: [1, 3], 3: [0, 2, 4], 4: [0, 1, 3, 4], 6: [0, 1, 2, 2, 3, 4]}  # of so many answers, short to long
ASKED = [
  '--decoder=first',
  '--decoder=majority',
  '--decoder=shortest',
  '--decoder=best_by',
  '--decoder=best_by',
  '--options',
  'score=logprob',
  '--decoder=weighted',
  '--decoder=ffs',
  '--decoder=deepconf',
  '--options',
  'window=3',
  'keep=1',
  '--decoder=deepconf_online',
  '--options',
  'warmup=2',
  'window=3',
  'keep=0.9',
]
LABELS = {
  'first': {},
  'majority': {},
  'shortest': {},
  'best_by': {},
  'best_by score=logprob': {'score': 'logprob'},
  'weighted': {},
  'ffs': {},
  'deepconf window=3 keep=1.0': {'window': 3, 'keep': 1.0},
  'deepconf_online warmup=2 window=3 keep=0.9': {'warmup': 2, 'window': 3, 'keep': 0.9},
}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> pathlib.Path:
  """A run whose policy is random."""
  return write_random_run(tmp_path_factory.mktemp('decoding') / 'run')


def grade_by_length(patch: pytest.MonkeyPatch) -> None:
  """A random policy states its last digit, which is right in a response with an even number of characters."""

  def stated(_, response):
    return next((letter for letter in reversed(response) if letter.isdigit()), '')

  def verdicts(_, problems, responses):
    return [tasks.Verdict(bool(stated(_, text)) and len(text) % 2 == 0, 'ok') for text in responses]

  patch.setattr(tasks.Task, 'verify_all', verdicts)
  patch.setattr(tasks.Chain, 'stated_answer', stated)


@pytest.fixture(autouse=True)
def right_now_and_then(monkeypatch):
  grade_by_length(monkeypatch)


def evaluated(workdir: pathlib.Path, output: pathlib.Path, *flags: str) -> dict:
  """Evaluates, and returns the content of decoders.json."""
  given = [f'--samples={SAMPLES}', f'--problems={PROBLEMS}', '--batch=32', *flags]
  evaluate_main([f'--checkpoint={workdir}', f'--output={output}', *given])
  path = output / 'decoders.json'
  return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(scope='module')
def recorded(workdir, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  with pytest.MonkeyPatch.context() as patch:
    grade_by_length(patch)
    output = tmp_path_factory.mktemp('recorded')
    return output, evaluated(workdir, output, '--record', '--features=1', *ASKED, '--curve')


def by_hand(folder: pathlib.Path) -> tuple[list[decoders.Samples], list[list[bool]]]:
  """The samples and grades of a recording, read without the package's reader."""
  answers = list(read_samples(folder))
  with np.load(folder / 'rollouts/rows.npz') as archive:
    rows = dict(archive)
  groups = [range(i, i + SAMPLES) for i in range(0, len(answers), SAMPLES)]
  fields = ('tokens', 'logprobs', 'regret', 'values', 'confidence', 'projections')
  samples = [
    decoders.Samples(
      [answers[i]['answer'] for i in its],
      np.array([answers[i]['stop_reason'] == 'eos' for i in its]),
      np.array([answers[i]['length'] for i in its]),
      *([rows[field][i, : answers[i]['length']] for i in its] for field in fields),
    )
    for its in groups
  ]
  return samples, [[answers[i]['correct'] for i in its] for its in groups]


def picked(field, order: list[int]):
  """The entries of a field in another order; None stays."""
  return field[order] if isinstance(field, np.ndarray) else field and [field[i] for i in order]


def chosen(decoder: decoders.Decoder, samples: list[decoders.Samples], correct: list[list[bool]], count: int) -> np.ndarray:
  """Whether it is right about each problem and what it spends there: means over all first samples of the cycle."""
  found = []
  for its, grades in zip(samples, correct, strict=True):
    for start in range(SAMPLES):
      order = [(start + i) % SAMPLES for i in range(count)]
      part = decoders.Samples(**{name: picked(x, order) for name, x in its._asdict().items()})
      choice = decoder.choose(part)
      found.append((choice.sample is not None and grades[order[choice.sample]], choice.tokens))
  return np.array(found, float).reshape(len(samples), SAMPLES, 2).mean(axis=1).T


def test_a_report_has_the_accuracy_and_the_tokens_of_each_decoder(recorded):
  folder, record = recorded
  samples, correct = by_hand(folder)
  assert [one['label'] for one in record['decoders']] == list(LABELS)
  varied = set()
  for one in record['decoders']:
    decoder = decoders.REGISTRY[one['name']](**LABELS[one['label']])
    for count in range(1, SAMPLES + 1):
      right, tokens = chosen(decoder, samples, correct, count)
      point = one['curve'][count - 1]
      assert point['samples'] == count
      for name, values in (('accuracy', right), ('tokens', tokens)):
        assert point[name]['value'] == np.mean(values)
        if values.min() < values.max():  # Wilson's interval is for an accuracy of 0 or 1
          wanted = monitor.bootstrap_intervals(values[:, None])[0]
          np.testing.assert_allclose(point[name]['interval'], wanted, rtol=1e-12)
    assert [one[name] for name in ('accuracy', 'tokens', 'lead')] == [point[name] for name in ('accuracy', 'tokens', 'lead')]
    varied.add((one['accuracy']['value'], one['tokens']['value']))
  assert len(varied) >= 5  # the decoders differ here
  summary = json.loads((folder / 'summary.json').read_text())['scores']
  assert record['scores'] == {name: summary[name] for name in (f'avg@{SAMPLES}', f'maj@{SAMPLES}')}


@pytest.mark.quick
@pytest.mark.parametrize('count', [1, 2, 4, 6])
def test_few_answers_to_a_problem_are_spread_evenly_over_the_fifths(count):
  lengths = np.random.default_rng(count).permutation(np.arange(10, 10 + count))
  for place, fifth in enumerate(FIFTHS[count]):
    right = lengths == 10 + place
    samples = decoders.Samples(['1'] * count, np.ones(count, bool), lengths)
    for shares in (by_length(Graded({}, [samples], [right]))[name] for name in ('within', 'overall')):
      assert [i for i, share in enumerate(shares) if share] == [fifth]


def test_the_accuracy_by_length_is_that_within_a_problem_and_that_over_all(recorded):
  found = recorded[1]['by_length']
  samples, correct = by_hand(recorded[0])
  within, everything, differences = [[] for _ in range(5)], [], []
  for its, grades in zip(samples, correct, strict=True):
    ended = sorted((n, i) for i, n in enumerate(its.lengths.tolist()) if its.ended[i])
    mean = sum(n for n, _ in ended) / max(len(ended), 1)
    for fifth, (_, i) in zip(FIFTHS[len(ended)], ended, strict=True):
      within[fifth].append(grades[i])
    kinds = [[n for n, i in ended if grades[i] == kind] for kind in (True, False)]
    if all(kinds):
      differences.append(np.mean(kinds[0]) - np.mean(kinds[1]))
    everything += [(n, n - mean, grades[i], all(kinds)) for i, n in enumerate(its.lengths.tolist()) if its.ended[i]]
  assert found['within'] == [np.mean(part) if part else None for part in within]
  ordered = sorted(everything, key=lambda one: one[0])
  overall = [[] for _ in range(5)]
  for place, (_, _, right, _) in enumerate(ordered):
    overall[sum((place + 0.5) / len(ordered) > edge for edge in (0.2, 0.4, 0.6, 0.8))].append(right)
  assert found['overall'] == [np.mean(part) for part in overall]
  right, wrong = (
    np.array([beyond for _, beyond, grade, mixed in everything if mixed and grade == kind]) for kind in (True, False)
  )
  assert 1 < len(differences) < PROBLEMS
  assert found['right_minus_wrong'] == pytest.approx(np.mean(differences), rel=1e-9)
  assert wrong.var() > right.var() or found['turn'] is None


def ffs_report(tmp_path: pathlib.Path, capsys, *problems: tuple[list[int], list[int]]) -> str:
  """What is said of answers that ended, given the lengths of the right and the wrong ones to each problem."""
  folder = tmp_path / 'made'
  answers = [(n, grade) for both in problems for its, grade in zip(both, (True, False), strict=True) for n in its]
  settings = {'samples': len(answers) // len(problems), 'problems': len(problems)}
  with monitor.SampleWriter(folder, settings, batch=len(answers), total=len(answers)) as writer:
    line = {'answer': '1', 'stop_reason': 'eos'}  # a decoder has no use for the other fields of an answer
    writer.write(line | {'length': n, 'correct': grade} for n, grade in answers)
  evaluate_main([f'--from={folder}', '--decoder=ffs'])
  return capsys.readouterr().out


@pytest.mark.quick
def test_first_finish_search_is_warned_of_where_right_answers_are_longer(tmp_path, capsys):
  said = ffs_report(tmp_path, capsys, ([30, 32], [20, 25]))
  assert 'ffs: right answers are longer than wrong ones to the same problem, by 8.5 tokens on average' in said


@pytest.mark.quick
def test_first_finish_search_is_warned_of_where_wrong_answers_spread_more(tmp_path, capsys):
  """The lengths 28 and 32, and 10 and 60, less their mean 32.5; right ones have the variance 4 and wrong ones 625."""
  said = ffs_report(tmp_path, capsys, ([28, 32], [10, 60]))
  turn = (-2.5 / 4 - 2.5 / 625) / (1 / 4 - 1 / 625)
  assert f'the further it is below {turn:+.1f} tokens from the mean of its problem; fix: --options least=N' in said


@pytest.mark.quick
def test_first_finish_search_is_not_warned_of_where_right_answers_are_shorter_and_spread_as_much(tmp_path, capsys):
  said = ffs_report(tmp_path, capsys, ([20, 30], [40, 50]))
  assert 'among those to one problem ' in said and 'ffs:' not in said


@pytest.mark.quick
def test_the_lengths_of_answers_to_a_problem_without_a_right_one_warn_of_nothing(tmp_path, capsys):
  said = ffs_report(tmp_path, capsys, ([10, 12], [20, 22]), ([], [100, 200, 400, 500]))
  assert 'among those to one problem ' in said and 'ffs:' not in said


@pytest.mark.quick
def test_problems_whose_answers_are_all_right_do_not_dilute_how_much_longer_right_ones_are(tmp_path, capsys):
  said = ffs_report(tmp_path, capsys, ([30], [20]), *[([5 + i, 50 + i], []) for i in range(9)])
  assert 'ffs: right answers are longer than wrong ones to the same problem, by 10.0 tokens on average' in said


def test_one_sample_of_the_curve_is_the_first_for_every_decoder(recorded):
  points = [one['curve'][0] for one in recorded[1]['decoders']]
  assert points == [points[0]] * len(LABELS)


def test_a_majority_of_all_without_ties_is_maj_at_k_of_the_summary(recorded, tmp_path):
  """Three of the four answers to each problem are made equal, so no vote is tied."""
  folder = shutil.copytree(recorded[0], tmp_path / 'untied')
  lines = list(read_samples(folder))
  for i, line in enumerate(lines):
    line['answer'] = '7' if i % SAMPLES < 3 else line['answer']
    line['correct'] = line['full_correct'] = (i // SAMPLES) % 3 == 0 if line['answer'] == '7' else not (i // SAMPLES) % 3
  (folder / 'samples.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  evaluate_main([f'--from={folder}', '--decoder=majority', '--decoder=deepconf', '--options', 'keep=1'])
  record = json.loads((folder / 'decoders.json').read_text())
  assert 0 < record['scores'][f'maj@{SAMPLES}']['value'] < 1
  assert record['decoders'][0]['accuracy'] == record['scores'][f'maj@{SAMPLES}']


def test_a_recording_gives_what_the_sampling_gave_to_the_digit(recorded, tmp_path):
  folder, _ = recorded
  before = (folder / 'decoders.json').read_bytes()
  evaluate_main([f'--from={folder}', f'--output={tmp_path}', *ASKED, '--curve'])
  assert (tmp_path / 'decoders.json').read_bytes() == before
  assert (tmp_path / 'decoders.png').read_bytes().startswith(b'\x89PNG') and (folder / 'decoders.png').exists()
  evaluate_main([f'--from={folder}', f'--output={tmp_path}', *ASKED])
  assert not (tmp_path / 'decoders.png').exists()  # it would show a curve that decoders.json does not have
  shorter = json.loads((tmp_path / 'decoders.json').read_text())
  for one, whole in zip(shorter['decoders'], json.loads(before)['decoders'], strict=True):
    assert 'curve' not in one
    for name in ('accuracy', 'tokens'):
      assert one[name] == whole[name]


def test_an_evaluation_that_is_done_is_asked_other_decoders_without_sampling(recorded, workdir, tmp_path, capsys):
  folder = shutil.copytree(recorded[0], tmp_path / 'again')
  record = evaluated(workdir, folder, '--record', '--features=1', '--decoder=ffs', '--options', 'least=5')
  assert [one['label'] for one in record['decoders']] == ['ffs least=5']
  said = capsys.readouterr().out
  lines = [line.split() for line in said.splitlines()]
  assert [line[0] for line in lines if line and line[0] in ('avg@4', 'maj@4', 'ffs')][-3:] == ['avg@4', 'maj@4', 'ffs']
  assert 'among those to one problem ' in said
  assert f'{record["decoders"][0]["tokens"]["value"]:,.0f}' in said


def test_batches_and_slots_change_no_choice(recorded, workdir, tmp_path):
  """The random keys of a row are those of its problem and sample."""
  _, record = recorded
  for place, flags in enumerate((['--batch=64'], ['--slots=8'])):
    other = evaluated(workdir, tmp_path / str(place), '--record', '--features=1', *ASKED, '--curve', *flags)
    assert other['decoders'] == record['decoders'], flags


def test_padding_and_the_order_of_problems_change_no_choice(recorded, tmp_path):
  folder, record = recorded
  other = shutil.copytree(folder, tmp_path / 'other')
  lines = (folder / 'samples.jsonl').read_text().splitlines(keepends=True)
  order = np.random.default_rng(0).permutation(PROBLEMS)
  rows = (order[:, None] * SAMPLES + np.arange(SAMPLES)).ravel()
  (other / 'samples.jsonl').write_text(''.join(lines[i] for i in rows))
  with np.load(folder / 'rollouts/rows.npz') as archive:
    arrays = dict(archive)
  length = arrays['length']
  for name, array in arrays.items():
    if array.ndim == 1:
      arrays[name] = array[rows]
    elif array.ndim == 2:  # what stands behind a row is nothing to read
      wide = np.pad(array, ((0, 0), (0, 9)))
      arrays[name] = np.where(np.arange(wide.shape[1]) < length[:, None], wide, 77).astype(array.dtype)[rows]
  np.savez(other / 'rollouts/rows.npz', **arrays)
  evaluate_main([f'--from={other}', *ASKED])
  found = json.loads((other / 'decoders.json').read_text())['decoders']
  for one, wanted in zip(found, record['decoders'], strict=True):
    assert (one['accuracy']['value'], one['tokens']['value']) == (wanted['accuracy']['value'], wanted['tokens']['value'])


def test_answers_that_were_not_recorded_do_for_decoders_that_read_no_tokens(recorded, workdir, tmp_path):
  plain = evaluated(workdir, tmp_path, '--decoder=majority', '--decoder=ffs')
  wanted = {one['label']: one for one in recorded[1]['decoders']}
  for one in plain['decoders']:
    assert one == {name: wanted[one['label']][name] for name in one}
  with pytest.raises(SystemExit, match=r"--from=.*: holds no 'logprobs', which --decoder=weighted reads; fix: --record$"):
    evaluate_main([f'--from={tmp_path}', '--decoder=weighted'])
  with pytest.raises(SystemExit, match=r"holds no 'confidence', which --decoder=deepconf reads; fix: --record --features=1$"):
    evaluate_main([f'--from={tmp_path}', '--decoder=deepconf'])
  with pytest.raises(
    SystemExit, match=r"holds no 'projections', which --decoder=lt_select reads; fix: --record --features=16$"
  ):
    evaluate_main([f'--from={tmp_path}', '--decoder=lt_select'])
  with pytest.raises(SystemExit, match=r'--decoder=lt_select needs projections onto at least 2 directions; fix'):
    evaluate_main([f'--from={recorded[0]}', '--decoder=lt_select'])


def test_answers_that_a_rule_stopped_count_up_to_their_stop(workdir, tmp_path):
  stop = ['--stop=espo', '--constants', 'smoothing=0.5', 'epsilon=0.4', 'beta_0=1.5']
  asked = ['--decoder=majority', '--decoder=best_by', '--options', 'score=regret', '--decoder=ffs']
  record = evaluated(workdir, tmp_path, '--record', *stop, *asked)
  answers = list(read_samples(tmp_path))
  assert 0 < sum(answer['stop_reason'] == 'stopped' for answer in answers) < len(answers)
  assert record['decoders'][0]['tokens']['value'] == sum(answer['length'] for answer in answers) / PROBLEMS
  with np.load(tmp_path / 'rollouts/rows.npz') as archive:
    regret = archive['regret'].astype(np.float64)
  right, spent = [], []
  for i in range(0, len(answers), SAMPLES):
    its = answers[i : i + SAMPLES]
    ends = [answer['length'] for answer in its if answer['stop_reason'] == 'eos']
    spent.append(sum(min(answer['length'], *ends, 10**6) for answer in its))  # a stop is no end
    means = [regret[j, : answers[j]['length']].mean() if answers[j]['answer'] else np.inf for j in range(i, i + SAMPLES)]
    right.append(answers[i + int(np.argmin(means))]['correct'])
  assert record['decoders'][1]['accuracy']['value'] == np.mean(right)
  assert record['decoders'][2]['tokens']['value'] == np.mean(spent)


def test_a_decoder_of_a_users_own_is_asked_for_by_its_name(recorded, registers, tmp_path):
  plugin = tmp_path / 'mine.py'
  plugin.write_text(
    'from espo_jax import decoders\n\n\n'
    "@decoders.register('last')\ndef last(*, counted=True):\n"
    '  def choose(samples):\n'
    '    return decoders.Choice(len(samples.answers) - 1, int(samples.lengths.sum()) if counted else 0)\n'
    "  return decoders.Decoder(choose, frozenset({'lengths'}))\n"
  )
  folder = recorded[0]
  evaluate_main(
    [f'--plugins={plugin}', f'--from={folder}', f'--output={tmp_path}', '--decoder=last', '--options', 'counted=False']
  )
  (one,) = json.loads((tmp_path / 'decoders.json').read_text())['decoders']
  every = [answer['correct'] for answer in read_samples(folder)]  # each is the last one of an order
  assert one['accuracy']['value'] == np.mean(every) and one['tokens']['value'] == 0


@pytest.mark.quick
def test_of_several_processes_the_first_alone_decodes(tmp_path, capsys, monkeypatch):
  ffs_report(tmp_path, capsys, ([20], [30]))
  written = tmp_path / 'made/decoders.json'
  written.unlink()
  monkeypatch.setattr(parallel, 'is_first', lambda: False)
  evaluate_main([f'--from={tmp_path / "made"}', '--decoder=ffs'])
  assert not written.exists() and capsys.readouterr().out == ''


# -------------------------------------------------------------------------------------------------------------------- errors


def test_an_evaluation_that_is_not_finished_or_damaged_is_told(recorded, tmp_path):
  folder = shutil.copytree(recorded[0], tmp_path / 'part')
  lines = (folder / 'samples.jsonl').read_text().splitlines(keepends=True)
  (folder / 'samples.jsonl').write_text(''.join(lines[:-1]))
  with pytest.raises(
    SystemExit, match=r'--from=.*part: 43 of 44 answers; fix: the command that it was begun with finishes it$'
  ):
    evaluate_main([f'--from={folder}', '--decoder=ffs'])
  (folder / 'samples.jsonl').write_text(''.join(lines[::-1]))
  with pytest.raises(SystemExit, match=r'rows.npz: its rows are not the answers of samples.jsonl; fix: a copy of it'):
    evaluate_main([f'--from={folder}', '--decoder=weighted'])
  (folder / 'samples.jsonl').write_text(''.join(lines))
  with np.load(folder / 'rollouts/rows.npz') as archive:
    arrays = dict(archive)
  np.savez(folder / 'rollouts/rows.npz', **arrays | {'logprobs': arrays['logprobs'][:, :2]})
  with pytest.raises(SystemExit, match=r"rows.npz: 'logprobs' has the shape \(44, 2\), too small for its answers; fix: a copy"):
    evaluate_main([f'--from={folder}', '--decoder=weighted'])
