"""Orbax checkpoints of a stage. They are written asynchronously and atomically, and the newest intact one is read.

Each process reads a checkpoint for itself, without Orbax's barriers, and then all processes agree on whether it could be
read, before they compute its checksums together. An array that cannot be read, or whose checksum differs from the saved one,
counts as damage, like what the files show.
"""

import contextlib
import functools
import logging as logging_records
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint.experimental import v1 as ocp

from espo_jax import parallel
from espo_jax.learner.checksums import checksums
from espo_jax.learner.damage import damage, foreign, is_done, saved_checksums
from espo_jax.parallel.storage import causes, writing

T = TypeVar('T')
Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 3  # parameters that a message names
_GROUP = 2**30  # bytes, over all devices, of the arrays that are read in another dtype at a time
_NO_ORIGIN: Mapping[str, Any] = {}


class CheckpointError(RuntimeError):
  """No checkpoint can be used. The message names the folders or the parameters, and the fix."""


class Unreadable(Exception):
  """A checkpoint turned out to be damaged while it was read. The message says how, in one line."""


class Restored(NamedTuple):
  """A checkpoint that was read.

  Attributes:
    state: The state that was saved.
    step: The step after which it was saved.
    done: Whether the stage was complete with this step.
  """

  state: Any
  step: int
  done: bool


class Checkpoints:
  """Writes the checkpoints of one stage into one folder. The last few and the best few are kept.

  Call `restore` first: it moves damaged checkpoints aside, because Orbax reads a part of every checkpoint in the folder.
  """

  def __init__(
    self, directory: str | pathlib.Path, *, keep_last: int = 2, keep_best: int = 1, origin: Mapping[str, Any] = _NO_ORIGIN
  ):
    """Opens the folder, and removes what a killed process left unfinished in it.

    Args:
      directory: The folder, which is created if it is missing.
      keep_last: The number of newest checkpoints kept.
      keep_best: The number of checkpoints with the highest accuracy that are kept as well.
      origin: Plain values by name that tell the stage and its run from others; each checkpoint holds them.
    """
    logging.get_absl_logger().addFilter(_is_news)
    self._directory, self._origin = pathlib.Path(directory).absolute(), dict(origin)
    policies = ocp.training.preservation_policies
    with writing(self._directory):
      self._checkpointer = ocp.training.Checkpointer(
        self._directory,
        preservation_policy=policies.AnyPreservationPolicy(
          [
            policies.LatestN(keep_last),
            policies.BestN(
              get_metric_fn=lambda metrics: metrics['accuracy'], n=keep_best, keep_checkpoints_without_metrics=False
            ),
          ]
        ),
        cleanup_tmp_directories=True,
      )
    self._pending: Any = None

  def save(self, step: int, state: Any, *, done: bool, accuracy: float | None = None) -> None:
    """Starts writing `state`, and returns as soon as its buffers may be reused.

    Raises:
      OSError: This checkpoint or the one before it cannot be written. Those before are whole.
    """
    sums = checksums(_by_path(state))
    with writing(self._directory):
      self._finish()
      self._pending = self._checkpointer.save_async(
        step,
        state,
        force=True,
        metrics=None if accuracy is None else {'accuracy': accuracy},
        custom_metadata={'done': done, 'step': step, 'origin': self._origin, 'checksums': sums},
      )

  def close(self) -> None:
    """Waits until all checkpoints are written.

    Raises:
      OSError: The last one cannot be written.
    """
    with writing(self._directory):
      try:
        self._finish()
      finally:
        self._checkpointer.close()

  def _finish(self) -> None:
    """Waits until the last checkpoint is written. Orbax keeps a thread and three file handles for each until it is asked."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _is_news(record: logging_records.LogRecord) -> bool:
  """Whether a record should be logged: not if it is the traceback of an error in a thread of Orbax, which is raised as well."""
  return not (record.exc_info and 'orbax' in pathlib.Path(record.pathname).parts)


def survey(directory: pathlib.Path, origin: Mapping[str, Any] = _NO_ORIGIN) -> dict[int, str]:
  """Returns the damage of each checkpoint under `directory` by its step, oldest first; '' for an intact one.

  A checkpoint is also damaged if it was saved with another value of a name that `origin` has.
  """
  directory = directory.absolute()

  def look() -> list[tuple[int, str]]:
    names = (path.name for path in directory.glob('*'))
    steps = sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))
    folders = [directory / str(step) for step in steps]
    return [(step, damage(folder) or foreign(folder, origin)) for step, folder in zip(steps, folders, strict=True)]

  return dict(parallel.from_first(look))


def restore(directory: str | pathlib.Path, like: Any, origin: Mapping[str, Any] = _NO_ORIGIN) -> Restored | None:
  """Reads the newest intact checkpoint under `directory`, the same on all processes; None if there is no checkpoint.

  Damaged checkpoints are renamed to `damaged-STEP`, so that nothing overwrites or deletes them. A warning names each of them.

  Args:
    directory: The folder in which `Checkpoints` writes.
    like: Arrays or `jax.ShapeDtypeStruct`s with the shapes, dtypes and shardings that the state shall have. NumPy arrays are
      read onto the host.
    origin: What tells the stage and its run from others, as it was given to `Checkpoints`.

  Raises:
    CheckpointError: There are checkpoints but none is intact and of this origin, or the newest such one has other shapes.
  """
  directory = pathlib.Path(directory).absolute()
  found = survey(directory, origin)
  for step in reversed(found):
    if found[step]:
      continue
    try:
      state = load(directory / str(step), like)
    except Unreadable as error:
      found[step] = str(error)
    else:
      return Restored(state, step, parallel.from_first(functools.partial(_leave_aside, directory, step, found)))
  if found:
    fix = 'a copy of one of them, or move them away to train the stage anew'
    raise CheckpointError(f'{none_whole(directory, found)}; fix: {fix}')
  return None


def none_whole(directory: pathlib.Path, found: Mapping[int, str]) -> str:
  """Returns the error message if none of the checkpoints that `survey` found can be read."""
  each = '; '.join(f'{directory / str(step)}: {reason}' for step, reason in found.items())
  return f'no checkpoint under {directory} is whole: {each}'


def load(folder: pathlib.Path, like: Any, *, extra: Sequence[str] = (), lacking: Sequence[str] = ()) -> Any:
  """Reads the state in a checkpoint's folder, or some of its top entries. Either all processes read it or none does.

  Args:
    folder: The folder of one checkpoint, in which `survey` found no damage.
    like: Arrays or `jax.ShapeDtypeStruct`s with the shapes, dtypes and shardings that the state shall have.
    extra: Names of parts that the checkpoint may have in addition to those of `like`.
    lacking: Names of parts that the checkpoint may lack. `like` must then be nested dicts; lacking parts are left out.

  Raises:
    CheckpointError: An array has another shape in the checkpoint, or exists on one side only.
    Unreadable: A process cannot read an array, or an array differs from the saved one.
  """
  folder = folder.absolute()
  there, sums = _agreed(lambda: _metadata(folder))
  here = _by_path(like)
  _check_shapes(folder, _shapes(there), _shapes(here), extra, lacking)
  if lacking:
    like = unflatten_dict({path: x for path, x in flatten_dict(like).items() if '/'.join(path) in there})
  tree = jax.tree.structure(like)
  wanted = {path: _saved(x, there[path].dtype) for path, x in _by_path(like).items()}
  cast_bytes = {path: math.prod(x.shape) * x.dtype.itemsize for path, x in wanted.items() if x.dtype != here[path].dtype}
  read: dict[str, Any] = {}
  for paths in filter(None, (wanted.keys() - cast_bytes.keys(), *_groups(cast_bytes))):
    part = jax.tree.unflatten(tree, [x if path in paths else None for path, x in wanted.items()])
    found = _by_path(_agreed(functools.partial(_read, folder, part)))
    _agreed(functools.partial(_check_sums, checksums(found) if sums else {}, sums))
    read |= {path: x.astype(here[path].dtype) for path, x in found.items()}
  return jax.tree.unflatten(tree, [read[path] for path in wanted])


def _groups(sizes: Mapping[str, int]) -> Iterator[set[str]]:
  """Yields names in groups of at most `_GROUP` bytes; a larger array is a group of its own.

  Arrays that are cast are read in groups: their checksums are of the saved dtype, in which all of them may not fit.
  """
  group, total = set[str](), 0
  for name, size in sizes.items():
    if group and total + size > _GROUP:
      yield group
      group, total = set(), 0
    group.add(name)
    total += size
  yield group


def _check_sums(found: Mapping[str, int], saved: Mapping[str, int]) -> None:
  if changed := [path for path, value in found.items() if value != saved[path]]:
    raise Unreadable(f'{changed[0]} has other values than were saved, by its checksum')


def _agreed(read: Callable[[], T]) -> T:
  """Returns what this process reads, or raises Unreadable if any process cannot read. The next step may then be collective."""
  reason, found = '', None
  try:
    found = read()
  except Unreadable as error:
    reason = str(error)
  if parallel.any_process(bool(reason)):
    raise Unreadable(reason or 'another process cannot read it')
  return cast(T, found)


def _metadata(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, int]]:
  """Returns the metadata of each array by its path, and the checksums, if there are any."""
  with _as_unreadable():
    saved: Any = ocp.metadata(folder)
  if saved.metadata is None:
    raise Unreadable('its metadata says of no array')
  there, sums = _by_path(saved.metadata), saved_checksums(folder)
  if sums and (differing := sums.keys() ^ there.keys()):
    raise Unreadable(f'{min(differing)} has either a checksum or metadata, but not both')
  return there, sums


def _read(folder: pathlib.Path, like: Any) -> Any:
  """Reads a checkpoint's arrays at the leaves of `like`."""
  context, me = ocp.Context(), jax.process_index()
  context.multiprocessing.primary_host = me  # if one process fails to read, the others must not wait for it
  context.multiprocessing.active_processes = {me}
  context.pytree.loading.partial_load = True
  with _as_unreadable(), context:  # without a Checkpointer, which would delete the temporary files of a run in progress
    return ocp.load(folder, like)


@contextlib.contextmanager
def _as_unreadable() -> Iterator[None]:
  """Turns any error that Orbax raises because of the files into an Unreadable."""
  try:
    yield
  except Exception as error:
    chain = causes(error)
    for cause in chain:  # Orbax wraps every error in one of its own
      if isinstance(cause, KeyboardInterrupt | MemoryError | jax.errors.JaxRuntimeError):
        raise cause from None
    raise Unreadable((str(chain[-1]).strip().splitlines() or [repr(chain[-1])])[0][:200]) from error


def _check_shapes(folder: pathlib.Path, there: Shapes, here: Shapes, extra: Sequence[str], lacking: Sequence[str]) -> None:
  tops = {path.partition('/')[0] for path in here}
  differing = []
  for path in sorted(there.keys() | here.keys(), key=lambda path: (not path.startswith('params/'), path)):
    if path in there and path in here:
      if there[path] != here[path]:
        differing.append(f'{path} has the shape {there[path]} there and {here[path]} here')
    elif path.partition('/')[0] in tops and not set(extra if path in there else lacking) & set(path.split('/')):
      shape, side = (there[path], 'there') if path in there else (here[path], 'here')
      differing.append(f'{path}, of the shape {shape}, stands {side} alone')
  if differing:
    shown, rest = differing[:_SHOWN], len(differing) - _SHOWN
    more = f'; and {rest} more' if rest > 0 else ''
    raise CheckpointError(
      f'{folder} is of another model than the config: {"; ".join(shown)}{more}; '
      'fix: the model fields, tokenizer and model.path that it was trained with, or another folder'
    )


def _leave_aside(directory: pathlib.Path, used: int, found: Mapping[int, str]) -> bool:
  """Renames the damaged checkpoints, and returns whether the stage was complete at the checkpoint that is used."""
  for step, reason in found.items():
    if reason:
      names = (f'damaged-{step}' + (f'-{i}' if i else '') for i in range(len(list(directory.iterdir())) + 1))
      aside = next(directory / name for name in names if not (directory / name).exists())
      (directory / str(step)).rename(aside)
      message = '%s cannot be read: %s; it is left aside as %s, and step %d is used'
      logging.warning(message, directory / str(step), reason, aside.name, used)
  return is_done(directory / str(used))


def _by_path(tree: Any) -> dict[str, Any]:
  """Returns each array, or what stands for one, by its path, such as `params/policy/embedding`."""
  paths = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in paths if hasattr(x, 'shape')}


def _shapes(arrays: Mapping[str, Any]) -> Shapes:
  return {path: tuple(x.shape) for path, x in arrays.items()}


def _saved(x: Any, dtype: Any) -> jax.ShapeDtypeStruct | np.ndarray:
  """Returns what Orbax is asked for: an array of the saved type, or a NumPy array, which it reads onto the host."""
  return x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
