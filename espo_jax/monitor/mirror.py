"""Mirrors a run to experiment trackers while it goes on. It reads the files that the run writes, which stay the record.

The two trackers have the same calls. Each stage and each arm is a run of the tracker, in a group named after the workdir. A run
that is resumed goes on where its mirror stood; after a kill some lines may be given twice.
"""

import contextlib
import importlib
import json
import logging
import math
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espo_jax.monitor.files import atomic_write_text, to_json
from espo_jax.monitor.metrics import read_metrics
from espo_jax.parallel.storage import read_json

TRACKERS = ('wandb', 'trackio')
_STATE = 'trackers.json'
_PROJECT = 'espo_jax'
_EVERY = 15.0  # seconds
_PATIENCE = 120.0  # seconds that a run waits at its end for trackers
_COLUMNS = ('question', 'response', 'stop_reason', 'answer', 'correct', 'length', 'full_length')
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def mirrored(workdir: Path, trackers: Sequence[str], config: Mapping[str, Any]) -> Iterator[None]:
  """Mirrors the run in `workdir` during the body, from a thread of its own, and what is left of it at the end.

  Args:
    workdir: The folder of the run.
    trackers: Some of `TRACKERS`. Their own settings apply, such as `WANDB_MODE=offline` or `TRACKIO_DIR`.
    config: The nested config, which each run of a tracker shows.

  Raises:
    ImportError: The package of a tracker is not installed.
  """
  mirrors = [_Mirror(importlib.import_module(name), name, workdir, config) for name in dict.fromkeys(trackers)]
  if not mirrors:
    yield
    return
  done = threading.Event()

  def follow() -> None:
    while not done.wait(_EVERY):
      for mirror in mirrors:
        mirror.catch_up()
    for mirror in mirrors:
      mirror.catch_up()
      mirror.close()

  thread = threading.Thread(target=follow, name='mirror', daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join(_PATIENCE)
    if thread.is_alive():
      _log.warning('%s: do not answer, and the run ends without them', ' and '.join(trackers))


class _Mirror:
  """One tracker. Its state on disk has the id of each run, and what it has been given."""

  def __init__(self, tracker: Any, name: str, workdir: Path, config: Mapping[str, Any]):
    self._tracker, self._name, self._workdir = tracker, name, workdir
    self._config = json.loads(to_json(config))  # without infinite numbers
    self._run: Any = None
    self._shown = ''  # the stage whose run is open
    self._failed = False
    self._read: dict[Path, tuple[int, int]] = {}  # time and size of each file when it was last read

  def catch_up(self) -> None:
    """Gives the tracker what is new. After an error it is left alone, because a tracker must not end a run."""
    if self._failed:
      return
    try:
      for path in sorted(self._workdir.glob('*/metrics.jsonl')) + sorted(self._workdir.glob('arms/*/metrics.jsonl')):
        self._stage(path.parent)
    except Exception as error:  # networks, logins, disks, and the tracker's own state
      self._failed = True
      _log.warning('%s: is given nothing more, and the run goes on (%s: %s)', self._name, type(error).__name__, error)

  def close(self) -> None:
    """Ends the open run of the tracker."""
    if self._run is None:
      return
    try:
      self._run.finish()
    except Exception as error:  # as in `catch_up`
      _log.warning('%s: was not finished (%s: %s)', self._name, type(error).__name__, error)
    self._run, self._shown = None, ''

  def _stage(self, folder: Path) -> None:
    examples = folder / 'examples.json'
    if not self._changed(folder / 'metrics.jsonl') and not self._changed(examples):
      return
    stage = str(folder.relative_to(self._workdir))
    entries = self._entries()
    mine = entries.setdefault(self._name, {}).setdefault(stage, {'id': uuid.uuid4().hex[:12], 'step': 0, 'rollouts': -1})
    fresh = [row for row in read_metrics(folder) if row['step'] > mine['step']]
    last = int(fresh[-1]['step']) if fresh else mine['step']
    shows = examples.is_file() and mine['rollouts'] < last
    if not fresh and not shows:
      return
    self._keep(entries)  # the id, before the tracker knows it
    run = self._open(stage, mine['id'])
    try:
      for row in fresh:
        step = int(row['step'])
        run.log({name: value for name, value in row.items() if name != 'step' and math.isfinite(value)}, step=step)
        mine['step'] = step
      if shows:
        rows = [_cells(item) for item in read_json(examples, list)]
        run.log({'rollouts': self._tracker.Table(columns=list(_COLUMNS), data=rows)})  # a step that was given takes no more
        mine['rollouts'] = last
    finally:
      self._keep(entries)

  def _changed(self, path: Path) -> bool:
    if not path.is_file():
      return False
    now = path.stat().st_mtime_ns, path.stat().st_size
    before, self._read[path] = self._read.get(path), now
    return now != before

  def _open(self, stage: str, identity: str) -> Any:
    if stage != self._shown:
      self.close()
      name = f'{self._workdir.name}/{stage}'
      options = {'project': _PROJECT, 'group': self._workdir.name, 'config': dict(self._config), 'resume': 'allow'}
      if self._name == 'wandb':
        options |= {'name': name, 'id': identity, 'dir': str(self._workdir), 'settings': self._tracker.Settings(console='off')}
      else:
        options |= {'name': f'{name} {identity}'}  # a name is what its runs are resumed by
      self._run, self._shown = self._tracker.init(**options), stage
    return self._run

  def _keep(self, entries: Mapping[str, Any]) -> None:
    atomic_write_text(self._workdir / _STATE, to_json(entries, indent=2) + '\n')

  def _entries(self) -> dict[str, Any]:
    path = self._workdir / _STATE
    return read_json(path) if path.is_file() else {}


def _cells(item: Mapping[str, Any]) -> list[Any]:
  """Returns a rollout as a row of the table."""
  return [{**item, 'response': ''.join(item['tokens'])}.get(name) for name in _COLUMNS]
