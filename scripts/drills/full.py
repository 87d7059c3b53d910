"""Disks that are full, have no inode or may not be written, at every write of a run and of the commands that read it.

A small run is trained on a file system of its own, which leaves it a few kibibytes at each attempt, then a few inodes, until
the run is done. Then each file that is opened for writing meets a quota once, by an audit hook of Python. Then folders
may not be written: by their mode, or because the file system is read-only. A case is one attempt. It holds if the command ends
with one line that names a path and the fix, or goes on with a warning about a picture; if the newest checkpoint is not older
than before; and if the last attempt of each kind ends with the state of the undisturbed run, bit for bit.
"""

import contextlib
import errno
import io
import itertools
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging as absl_logging

from drills import small
from drills.nobody import as_nobody
from drills.record import Case
from drills.runs import stage_difference
from espo_jax import convert, train
from espo_jax.commands import machine_errors
from espo_jax.evaluate.__main__ import main as evaluate
from espo_jax.learner.checkpoint import survey
from espo_jax.prepare_data import main as prepare_data
from espo_jax.report.__main__ import main as report

AIM = 'no traceback, nothing lost, one line with the path and the fix, and the run goes on when there is room'
COUNT = 60
KINDS, ON_DISKS = ('quota', 'modes'), ('room', 'inodes', 'commands')  # the latter need file systems of their own
OPTIONS = {'kind': f'make attempts of this kind alone, one of {", ".join(KINDS + ON_DISKS)}'}
STAGES = ('warm_start', 'critic_warmup', 'arms/espo')


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any], kind: str = '') -> Iterator[Case]:
  """Makes about `count` attempts, a share of each kind, and yields what is wrong with them.

  Args:
    folder: An empty folder.
    count: The number of cases, about.
    seed: Unused: the attempts follow from the writes.
    figures: The dict that gets the numbers of attempts by kind, and whether file systems could be mounted.
    kind: The only kind of attempts; '' for all.

  Raises:
    SystemExit: There is no such kind.
  """
  del seed
  if kind not in ('', *KINDS, *ON_DISKS):
    raise SystemExit(f'error: --kind={kind}: there is no such kind; fix: one of {", ".join(KINDS + ON_DISKS)}')
  reference, share = small.trained(), max(1, count // 5)
  disk = folder / 'disk'
  disk.mkdir()
  mounted = kind not in KINDS and _mount(disk, 'size=64m,nr_inodes=4000')
  if kind not in KINDS:
    figures['file systems of their own'] = 'yes' if mounted else 'no'
  kinds: dict[str, Callable[[], Iterator[Case]]] = {
    'quota': lambda: _chain(folder / 'quota', reference, share, _quotas(reference, share)),
    'modes': lambda: _modes(folder / 'modes', reference, share),
  }
  if mounted:
    kinds |= {
      'room': lambda: _chain(disk / 'room', reference, share, _rooms(disk, reference, share)),
      'inodes': lambda: _chain(disk / 'inodes', reference, share, _inodes(disk, reference, share)),
      'commands': lambda: _commands(disk, reference),
    }
  try:
    for name, cases in kinds.items():
      if kind not in ('', name):
        continue
      figures[name] = 0
      for case in cases():
        figures[name] += 1
        yield case._replace(name=f'{name}: {case.name}')
  finally:
    if mounted:
      subprocess.run(['umount', disk], check=True)


# ------------------------------------------------------------------------------------------------------------- an attempt


def _train(workdir: pathlib.Path) -> str:
  return _told(lambda: train.train(small.config(), workdir, check_memory=False))


def _told(command: Callable[[], object]) -> str:
  """Runs a command in this process. Returns what it says of an error, with the errors that it logs; '' for no error.

  A traceback that it logs, or that a thread prints, counts as an error.
  """
  logged, handler = list[str](), logging.Handler(logging.ERROR)
  handler.emit = lambda record: logged.append(handler.format(record))  # type: ignore[method-assign]
  absl_logging.get_absl_logger().addHandler(handler)
  told, printed = '', io.StringIO()
  with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    try:
      with machine_errors(str):
        command()
    except SystemExit as ended:
      told = str(ended.code or '')
    except Exception:
      told = traceback.format_exc()
    finally:
      absl_logging.get_absl_logger().removeHandler(handler)
  if 'Traceback' in printed.getvalue():
    logged.append(printed.getvalue())
  return '\n'.join([*logged, told]) if told or any('Traceback' in text for text in logged) else ''


def _judged(told: str, root: pathlib.Path) -> str:
  """Returns what is wrong with an error; '' if nothing is."""
  if not told:
    return ''
  if re.fullmatch(rf'error: [^\n]*{re.escape(str(root))}[^\n]*: [^\n]*; fix: [^\n]+', told):
    return ''
  return f'no line with a path and a fix: {told[-1500:]}'


def _chain(
  workdir: pathlib.Path, reference: pathlib.Path, most: int, limits: Iterator[contextlib.AbstractContextManager]
) -> Iterator[Case]:
  """Tries to train under one limit after another, and without any at last."""
  newest = -1
  for place, limit in enumerate(limits):
    with limit:
      told = _train(workdir)
    found = _newest(workdir)
    lost = f'the newest checkpoint was {newest} and is {found}' if found < newest else ''
    newest = found
    said = re.sub(r'\s+', ' ', told.replace(str(workdir), ''))[:60] or 'it is done'
    yield Case(f'attempt {place}: {said}', not (wrong := _judged(told, workdir) or lost), wrong)
    if place + 1 == most:
      break
  told = _train(workdir)
  wrong = told or _differs(workdir, reference)
  yield Case('the end without a limit', not wrong, wrong)


def _newest(workdir: pathlib.Path) -> int:
  """Returns how far a run is: the sum of the newest whole steps of its stages."""
  steps = 0
  for stage in STAGES:
    folder = workdir / stage / 'checkpoints'
    if folder.is_dir():
      steps += max((step for step, reason in survey(folder).items() if not reason), default=0)
  return steps


def _differs(workdir: pathlib.Path, reference: pathlib.Path) -> str:
  """Returns in what a finished run differs from another, or the first file that it lacks; '' if all is equal but times."""
  for stage in STAGES:
    if found := stage_difference(workdir, reference, stage):
      return found
  names = ('config.json', 'arms/espo/evaluation.json', 'arms/espo/examples.json', 'tokenizer/tokenizer.json', 'report.html')
  return next((f'{name} is missing' for name in names if not (workdir / name).is_file()), '')


# -------------------------------------------------------------------------------------------------------------- the limits


def _mount(folder: pathlib.Path, options: str) -> bool:
  command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
  return shutil.which('mount') is not None and subprocess.run(command, capture_output=True).returncode == 0


def _needs(reference: pathlib.Path) -> tuple[int, int]:
  """Returns the bytes and the files that a run takes on a disk."""
  found = list(reference.rglob('*'))
  return sum(-(-path.stat().st_size // 4096) * 4096 for path in found if path.is_file()), len(found)


def _rooms(disk: pathlib.Path, reference: pathlib.Path, most: int) -> Iterator[contextlib.AbstractContextManager]:
  needed = _needs(reference)[0]
  for place in range(most):
    yield _little_room(disk, needed // most // 2 // 4096 * 4096 + 4096 * (place % 4))


@contextlib.contextmanager
def _little_room(disk: pathlib.Path, left: int) -> Iterator[None]:
  """Leaves so many bytes of a file system."""
  found = os.statvfs(disk)
  with (disk / 'ballast').open('wb') as file:
    os.posix_fallocate(file.fileno(), 0, max(4096, found.f_bavail * found.f_frsize - left))
  try:
    yield
  finally:
    (disk / 'ballast').unlink()


def _inodes(disk: pathlib.Path, reference: pathlib.Path, most: int) -> Iterator[contextlib.AbstractContextManager]:
  needed = _needs(reference)[1]
  for place in range(most):
    yield _few_inodes(disk, needed // most // 2 + place % 5)


@contextlib.contextmanager
def _few_inodes(disk: pathlib.Path, left: int) -> Iterator[None]:
  ballast = disk / 'files'
  ballast.mkdir()
  for number in range(os.statvfs(disk).f_favail - left):
    (ballast / str(number)).touch()
  try:
    yield
  finally:
    shutil.rmtree(ballast)


_hooks: list[Callable[[str, tuple[Any, ...]], None]] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
  for hook in _hooks:
    hook(event, arguments)


@contextlib.contextmanager
def _over_quota(number: int) -> Iterator[None]:
  """Lets the file with a number, of those that are opened for writing, meet a quota."""
  if not _hooks:
    sys.addaudithook(_heard)  # it cannot be removed
  opened = itertools.count()

  def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != 'open' or not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
      return
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ''
    if path and not path.startswith(('/dev', '/proc')) and next(opened) == number:
      raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), path)

  _hooks.append(hook)
  try:
    yield
  finally:
    _hooks.remove(hook)


def _quotas(reference: pathlib.Path, most: int) -> Iterator[contextlib.AbstractContextManager]:
  """Each attempt may open more files than the one before."""
  for place in range(most):
    yield _over_quota(max(place, _needs(reference)[1] * place // most // 2))


def _modes(workdir: pathlib.Path, reference: pathlib.Path, most: int) -> Iterator[Case]:
  """Forbids a run of which the evaluation and the last steps are missing to write one of its places."""
  places = ['', 'arms', 'arms/espo', 'arms/espo/checkpoints', 'arms/espo/metrics.jsonl', 'arms/espo/tensorboard', 'config.json',
            'warm_start', 'tokenizer', 'arms/espo/rollouts', 'plots', 'arms/espo/checkpoints/5']  # fmt: skip
  most = min(most, len(places))
  for place in (places[i * len(places) // most] for i in range(most)):
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(reference, workdir)
    for name in ('summary.json', 'report.html', 'arms/espo/evaluation.json', 'arms/espo/examples.json'):
      (workdir / name).unlink()
    shutil.rmtree(workdir / 'arms/espo/checkpoints/5')
    (workdir / 'arms/espo/checkpoints/5').mkdir()  # damaged, so that the step before it is restored
    mode = (workdir / place).stat().st_mode
    with as_nobody(workdir):
      (workdir / place).chmod(mode & 0o555)
      told = _train(workdir)
      (workdir / place).chmod(mode)
    wrong = _judged(told, workdir) or _train(workdir) or _differs(workdir, reference)
    said = re.sub(r'\s+', ' ', told.replace(str(workdir), ''))[:60] or 'it is done'
    yield Case(f'{place or "the folder"} read-only: {said}', not wrong, wrong)


# ------------------------------------------------------------------------------------------------------------ the commands


def _commands(disk: pathlib.Path, reference: pathlib.Path) -> Iterator[Case]:
  """Writes the outputs of the other commands to a disk without room, and to one that may not be written."""
  rows = disk.parent / 'rows.jsonl'
  rows.write_text('{"question": "1+1?", "answer": "#### 2"}\n' * 40)
  commands: dict[str, Callable[[pathlib.Path], object]] = {
    'train': lambda out: train.train(small.config(), out / 'run', check_memory=False),
    'evaluate': lambda out: evaluate(
      [f'--checkpoint={reference}', f'--output={out / "answers"}', '--samples=2', '--problems=8']
    ),
    'convert': lambda out: convert.main([f'--checkpoint={reference}', f'--output={out / "model"}']),
    'report': lambda out: report([f'--workdir={reference}', f'--output={out / "report.html"}']),
    'prepare_data': lambda out: prepare_data(
      ['--benchmark=gsm8k', f'--data={rows}', '--split=train', f'--output={out / "prepared"}']
    ),
  }
  for name, command in commands.items():
    for left in (0, 4096):
      with _little_room(disk, left):
        told = _told(lambda command=command: command(disk))
      wrong = _judged(told, disk) if told or left else 'it ended well without room'
      yield Case(f'{name} with {left} bytes left', not wrong, wrong)
      for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    told = _told(lambda command=command: command(disk))
    subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)
    wrong = _judged(told, disk) if told else 'it ended well on a read-only file system'
    yield Case(f'{name} on a read-only file system', not wrong, wrong)
