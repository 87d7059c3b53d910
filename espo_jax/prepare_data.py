"""Check the rows of a benchmark once, and store them as a tensorflow-datasets data set over ArrayRecord files.

  python -m espo_jax.prepare_data --benchmark=gsm8k --data=openai/gsm8k --split=train --output=data/gsm8k_train

`--data` is a file of JSON lines, a JSON array or Parquet, gzipped or not, or the benchmark's name on the Hugging Face Hub. The
directory can be the `--config.data.path` or `--config.data.eval_path` of a run, also on a machine without a network. TensorFlow
is not needed.
"""

import sys
from collections.abc import Sequence

from espo_jax import tasks
from espo_jax.commands import CommandParser, machine_errors
from espo_jax.parallel.memory import READING, during
from espo_jax.tasks.files import FORMATS
from espo_jax.tasks.prepared import write_prepared
from espo_jax.tasks.sources import ON_ERROR, Rows, read_rows


def prepare(benchmark: str, data: str, split: str, output: str, on_error: str = 'raise') -> Rows:
  """Reads, checks and writes a split of a benchmark.

  Args:
    benchmark: a name in `tasks.BENCHMARKS`.
    data: a file, or the benchmark's name on the Hub.
    split: 'train' or 'test'.
    output: the directory to write, which must be empty or not exist.
    on_error: 'raise' to stop at the first malformed row, or 'skip' to leave such rows out.

  Returns:
    The rows written, and the rows left out.

  Raises:
    DataError: The data cannot be used, or the directory cannot be written. The message says which and what to do.
  """
  found = read_rows(tasks.BENCHMARKS[benchmark], data, split, '--data', on_error)
  write_prepared(benchmark, split, found.rows, output)
  return found


def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  parser = CommandParser(prog='python -m espo_jax.prepare_data', description='Prepare a benchmark for training runs.')
  parser.add_argument('--benchmark', required=True, choices=sorted(tasks.BENCHMARKS))
  parser.add_argument('--data', required=True, help=f"a file of {FORMATS}, or the benchmark's name on the Hub")
  parser.add_argument('--split', required=True, choices=tasks.task.SPLITS)
  parser.add_argument('--output', required=True, help='the directory to write')
  parser.add_argument('--on_error', default='raise', choices=ON_ERROR, help='what to do with a malformed row')
  arguments = parser.parse_args(argv)
  try:
    with machine_errors(lambda phase: f'--data={arguments.data} in parts, or a host with more memory'), during(READING):
      found = prepare(**vars(arguments))
  except tasks.DataError as error:
    sys.exit(f'error: {error}')
  for skipped in found.skipped:
    print(f'left out {skipped.place}: {skipped.reason}')
  print(
    f'wrote {len(found.rows)} rows of {arguments.benchmark} to {arguments.output} '
    f'({len(found.skipped)} malformed and {found.repeats} repeated ones left out)'
  )


if __name__ == '__main__':
  main(sys.argv[1:])
