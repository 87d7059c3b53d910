"""Damaged checkpoints: the newest whole one is used, the run ends as if nothing had happened, and nothing is deleted."""

import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from espo_jax.learner import CheckpointError, Checkpoints, restore
from espo_jax.learner.checkpoint import survey
from espo_jax.learner.damage import _places, damage
from espo_jax.monitor import read_metrics
from espo_jax.stages.loop import Interruption, Stage, run_stage

pytestmark = pytest.mark.quick

LAST = 8
NOISE = np.random.default_rng(0).normal(size=600).astype(np.float32)  # too long to stand in the index of the arrays


@jax.jit
def add(state, step):
  return jax.tree.map(lambda x: x + step, state)


def step(state, number):
  state = add(state, jax.device_put(np.float32(number)))
  return state, {'bad_steps': 0, 'accuracy': number / 10, 'loss': state['count']}


def initial():
  return {'params': {'a': jnp.asarray(NOISE), 'b': jnp.zeros((3, 4))}, 'count': jnp.float32(0)}


def run(directory, keep_last=3):
  stage = Stage('test', directory, 0, LAST, step, checkpoint_every=3, keep_last=keep_last, keep_best=1, max_bad_steps=3)
  state, end = run_stage(stage, initial(), Interruption())
  assert end == LAST
  return state


def rows(directory):
  return [{name: row[name] for name in ('step', 'loss', 'accuracy')} for row in read_metrics(directory)]


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """A stage with checkpoints of the steps 3, 6 and 8, and its state in the end."""
  directory = tmp_path_factory.mktemp('stage')
  return directory, run(directory)


@pytest.fixture
def copy(uninterrupted, tmp_path):
  shutil.copytree(uninterrupted[0], tmp_path / 'stage')
  return tmp_path / 'stage'


def files(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def one(pattern):
  """The one file of a checkpoint that fits."""

  def find(folder):
    (path,) = (path for path in folder.glob(pattern) if path.is_file())
    return path

  return find


MANIFEST, INDEX, DATA = one('state/manifest.ocdbt'), one('state/d/*'), one('state/ocdbt.process_0/d/*')
CHECKPOINT, TREE = one('_CHECKPOINT_METADATA'), one('state/_METADATA')


def remove(path):
  path.unlink()


def empty(path):
  path.write_bytes(b'')


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 0xFF
  path.write_bytes(raw)


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def garble(path):
  """Wrong from its first byte, though neither short nor zero."""
  path.write_bytes(b'\xa5' * path.stat().st_size)


def to_folder(path):
  path.unlink()
  path.mkdir()


def to_nowhere(path):
  path.unlink()
  path.symlink_to('no_longer_there')


def clear(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def to_file(folder):
  shutil.rmtree(folder)
  folder.write_text('not a folder')


def forget(path):
  path.write_text('{"custom_metadata": null}')


DAMAGED = {
  'the folder is empty': (clear, lambda folder: folder, 'no _CHECKPOINT_METADATA'),
  'a file has its name': (to_file, lambda folder: folder, 'no _CHECKPOINT_METADATA'),
  'its arrays are gone': (shutil.rmtree, lambda folder: folder / 'state', 'no _METADATA'),
  'its metadata is removed': (remove, CHECKPOINT, 'no _CHECKPOINT_METADATA'),
  'its metadata is empty': (empty, CHECKPOINT, '_CHECKPOINT_METADATA is empty'),
  'its metadata is cut': (cut, CHECKPOINT, '_CHECKPOINT_METADATA is not JSON'),
  'its metadata is zeroed': (zero, CHECKPOINT, '_CHECKPOINT_METADATA is not JSON'),
  'its metadata lacks our own': (forget, CHECKPOINT, 'does not say whether the stage is done'),
  'the tree is removed': (remove, TREE, 'no _METADATA'),
  'the tree is empty': (empty, TREE, 'state/_METADATA is empty'),
  'the tree is cut': (cut, TREE, 'state/_METADATA is not JSON'),
  'the manifest is removed': (remove, MANIFEST, 'the index of state/ cannot be read'),
  'the manifest is empty': (empty, MANIFEST, 'the index of state/ cannot be read'),
  'the manifest has another byte': (flip, MANIFEST, 'CRC-32C'),
  'the index is removed': (remove, INDEX, 'the index of state/ cannot be read'),
  'the index is cut': (cut, INDEX, 'the index of state/ cannot be read'),
  'the index has another byte': (flip, INDEX, 'CRC-32C'),
  'the data are removed': (remove, DATA, 'No such file or directory'),
  'the data are empty': (empty, DATA, ' has 0 bytes of at least '),
  'the data are cut': (cut, DATA, ' bytes of at least '),
  'the data are zeroed': (zero, DATA, 'holds zeros before its byte'),
  'the data are garbled': (garble, DATA, ''),
  'the data are a folder': (to_folder, DATA, ''),
  'the data are a broken link': (to_nowhere, DATA, 'No such file or directory'),
  'the metrics are empty': (empty, one('metrics/metrics'), 'metrics/metrics is empty'),
  'the shardings are empty': (empty, one('state/_sharding'), 'state/_sharding is empty'),
  'the shards are cut': (cut, one('state/array_metadatas/*'), 'state/array_metadatas/process_0 is not JSON'),
}


@pytest.fixture
def warnings(monkeypatch):
  from absl import logging

  told = []
  monkeypatch.setattr(logging, 'warning', lambda message, *values: told.append(message % values))
  return told


@pytest.mark.parametrize('case', DAMAGED)
def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_it_were_whole_and_keeps_it(case, uninterrupted, copy, warnings):
  harm, find, reason = DAMAGED[case]
  newest = copy / 'checkpoints' / str(LAST)
  harm(find(newest))
  left = files(newest)
  state = run(copy, keep_last=1)
  for ours, theirs in zip(*map(jax.tree.leaves, (state, uninterrupted[1])), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert rows(copy) == rows(uninterrupted[0])
  assert files(copy / 'checkpoints' / f'damaged-{LAST}') == left
  (told,) = (line for line in warnings if 'left aside' in line)
  assert told.startswith(f'{newest} cannot be read: ')
  assert reason in told
  assert told.endswith(f'; it is left aside as damaged-{LAST}, and step 6 is used')
  assert damage(newest) == ''
  assert restore(copy / 'checkpoints', initial())[1:] == (LAST, True)


@pytest.mark.parametrize(
  ('harm', 'pattern'),
  [
    (remove, 'commit_success.txt'),
    (empty, 'state/commit_success.txt'),
    (remove, 'state/_sharding'),
    (empty, 'metrics/commit_success.txt'),
    (remove, 'metrics/metrics'),
    (remove, 'state/array_metadatas/*'),
    (cut, 'state/ocdbt.process_0/manifest.ocdbt'),
  ],
)
def test_what_a_checkpoint_can_do_without_is_no_damage(harm, pattern, copy, warnings):
  newest = copy / 'checkpoints' / str(LAST)
  harm(one(pattern)(newest))
  assert restore(copy / 'checkpoints', initial())[1:] == (LAST, True)
  assert newest.is_dir()
  assert not warnings


def test_the_newest_whole_one_is_looked_for_as_far_as_there_are_any_and_an_old_one_is_left_aside_as_well(copy, warnings):
  folder = copy / 'checkpoints'
  empty(DATA(folder / '8'))
  garble(DATA(folder / '6'))
  (folder / 'damaged-8').mkdir()
  (folder / '9.orbax-checkpoint-tmp').mkdir()
  (folder / '007').mkdir()
  state = restore(folder, initial())
  assert state[1:] == (3, False)
  assert float(state.state['count']) == 6
  assert {path.name for path in folder.iterdir()} == {
    '3',
    '007',
    'damaged-6',
    'damaged-8',
    'damaged-8-1',
    '9.orbax-checkpoint-tmp',
  }
  assert len(warnings) == 2


@pytest.mark.parametrize(
  'case', ['its metadata is cut', 'the metrics are empty', 'the data are removed', 'the folder is empty']
)
def test_an_old_damaged_checkpoint_is_in_nobodys_way(case, uninterrupted, copy):
  harm, find, _ = DAMAGED[case]
  harm(find(copy / 'checkpoints' / '3'))
  shutil.rmtree(copy / 'checkpoints' / '8')
  assert jax.tree.all(jax.tree.map(np.array_equal, run(copy), uninterrupted[1]))
  assert (copy / 'checkpoints' / 'damaged-3').exists()


@pytest.mark.parametrize('case', ['its metadata is empty', 'the data are garbled', 'the index is cut', 'the folder is empty'])
def test_where_none_is_whole_an_error_names_all_and_the_fix_and_nothing_is_moved(case, copy):
  harm, find, reason = DAMAGED[case]
  for name in ('3', '6', '8'):
    harm(find(copy / 'checkpoints' / name))
  before = files(copy)
  with pytest.raises(CheckpointError, match=r'no checkpoint under .* is whole: ') as refused:
    run(copy)
  message = str(refused.value)
  for name in ('3', '6', '8'):
    assert f'{copy / "checkpoints" / name}: ' in message
  assert message.count(reason) >= 3
  assert 'fix: a copy of one of them, or move them away to train the stage anew' in message
  assert files(copy) == before


def test_what_is_not_the_checkpoints_fault_is_not_called_damage(copy, monkeypatch):
  from orbax.checkpoint.experimental import v1 as ocp

  def out_of_memory(*_):
    try:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
    except jax.errors.JaxRuntimeError as error:
      raise KeyError('Failed to load') from error

  monkeypatch.setattr(ocp, 'load', out_of_memory)
  with pytest.raises(jax.errors.JaxRuntimeError, match='RESOURCE_EXHAUSTED'):
    restore(copy / 'checkpoints', initial())
  assert (copy / 'checkpoints' / '8').is_dir()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda s: s['params'].update(a=jnp.zeros(601)), 'params/a has the shape (600,) there and (601,) here'),
    (lambda s: s['params'].update(a=jnp.zeros((600, 1))), 'params/a has the shape (600,) there and (600, 1) here'),
    (lambda s: s['params'].update(b=jnp.zeros((4, 3))), 'params/b has the shape (3, 4) there and (4, 3) here'),
    (lambda s: s['params'].update(b=jnp.zeros(())), 'params/b has the shape (3, 4) there and () here'),
    (lambda s: s.update(count=jnp.zeros(2)), 'count has the shape () there and (2,) here'),
    (lambda s: s['params'].pop('a'), 'params/a, of the shape (600,), stands there alone'),
    (lambda s: s['params'].update(c=jnp.zeros(5)), 'params/c, of the shape (5,), stands here alone'),
    (lambda s: s.update(params={'x': jnp.zeros(5)}), 'stands here alone'),
  ],
)
def test_a_state_of_other_shapes_is_no_damage_but_an_error_that_names_both(change, message, copy):
  like = initial()
  change(like)
  before = files(copy)
  with pytest.raises(CheckpointError, match='is of another model than the config: ') as refused:
    restore(copy / 'checkpoints', like)
  assert message in str(refused.value)
  assert f'{copy / "checkpoints" / str(LAST)} is of' in str(refused.value)
  assert 'fix: the model fields, tokenizer and model.path that it was trained with' in str(refused.value)
  assert files(copy) == before


@pytest.mark.parametrize('missing', [1, 60])
def test_an_index_of_many_levels_is_followed_to_its_leaves(missing, tmp_path):
  state = tmp_path / 'state'
  state.mkdir()
  (tmp_path / '_CHECKPOINT_METADATA').write_text('{"custom_metadata": {"done": true}}')
  (state / '_METADATA').write_text('{}')
  small = {'max_decoded_node_bytes': 300, 'max_inline_value_bytes': 0}
  store = ts.KvStore.open({'driver': 'ocdbt', 'base': f'file://{state}/', 'config': small}).result()
  for i in range(64):
    store.write(f'array {i:02}', b'value %d' % i).result()
  root = ts.ocdbt.dump(ts.KvStore.open({'driver': 'file', 'path': f'{state}/'}).result()).result()['versions'][-1]
  assert root['root_height'] > 0
  assert damage(tmp_path) == ''
  places = sorted(_places(ts.KvStore.open({'driver': 'file', 'path': f'{state}/'}).result(), root['root']))
  assert len(places) == 64
  file, end = places[-missing]
  os.truncate(state / file, end - 1)
  # The file may hold a part of the index as well.
  reasons = (f'state/{file} has {end - 1} bytes of at least ', 'the index of state/ cannot be read')
  assert damage(tmp_path).startswith(reasons)


def test_a_checkpoint_that_is_written_leaves_no_thread_and_no_handle(tmp_path):
  counts = []
  with Checkpoints(tmp_path, keep_last=2) as checkpoints:
    for number in range(1, 25):
      checkpoints.save(number, initial(), done=False)
      counts.append((threading.active_count(), len(os.listdir('/proc/self/fd'))))
  threads, handles = (np.array(column) for column in zip(*counts, strict=True))
  assert threads[12:].max() - threads[4:12].max() < 4  # there were 12 more
  assert handles[12:].max() - handles[4:12].max() < 9  # there were 36 more
  assert survey(tmp_path) == {23: '', 24: ''}
