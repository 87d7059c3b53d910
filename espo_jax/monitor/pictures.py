"""Pictures come last: what they show is on disk before them, and one that fails costs a warning."""

import contextlib
import logging
import os
from collections.abc import Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def spared(path: str | os.PathLike[str]) -> Iterator[None]:
  """Lets a run survive the picture that is drawn inside, imports of matplotlib included: an error becomes a warning.

  Args:
    path: the picture, which the warning names beside the reason.
  """
  try:
    yield
  except Exception as error:  # a drawing depends on data, fonts, the disk and matplotlib's own state
    reason = ' '.join(str(error).split())
    _log.warning('%s: this picture was not drawn, and the run goes on (%s: %s)', path, type(error).__name__, reason)
