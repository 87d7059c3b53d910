"""Trains as `espo_jax.train` does, without the pictures at the end of a run and with a collector that looks less often."""

import gc
from unittest import mock

from absl import app

from espo_jax import train
from espo_jax.configs import parse_flags

if __name__ == '__main__':
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)  # as conftest.py has it in the process of the tests, for the same reason
  with mock.patch('espo_jax.monitor.plots.plot_all', lambda *_: []):
    app.run(train.main, flags_parser=parse_flags)
