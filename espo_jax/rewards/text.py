"""Rewards that read text. They run on the host, in worker processes with a deadline."""

import atexit
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from espo_jax.registry import chosen, inputs, loaded_plugins
from espo_jax.rewards.compose import names
from espo_jax.rewards.registered import REGISTRY, TEXT
from espo_jax.tasks.grading.process import WorkerPool, WorkerProcess, importing

_WORKER = Path(__file__).with_name('text_worker.py')
_WORKERS = 2


def text_rewards(expression: str) -> tuple[str, ...]:
  """Returns the names of the rewards in an expression that read text."""
  return tuple(name for name in names(expression) if set(inputs(REGISTRY[name])) & set(TEXT))


class RewardError(RuntimeError):
  """A reward that reads text failed. The message has its name, the place in its file and the reason."""


class TextScorer:
  """Calls the rewards of an expression that read text, one prompt at a time. The first call starts the processes."""

  def __init__(self, expression: str, options: Mapping[str, Any], deadline: float):
    """Sets up the scorer without starting processes.

    Args:
      expression: An expression over registered rewards.
      options: The options of the section `reward`; each reward takes those among its parameters.
      deadline: The seconds that a reward has for the responses to one prompt.
    """
    self._options = {name: chosen(REGISTRY[name], dict(options)) for name in text_rewards(expression)}
    files = [plugin.path for plugin in loaded_plugins()]
    workers = [
      WorkerProcess(
        _WORKER, files, deadline=deadline, recycle_after=sys.maxsize, fix='the files of --plugins', environment=importing()
      )
      for _ in range(_WORKERS)
    ]
    self._pool = WorkerPool(workers)
    atexit.register(self._pool.close)

  def score(
    self, seen: Mapping[str, Any], texts: Mapping[str, Sequence[Any]]
  ) -> tuple[dict[str, Float[np.ndarray, 'P G']], Bool[np.ndarray, 'P G'], Bool[np.ndarray, 'P G']]:
    """Returns the value of each reward that reads text. It is 0 where a reward ran out of time or its process failed.

    Args:
      seen: The result of `observed`, as NumPy arrays.
      texts: The texts that `TEXT` lists, by name.

    Returns:
      The values by name; where a reward ran out of time; where a process failed.

    Raises:
      RewardError: A reward raised an error, or did not return one finite number per response; or no process starts.
    """
    shape = seen['correct'].shape
    asked = {
      (name, p): self._pool.submit([name, options, _arguments(name, seen, texts, p)])
      for name, options in self._options.items()
      for p in range(shape[0])
    }
    values = {name: np.zeros(shape, np.float32) for name in self._options}
    timeout, error = np.zeros(shape, bool), np.zeros(shape, bool)
    for (name, p), future in asked.items():
      try:
        reply, status = future.result()
      except RuntimeError as failed:  # no process starts
        raise RewardError(f'reward {name!r}: {failed}') from failed
      if reply is None:
        timeout[p] |= status == 'timeout'
        error[p] |= status == 'error'
        continue
      if 'error' in reply:
        raise RewardError(f'reward {name!r}: {reply["error"]}')
      value = np.asarray(reply['value'], np.float32)
      if value.shape != (1, shape[1]) or not np.isfinite(value).all():
        fix = f'fix: a finite number per response, as an array of shape {(1, shape[1])} here'
        raise RewardError(f'reward {name!r}: returned {str(value.tolist())[:200]}; {fix}')
      values[name][p] = value[0]
    return values, timeout, error


def _arguments(name: str, seen: Mapping[str, Any], texts: Mapping[str, Sequence[Any]], p: int) -> list[Any]:
  """Returns the arguments of a reward for prompt `p`, in the order of its parameters, in a form that JSON can hold."""

  def one(x: Any) -> Any:
    return x if np.ndim(x) == 0 else {'dtype': str(x.dtype), 'array': x[p : p + 1].tolist()}

  return [[texts[reads][p]] if reads in TEXT else one(seen[reads]) for reads in inputs(REGISTRY[name])]
