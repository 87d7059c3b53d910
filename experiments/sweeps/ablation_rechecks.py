"""ESPO and its ablations against PPO and DAPO, on a task in which some unlikely tokens are correct.

  python -m espo_jax.sweep --sweep=experiments/sweeps/ablation_rechecks.py --workdir=runs/ablation_rechecks \
    --output=experiments/results/ablation_rechecks

The arms are those of `ablation.py`. A step may be written twice, which is right. The policy does so now and then, and a
repetition has at least the regret of a wrong step. All runs together took 82.6 minutes, one core each.
"""

import pathlib
import runpy

_CHAINS = runpy.run_path(str(pathlib.Path(__file__).with_name('ablation.py')))


def get_sweep():
  return _CHAINS['get_sweep'](base='experiments/quickstart.py:rechecks')
