"""Runs as a process that reads files of every kind for the drill `fuzz`, and says what became of each.

`process.WorkerProcess` starts it. It reads `[kind, path]`, and writes `[outcome, message]`: 'read', 'refused' for an error that
is meant for its reader, or 'crashed' for any other, with the end of its traceback.
"""

import contextlib
import io
import json
import pathlib
import resource
import sys
import traceback
import warnings
from collections.abc import Callable

from absl import flags, logging
from ml_collections import config_flags

from espo_jax import tasks
from espo_jax.configs import ConfigError, load_config, parse_flags, validate
from espo_jax.evaluate.policies import RequestError
from espo_jax.model import WeightsError, load_gguf, load_hf, open_gguf
from espo_jax.monitor import OutputError
from espo_jax.parallel.storage import DamagedFile
from espo_jax.registry import PluginError, load_plugin
from espo_jax.replay.recordings import RecordingsError, read_recordings
from espo_jax.report import ReportError, read_runs, write_page
from espo_jax.tasks.grading import worker
from espo_jax.tasks.sources import read_rows

MEMORY = 24 * 2**30  # address space, of which the libraries take some gibibytes
REFUSALS = (ConfigError, DamagedFile, OutputError, PluginError, RecordingsError, ReportError, RequestError, WeightsError)
REFUSALS = (*REFUSALS, tasks.DataError, SystemExit)


def _flags(path: pathlib.Path) -> None:
  own, argv = flags.FlagValues(), ['train', *json.loads(path.read_text())]
  options = {'lock_config': False, 'accept_new_attributes': True, 'sys_argv': argv}  # else those of this process
  config_flags.DEFINE_config_file('config', None, '', flag_values=own, **options)
  parse_flags(argv, own)
  validate(own.config)


def _gguf(path: pathlib.Path) -> None:
  tasks.gguf_tokenizer(open_gguf(path).metadata, path)
  load_gguf(path)


def _rows(path: pathlib.Path) -> None:
  read_rows(tasks.find_benchmark('gsm8k'), str(path), 'train', 'data.path')


def _report(path: pathlib.Path) -> None:
  write_page(read_runs([path]), path / 'report.html')


READERS: dict[str, Callable[[pathlib.Path], object]] = {
  'flags': _flags,
  'config': lambda path: validate(load_config(path)),
  'rows': _rows,
  'model': load_hf,
  'gguf': _gguf,
  'tokenizer': lambda path: tasks.load_tokenizer(str(path)),
  'recordings': read_recordings,
  'report': _report,
  'plugin': load_plugin,
}


def read(question: tuple[str, str]) -> tuple[str, str]:
  """Reads a file or folder of a kind."""
  kind, path = question
  try:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action='ignore'):
      READERS[kind](pathlib.Path(path))
  except REFUSALS as error:
    return 'refused', str(error)
  except BaseException as error:
    return 'crashed', f'{type(error).__name__}: {error}\n{"".join(traceback.format_tb(error.__traceback__)[-3:])}'
  return 'read', ''


def _load() -> Callable[[tuple[str, str]], tuple[str, str]]:
  logging.set_verbosity(logging.FATAL)
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  return read


if __name__ == '__main__':
  worker.serve(int(sys.argv[1]), _load)
