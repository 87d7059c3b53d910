"""Runs the cases of the benchmark: the contenders take turns, and their times are summarised."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench import workload
from bench.protocol import Contender, ContenderError
from bench.workload import Workload
from espo_jax.monitor import mean_interval

OURS = 'espo_jax'
# For each contender the environment, the module and the options.
CONTENDERS: dict[str, tuple[str, str, dict[str, str]]] = {
  OURS: ('ours', 'bench.ours', {'kind': 'espo_jax'}),
  'masked_scan': ('ours', 'bench.ours', {'kind': 'masked_scan'}),
  'transformers_dynamic': ('transformers', 'bench.peer_transformers', {'cache': 'dynamic'}),
  'transformers_static': ('transformers', 'bench.peer_transformers', {'cache': 'static'}),
  'transformers_compiled': ('transformers', 'bench.peer_transformers', {'cache': 'compiled'}),
  'tunix': ('tunix', 'bench.peer_tunix', {}),
}
_MAY_FAIL = ('transformers_compiled',)  # torch.compile needs a C++ compiler and a CPU that it supports
# The share of the rows that stop, and the share of a stopped row's length at which it stops.
STOPPED = {'none': (0.0, 1.0), 'some': (0.5, 0.6), 'most': (0.8, 0.5)}


@dataclasses.dataclass(frozen=True)
class Bench:
  """The settings that all cases share.

  Attributes:
    pythons: The interpreter of each environment.
    model: The folder of the weights.
    folder: The folder for workloads and logs.
    seed: The seed of the first repeat's sampling.
  """

  pythons: dict[str, str]
  model: pathlib.Path
  folder: pathlib.Path
  seed: int

  @contextlib.contextmanager
  def contenders(self, names: Sequence[str]) -> Iterator[dict[str, Contender]]:
    """Starts one process per contender, and closes them at the end."""
    with contextlib.ExitStack() as stack:
      started = {}
      for name in names:
        environment, module, options = CONTENDERS[name]
        log = self.folder / f'{name}.log'
        started[name] = Contender(name, self.pythons[environment], module, options, log)
        stack.callback(started[name].close)
      yield started

  def save(self, work: Workload, name: str) -> str:
    """Writes the workload to a file for the contenders, and returns its path."""
    return work.save(str(self.folder / f'{name}.npz'))


def estimate(values: Sequence[float]) -> dict[str, Any]:
  """Returns the mean, the half width of the 95 % interval and the values."""
  mean, half = mean_interval(values)
  return {'mean': mean, 'half_width': half, 'values': list(values)}


def describe(work: Workload) -> dict[str, Any]:
  """Returns the sizes of a workload, and the row-steps and utilisation of greedy list scheduling."""
  bound = workload.list_scheduling(work.ends, work.slots) * work.slots
  tokens = int(work.ends.sum())
  return {
    'rows': work.rows,
    'samples': work.samples,
    'slots': work.slots,
    'horizon': work.horizon,
    'prompt_tokens': work.prompts.shape[1],
    'tokens': tokens,
    'mean_length': tokens / work.rows,
    'list_scheduling_row_steps': bound,
    'list_scheduling_utilisation': tokens / bound,
  }


def timed(contender: Contender, work: Workload, path: str, seed: int, **arguments: Any) -> dict[str, Any]:
  """Times one run and checks its lengths; `foreign_cores` is the mean number of cores that other processes used."""
  own, everyone = contender.cpu_seconds()
  answer = contender.ask('run', rows=path, seed=seed, **arguments)
  own_after, everyone_after = contender.cpu_seconds()
  answer['foreign_cores'] = max(0.0, (everyone_after - everyone - own_after + own) / answer['seconds'])
  lengths = np.asarray(answer.pop('lengths'))
  if not np.array_equal(lengths, work.ends):
    wrong = np.flatnonzero(lengths != work.ends)
    raise ContenderError(f'{contender.name}: {len(wrong)} lengths are not those asked for, the first in row {wrong[0]}')
  speed = work.ends.sum() / answer['seconds']
  print(f'  {contender.name} {" ".join(arguments.values())}: {answer["seconds"]:.2f} s, {speed:.0f} tokens/s', flush=True)
  return answer


def compare(bench: Bench, work: Workload, name: str, contenders: Sequence[str], repeats: int) -> dict[str, Any]:
  """Times all contenders on the same rows; they take turns."""
  print(f'{name}: {work.rows} rows, {work.ends.sum()} tokens', flush=True)
  path, runs, about = bench.save(work, name), {}, {}
  failed: dict[str, str] = {}
  with bench.contenders(contenders) as running:
    for contender in contenders:
      try:
        about[contender] = running[contender].ask('load', model=str(bench.model))
        about[contender]['logits'] = running[contender].ask('logits', rows=path)['logits']
        about[contender]['warm_up_seconds'] = running[contender].ask('warm', rows=path)['seconds']
        runs[contender] = []
      except ContenderError as error:
        if contender not in _MAY_FAIL:
          raise
        failed[contender] = str(error).splitlines()[0]
        print(f'  left out: {failed[contender]}', flush=True)
    order = list(runs)
    for repeat in range(repeats):
      for contender in order:
        runs[contender].append(timed(running[contender], work, path, bench.seed + repeat))
      order = order[1:] + order[:1]
  return {
    'workload': describe(work),
    'contenders': {contender: _summary(work, runs, about, contender) for contender in runs},
    'left_out': failed,
    'transformers': max(
      (c for c in runs if c.startswith('transformers')), key=lambda c: -sum(run['seconds'] for run in runs[c]), default=None
    ),
  }


def _summary(work: Workload, runs: dict[str, list], about: dict[str, dict], name: str) -> dict[str, Any]:
  tokens, mine = int(work.ends.sum()), runs[name]
  executed = mine[-1]['executed']
  summary = {key: about[name][key] for key in ('versions', 'settings', 'warm_up_seconds')} | {
    'seconds': estimate([run['seconds'] for run in mine]),
    'tokens_per_second': estimate([tokens / run['seconds'] for run in mine]),
    'executed_row_steps': executed,
    'utilisation': tokens / executed,
    'executed_over_list_scheduling': executed / describe(work)['list_scheduling_row_steps'],
    'milliseconds_per_step': estimate([1e3 * run['seconds'] / executed * work.slots for run in mine]),
    'peak_rss_mib': mine[-1]['peak_rss_mib'],
    'foreign_cores': [run['foreign_cores'] for run in mine],
  }
  if OURS in runs:
    summary['ours_is_faster_by'] = estimate(
      [other['seconds'] / our['seconds'] for our, other in zip(runs[OURS], mine, strict=True)]
    )
    gap = np.abs(np.subtract(about[name]['logits'], about[OURS]['logits'])).max()
    summary['largest_logit_gap_to_ours'] = float(gap)
  return summary


def cost_of_rule(bench: Bench, work: Workload, repeats: int) -> dict[str, Any]:
  """Times ESPO's rule with a threshold that is never reached against the rule `never`, on the same lengths."""
  print(f'rule: {work.rows} rows, {work.ends.sum()} tokens', flush=True)
  path = bench.save(work, 'rule')
  times: dict[str, list[float]] = {'never': [], 'espo': []}
  foreign = []
  with bench.contenders([OURS]) as running:
    ours = running[OURS]
    ours.ask('load', model=str(bench.model))
    for rule in times:
      ours.ask('warm', rows=path, rule=rule)
      timed(ours, work, path, bench.seed, rule=rule)
    for repeat in range(repeats):
      for rule in list(times)[:: 1 - 2 * (repeat % 2)]:
        answer = timed(ours, work, path, bench.seed + repeat, rule=rule)
        times[rule].append(answer['seconds'])
        foreign.append(answer['foreign_cores'])
  steps = answer['executed'] / work.slots
  pairs = list(zip(times['never'], times['espo'], strict=True))
  return {
    'workload': describe(work),
    'seconds_without': estimate(times['never']),
    'seconds_with': estimate(times['espo']),
    'cost_percent': estimate([100 * (on - off) / off for off, on in pairs]),
    'cost_microseconds_per_step': estimate([1e6 * (on - off) / steps for off, on in pairs]),
    'foreign_cores': foreign,
  }


def saved_by_stops(bench: Bench, work: Workload, seed: int, repeats: int) -> dict[str, Any]:
  """Measures the shares of tokens and time that stops save. The same compiled program runs for all stop rates."""
  print(f'stopped: {work.rows} rows, {work.ends.sum()} tokens', flush=True)
  draws = np.repeat(np.random.default_rng(seed).random(work.rows // work.samples), work.samples)
  works, paths = {}, {}
  for level, (share, where) in STOPPED.items():
    stops = np.where(draws < share, np.maximum(np.round(where * work.lengths), 1), work.lengths + 1).astype(np.int32)
    works[level] = work.with_lengths(work.lengths, stops)
    paths[level] = bench.save(works[level], f'stopped_{level}')
  runs: dict[str, list] = {level: [] for level in works}
  with bench.contenders([OURS]) as running:
    ours = running[OURS]
    ours.ask('load', model=str(bench.model))
    ours.ask('warm', rows=paths['none'], rule='announced')
    order = list(works)
    for repeat in range(repeats):
      for level in order:
        runs[level].append(timed(ours, works[level], paths[level], bench.seed + repeat, rule='announced'))
      order = order[1:] + order[:1]

  def level_summary(level: str) -> dict[str, Any]:
    pairs = list(zip(runs['none'], runs[level], strict=True))
    return {
      'rows_stopped_percent': 100 * float((works[level].stops < work.lengths).mean()),
      'tokens_ended_percent': 100 * (1 - works[level].ends.sum() / work.ends.sum()),
      'row_steps_ended_percent': 100 * (1 - runs[level][-1]['executed'] / runs['none'][-1]['executed']),
      'time_ended_percent': estimate([100 * (1 - one['seconds'] / none['seconds']) for none, one in pairs]),
      'seconds': estimate([run['seconds'] for run in runs[level]]),
      'foreign_cores': [run['foreign_cores'] for run in runs[level]],
    }

  return {'workload': describe(work), 'levels': {level: level_summary(level) for level in works}}
