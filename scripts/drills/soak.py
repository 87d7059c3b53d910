"""Thousands of updates in one run, which must not grow.

The process is looked at ten times, at even distances, while it trains: its resident memory, its file handles and its threads,
each as the least of a few readings. All is well if memory stays within 2 % of what it is at the first look after 300 updates,
if the second half of the looks finds no more handles, threads and child processes than the first half, and if no process is
left at the end. The number of cases of the command is that of updates.
"""

import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from drills.jobs import Job
from drills.marked import children
from drills.record import Case
from espo_jax.configs import default_config

AIM = 'memory is flat within 2 %, and no handle, thread or process is left over'
COUNT = 3000

EVERY = default_config().checkpoint.every  # updates between checkpoints
LOOKS = 10  # looks at the process
SETTLED = 300  # updates after which it is compared, or a quarter of all if these are few
WITHIN = 0.02  # of the resident memory
SECONDS = 1.0  # of one look
FLAGS = (
  '--config=experiments/quickstart.py:smoke',
  '--config.baselines=()',
  '--nocheck_memory',
  '--config.model.num_layers=1',
  '--config.eval.every=100',
  '--config.rollout.record=100',
  f'--config.checkpoint.every={EVERY}',
)


class Look(NamedTuple):
  """What a process holds.

  Attributes:
    memory: The resident memory in MiB.
    handles: The open files.
    threads: The threads.
    children: The child processes.
  """

  memory: float
  handles: int
  threads: int
  children: int


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Yields a case each for memory, handles, threads and processes."""
  workdir = folder / 'run'
  cache = folder / 'compiled'
  short = f'--config.gate.force_at={3 / count}'  # three updates of critic warm-up, so that the rest is one stage
  flags = [*FLAGS, short, f'--config.learner.updates={count}', f'--config.seed={seed}', f'--workdir={workdir}']
  job = Job([['-m', 'espo_jax.train', *flags, f'--compilation_cache_dir={cache}']], logs=folder / 'logs', cache=cache)
  process = job.processes[0].pid
  looks = list[tuple[int, Look]]()
  for number in range(1, LOOKS + 1):
    due = number * count // LOOKS - (count // 20 if number == LOOKS else 0)  # the last look is before the end
    job.wait_for(lambda due=due: updates(workdir) >= due)
    looks.append((updates(workdir), least(process)))
  statuses = job.end(600)
  if statuses != [0]:
    raise RuntimeError(f'the run failed: {job.output()}')
  settled = [look for step, look in looks if step >= min(SETTLED, count // 4)]
  first = settled[0]
  figures['updates'] = count
  for name in Look._fields:
    figures[f'{name} (MiB)' if name == 'memory' else name] = ' '.join(f'{getattr(look, name):.0f}' for _, look in looks)
  growth = max(look.memory for look in settled) / first.memory - 1
  figures['growth of memory %'] = round(100 * growth, 2)
  saved = (looks[-1][0] - looks[0][0]) / EVERY
  figures['growth for each checkpoint, KiB'] = round(1024 * (looks[-1][1].memory - looks[0][1].memory) / saved)
  yield Case('resident memory', growth <= WITHIN, f'{100 * growth:.2f} % more than at first')
  for name in ('handles', 'threads', 'children'):
    early, late = (
      max(getattr(look, name) for look in half) for half in (settled[: len(settled) // 2], settled[len(settled) // 2 :])
    )
    yield Case(name, late <= early, f'{late} in the second half, and {early} in the first')
  left = job.left()
  yield Case('processes after the end', not left, f'processes {left}')


def updates(workdir: pathlib.Path) -> int:
  """Returns the number of the last update whose metrics are written."""
  path = workdir / 'arms' / 'espo' / 'metrics.jsonl'
  return sum(1 for _ in path.open('rb')) if path.exists() else 0


def least(process: int, times: int = 20) -> Look:
  """Returns the least of each number over a while, because a checkpoint that is being written takes more for a moment."""
  found = []
  for _ in range(times):
    found.append(look(process))
    time.sleep(SECONDS / times)
  return Look(*(min(values) for values in zip(*found, strict=True)))


def look(process: int) -> Look:
  """Returns what a process holds now."""
  folder = pathlib.Path('/proc') / str(process)
  memory = re.search(r'VmRSS:\s+(\d+) kB', (folder / 'status').read_text())
  assert memory is not None
  handles, threads = (len(list((folder / name).iterdir())) for name in ('fd', 'task'))
  return Look(int(memory[1]) / 1024, handles, threads, len(children(process)))
