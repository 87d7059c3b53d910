"""Disks that fail: each writer's error has the file, a command says what to do, and a damaged file is named."""

import contextlib
import errno
import json
import os
import pathlib
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from espo_jax import tasks
from espo_jax.commands import machine_errors
from espo_jax.configs import ConfigError, default_config, load_config
from espo_jax.learner import Checkpoints, restore
from espo_jax.monitor import MetricWriter, SampleWriter, atomic_write_arrays, atomic_write_text, read_metrics
from espo_jax.monitor.tensorboard import EventFile
from espo_jax.parallel.storage import DamagedFile, read_arrays, read_json, reason, writing

pytestmark = pytest.mark.quick

LONG = 'x' * 200_000


@contextlib.contextmanager
def short_files():
  """No file may have more than 100 kB, whichever library writes it."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def metrics(folder):
  with MetricWriter(folder, 0) as writer:
    for step in range(1, 5):
      writer.write(step, {f'{i}/{LONG[:1000]}': 1.0 for i in range(50)})


def samples(folder):
  with SampleWriter(folder, {'seed': 0}, batch=1, total=2) as writer:
    writer.write([{'response': LONG}])


def checkpoint(folder):
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(2, {'a': jnp.asarray(np.random.default_rng(0).normal(size=10**5).astype(np.float32))}, done=False)


def texts(folder):
  with contextlib.closing(EventFile(folder)) as file:
    file.add_texts(1, {'a': LONG})


def tensors(folder):
  with writing(folder / 'x.safetensors'):
    save_file({'a': np.zeros(10**5, np.float32)}, folder / 'x.safetensors')


def tokenizer(folder):
  words = tasks.get('chain').tokenizer()
  words.add_tokens([f'{i}{LONG[:10_000]}' for i in range(20)])
  with writing(folder / 'tokenizer'):
    words.save_pretrained(folder / 'tokenizer')


WRITERS = {
  'text': lambda folder: atomic_write_text(folder / 'a.txt', LONG),
  'arrays': lambda folder: atomic_write_arrays(folder / 'a.npz', {'a': np.random.default_rng(0).normal(size=10**5)}),
} | {f.__name__: f for f in (metrics, samples, checkpoint, texts, tensors, tokenizer)}


@pytest.mark.parametrize('name', WRITERS)
def test_what_a_disk_refuses_is_an_error_with_its_path(name, tmp_path):
  with short_files(), pytest.raises(OSError) as refused:
    WRITERS[name](tmp_path)
  assert refused.value.errno == errno.EFBIG
  assert str(refused.value.filename).startswith(str(tmp_path))
  assert not list(tmp_path.rglob('*.tmp'))  # nothing that takes room


def test_a_checkpoint_that_was_not_written_leaves_the_one_before(tmp_path):
  state = {'a': jnp.arange(10.0)}
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, done=False)
  with short_files(), pytest.raises(OSError):
    checkpoint(tmp_path)
  found = restore(tmp_path, state)
  assert found.step == 1
  np.testing.assert_array_equal(found.state['a'], np.arange(10.0))
  with Checkpoints(tmp_path) as checkpoints:  # there is room again
    checkpoints.save(2, state, done=True)
  assert restore(tmp_path, state).step == 2


def test_a_full_disk_under_tensorboard_does_not_hang(tmp_path):
  writer = MetricWriter(tmp_path, 0)
  writer._tensorboard._file.close()
  writer._tensorboard._file = pathlib.Path('/dev/full').open('wb')  # noqa: SIM115
  with pytest.raises(OSError, match='No space left on device') as refused:
    for step in range(1, 100):
      writer.write(step, {str(i): 1.0 for i in range(50)})
  assert '/tensorboard/' in refused.value.filename
  with pytest.raises(OSError, match='No space left on device'):
    writer.close()
  assert [row['step'] for row in read_metrics(tmp_path)] == [1]


@pytest.mark.parametrize(
  ('number', 'said'),
  [
    (errno.ENOSPC, r'No space left on device \([\d,.]+ of [\d,.]+ MiB.* are free\); fix: make room, then the same command'),
    (errno.EDQUOT, 'Disk quota exceeded; fix: make room within the quota, then the same command'),
    (errno.EROFS, 'Read-only file system; fix: a folder on a file system that can be written'),
    (errno.EACCES, r'Permission denied; fix: a folder that you may read and write'),
    (errno.EIO, 'Input/output error; fix: see what the system log says'),
    (errno.ENOTDIR, 'Not a directory; fix: a path of the right kind'),
  ],
)
def test_a_command_ends_with_the_path_the_reason_and_the_fix(number, said, tmp_path):
  with pytest.raises(SystemExit, match=rf'^error: {tmp_path}/no/such/file: {said}'), machine_errors(str):
    raise OSError(number, os.strerror(number), str(tmp_path / 'no/such/file'))


def test_an_error_that_hides_its_cause_is_not_taken_for_one_of_the_disk(tmp_path):
  def fail():
    try:
      raise OSError(errno.ENOSPC, 'no room', 'the source')
    except OSError:
      raise ValueError('the source is cut short') from None

  with pytest.raises(ValueError, match='the source is cut short'), writing(tmp_path):
    fail()


def test_an_archive_that_is_missing_is_no_damaged_one(tmp_path):
  with pytest.raises(FileNotFoundError):
    read_arrays(tmp_path / 'rows.npz')
  (tmp_path / 'rows.npz').write_bytes(b'PK\x03\x04 and no more')
  with pytest.raises(DamagedFile, match=r'rows.npz: no NumPy archive'):
    read_arrays(tmp_path / 'rows.npz')


@pytest.mark.parametrize(
  'error', [ConnectionResetError(errno.ECONNRESET, 'reset'), OSError('no number'), ValueError('(os error x)')]
)
def test_an_error_of_no_file_passes_as_it_is(error):
  with (
    pytest.raises(type(error)) as passed,
    machine_errors(str),
    writing('x') if not error.args[1:] else contextlib.nullcontext(),
  ):
    raise error
  assert passed.value is error


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'{"a": ', r'not JSON \(.*\)'),
    (b'\xff\xfe', r'not JSON \(.*\)'),
    (b'[' * 100_000, r'not JSON \(.*\)'),
    (b'', r'not JSON \(.*\)'),
    (b'[1]', 'not a dict in JSON but list'),
  ],
)
def test_a_damaged_file_of_a_run_is_named_with_the_fix(content, said, tmp_path):
  path = tmp_path / 'evaluation.json'
  path.write_bytes(content)
  with pytest.raises(DamagedFile, match=rf'^{path}: {said}; fix: remove it, and the command'):
    read_json(path)
  with pytest.raises(SystemExit, match=rf'^error: {path}: '), machine_errors(str):
    read_json(path)


@pytest.mark.parametrize('line', ['nonsense', '[1]', '{"loss": 1}', '{"step": "x"}', '[' * 100_000])
def test_a_damaged_line_of_metrics_is_named_with_the_fix(line, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('\n'.join([json.dumps({'step': 1}), line, json.dumps({'step': 2}), '']))
  with pytest.raises(
    DamagedFile, match=rf'^{path}, line 2: not a line of metrics .*; fix: remove the line, or a copy of the file'
  ):
    read_metrics(tmp_path)


def test_an_error_of_orbax_is_raised_and_not_logged_with_its_traceback(tmp_path, caplog):
  with short_files(), pytest.raises(OSError):
    checkpoint(tmp_path)
  assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
  ('field', 'value'), [('seed', '{{ x }}'), ('learner.learning_rate', 'x' * 10**5), ('stop.name', [[[]]])]
)
def test_a_field_of_another_type_in_the_config_of_a_run_is_named(field, value, tmp_path):
  written = default_config().to_dict()
  holder = written
  *sections, name = field.split('.')
  for section in sections:
    holder = holder[section]
  holder[name] = value
  (tmp_path / 'config.json').write_text(json.dumps(written, default=list))
  with pytest.raises(ConfigError, match=rf'{field} = .{{1,120}} in {tmp_path}/config.json: not .*; fix: the') as refused:
    load_config(tmp_path / 'config.json')
  assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'', 'EOFError'),
    (b'PK\x03\x04' + bytes(40), 'BadZipFile'),
    (b'\x93NUMPY\x01\x00', ''),
    (LONG.encode(), 'ValueError'),
  ],
)
def test_a_damaged_archive_is_named_in_one_short_line(content, said, tmp_path):
  (tmp_path / 'a.npz').write_bytes(content)
  with pytest.raises(DamagedFile, match=rf'^{tmp_path}/a.npz: no NumPy archive \({said}.*; fix: a copy of it$') as refused:
    read_arrays(tmp_path / 'a.npz')
  assert len(str(refused.value)) < 1000


def test_a_message_that_quotes_a_file_is_cut():
  assert reason(ValueError('a\n b')) == 'a b'
  assert len(reason(ValueError(LONG))) < 400


def test_a_library_that_tells_in_words_alone_of_a_full_disk_is_understood():
  with pytest.raises(OSError, match='No space left on device') as refused, writing('out/rows'):
    raise RuntimeError('Failed to finalize: write() failed: No space left on device; at byte 12288')
  assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, 'out/rows')


def test_a_value_as_long_as_a_file_leaves_field_and_fix_in_a_message():
  told = str(ConfigError([f'stop.name = {LONG}: unknown; fix: espo']))
  assert 'stop.name = x' in told and told.endswith('unknown; fix: espo') and len(told) < 3_000
  assert str(ConfigError([f'{i}: wrong' for i in range(1_000)])).endswith('14: wrong\n  and 985 more')
