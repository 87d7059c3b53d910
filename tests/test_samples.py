"""An evaluation's answers on disk, cut anywhere and continued; and what is made of them."""

import json

import numpy as np
import pytest

from espo_jax.monitor import OutputError, SampleWriter, format_scores, pass_at_k, read_samples, summarise_samples, wilson

pytestmark = pytest.mark.quick

SETTINGS = {'checkpoint': 'a', 'samples': 2, 'temperature': 0.6}
ROWS = [{'problem': i // 2, 'sample': i % 2, 'response': f'läuft\n"{i}" \u2028 €'} for i in range(10)]  # batches of 4, 4, 2


def open_writer(directory, settings=SETTINGS):
  return SampleWriter(directory, settings, batch=4, total=10)


def finish(directory):
  with open_writer(directory) as writer:
    for start in range(writer.lines, 10, 4):
      writer.write(ROWS[start : start + 4])
  return (directory / 'samples.jsonl').read_bytes()


def test_a_file_cut_at_any_byte_is_continued_to_the_same_bytes(tmp_path):
  whole = finish(tmp_path / 'whole')
  assert list(read_samples(tmp_path / 'whole')) == ROWS
  ends = np.cumsum([len(line) for line in whole.splitlines(keepends=True)])
  assert len(ends) == 10
  for cut in range(len(whole) + 1):
    directory = tmp_path / str(cut)
    with open_writer(directory):
      pass
    (directory / 'samples.jsonl').write_bytes(whole[:cut])
    lines = int((ends <= cut).sum())
    assert len(list(read_samples(directory))) == lines
    with open_writer(directory) as writer:
      assert writer.lines == (10 if lines == 10 else lines - lines % 4)
    assert finish(directory) == whole


def test_other_settings_are_refused_and_nothing_is_touched(tmp_path):
  whole = finish(tmp_path)
  with pytest.raises(OutputError, match=r'settings.json: samples = 4 was 2, new = 1 was None; fix: another --output'):
    open_writer(tmp_path, SETTINGS | {'samples': 4, 'new': 1})
  assert (tmp_path / 'samples.jsonl').read_bytes() == whole
  (tmp_path / 'settings.json').write_text('{')
  with pytest.raises(OutputError, match=r'settings.json: not JSON'):
    open_writer(tmp_path)
  (tmp_path / 'settings.json').unlink()
  with pytest.raises(OutputError, match=r'holds a samples.jsonl without its settings.json'):
    open_writer(tmp_path)


@pytest.mark.parametrize('name', ['config.json', 'summary.json'])
def test_the_folder_of_a_run_or_a_model_is_left_as_it_is(tmp_path, name):
  (tmp_path / name).write_text('{"model_type": "qwen2"}')
  with pytest.raises(OutputError, match=rf'holds the {name} of a run or a model, which would be lost; fix: another folder'):
    open_writer(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_writers_at_a_time_are_refused(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(ROWS[:4])
    with pytest.raises(OutputError, match='another process is writing'):
      open_writer(tmp_path)
    writer.write(ROWS[4:8])
  with open_writer(tmp_path) as writer:
    assert writer.lines == 8


def test_a_damaged_line_is_named(tmp_path):
  finish(tmp_path)
  lines = (tmp_path / 'samples.jsonl').read_bytes().splitlines(keepends=True)
  (tmp_path / 'samples.jsonl').write_bytes(b''.join([lines[0], b'\0\0\n', *lines[2:]]))
  with pytest.raises(OutputError, match=r'samples.jsonl:2: not JSON'):
    list(read_samples(tmp_path))


def answer(text, correct, length, status='ok', stop_reason='eos'):
  return {'answer': text, 'correct': correct, 'length': length, 'status': status, 'stop_reason': stop_reason}


ANSWERS = [
  *(answer('4', True, 10), answer('4', True, 20), answer('5', False, 99, stop_reason='length'), answer('', False, 7)),
  *(answer('1', False, 30), answer('2', True, 40), answer('3', False, 50, 'timeout'), answer('', False, 8, 'error')),
  *(answer('9', False, 5) for _ in range(4)),
]


def test_summary_of_answers_by_hand():
  summary = summarise_samples(iter(ANSWERS), 4)
  values = {name: score['value'] for name, score in summary['scores'].items()}
  assert (summary['problems'], summary['samples']) == (3, 4)
  assert values == {
    'avg@4': pytest.approx(3 / 12),
    'pass@1': pytest.approx(3 / 12),
    'pass@2': pytest.approx(np.mean(pass_at_k(np.array([2, 1, 0]), 4, 2))),
    'pass@4': pytest.approx(2 / 3),
    'maj@4': pytest.approx((1 + 1 / 3 + 0) / 3),
  }
  for score in summary['scores'].values():
    low, high = score['interval']
    assert 0 <= low <= score['value'] <= high <= 1
  right = summary['lengths']['right']
  assert right == {'count': 3, 'mean': pytest.approx(70 / 3), 'p5': 11.0, 'p25': 15.0, 'p50': 20.0, 'p75': 30.0, 'p95': 38.0}
  assert summary['lengths']['wrong']['count'] == 9
  shares = {name: summary[name] for name in ('truncated', 'no_answer', 'timeouts', 'errors')}
  assert shares == pytest.approx({'truncated': 1 / 12, 'no_answer': 2 / 12, 'timeouts': 1 / 12, 'errors': 1 / 12})
  assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize('right', [True, False])
def test_where_all_is_right_or_wrong_the_interval_still_has_a_width(right):
  scores = summarise_samples([answer('1', right, 1)] * 12, 2)['scores']
  assert all(score['value'] == right and score['interval'] == list(wilson(6 * right, 6)) for score in scores.values())


def test_the_powers_of_two_stop_at_the_number_of_samples():
  rows = [answer('1', True, 1)] * 12
  assert list(summarise_samples(rows, 6)['scores']) == ['avg@6', 'pass@1', 'pass@2', 'pass@4', 'maj@6']
  assert list(summarise_samples(rows, 1)['scores']) == ['avg@1', 'pass@1', 'maj@1']


def test_the_table_has_the_numbers_and_says_where_there_are_none():
  text = format_scores(summarise_samples(ANSWERS, 4))
  lines = text.splitlines()
  assert lines[1].split()[:2] == ['avg@4', '25.0']
  assert any(line.split()[:3] == ['right', '3', '23'] for line in lines)
  assert lines[-1].startswith('8.3 % cut by the horizon, 16.7 % stating no answer, 8.3 % not graded in time')
  only_wrong = format_scores(summarise_samples(ANSWERS[8:], 4))
  assert 'right' in only_wrong
  assert next(line for line in only_wrong.splitlines() if line.startswith('right')).split()[1:] == ['0', *['-'] * 6]
