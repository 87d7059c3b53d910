"""SIGTERM with ten seconds of grace, and then SIGKILL, as a scheduler ends a job, at moments of a run with a pretrained model.

All is well if the state is saved in time or the newest checkpoint is whole, and the same command goes on from there. One run is
ended at all moments, one after another, and then comes to its end. A step that takes longer than the grace is lost, because a
signal is answered between steps.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from drills.jobs import PATIENCE, ROOT, Job
from drills.marked import Signal, sent, timeline
from drills.record import Case
from drills.runs import stages
from espo_jax.learner.checkpoint import survey

AIM = 'saved within 10 s or the newest checkpoint is whole, and the run goes on from there'
COUNT = 7
OPTIONS = {
  'model': 'a Hugging Face folder; a random model of a few million parameters if it is not given',
  'data': 'a JSON-lines file in the form of GSM8K; made-up sums if it is not given',
}

GRACE = 10.0  # seconds between the two signals
FLAGS = (
  '--config=experiments/gsm8k.py:adapters',
  '--config.baselines=()',
  '--config.rollout.prompts=2',
  '--config.rollout.samples=2',
  '--config.rollout.prompt_width=192',
  '--config.rollout.horizon=32',
  '--config.rollout.slots=0',
  '--config.learner.minibatches=1',
  '--config.learner.micro_batches=1',
  '--config.learner.updates=5',
  '--config.gate.force_at=0.4',  # after two updates
  '--config.eval.problems=2',
  '--config.eval.batch=4',
  '--nocheck_memory',
)
FOLDERS = {'warm start': 'warm_start', 'critic warm-up': 'critic_warmup', 'ESPO': 'arms/espo'}
TEMPORARY = 'WORKDIR/**/checkpoints/*tmp*'
MOMENTS = (  # in the order of a run
  ('start', Signal('start', 3.0, signal.SIGTERM)),
  ('load', Signal('*/load', 0.2, signal.SIGTERM)),
  ('first rollout, which compiles', Signal('critic warm-up/*/rollout', 1.0, signal.SIGTERM)),
  ('checkpoint', Signal('critic warm-up/*/checkpoint', 0.01, signal.SIGTERM, beside=TEMPORARY)),
  ('rollout', Signal('ESPO/*/rollout', 1.0, signal.SIGTERM)),
  ('update', Signal('ESPO/*/update', 1.0, signal.SIGTERM)),
  ('evaluation', Signal('ESPO/*/evaluation', 0.5, signal.SIGTERM)),
)


class Ended(NamedTuple):
  """How a run ended, by itself or not.

  Attributes:
    status: The exit status; that of SIGKILL is -9.
    seconds: The seconds from the signal to the end; 0 without a signal.
    first: The stage and the number of the first step, such as `ESPO/3`; '' if it came to none.
    output: What it printed.
  """

  status: int | None
  seconds: float
  first: str
  output: str


def run(
  folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any], model: str = '', data: str = ''
) -> Iterator[Case]:
  """Yields a case per moment; `seed` is that of the training."""
  name = pathlib.Path(model).name or 'a random one'
  data = data or str(sums(folder / 'sums.jsonl'))
  model = model or str(random_model(folder / 'model', data))
  figures['model'] = name
  flags = [*FLAGS, f'--config.model.path={model}', f'--config.data.path={data}', f'--config.seed={seed}']
  yield from at_moments(folder, flags, MOMENTS[:count], figures)


def at_moments(
  folder: pathlib.Path, flags: Sequence[str], moments: Sequence[tuple[str, Signal]], figures: dict[str, Any]
) -> Iterator[Case]:
  """Yields a case per moment of a run with these flags."""
  workdir, told = folder / 'run', list[str]()
  flags = [*flags, f'--workdir={workdir}']
  ended = list[tuple[str, Ended, dict[str, int], str]]()
  for name, due in moments:
    due = due._replace(beside=due.beside.replace('WORKDIR', str(workdir)))
    found = once(folder, flags, [due])
    newest, broken = checkpoints(workdir)
    ended.append((name, found, newest, broken))
    told.append(f'{name} {describe(found)}')
  last = once(folder, flags, [])
  figures['what happened'] = ', '.join(told)
  for (name, found, newest, broken), after in zip(ended, [*(found for _, found, _, _ in ended[1:]), last], strict=True):
    wrong = broken or went_on(newest, after) or ('' if last.status == 0 else f'the end: {last.status}: {last.output[-1500:]}')
    ended_by_it = found.status in (143, -signal.SIGTERM, -signal.SIGKILL)
    wrong = wrong or ('' if ended_by_it else f'status {found.status}: {found.output[-1500:]}')
    wrong = wrong if found.seconds else f'the signal was not sent; {wrong}'
    yield Case(f'SIGTERM in {name}: {describe(found)}', not wrong, wrong)


def describe(found: Ended) -> str:
  """Returns what the signal led to."""
  how = {143: 'saved', -signal.SIGTERM: 'ended at once', -signal.SIGKILL: 'killed'}.get(
    found.status or 0, f'status {found.status}'
  )
  return f'{how} after {found.seconds:.1f} s'


def once(folder: pathlib.Path, flags: Sequence[str], plan: Sequence[Signal]) -> Ended:
  """Runs the command, and kills it ten seconds after the signal of the plan."""
  marks = folder / f'marks-{time.monotonic_ns()}'
  cache = folder / 'compiled'
  command = ['scripts/drills/marked.py', str(marks), json.dumps(plan), *flags, f'--compilation_cache_dir={cache}']
  job = Job([command], logs=folder / 'logs', cache=cache, environment={'JAX_PLATFORMS': 'cpu'})
  began = time.monotonic()
  while (
    job.processes[0].poll() is None and not sent(marks) and time.monotonic() - began < 2 * PATIENCE
  ):  # a pretrained model compiles for long
    time.sleep(0.05)
  job.end(GRACE)
  when = sent(marks)
  seconds, status = time.time() - when if when else 0.0, job.processes[0].returncode
  steps = [name.rpartition('/')[0] for _, name in timeline(marks) if name.endswith('/step')]
  return Ended(status, seconds, steps[0] if steps else '', job.output())


def checkpoints(workdir: pathlib.Path) -> tuple[dict[str, int], str]:
  """Returns the step of the newest checkpoint of each stage that has one, and the damage of checkpoints, '' for none."""
  newest, broken = {}, list[str]()
  for stage in stages(workdir):
    found = survey(workdir / stage / 'checkpoints')
    broken += [f'{stage}, checkpoint {step}: {reason}' for step, reason in found.items() if reason]
    if found:
      newest[stage] = max(found)
  return newest, '; '.join(broken)


def went_on(newest: dict[str, int], after: Ended) -> str:
  """Returns why a run did not go on from the newest checkpoints; '' if it did, or came to no step."""
  stage, _, step = after.first.partition('/')
  folder = FOLDERS.get(stage)
  if folder is None or folder not in newest or int(step) == newest[folder] + 1:
    return ''
  return f'the newest checkpoint of {stage} is {newest[folder]}, and the run went on with step {step}'


def sums(path: pathlib.Path) -> pathlib.Path:
  """Writes sums as problems in the form of GSM8K."""
  rows = ({'question': f'What is {i} plus {3 * i}?', 'answer': f'{i} + {3 * i} = {4 * i}\n#### {4 * i}'} for i in range(300))
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def random_model(folder: pathlib.Path, data: str) -> pathlib.Path:
  """Writes a random model."""
  command = [sys.executable, 'scripts/make_tiny_model.py', f'--data={data}', f'--output={folder}']
  subprocess.run(command, cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}, check=True)
  return folder
