"""The drill `killed` with a job of two processes: either one is killed and the other has to end by itself, or both at once."""

import pathlib
from collections.abc import Iterator
from typing import Any

from drills import killed
from drills.record import Case

AIM = f'{killed.AIM}, and the other process ends within {killed.LEFT_ALONE:.0f} s'
COUNT = 8


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Yields a case per kill."""
  yield from killed.run(folder, count, seed, figures, processes=2)
