"""The metrics of one update, stored: a change that was not meant to change what is computed shows here first.

python tests/test_golden.py   # where it was meant: writes the new metrics, for the same commit
"""

import json
import math
import pathlib

import rounding
from tiny import run, tiny_experiment

GOLDEN = pathlib.Path(__file__).with_name('golden_step.json')
OF_THE_PROCESS = ('seconds/', 'tokens_per_second')
HALF_THE_DIGITS = 2.0**-26  # of float64: far above what an order of sums moves, far below what another algorithm moves


def measured() -> dict[str, float]:
  """The metrics of an ESPO update in float64, in which no draw is near enough to an edge for a sum's order to decide it."""
  _, (metrics,) = run(tiny_experiment(), count=1)
  return {name: x for name, x in sorted(metrics.items()) if not name.startswith(OF_THE_PROCESS)}


def test_an_update_computes_what_it_did(in_float64):
  stored, now = json.loads(GOLDEN.read_text()), measured()
  moved = [
    f'{name}: {stored.get(name)} is stored, {now.get(name)} is computed'
    for name in sorted(stored.keys() | now.keys())
    if name not in stored
    or name not in now
    or not math.isclose(stored[name], now[name], rel_tol=HALF_THE_DIGITS, abs_tol=HALF_THE_DIGITS)
  ]
  assert not moved, (
    'an update computes something else than it did. If no change of what is computed was meant, this is a fault; if one was, '
    'write the new metrics by `python tests/test_golden.py` and say in the commit what moved and why:\n  ' + '\n  '.join(moved)
  )


if __name__ == '__main__':
  with rounding.computed_in('float64'):
    GOLDEN.write_text(json.dumps(measured(), indent=1) + '\n')
