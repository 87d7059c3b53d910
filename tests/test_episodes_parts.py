"""Episodes in parts: no row changes, no part waits for another's environments, and processes agree."""

import json
import pathlib

import jax
import numpy as np
import pytest
from drills.jobs import Job
from talking import LINES, ROWS, rollout, talking
from tiny import tiny_experiment

from espo_jax.compile_check.programs import Programs
from espo_jax.stages.table import Table


def parts_of(problems, count):
  """So many parts of equal size."""
  size = len(problems) // count
  return [problems[i * size : (i + 1) * size] for i in range(count)]


def test_the_number_of_parts_changes_no_row(in_float64):
  exp = tiny_experiment(talking(**LINES))
  problems = exp.problems('train', 0, 4)
  (whole,) = rollout(exp, [problems])
  several = rollout(exp, parts_of(problems, 2))
  for name in ROWS:
    joined = np.concatenate([np.asarray(getattr(its.rows, name)) for its in several])
    np.testing.assert_array_equal(joined, getattr(whole.rows, name), name)
  assert len({len(set(row[row >= 0])) for row in np.asarray(whole.rows.turn)}) > 1  # the numbers of turns differ
  np.testing.assert_array_equal(np.concatenate([its.paid for its in several]), whole.paid)
  assert [*several[0].graded, *several[1].graded] == whole.graded


def test_a_part_decodes_while_the_environments_of_another_step(monkeypatch):
  exp, told = tiny_experiment(talking(**LINES)), []

  def tell(cls, name, of):
    plain = getattr(cls, name)

    def telling(self, *args, **options):
      told.append((name, of(self, args)))
      return plain(self, *args, **options)

    monkeypatch.setattr(cls, name, telling)

  tables = []

  def part(table):
    if table not in tables:
      tables.append(table)
    return tables.index(table)

  tell(Table, 'act', lambda table, _: part(table))
  tell(Table, 'observe', lambda table, _: part(table))
  tell(type(exp.sampler), 'go_on', lambda _, ahead: f'turn {ahead[-1]}')
  rollout(exp, parts_of(exp.problems('train', 0, 4), 2))
  assert told[:2] == [('act', 0), ('act', 1)]  # the environments of both parts step
  assert told[2:4] == [('observe', 0), ('go_on', 'turn 1')]  # the first part decodes before the second is waited for
  assert told[4:8] == [('observe', 1), ('go_on', 'turn 1'), ('act', 0), ('act', 1)]


@pytest.mark.parametrize('turns', [1, 3])
def test_the_rows_of_all_parts_count_as_memory(turns):
  exp = tiny_experiment(talking(**LINES, environment__max_turns=turns))
  exp.config.rollout.parts = 2
  paused = Programs(exp.config, exp.mesh, exp).beside('rollout')['paused']
  kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(paused))
  exp.config.rollout.parts = 1
  assert Programs(exp.config, exp.mesh, exp).beside('rollout')['paused'] == []
  c, width = exp.model.config, exp.config.rollout.prompt_width + exp.config.rollout.horizon
  caches = 2 * c.num_layers * c.num_kv_heads * c.head_dim * 4 * width * 8  # keys and values of the 8 rows of a part
  assert caches < kept < 2 * caches


PLAYS = """
import json
from espo_jax import parallel
with parallel.job():
  import numpy as np
  from talking import LINES, ROWS, rollout, talking
  from tiny import tiny_experiment
  exp = tiny_experiment(talking(**LINES), data=2)
  played = rollout(exp, [exp.my_problems('train', at, 2) for at in (0, 2)])
  mine = [[verdict.correct for verdict in its.graded] for its in played]
  rows = [[exp.fetch(getattr(its.rows, name)).astype(int).tolist() for name in ROWS] for its in played]
  print('rows', json.dumps([mine, rows]))
"""


def test_two_processes_play_the_episodes_of_one(request, tmp_path):
  (tmp_path / 'plays.py').write_text(PLAYS)
  cache, here = request.config.cache.mkdir('jax'), pathlib.Path(__file__).parent
  told = []
  for processes in (1, 2):
    command = [['-m', 'plays']] * processes
    job = Job(command, logs=tmp_path / str(processes), cache=cache, devices=2 // processes, path=f'{tmp_path}:{here}')
    assert job.end(timeout=200) == [0] * processes, job.output()
    lines = [next(line for line in log.read_text().splitlines() if line.startswith('rows ')) for log in job.logs]
    told.append([json.loads(line.removeprefix('rows ')) for line in lines])
  ((mine, rows),), ((first, of_first), (second, of_second)) = told
  assert rows == of_first == of_second
  assert mine == [a + b for a, b in zip(first, second, strict=True)]  # a process grades its own
