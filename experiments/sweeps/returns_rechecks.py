"""What a stopped row returns, on a task in which some unlikely tokens are correct.

  python -m espo_jax.sweep --sweep=experiments/sweeps/returns_rechecks.py --workdir=runs/returns_rechecks \
    --output=experiments/results/returns_rechecks

The arms are those of `returns.py`, over 16 seeds because the differences vary more between seeds here.
"""

import pathlib
import runpy

_CHAINS = runpy.run_path(str(pathlib.Path(__file__).with_name('returns.py')))


def get_sweep():
  return _CHAINS['get_sweep'](base='experiments/quickstart.py:rechecks', seeds=tuple(range(16)))
