"""Asks the diagnostics after each update of a stage, and logs what one begins to warn of."""

import math
import pathlib
from collections.abc import Mapping

from absl import logging

from espo_jax import registry
from espo_jax.monitor.diagnostics.registered import READS, REGISTRY
from espo_jax.monitor.metrics import read_metrics


class Diagnosis:
  """Holds what the metrics of a stage were so far. A stage that is resumed reads them from its folder, and warns alike."""

  def __init__(self, name: str, directory: pathlib.Path):
    """Prepares to ask.

    Args:
      name: The name of the stage in a warning.
      directory: The folder of the stage's metrics.
    """
    self._name, self._directory = name, directory
    self._before: list[dict[str, float]] | None = None

  def __call__(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metric `warning/NAME` of each diagnostic: 1 while it warns, 0 while it does not, and nan where it raised.

    Args:
      step: The number of the update.
      metrics: The metrics of the update.
    """
    if self._before is None:
      self._before = [row for row in read_metrics(self._directory) if row['step'] < step]
    last = self._before[-1] if self._before else {}
    self._before.append(dict(metrics))
    read = {name: [row.get(metric, math.nan) for row in self._before] for name, metric in READS.items()}
    found = {}
    for name, diagnostic in REGISTRY.items():
      try:
        told = diagnostic(**{parameter: read[parameter] for parameter in registry.inputs(diagnostic)})
      except Exception as error:  # advice must not end a training, and a user's diagnostic may raise anything
        told, warns = f'{type(error).__name__}: {error}', math.nan
      else:
        warns = float(bool(told))
      found[f'warning/{name}'] = warns
      if told and not last.get(f'warning/{name}'):
        logging.warning('%s, update %d: %s: %s', self._name, step, name, told)
    self._before[-1] |= found
    return found
