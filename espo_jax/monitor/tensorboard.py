"""Writes files that TensorBoard reads, without a thread: what cannot be written is an error of the call that writes it.

The writer of tensorboardX has a thread and a short queue. Where the disk is full its thread ends, and the run would wait for
ever for room in the queue.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from espo_jax.parallel.storage import writing


class EventFile:
  """One new file of TensorBoard. Each call hands its events to the operating system before it returns."""

  def __init__(self, directory: str | os.PathLike[str], purge_step: int | None = None):
    """Makes the file.

    Args:
      directory: the folder that TensorBoard reads; created if missing.
      purge_step: the step from which on TensorBoard forgets what earlier files have; None for no step.
    """
    self._library = _tensorboardx()
    now = time.time_ns()  # seconds alone would let a quick restart overwrite the file
    self._path = Path(directory) / f'events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}'
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = self._path.open('wb')
    self._write(file_version='brain.Event:2')
    if purge_step is not None:
      started = self._library.proto.event_pb2.SessionLog.START
      self._write(step=purge_step, session_log={'status': started})

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds finite numbers by their names."""
    self._add(step, [self._library.summary.scalar(name, value) for name, value in scalars.items()])

  def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Adds texts by their names."""
    self._add(step, [self._library.summary.text(name, text) for name, text in texts.items()])

  def close(self) -> None:
    """Closes the file. Calling it again does nothing."""
    with writing(self._path):
      self._file.close()

  def _add(self, step: int, summaries: list[Any]) -> None:
    self._write(step=step, summary={'value': [value for summary in summaries for value in summary.value]})

  def _write(self, **fields: Any) -> None:
    """Writes an event as a record: its length and its bytes, each with a checksum."""
    event = self._library.proto.event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
    length, checked = struct.pack('<Q', len(event)), self._library.record_writer.masked_crc32c
    record = length + struct.pack('<I', checked(length)) + event + struct.pack('<I', checked(event))
    with writing(self._path):
      self._file.write(record)
      self._file.flush()


def _tensorboardx() -> ModuleType:
  """Imports tensorboardX without torch, because importing torch takes seconds and nothing here needs it."""
  if 'torch' not in sys.modules:
    sys.modules['torch'] = None  # type: ignore[assignment]  # as if torch were not installed
    try:
      import tensorboardX
    finally:
      del sys.modules['torch']
  import tensorboardX

  return tensorboardX
