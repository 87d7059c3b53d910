"""Checkpoints that are damaged in sixty-one ways, and what a run restores after each.

A small run is trained, and another with the seed 1. For each case the checkpoints of one arm are copied and harmed: files are
removed, emptied, cut, zeroed, exchanged or given another bit, folders are renamed, and files of other checkpoints are mixed in.
Then the state is restored as training does. A case holds if the state is that of an undamaged checkpoint of the same step, bit
for bit, or if an error names a folder and the fix. In the last few cases the command itself goes on from the damaged folder,
and its last checkpoint must be that of the undamaged run.
"""

import pathlib
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from drills import small
from drills.jobs import ROOT
from drills.nobody import as_nobody
from drills.record import Case
from drills.runs import same
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.learner import CheckpointError, init_state, restore
from espo_jax.stages.loop import make_stage
from espo_jax.stages.rl import fork, reinforcement_learner

AIM = 'every state that is restored is the saved one bit for bit, or an error names the folder and the fix'
COUNT = 61
OPTIONS = {'commands': "'no' leaves out the cases in which the command goes on"}
FILES = {
  'metadata': '_CHECKPOINT_METADATA',
  'tree': 'state/_METADATA',
  'manifest': 'state/manifest.ocdbt',
  'index': 'state/d/*',
  'data': 'state/ocdbt.process_0/d/*',
  'shards': 'state/array_metadatas/process_0',
  'shardings': 'state/_sharding',
  'accuracy': 'metrics/metrics',
}
Harm = Callable[[pathlib.Path], object]


class Way(NamedTuple):
  """A way to damage checkpoints.

  Attributes:
    name: What is done.
    harm: A function that does it to the folder of the checkpoints, or to a file.
    file: The pattern of the file of the newest checkpoint; '' for the folder of all checkpoints.
    command: Whether the command goes on from it, beside the library's function.
  """

  name: str
  harm: Harm
  file: str = ''
  command: bool = False

  def act(self, checkpoints: pathlib.Path) -> None:
    """Damages the checkpoints in a folder."""
    newest = max((path for path in checkpoints.iterdir()), key=lambda path: int(path.name))
    self.harm(_one(newest, self.file) if self.file else checkpoints)


class Runs(NamedTuple):
  """What the cases start from.

  Attributes:
    run: The folder of the undamaged run.
    other: The folder of the run with another seed.
    like: The shapes of an arm's state.
    origin: What tells the arm from others.
    saved: The undamaged states by their step.
  """

  run: pathlib.Path
  other: pathlib.Path
  like: Any
  origin: Mapping[str, Any]
  saved: Mapping[int, Any]


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any], commands: str = '') -> Iterator[Case]:
  """Damages checkpoints in `count` ways, and yields whether what was restored is right.

  Args:
    folder: An empty folder.
    count: The number of cases.
    seed: The seed of bits and bytes.
    figures: The dict that gets the numbers of restores by what was restored.
    commands: 'no' to leave out the cases in which the command goes on.
  """
  runs = _runs(folder)
  steps = sorted(runs.saved)
  ways = _ways(random.Random(seed), runs, *steps[-2:])
  count = min(count, len(ways))
  chosen = [ways[i * len(ways) // count] for i in range(count)]
  counts = dict.fromkeys(('the newest', 'an older one', 'an error'), 0)
  for place, way in enumerate(chosen):
    copy = folder / f'{place:02d}'
    shutil.copytree(runs.run / 'arms/espo/checkpoints', copy)
    way.act(copy)
    kind, wrong = _restored(copy, runs)
    counts[kind] += 1
    yield Case(f'{way.name}: {kind}', not wrong, wrong)
    _open_up(copy)
    shutil.rmtree(copy)
    if way.command and commands != 'no':
      wrong = _gone_on(folder / 'again', way, runs)
      yield Case(f'{way.name}: the command goes on', not wrong, wrong)
  figures.update(counts)


def _runs(folder: pathlib.Path) -> Runs:
  folders = small.trained(0), small.trained(1)
  exp = make_experiment(small.config())
  rule = make_rule(exp.config, 'espo')
  like = exp.on_mesh(fork(init_state(exp.init_params(), reinforcement_learner(exp, rule).optimizer, rule), rule))
  arm = folders[0] / 'arms/espo'
  origin = make_stage(exp.config, '', arm, last=0, step=lambda state, step: (state, {})).origin
  saved = {}
  for path in (arm / 'checkpoints').iterdir():
    shutil.copytree(path, folder / 'alone' / path.name)
    found = restore(folder / 'alone', like, origin)
    assert found is not None and found.step == int(path.name)
    saved[found.step] = jax.device_get(found.state)
    shutil.rmtree(folder / 'alone')
  return Runs(*folders, like, origin, saved)


def _restored(copy: pathlib.Path, runs: Runs) -> tuple[str, str]:
  """Returns what was restored, and what is wrong with it; '' if nothing is."""
  try:
    with as_nobody(copy):
      found = restore(copy, runs.like, runs.origin)
  except CheckpointError as error:
    named = str(copy) in str(error) and 'fix: ' in str(error)
    return 'an error', '' if named else f'the error names no folder or no fix: {error}'
  except Exception as error:  # whatever else is raised would be a traceback
    return 'an error', f'{type(error).__name__}: {error}'
  if found is None:
    return 'an error', 'the checkpoints were overlooked, and the stage would begin anew'
  kind = 'the newest' if found.step == max(runs.saved) else 'an older one'
  if found.step not in runs.saved:
    return kind, f'step {found.step} was never saved'
  return kind, '' if same(found.state, runs.saved[found.step]) else f'the state of step {found.step} is not the saved one'


def _gone_on(workdir: pathlib.Path, way: Way, runs: Runs) -> str:
  """Runs the command on a copy of the run that is damaged in a way. Returns what is wrong then."""
  shutil.copytree(runs.run, workdir)
  way.act(workdir / 'arms/espo/checkpoints')
  done = subprocess.run(small.command(workdir), cwd=ROOT, capture_output=True, text=True, timeout=600)
  refused = done.returncode != 0 and re.search(r'^error: .*; fix: ', done.stderr, re.MULTILINE)
  wrong = ''
  if 'Traceback' in done.stderr or (done.returncode and not refused):
    wrong = f'exit status {done.returncode}: {done.stderr[-500:]}'
  elif not done.returncode:
    kind, wrong = _restored(workdir / 'arms/espo/checkpoints', runs)
    wrong = wrong or ('' if kind == 'the newest' else f'{kind} was restored at the end, not that of the last step')
  shutil.rmtree(workdir)
  return wrong


# ---------------------------------------------------------------------------------------------------------------- the ways


def _ways(rng: random.Random, runs: Runs, older: int, newest: int) -> list[Way]:
  """Returns all ways to damage two checkpoints."""
  last, before = both = str(newest), str(older)
  theirs = runs.other / 'arms/espo/checkpoints' / last
  warmup = sorted((runs.run / 'critic_warmup/checkpoints').iterdir())[-1]
  harms = {'removed': pathlib.Path.unlink, 'emptied': _empty, 'cut': _cut, 'with another bit': _flip(rng)}
  ways = [
    Way(f'{name} {done}', harm, file, command=(name, done) == ('data', 'cut'))
    for name, file in FILES.items()
    for done, harm in harms.items()
  ]
  ways += [
    Way(f'a bit of the data flipped at {place} of 12', _flip(rng, place / 12), FILES['data'], command=place == 6)
    for place in range(12)
  ]
  ways += [
    Way('data with a page of zeros', _zeros, FILES['data']),
    Way('data that nobody may read', lambda path: path.chmod(0), FILES['data']),
    Way('a folder that nobody may read', lambda folder: (folder / last).chmod(0)),
    Way('data of both with another bit', lambda folder: [_flip(rng, 0.5)(_one(folder / n, FILES['data'])) for n in both]),
    Way('both folders emptied', lambda folder: [_clear(path) for path in folder.iterdir()]),
    Way('the newest folder emptied', lambda folder: _clear(folder / last)),
    Way('the folder of the arrays removed', lambda folder: shutil.rmtree(folder / last / 'state')),
    Way('a file in place of the newest folder', lambda folder: _to_file(folder / last)),
    Way("another run's checkpoint in place of the newest", _replaced(last, theirs), command=True),
    Way("another run's arrays in the newest", _replaced(f'{last}/state', theirs / 'state')),
    Way("another run's data file in the newest", lambda path: shutil.copy(_one(theirs, FILES['data']), path), FILES['data']),
    Way("another stage's checkpoint in place of the newest", _replaced(last, warmup)),
    Way("another stage's arrays in the newest", _replaced(f'{last}/state', warmup / 'state')),
    Way('the arrays of both exchanged', lambda folder: _exchange(*(folder / name / 'state' for name in both))),
    Way('both exchanged', lambda folder: _exchange(folder / last, folder / before), command=True),
    Way('the newest renamed to a later step', lambda folder: (folder / last).rename(folder / f'{newest + 7}')),
    Way('the older renamed to a later step', lambda folder: (folder / before).rename(folder / f'{newest + 7}')),
  ]
  return ways


def _one(checkpoint: pathlib.Path, pattern: str) -> pathlib.Path:
  return sorted(path for path in checkpoint.glob(pattern) if path.is_file())[0]


def _empty(path: pathlib.Path) -> None:
  path.write_bytes(b'')


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(rng: random.Random, place: float | None = None) -> Harm:
  """Changes one bit: at a share of the file's length, or anywhere."""

  def flip(path: pathlib.Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * (rng.random() if place is None else place))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)

  return flip


def _zeros(path: pathlib.Path) -> None:
  raw, page = path.read_bytes(), 4096
  start = len(raw) // 2 // page * page
  path.write_bytes(raw[:start] + bytes(min(page, len(raw) - start)) + raw[start + page :])


def _clear(folder: pathlib.Path) -> None:
  shutil.rmtree(folder)
  folder.mkdir()


def _replaced(name: str, source: pathlib.Path) -> Harm:
  return lambda folder: (shutil.rmtree(folder / name), shutil.copytree(source, folder / name))


def _to_file(folder: pathlib.Path) -> None:
  shutil.rmtree(folder)
  folder.write_text('no folder')


def _exchange(one: pathlib.Path, other: pathlib.Path) -> None:
  aside = one.with_name('aside')
  one.rename(aside)
  other.rename(one)
  aside.rename(other)


def _open_up(folder: pathlib.Path) -> None:
  for path in folder.iterdir():
    path.chmod(0o755)
