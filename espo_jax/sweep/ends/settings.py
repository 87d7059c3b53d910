"""The settings of runs as numbers, for methods that predict from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_NO_SETTING = ('seed', 'start_from')


def encoded(settings: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, 'N S']:
  """Returns the settings in which runs differ as numbers.

  Positive numbers are taken as logarithms, because rates and sizes differ by factors. Each value of another kind has a column
  with 1 where a run has it.

  Args:
    settings: The fields of each run's config. A field that a run lacks is a value of its own.
  """
  columns = list[list[float]]()
  for field in sorted({field for run in settings for field in run if field not in _NO_SETTING}):
    values = [run.get(field) for run in settings]
    kinds = sorted(set(map(repr, values)))
    if len(kinds) == 1:
      continue
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
      numbers = [float(value) for value in values]  # type: ignore[arg-type]
      columns.append([math.log(x) for x in numbers] if min(numbers) > 0 else numbers)
    else:
      columns += [[float(repr(value) == kind) for value in values] for kind in kinds]
  return np.array(columns, float).reshape(len(columns), len(settings)).T
