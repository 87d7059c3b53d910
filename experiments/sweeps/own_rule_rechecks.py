"""Our stop rule against ESPO on a task in which some unlikely tokens are correct.

  python -m espo_jax.sweep --sweep=experiments/sweeps/own_rule_rechecks.py --workdir=runs/ablation_rechecks \
    --output=experiments/results/own_rule_rechecks

The arms are those of `own_rule.py`, and the workdir is that of `ablation_rechecks.py`.
"""

import pathlib
import runpy

_CHAINS = runpy.run_path(str(pathlib.Path(__file__).with_name('own_rule.py')))


def get_sweep():
  return _CHAINS['get_sweep'](base='experiments/quickstart.py:rechecks')
