"""Checksums of arrays: against numpy, on every dtype and mesh, and in checkpoints, where they find what files do not show."""

import collections
import json
import re
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from espo_jax import parallel
from espo_jax.learner import CheckpointError, Checkpoints, restore
from espo_jax.learner.checkpoint import Unreadable, load
from espo_jax.learner.checksums import checksum, checksums

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
ARRAYS = {
  'float32': RNG.normal(size=(3, 5, 7)).astype(np.float32),
  'bfloat16': RNG.normal(size=(9, 4)).astype(ml_dtypes.bfloat16),
  'float16': RNG.normal(size=11).astype(np.float16),
  'int32': RNG.integers(-(2**31), 2**31, (2, 3), np.int64).astype(np.int32),
  'uint8': RNG.integers(0, 256, 100).astype(np.uint8),
  'bool': RNG.random((4, 4)) < 0.5,
  'a number': np.float32(3.5),
  'nothing': np.zeros((0, 3), np.float32),
}


def of_bytes(x: np.ndarray) -> int:
  """The checksum in Python's integers, which do not overflow."""
  size = x.dtype.itemsize
  raw, total = x.tobytes(), 0
  for place in range(x.size):
    word = (int.from_bytes(raw[place * size : (place + 1) * size], 'little') + place * 2654435769) % 2**32
    word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
    word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
    total += word ^ (word >> 16)
  return total % 2**32


@pytest.mark.parametrize('name', ARRAYS)
def test_a_checksum_is_that_of_the_bytes(name):
  assert checksums({'x': jnp.asarray(ARRAYS[name])}) == {'x': of_bytes(ARRAYS[name])}


def test_a_number_of_64_bits_is_two_words():
  x = RNG.normal(size=(3, 5))
  with jax.enable_x64(True):
    assert int(checksum(jnp.asarray(x))) == of_bytes(x.view(np.uint32))


@pytest.mark.parametrize('spec', [(), ('data',), (None, ('data', 'fsdp')), ('fsdp', 'data')])
def test_a_checksum_does_not_depend_on_how_an_array_is_split(spec):
  mesh = parallel.make_mesh(2, 4, 1)
  x = RNG.normal(size=(8, 16)).astype(np.float32)
  assert int(checksum(jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec))))) == of_bytes(x)


def test_each_flipped_bit_and_each_swap_changes_a_checksum():
  x = RNG.normal(size=16).astype(np.float32)
  flipped = np.repeat(x.view(np.uint32)[None], 16 * 32, axis=0)
  flipped[np.arange(512), np.arange(512) // 32] ^= np.uint32(1) << (np.arange(512) % 32).astype(np.uint32)
  swaps = [(i, j) for i in range(16) for j in range(i)]
  swapped = np.stack([x[[{i: j, j: i}.get(k, k) for k in range(16)]] for i, j in swaps]).view(np.uint32)
  found = {int(value) for value in jax.vmap(checksum)(jnp.concatenate([flipped, swapped]))}
  assert of_bytes(x) not in found
  assert of_bytes(-x) not in found


def saved(folder, state, step=1):
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(step, state, done=False)
  return folder / str(step)


def a_state(offset=0.0):
  return {'params': {'a': jnp.asarray(ARRAYS['float32']) + offset, 'b': jnp.zeros((3, 4))}, 'count': jnp.float32(offset)}


def change_checksum(folder, path):
  """As if the array had other bytes than were saved."""
  file = folder / '_CHECKPOINT_METADATA'
  changed = re.sub(rf'("{path}": )(\d+)', lambda match: f'{match[1]}{(int(match[2]) + 1) % 2**32}', file.read_text())
  assert changed != file.read_text()
  file.write_text(changed)


def test_an_array_that_is_not_the_saved_one_is_damage_and_the_older_checkpoint_is_used(tmp_path):
  saved(tmp_path, a_state())
  change_checksum(saved(tmp_path, a_state(1.0), step=2), 'params/a')
  found = restore(tmp_path, a_state())
  assert found.step == 1
  np.testing.assert_array_equal(found.state['params']['a'], ARRAYS['float32'])
  assert (tmp_path / 'damaged-2').is_dir()


def test_arrays_of_another_checkpoint_of_the_same_shapes_are_found(tmp_path):
  ours, theirs = saved(tmp_path / 'ours', a_state()), saved(tmp_path / 'theirs', a_state(1.0))
  (theirs / 'state').rename(tmp_path / 'state')
  (ours / 'state').rename(theirs / 'state')
  with pytest.raises(CheckpointError, match=r'count has other values than were saved, by its checksum.*; fix: a copy'):
    restore(tmp_path / 'theirs', a_state())


def test_what_is_read_in_another_dtype_is_checked_in_its_own(tmp_path):
  folder = saved(tmp_path, a_state())
  like = {'params': {'a': a_state()['params']['a'], 'b': jnp.zeros((3, 4), jnp.bfloat16)}}
  read = load(folder, like)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), read) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
  np.testing.assert_array_equal(read['params']['a'], ARRAYS['float32'])
  narrow = load(folder, jax.tree.map(lambda x: x.astype(jnp.bfloat16), like))
  np.testing.assert_array_equal(narrow['params']['a'], ARRAYS['float32'].astype(ml_dtypes.bfloat16))
  change_checksum(folder, 'params/b')
  with pytest.raises(Unreadable, match='params/b has other values'):
    load(folder, like)


@pytest.mark.parametrize(('name', 'value'), [('origin', None), ('origin', 'x'), ('checksums', [1])])
def test_a_record_of_the_wrong_type_is_damage(tmp_path, name, value):
  saved(tmp_path, a_state(), step=1)
  folder = saved(tmp_path, a_state(1.0), step=2)
  path = folder / '_CHECKPOINT_METADATA'
  written = json.loads(path.read_text())
  written['custom_metadata'][name] = value
  path.write_text(json.dumps(written))
  assert restore(tmp_path, a_state(), {'seed': 0}).step == 1
  assert (tmp_path / 'damaged-2').is_dir()


def renamed(value, depth=3):
  """Yields a JSON value with one name changed, for each name down to a depth."""
  for name, part in value.items() if isinstance(value, dict) and depth else ():
    yield {f'{key}?' if key == name else key: x for key, x in value.items()}
    yield from (value | {name: changed} for changed in renamed(part, depth - 1))


@pytest.mark.parametrize('record', ['_CHECKPOINT_METADATA', 'state/_METADATA'])
def test_a_checkpoint_whose_record_has_another_name_is_read_as_saved_or_left_aside(tmp_path, record):
  """A flipped bit in a name leaves the record valid JSON."""
  saved(tmp_path / 'whole', a_state(), step=1)
  saved(tmp_path / 'whole', a_state(1.0), step=2)
  found = collections.Counter()
  for place, changed in enumerate(renamed(json.loads((tmp_path / 'whole/2' / record).read_text()))):
    folder = tmp_path / str(place)
    shutil.copytree(tmp_path / 'whole', folder)
    (folder / '2' / record).write_text(json.dumps(changed))
    read = restore(folder, a_state(), {'seed': 0})
    jax.tree.map(np.testing.assert_array_equal, read.state, a_state(float(read.step == 2)))
    found[read.step] += 1
  assert found[1] > 5


def test_every_bit_of_a_wide_array_of_the_host_counts():
  array = np.arange(6, dtype=np.int64).reshape(2, 3)
  before = checksums({'a': array})
  for bit in (0, 31, 32, 63):
    changed = array.copy()
    changed[1, 2] ^= np.left_shift(np.int64(1), bit)
    assert checksums({'a': changed}) != before, bit


@pytest.mark.parametrize('stands_for', ['12', '1'])
def test_a_checkpoint_that_was_renamed_is_damage(tmp_path, stands_for):
  saved(tmp_path, a_state(), step=2)
  saved(tmp_path, a_state(1.0), step=5).rename(tmp_path / stands_for)
  assert restore(tmp_path, a_state()).step == 2
  assert sorted(path.name for path in tmp_path.iterdir()) == ['2', f'damaged-{stands_for}']


def test_a_checkpoint_of_another_run_is_damage_that_names_the_field(tmp_path):
  def of(seed, step, **more):
    with Checkpoints(tmp_path, origin={'stage': 'espo', 'seed': seed} | more) as checkpoints:
      checkpoints.save(step, a_state(), done=False)

  of(0, 1)
  of(1, 2)
  with pytest.raises(
    CheckpointError, match=r"2: it is of another run: stage = 'espo' there and 'ppo' here, seed = 1 there and 0"
  ):
    restore(tmp_path, a_state(), {'stage': 'ppo', 'seed': 0})
  assert restore(tmp_path, a_state(), {'stage': 'espo', 'seed': 0, 'a field of a later version': 7}).step == 1
  assert (tmp_path / 'damaged-2').is_dir()
