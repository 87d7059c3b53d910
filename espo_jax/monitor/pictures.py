"""Protects a run from failing pictures and pages. They are made after their data is on disk, so a failure costs a warning."""

import contextlib
import logging
import os
from collections.abc import Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def spared(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns any error of the picture or page that is made inside into a warning, errors of a library's import included.

  Args:
    path: the path of the picture or page. The warning names it and the reason.
  """
  try:
    yield
  except Exception as error:  # a drawing depends on data, fonts, the disk and matplotlib's own state
    reason = ' '.join(str(error).split())
    _log.warning('%s: was not written, and the run goes on (%s: %s)', path, type(error).__name__, reason)
