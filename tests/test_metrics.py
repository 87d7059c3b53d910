"""Metrics on disk: one JSON object per line, and what TensorBoard reads of them, of texts and of tables."""

import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import markdown
import numpy as np
import pytest

from espo_jax.monitor import MetricWriter, column, read_metrics
from espo_jax.monitor.metrics import write_table, write_texts

pytestmark = pytest.mark.quick


def _tensorboard_events(directory):
  """What TensorBoard reads, by the format's own protobuf."""
  from tensorboardX.proto.event_pb2 import Event

  for path in sorted((directory / 'tensorboard').iterdir()):
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
      (size,) = struct.unpack('<Q', data[at : at + 8])
      yield Event.FromString(data[at + 12 : at + 12 + size])
      at += 16 + size


def _tensorboard_steps(directory):
  """Steps of the tag `loss`, purges applied as TensorBoard does."""
  from tensorboardX.proto.event_pb2 import SessionLog

  steps = []
  for event in _tensorboard_events(directory):
    if event.session_log.status == SessionLog.START:
      steps = [step for step in steps if step < event.step]
    steps += [event.step for value in event.summary.value if value.tag == 'loss']
  return steps


def test_texts_are_written_beside_the_scalars_as_they_are(tmp_path):
  with MetricWriter(tmp_path, resume_step=0) as writer:
    writer.write(1, {'loss': 1.0})
  texts = ['right\n\n1+1=', '<b>*no markup*</b>']
  write_texts(tmp_path, 7, texts)
  found = {
    v.tag: (e.step, v.tensor.string_val[0].decode())
    for e in _tensorboard_events(tmp_path)
    for v in e.summary.value
    if v.metadata.plugin_data.plugin_name == 'text'
  }
  indented = [''.join(f'    {line}\n' for line in text.split('\n')) for text in texts]  # a block of code in Markdown
  assert found == {f'rollouts/00{i}/text_summary': (7, text) for i, text in enumerate(indented)}
  assert _tensorboard_steps(tmp_path) == [1]


def test_a_table_keeps_its_cells_whatever_they_hold(tmp_path):
  hostile = ['a|b', '<script>x</script>', '[x](http://y)', '`*_~', 'two\nlines', '\u202eabc', 7, 0.5, None]
  write_table(tmp_path, 7, 'rollouts', ('name', 'value'), [(str(i), value) for i, value in enumerate(hostile)])
  ((tag, step, text),) = [
    (v.tag, e.step, v.tensor.string_val[0].decode()) for e in _tensorboard_events(tmp_path) for v in e.summary.value
  ]
  assert (tag, step) == ('rollouts/text_summary', 7)
  page = ElementTree.fromstring(markdown.markdown(text, extensions=['tables']))  # TensorBoard renders texts with this library
  rows = [[''.join(cell.itertext()) for cell in row] for row in page.iter('tr')]
  assert rows == [['name', 'value'], *([str(i), str(value).replace('\n', ' ')] for i, value in enumerate(hostile))]
  assert {element.tag for element in page.iter()} == {'table', 'thead', 'tbody', 'tr', 'th', 'td'}


def test_metrics_round_trip_with_missing_and_non_finite_numbers(tmp_path, caplog):
  with MetricWriter(tmp_path, resume_step=0) as writer:
    writer.write(1, {'loss': np.float32(0.5), 'kl': float('nan'), 'beta': float('inf')})
    writer.write(2, {'loss': 1})
  assert not caplog.records  # TensorBoard's writer warns of each number that is not finite
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert text == '{"step": 1, "loss": 0.5, "kl": null, "beta": null}\n{"step": 2, "loss": 1.0}\n'
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2]
  np.testing.assert_array_equal(column(rows, 'kl'), [np.nan, np.nan])
  np.testing.assert_array_equal(column(rows, 'loss'), [0.5, 1.0])


def test_steps_must_increase(tmp_path):
  with MetricWriter(tmp_path, resume_step=3) as writer:
    with pytest.raises(ValueError, match='increase'):
      writer.write(3, {})
    writer.write(4, {})
    with pytest.raises(ValueError, match='increase'):
      writer.write(4, {})


@pytest.mark.parametrize('torn', ['', '{"step": 7, "lo', '{"step": 7, "loss": 0.7}'])
@pytest.mark.parametrize('resume_step', [0, 4, 6])
def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path, torn, resume_step):
  def write(directory, first, last, resume):
    with MetricWriter(directory, resume) as writer:
      for step in range(first, last + 1):
        writer.write(step, {'loss': step / 10})

  write(tmp_path / 'whole', 1, 9, 0)
  write(tmp_path / 'killed', 1, 6, 0)
  with (tmp_path / 'killed' / 'metrics.jsonl').open('a') as file:
    file.write(torn)
  assert [row['step'] for row in read_metrics(tmp_path / 'killed')][:6] == [1, 2, 3, 4, 5, 6]
  write(tmp_path / 'killed', resume_step + 1, 9, resume_step)
  whole, resumed = ((tmp_path / name / 'metrics.jsonl').read_bytes() for name in ('whole', 'killed'))
  assert resumed == whole
  assert _tensorboard_steps(tmp_path / 'killed') == list(range(1, 10))


def test_a_kill_loses_no_written_line(tmp_path):
  program = f"""
    import os, signal
    from espo_jax.monitor.metrics import MetricWriter
    writer = MetricWriter({str(tmp_path)!r}, 0)
    for step in range(1, 51):
      writer.write(step, {{'loss': step}})
    os.kill(os.getpid(), signal.SIGKILL)
  """
  process = subprocess.run([sys.executable, '-c', textwrap.dedent(program)], cwd=Path(__file__).parents[1], check=False)
  assert process.returncode == -signal.SIGKILL
  assert [row['loss'] for row in read_metrics(tmp_path)] == list(range(1, 51))


def test_a_broken_line_inside_the_file_is_an_error(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(ValueError, match='line 2'):
    read_metrics(tmp_path)


def test_metrics_are_written_without_the_seconds_that_torch_takes_to_import(tmp_path):
  code = """
import sys
from espo_jax.monitor import MetricWriter
with MetricWriter(sys.argv[1], 0) as writer:
  writer.write(1, {'accuracy': 0.5})
assert 'torch' not in sys.modules
import torch  # whoever wants it gets it
"""
  subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=True, timeout=120)
  assert [row['accuracy'] for row in read_metrics(tmp_path)] == [0.5]
  assert any((tmp_path / 'tensorboard').iterdir())
