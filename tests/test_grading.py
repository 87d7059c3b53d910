"""The grader: what counts as equal, and what it withstands."""

import collections
import concurrent.futures
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from grading_cases import DIFFERENT, EQUAL
from hostile import hostile_texts
from restyle import AROUND, INSIDE, OWN, find_data, read_golds, restyled

from espo_jax.tasks import Grader, Verdict, grade
from espo_jax.tasks.grading import grader as grader_module
from espo_jax.tasks.grading import process

ROOT = Path(__file__).parent.parent
STUCK = r'\boxed{\binom{10^{10}}{10^9}}'  # computed as it is parsed, for ever
HUNGRY = r'\boxed{\operatorname{eye}(100000)}'  # a matrix of ten gigabytes
SYMBOLIC = (r'\boxed{\sqrt{8}}', r'2\sqrt{2}')  # needs a worker
STRIDE = 40  # through GSM8K's answers; scripts/measure_grading.py takes them all


@pytest.fixture(scope='module')
def grader():
  with Grader(deadline=20.0) as grader:
    yield grader


@pytest.fixture(scope='module')
def golds():
  """Those of the benchmarks where this machine has them, and always the table's."""
  return {name: answers[:: STRIDE if 'GSM8K' in name else 1] for name, answers in read_golds(find_data()).items()}


# ---------------------------------------------------------------------------------------------------------------- equality


def test_an_answer_agrees_with_itself_in_every_style(grader, golds):
  pairs = [(style, prediction, gold) for answers in golds.values() for gold in answers for style, prediction in restyled(gold)]
  verdicts = grader.grade_all([(prediction, gold) for _, prediction, gold in pairs])
  asked, right = collections.Counter(style for style, _, _ in pairs), collections.Counter()
  missed = []
  for (style, prediction, gold), verdict in zip(pairs, verdicts, strict=True):
    right[style] += verdict.correct
    if not verdict.correct:
      missed.append((style, prediction, gold, verdict.status))
  assert asked.keys() == {*AROUND, *INSIDE, 'last sentence'}
  assert right.total() >= 0.995 * asked.total(), missed[:40]
  assert {style: right[style] for style in asked if right[style] < 0.995 * asked[style] - 1} == {}, missed[:40]


def test_another_answer_does_not_agree(grader, golds):
  for name, answers in golds.items():
    pairs = [
      (rf'The answer is $\boxed{{{p}}}$.', g) for p, g in zip(answers, [*answers[1:], answers[0]], strict=True) if p != g
    ]
    wrong = [pair for pair, verdict in zip(pairs, grader.grade_all(pairs), strict=True) if verdict != (False, 'ok')]
    assert len(wrong) <= 0.005 * len(pairs), (name, wrong)


def test_the_table_is_large_enough_to_stand_in_for_the_benchmarks(golds):
  assert len(set(golds[OWN])) >= 120


def test_equal_forms(grader):
  verdicts = grader.grade_all(EQUAL)
  assert [pair for pair, verdict in zip(EQUAL, verdicts, strict=True) if verdict != (True, 'ok')] == []


def test_different_answers(grader):
  verdicts = grader.grade_all(DIFFERENT)
  assert [pair for pair, verdict in zip(DIFFERENT, verdicts, strict=True) if verdict != (False, 'ok')] == []


@pytest.mark.parametrize('answer', ['', ' \n', '9' * 1001, r'\text{a} + ) \frac', 'see ####'])
def test_a_gold_answer_that_is_none_is_an_error(grader, answer):
  assert grader.grade_all([(r'\boxed{x + 1}', answer)]) == [Verdict(False, 'error')]


def test_a_gold_answer_may_be_a_whole_solution(grader):
  pairs = [('18', '16 - 3 + 5 = 18\n#### 18'), ('1/2', r'So it is $\boxed{\frac{1}{2}}$.')]
  assert grader.grade_all(pairs) == [(True, 'ok'), (True, 'ok')]


def test_only_the_tail_of_a_response_counts(grader):
  text = r'\boxed{18}' + ' then' * 10_000
  assert grader.grade_all([(text, '18'), (text + ' 18', '18'), (r'\boxed{' + '1 + ' * 400 + '18}', '418')]) == [
    (False, 'ok'),
    (True, 'ok'),
    (False, 'ok'),
  ]


# -------------------------------------------------------------------------------------------------------------------- pool


def test_grade_is_a_bool_and_works_off_the_main_thread():
  results = []
  thread = threading.Thread(target=lambda: results.extend([grade(*SYMBOLIC), grade(r'\boxed{\sqrt{7}}', r'2\sqrt{2}')]))
  thread.start()
  thread.join()
  assert results == [True, False]


def test_order_is_kept_and_threads_share_a_grader(grader):
  def batch(seed):
    answers = [str((seed * 31 + i) % 7) for i in range(60)]
    pairs = [(rf'\boxed{{\sqrt{{{int(a) ** 2}}} + x}}', rf'{b} + x') for a, b in zip(answers, reversed(answers), strict=True)]
    expected = [Verdict(a == b, 'ok') for a, b in zip(answers, reversed(answers), strict=True)]
    return grader.grade_all(pairs) == expected

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert all(threads.map(batch, range(4)))


def test_a_stuck_worker_is_killed_at_the_deadline_and_replaced():
  with Grader(workers=1, deadline=1.0) as grader:
    assert grader.grade_all([SYMBOLIC]) == [(True, 'ok')]
    start = time.monotonic()
    verdicts = grader.grade_all([(STUCK, '18')])
    assert verdicts == [(False, 'timeout')]
    assert 1.0 <= time.monotonic() - start < 3.0
    assert grader.grade_all([SYMBOLIC, (STUCK, '18'), ('18', '18'), SYMBOLIC]) == [
      (True, 'ok'),
      (False, 'timeout'),
      (True, 'ok'),
      (True, 'ok'),
    ]


def test_a_worker_out_of_memory_is_an_error_and_replaced():
  with Grader(workers=1, deadline=60.0, memory_mb=256) as grader:
    assert grader.grade_all([(HUNGRY, r'\sqrt{3}'), SYMBOLIC]) == [(False, 'error'), (True, 'ok')]


def test_a_killed_worker_is_an_error_and_replaced(monkeypatch):
  exchange = process._exchange

  def killed(worker, question, deadline):
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    return exchange(worker, question, deadline)

  with Grader(workers=1) as grader:
    assert grader.grade_all([SYMBOLIC]) == [(True, 'ok')]
    monkeypatch.setattr(process, '_exchange', killed)
    assert grader.grade_all([SYMBOLIC]) == [(False, 'error')]
    monkeypatch.undo()
    assert grader.grade_all([SYMBOLIC]) == [(True, 'ok')]


def test_a_worker_is_recycled(monkeypatch):
  started = []
  popen = subprocess.Popen
  monkeypatch.setattr(
    process.subprocess, 'Popen', lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[-1]
  )
  with Grader(workers=1, recycle_after=3) as grader:
    pairs = [(rf'\boxed{{\sqrt{{{i * i}}} + x}}', f'{i} + x') for i in range(2, 9)]
    assert all(verdict == (True, 'ok') for verdict in grader.grade_all(pairs))
  assert len(started) == 3
  assert all(worker.poll() is not None for worker in started)


def test_equal_questions_are_asked_once(monkeypatch):
  asked = []
  exchange = process._exchange
  monkeypatch.setattr(process, '_exchange', lambda *args: asked.append(args) or exchange(*args))
  with Grader(workers=1) as grader:
    assert grader.grade_all([SYMBOLIC] * 50) == [(True, 'ok')] * 50
  assert len(asked) == 1


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path):
  worker = tmp_path / 'worker.py'
  for code, reason in (
    ('print(\'{"error": "ImportError: no sympy"}\')', 'did not start: ImportError: no sympy; fix: pip install'),
    ('raise SystemExit(3)', 'it died at once, with exit status 3'),
    ('import time; time.sleep(60)', 'not done in 1 seconds'),
  ):
    worker.write_text(code)
    monkeypatch.setattr(grader_module, '_WORKER', worker)
    monkeypatch.setattr(process, 'STARTUP_SECONDS', 1.0)
    with Grader() as grader, pytest.raises(RuntimeError, match=reason):
      grader.grade_all([SYMBOLIC])


def test_a_worker_that_is_stopped_before_a_question_is_replaced_long_before_its_deadline(monkeypatch):
  with Grader(workers=1, deadline=100.0) as grader:
    assert grader.grade_all([SYMBOLIC]) == [(True, 'ok')]
    worker = grader._pool._idle.get()
    stopped = worker._process
    stopped.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(process, 'SILENCE_SECONDS', 1.0)
    began = time.monotonic()
    assert worker.ask(SYMBOLIC) == (None, 'timeout')
    assert time.monotonic() - began < 50 and stopped.poll() == -signal.SIGKILL
    monkeypatch.undo()
    assert worker.ask(SYMBOLIC) == ([True, 'ok'], 'ok')
    grader._pool._idle.put(worker)


def test_a_worker_that_is_stopped_as_it_starts_is_no_longer_waited_for(monkeypatch):
  with Grader(workers=1) as grader:
    worker = grader._pool._idle.get()
    worker._start().send_signal(signal.SIGSTOP)
    monkeypatch.setattr(process, 'SILENCE_SECONDS', 1.0)
    with pytest.raises(RuntimeError, match='did not start: no sign of life for 1 seconds; fix: '):
      worker.ask(SYMBOLIC)
    grader._pool._idle.put(worker)


def test_a_worker_that_works_longer_than_the_silence_is_left_to_it(monkeypatch, tmp_path):
  monkeypatch.setattr(process, 'SILENCE_SECONDS', 2.0)
  worker = tmp_path / 'worker.py'
  worker.write_text(f"""
import runpy, time
serve = runpy.run_path({str(grader_module._WORKER)!r})['serve']
serve.__globals__['SIGN_SECONDS'] = 0.1
slow = lambda value: (time.sleep(2.5), value)[1]
serve(60, lambda: slow(lambda question: slow([True, 'ok'])))
""")
  monkeypatch.setattr(grader_module, '_WORKER', worker)
  with Grader(workers=1, deadline=50.0) as grader:
    assert grader.grade_all([SYMBOLIC]) == [(True, 'ok')]


@pytest.mark.parametrize(
  'setting', [{'workers': 0}, {'recycle_after': 0}, {'memory_mb': 64}, {'deadline': 0.0}, {'deadline': -1.0}]
)
def test_settings_are_checked(setting):
  ((name, value),) = setting.items()
  with pytest.raises(ValueError, match=rf'{name} = {value} is .*; fix: {name} >'):
    Grader(**setting)


def test_a_closed_grader_says_so():
  grader = Grader()
  grader.close()
  grader.close()
  with pytest.raises(RuntimeError, match='the grader is closed; fix'):
    grader.grade_all([('18', '18')])


# --------------------------------------------------------------------------------------------------------------- processes


def _run(code, **environment):
  return subprocess.run(
    [sys.executable, '-'], input=code, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120
  )


def test_a_script_without_a_main_guard_can_grade():
  result = _run(rf'from espo_jax.tasks import grade; print(grade(r"{SYMBOLIC[0]}", r"{SYMBOLIC[1]}"), grade("1", "2"))')
  assert (result.stdout, result.stderr, result.returncode) == ('True False\n', '', 0)


def test_a_worker_imports_neither_jax_nor_numpy():
  result = subprocess.run(
    [sys.executable, '-P', '-X', 'importtime', str(grader_module._WORKER), '60', str(2**30)],
    input='["\\\\sqrt{8}", "2\\\\sqrt{2}"]\n',
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.stdout == '{}\n[true, "ok"]\n'
  modules = {line.rpartition('|')[2].strip().partition('.')[0] for line in result.stderr.splitlines()}
  assert 'sympy' in modules
  assert not modules & {'espo_jax', 'jax', 'numpy', 'transformers'}


def test_workers_do_not_outlive_their_parent():
  """Neither an idle one nor one at work, whatever ends the parent."""
  result = _run(r"""
import json, os, time
from espo_jax.tasks.grading import Grader

grader = Grader(workers=2, deadline=1.0)
grader.grade_all([(r'\boxed{\sqrt{8}}', r'2\sqrt{2}'), (r'\boxed{\sqrt{9} + x}', '3 + x')])
processes = [grader._pool._idle.get()._process for _ in range(2)]
processes[0].stdin.write(json.dumps([r'\binom{10^{10}}{10^9}', '18']).encode() + b'\n')
time.sleep(0.2)
print(*(process.pid for process in processes), flush=True)
os.kill(os.getpid(), 9)
""")
  pids = [int(pid) for pid in result.stdout.split()]
  assert len(pids) == 2, result.stderr
  end = time.monotonic() + 30
  while any(_alive(pid) for pid in pids):
    assert time.monotonic() < end
    time.sleep(0.1)


def _alive(pid):
  try:
    os.kill(pid, 0)
    return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
  except (ProcessLookupError, FileNotFoundError):
    return False


# ----------------------------------------------------------------------------------------------------------------- hostile


def test_hostile_texts(tmp_path, monkeypatch):
  """Each is answered in time; the parent stays small; nothing runs; the pool goes on."""
  monkeypatch.chdir(tmp_path)
  texts, deadline = hostile_texts(), 1.0
  exchange, decide = process._exchange, grader_module._decide
  waited, thought = [], []
  monkeypatch.setattr(process, '_exchange', lambda *args: _timed(waited, time.monotonic, exchange, *args))
  monkeypatch.setattr(grader_module, '_decide', lambda *args: _timed(thought, time.thread_time, decide, *args))
  with Grader(deadline=deadline) as grader:
    grader.grade_all([SYMBOLIC])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = [(text, ('17', r'2\sqrt{3} + x')[i % 2]) for i, text in enumerate(texts)]
    verdicts = grader.grade_all(pairs)
    assert [text[:200] for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct] == []
    assert sum(verdict.status == 'ok' for verdict in verdicts) > 0.9 * len(texts)
    assert grader.grade_all([SYMBOLIC, ('18', '18')]) == [(True, 'ok'), (True, 'ok')]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert len(texts) >= 200
  assert max(waited) < deadline + 1.0  # a second for a busy machine
  assert max(thought) < 1.0
  assert grown < 200 * 2**10  # kilobytes
  assert list(tmp_path.iterdir()) == []


def _timed(seconds, clock, function, *args):
  start = clock()
  try:
    return function(*args)
  finally:
    seconds.append(clock() - start)


def test_hostile_gold_answers():
  texts = hostile_texts()[::3]
  with Grader(deadline=0.5) as grader:
    statuses = collections.Counter(verdict.status for verdict in grader.grade_all([(r'\boxed{5}', text) for text in texts]))
    assert grader.grade_all([SYMBOLIC]) == [(True, 'ok')]
  assert statuses['error'] > statuses['timeout'] > 0
