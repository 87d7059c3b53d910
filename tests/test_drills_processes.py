"""The drills of processes in short forms: a few of their cases hold, and what they compare is told apart where it differs."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from drills import killed, marked, runs, soak, stuck, terminated
from drills.marked import Signal
from drills.runs import difference, lines

from espo_jax import report

SMALL = (
  '--config=experiments/quickstart.py:smoke',
  '--config.baselines=()',
  '--config.model.num_layers=1',
  '--config.eval.problems=4',
  '--nocheck_memory',
)
WARM_START = (*SMALL, "--config.stages=('warm_start',)")


@pytest.fixture
def folder(request, tmp_path):
  """A folder in which a drill finds the compiled programs of the last time."""
  (tmp_path / 'compiled').symlink_to(request.config.cache.mkdir('jax'))
  return tmp_path


def held(cases) -> list:
  cases = list(cases)
  assert [case for case in cases if not case.passed] == []
  return cases


def stated(response: str) -> str:
  """The answer that a response to a chain states."""
  _, mark, answer = re.sub('<[a-z]+>', '', response).rpartition('#')  # special tokens are no text
  return answer if mark else ''


def test_a_run_that_is_killed_as_it_writes_a_checkpoint_ends_bit_for_bit_as_the_undisturbed_one(folder, monkeypatch):
  figures = {}
  cases = held(killed.run(folder, 1, 0, figures, flags=SMALL, phases=('checkpoint',)))
  assert len(cases) == 1 and figures['runs'] == 1 and 'SIGKILL' in cases[0].name
  ended, reference = folder / 'run-0', folder / 'undisturbed'
  for stage, steps in (('warm_start', 12), ('critic_warmup', 3), ('arms/espo', 10)):
    assert [row['step'] for row in lines(ended, stage)] == list(range(1, steps + 1))
    assert len(runs.newest_state(ended, stage)) > 20
  assert any(row['stop/rate'] > 0 for row in lines(ended, 'arms/espo'))
  (run,) = report.read_runs([ended])
  rollouts = report.read_rollouts(run, 100)
  assert (ended / 'report.html').exists() and run.finished and len(rollouts) == 4
  assert all(set(rollout.series) >= {'regret', 'z', 'threshold', 'values', 'logprobs', 'entropy'} for rollout in rollouts)
  assert all(rollout.answer == stated(''.join(rollout.tokens)) for rollout in rollouts)

  metrics = ended / 'warm_start' / 'metrics.jsonl'
  rows = [json.loads(line) for line in metrics.read_text().splitlines()]
  rows[3]['loss/total'] += 1e-7
  metrics.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert difference(ended, reference) == 'warm_start, step 4: loss/total differ in metrics.jsonl'
  shutil.copy(reference / 'warm_start' / 'metrics.jsonl', metrics)
  assert difference(ended, reference) == ''
  read = runs.newest_state
  arrays = read(ended, 'warm_start')
  name = next(name for name, array in arrays.items() if array.dtype == np.float32 and array.ndim == 2)
  altered = arrays | {name: np.nextafter(arrays[name], np.float32(np.inf))}
  its = ended, 'warm_start'
  monkeypatch.setattr(runs, 'newest_state', lambda *asked: altered if asked == its else read(*asked))
  assert difference(ended, reference) == f'warm_start: {name} differs'
  monkeypatch.undo()
  newest = ended / 'warm_start' / 'checkpoints' / '12'
  shutil.rmtree(newest)
  shutil.copytree(newest.with_name('10'), newest)
  assert 'it was saved as step 10' in difference(ended, reference)


def test_a_run_that_is_told_to_end_is_saved_or_goes_on_from_what_is_whole(folder, monkeypatch):
  moments = (
    ('start', Signal('start', 0.2, signal.SIGTERM)),
    ('warm start', Signal('warm start/3/step', 0.0, signal.SIGTERM)),
  )
  ended, once = [], terminated.once
  monkeypatch.setattr(terminated, 'once', lambda *args: ended.append(once(*args)) or ended[-1])
  cases = held(terminated.at_moments(folder, WARM_START, moments, {}))
  assert 'ended at once' in cases[0].name and 'saved' in cases[1].name
  told = ended[1].output
  step = int(ended[2].first.rpartition('/')[2]) - 1
  assert 'SIGTERM: the step at hand is finished and saved, then the command ends; a second signal ends it at once' in told
  assert f'warm start: saved at step {step} of 12, under {folder}/run/warm_start. This goes on from there:' in told
  assert re.search(
    rf'\n  python -m espo_jax.train --config=experiments/quickstart.py:smoke \S+ .*--workdir={folder}/run ', told
  )
  assert terminated.went_on({'warm_start': 4}, terminated.Ended(0, 0.0, 'warm start/4', '')).startswith('the newest checkpoint')


def test_a_grader_goes_on_without_a_worker_that_is_stopped_or_killed(monkeypatch):
  monkeypatch.setattr(stuck, 'MOMENTS', ('no question', 'a question'))
  monkeypatch.setattr(stuck, 'Grader', functools.partial(stuck.Grader, deadline=2.0))  # of 5, which are waited for twice
  waits = {}
  assert len(held(stuck.graders(waits))) == 4
  assert max(waits['computer algebra']) < 30


def test_a_signal_that_is_not_sent_is_a_failed_case(tmp_path, monkeypatch):
  monkeypatch.setattr(stuck, 'MOMENTS', ('no question',))
  monkeypatch.setattr(stuck, 'MINUTE', 1.0)
  monkeypatch.setattr(stuck, 'children', lambda process: [])
  cases = list(stuck.graders({}))
  assert [(case.passed, case.note) for case in cases] == [(False, 'the signal was not sent')] * 2

  drill = killed._Drill(tmp_path, 1, ())
  monkeypatch.setattr(drill, '_start', lambda workdir, due: ([0], [[(0.0, 'start'), (1.0, 'end')]], ''))
  pending = [killed.Moment(0.0, 'update', Signal('nowhere', 0.0), (0,))]
  (case,) = drill._disturbed(tmp_path / 'run', pending)
  assert not pending and not case.passed and 'the signal was not sent' in case.note


def test_a_run_that_ends_before_its_next_kill_leaves_it_to_another_run_with_half_of_the_delay(tmp_path, monkeypatch):
  drill, sent = killed._Drill(tmp_path, 1, ()), f'{marked.SENT}9 to 1'
  ends = iter([([-9], [[(0.0, 'start'), (0.1, sent)]], ''), ([0], [[(0.0, 'start')]], '')])
  monkeypatch.setattr(drill, '_start', lambda workdir, due: next(ends))
  monkeypatch.setattr(killed, 'difference', lambda workdir, reference: '')
  pending = [killed.Moment(float(i), 'update', Signal('ESPO/3/update', 0.5), (0,)) for i in range(2)]
  (case,) = drill._disturbed(tmp_path / 'run', pending)
  assert case.passed and [moment.due.delay for moment in pending] == [0.25]


@pytest.mark.parametrize(
  ('statuses', 'told'),
  [
    ([-9, -9], ''),
    ([-9, -6], ''),  # the second one lost its peer before its own signal came
    ([-6, 1], 'statuses [-6, 1]'),
    ([-9, 0], 'statuses [-9, 0]'),
    ([-9, None], 'the other process did not end'),
  ],
)
def test_a_pair_of_which_both_are_killed_ends_by_the_signal_or_by_the_death_of_the_other(tmp_path, statuses, told):
  moment = killed.Moment(0.0, 'update', Signal('ESPO/3/update', 0.5), (0, 1))
  marks = [[(0.0, 'ESPO/3/update'), (0.5, f'{marked.SENT}9 to 1')]] * 2
  note = killed._Drill(tmp_path, 2, ())._fallen(moment, statuses, marks, '', False)[1]
  assert note.startswith(told) if told else not note


def test_the_half_written_checkpoint_of_an_earlier_run_does_not_count(tmp_path):
  left, now = tmp_path / '1.tmp', time.time()
  left.mkdir()
  os.utime(left, (now - 60, now - 60))
  pattern = f'{tmp_path}/*tmp*'
  assert not marked.written_since(pattern, now - 30) and marked.written_since(pattern, now - 90)


def test_a_thread_that_ends_meanwhile_has_no_children(monkeypatch):
  listed = pathlib.Path.iterdir
  monkeypatch.setattr(pathlib.Path, 'iterdir', lambda path: [path / '0', *listed(path)])  # no thread has this number
  with subprocess.Popen(['sleep', '60']) as child:
    assert child.pid in marked.children(os.getpid())
    child.kill()


def test_a_short_soak_leaves_no_process_and_looks_often_enough(folder, monkeypatch):
  monkeypatch.setattr(soak, 'LOOKS', 2)
  monkeypatch.setattr(soak, 'SECONDS', 0.1)
  figures = {}
  cases = {case.name: case for case in soak.run(folder, 30, 0, figures)}
  held([cases['children'], cases['processes after the end']])  # in so few updates the other numbers have not settled
  assert len(figures['memory (MiB)'].split()) == 2 and soak.updates(folder / 'run') == 30


def test_a_look_at_a_process_sees_its_memory_handles_threads_and_children():
  program = """
import subprocess, sys, threading, time
kept = [open('/dev/null') for _ in range(5)], b'x' * (64 << 20)
for _ in range(3):
  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
child = subprocess.Popen(['sleep', '60'])
print('ready', flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""
  idle = 'import sys; print("ready", flush=True); sys.stdin.read()'
  processes = [
    subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for code in (program, idle)
  ]
  try:
    assert [process.stdout.readline() for process in processes] == ['ready\n'] * 2
    time.sleep(0.1)
    more, less = (soak.look(process.pid) for process in processes)
    assert more.memory - less.memory == pytest.approx(64, abs=8)
    assert (more.handles - less.handles, more.threads - less.threads, more.children - less.children) == (5, 3, 1)
  finally:
    for process in processes:
      process.communicate('')
