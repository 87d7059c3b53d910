"""Lets a superuser, who may read and write everything, act as one who may not."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

_NOBODY = 65534


@contextlib.contextmanager
def as_nobody(folder: pathlib.Path) -> Iterator[None]:
  """Acts as an unprivileged user who owns a folder and what is in it; whoever is no superuser acts as before.

  The parents of the folder can be passed through meanwhile, and have their modes back afterwards.
  """
  if os.geteuid():
    yield
    return
  root = os.open('/', os.O_RDONLY)
  fcntl.flock(root, fcntl.LOCK_EX)  # else two processes would open and close the same parents
  modes = {path: path.stat().st_mode for path in folder.absolute().parents}
  try:
    for path in (folder, *folder.rglob('*')):
      os.chown(path, _NOBODY, _NOBODY)
    for path, mode in modes.items():
      if mode & 0o111 != 0o111:
        path.chmod(mode | 0o111)
    os.seteuid(_NOBODY)
    try:
      yield
    finally:
      os.seteuid(0)
  finally:
    for path, mode in modes.items():
      if mode & 0o111 != 0o111:
        path.chmod(mode)
    fcntl.flock(root, fcntl.LOCK_UN)
    os.close(root)
