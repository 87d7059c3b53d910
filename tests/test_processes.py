"""Several processes on this machine are one job: same numbers, one end, checkpoints that any number of them goes on from."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import rounding
from drills.jobs import Job
from drills.runs import lines
from tiny import tiny_experiment

from espo_jax import parallel
from espo_jax.configs import ConfigError
from espo_jax.parallel.processes import waiting

ROOT = pathlib.Path(__file__).parents[1]
STAGES = {'warm_start': 4, 'critic_warmup': 2, 'arms/espo': 6}
FLAGS = [
  '--config=experiments/quickstart.py:smoke',
  '--config.baselines=()',
  '--config.model.num_layers=1',
  '--config.mesh.data=-1',
  '--config.rollout.parts=2',
  '--config.rollout.max_draws=2',
  '--config.rollout.record=5',
  '--config.warm_start.steps=4',
  '--config.warm_start.warmup_steps=1',
  '--config.learner.updates=6',
  '--nocheck_memory',
]
EXACT = (
  'step',
  'accuracy',
  'rollout/checksum',
  'rollout/tokens',
  'rollout/shadow_tokens',
  'stop/rate',
  'gate_open',
  'bad_steps',
)
# How one update's rounding grows in the next one's, through Adam, cannot be measured: other parameters draw other samples. So
# the bound is of the operations alone: thrice through the decoder of some 300, and a sum over 16 rows of 18 tokens,
# an update of each minibatch, of which there are two.
ROUNDINGS = (3 * 300 + 16 * 18) * (STAGES['warm_start'] + (STAGES['critic_warmup'] + STAGES['arms/espo']) * 2)


def start(module: str, *flags: str, processes: int, **fields) -> Job:
  """Starts a command as a job of some processes."""
  return Job([['-m', module, *flags]] * processes, **fields)


def assert_same_numbers(workdir: pathlib.Path, reference: pathlib.Path) -> None:
  """Samples to the token; what is summed over rows in another order to float32's rounding."""
  for stage, updates in STAGES.items():
    ours, theirs = lines(workdir, stage), lines(reference, stage)
    assert [row['step'] for row in ours] == list(range(1, updates + 1))
    for mine, row in zip(ours, theirs, strict=True):
      assert mine.keys() == row.keys()
      for name, value in row.items():
        if name in EXACT:
          assert mine[name] == value, (stage, row['step'], name)
        else:
          got, wanted = (np.float64(np.nan if x is None else x) for x in (mine[name], value))
          error = rounding.gamma(ROUNDINGS)
          np.testing.assert_allclose(got, wanted, rtol=error, atol=error, err_msg=f'{stage} {row["step"]} {name}')
  for name in ('warm_start/evaluation.json', 'arms/espo/evaluation.json'):
    assert (workdir / name).read_text() == (reference / name).read_text()
  ours, theirs = (np.load(path / 'arms/espo/rollouts/000005.npz') for path in (workdir, reference))
  for name in ('full_length', 'ended', 'correct', 'stopped', 'shadow'):
    np.testing.assert_array_equal(ours[name], theirs[name], name)


def test_a_run_by_changing_numbers_of_processes_has_the_numbers_of_one_and_is_evaluated_as_by_one(request, tmp_path):
  logs, cache = tmp_path / 'logs', request.config.cache.mkdir('jax')

  def train(workdir: pathlib.Path, processes: int, devices: int) -> Job:
    flags = [*FLAGS, f'--workdir={workdir}', f'--compilation_cache_dir={cache}']
    own = ROOT / 'tests'
    return start('undrawn', *flags, logs=logs, cache=cache, processes=processes, devices=devices, path=own)

  one, workdir = tmp_path / 'one', tmp_path / 'several'
  job = train(one, 1, 4)
  assert job.end() == [0], job.output()
  assert any(row['stop/rate'] > 0 for row in lines(one, 'arms/espo'))

  job = train(workdir, 2, 2)  # told to stop
  job.wait_for(lambda: lines(workdir, 'warm_start'))
  job.processes[1].send_signal(signal.SIGTERM)
  assert job.end() == [143] * 2, job.output()
  assert job.output().count('warm start: saved at step') == 2
  assert job.output().count('SIGTERM: the step at hand is finished and saved') == 1
  saved = len(lines(workdir, 'warm_start'))
  assert (workdir / 'warm_start' / 'checkpoints' / str(saved)).exists()

  job = train(workdir, 2, 2)  # robbed of one
  job.wait_for((workdir / 'arms' / 'espo' / 'checkpoints' / '4').exists)
  job.processes[1].kill()
  statuses = job.end(timeout=60)
  assert statuses[1] == -signal.SIGKILL and statuses[0] != 0
  assert 'another process has ended' in job.output() or 'another task died' in job.output()
  assert not (workdir / 'summary.json').exists()

  job = train(workdir, 1, 4)
  assert job.end() == [0], job.output()
  assert_same_numbers(workdir, one)

  written = []
  for processes in (1, 2):
    output = tmp_path / str(processes)
    flags = [f'--checkpoint={workdir}', '--samples=3', '--problems=5', f'--output={output}']
    job = start('espo_jax.evaluate', *flags, logs=logs, cache=cache, processes=processes, devices=1)
    assert job.end() == [0] * processes, job.output()
    assert job.output().count('wrote') == 1  # files are the first process's
    written.append([json.loads(line) for line in (output / 'samples.jsonl').read_text().splitlines()])
  assert written[0] == written[1]
  assert len(written[0]) == 15


RESTORES = """
import pathlib, sys
from espo_jax import parallel
with parallel.job():
  import jax, numpy as np
  from jax.sharding import NamedSharding, PartitionSpec
  from espo_jax.learner import Checkpoints, restore
  directory, rows = pathlib.Path(sys.argv[1]), np.random.default_rng(0).normal(size=(2, 900)).astype(np.float32)
  split = NamedSharding(jax.make_mesh((2,), ('data',)), PartitionSpec('data'))
  state = lambda step: {'x': jax.make_array_from_callback(rows.shape, split, lambda i: (rows + step)[i])}
  with Checkpoints(directory, keep_last=3) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, state(step), done=step == 3)
  if parallel.is_first():
    (directory / '2' / '_CHECKPOINT_METADATA').unlink()
    for path in (directory / '3' / 'state' / 'ocdbt.process_0' / 'd').iterdir():  # what the first process alone reads
      path.write_bytes(b'?' * path.stat().st_size)
  parallel.from_first(lambda: None)
  found = restore(directory, state(0))
  mine = [np.array_equal(shard.data, (rows + 1)[shard.index]) for shard in found.state['x'].addressable_shards]
  print('used', found.step, found.done, mine, sorted(path.name for path in directory.iterdir()))
"""


def test_processes_agree_on_the_checkpoint_where_one_alone_cannot_read_its_part(request, tmp_path):
  program = tmp_path / 'restores.py'
  program.write_text(RESTORES)
  cache = request.config.cache.mkdir('jax')
  job = start(program.stem, str(tmp_path / 'steps'), logs=tmp_path / 'logs', cache=cache, processes=2, devices=1, path=tmp_path)
  assert job.end(timeout=100) == [0, 0], job.output()
  for log in job.logs:
    assert "used 1 False [True] ['1', 'damaged-2', 'damaged-3']" in log.read_text()
  assert job.output().count(' cannot be read: ') == 2


# ------------------------------------------------------------------------------------------------------ in this process


ADDRESS = {'JAX_COORDINATOR_ADDRESS': 'host0:8476'}


def test_a_job_is_found_in_the_environment():
  found = parallel.process_arguments(ADDRESS | {'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'})
  assert (found['coordinator_address'], found['num_processes'], found['process_id']) == ('host0:8476', 4, 3)
  mpi = {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_RANK': '0'}
  found = parallel.process_arguments(ADDRESS | mpi)
  assert (found['num_processes'], found['process_id'], found['local_device_ids']) == (2, 1, [0])
  assert parallel.process_arguments({'JAX_NUM_PROCESSES': '1'}) is None
  assert parallel.process_arguments({}) == {}  # jax looks for a pod, GKE, SLURM and Open MPI 4


def slurm(allocated, step, **others):
  """What SLURM sets in a step of so many tasks, in an allocation for more."""
  return {
    'SLURM_JOB_ID': '5',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_STEP_NUM_NODES': '1',
    'SLURM_NTASKS': str(allocated),
    'SLURM_STEP_NUM_TASKS': str(step),
    'SLURM_PROCID': '0',
    'SLURM_LOCALID': '0',
  } | others


MPI = {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_RANK': '0'}
MPI_4 = MPI | {'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1:34911'}
NAMED = ADDRESS | {'JAX_NUM_PROCESSES': '3', 'JAX_PROCESS_ID': '1'}


@pytest.mark.parametrize(
  ('environment', 'processes'),
  [
    (slurm(4, 1), None),  # the shell of `salloc -n 4`
    (slurm(4, 1) | ADDRESS, None),
    (slurm(16, 1, SLURM_NNODES='2'), None),
    (slurm(1, 1), None),
    (slurm(4, 4), 4),
    (slurm(4, 2), 2),  # `srun -n 2` in it
    (slurm(4, 2) | ADDRESS, 2),
    (slurm(4, 2) | {'JAX_NUM_PROCESSES': '1'}, None),
    (slurm(4, 1) | NAMED, 3),
    (slurm(4, 4) | NAMED, 3),
    (slurm(4, 1) | MPI | ADDRESS, 2),  # mpirun in the shell
    (slurm(4, 1) | MPI_4, 'as jax finds'),
    (slurm(4, 1) | MPI | {'OMPI_COMM_WORLD_SIZE': '1'}, None),
    (slurm(4, 4) | MPI | {'OMPI_COMM_WORLD_SIZE': '1'}, None),
    ({'SLURM_JOB_ID': '5', 'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, 'as jax finds'),  # a batch script without srun
  ],
)
def test_the_tasks_of_the_step_are_the_processes(environment, processes):
  found = parallel.process_arguments(environment)
  if processes is None:
    assert found is None
  elif processes == 'as jax finds':
    assert found == {}
  else:
    assert found['num_processes'] == processes


@pytest.mark.parametrize(
  ('wait', 'told'),
  [
    ((0, 4, 'nowhere:1', 15.2), 'waiting for the other processes; 4 in all after 15 s'),
    ((0, 2, 'nowhere:1', 600.0), 'waiting for the other processes; 2 in all after 600 s'),
    (
      (3, 4, 'host0:8476', 30.0),
      'waiting for the other processes, 4 in all; this is process 3, the first is to be at host0:8476, after 30 s',
    ),
    (
      (1, 2, '10.0.0.1:1', 44.9),
      'waiting for the other processes, 2 in all; this is process 1, the first is to be at 10.0.0.1:1, after 45 s',
    ),
    ((0, None, None, 15.0), 'waiting to be told of the other processes, after 15 s'),
    ((0, 1, None, 15.0), 'waiting to be told of the other processes, after 15 s'),
  ],
)
def test_who_waits_says_for_whom_and_what_overrides_it(wait, told):
  assert waiting(*wait) == f'{told}; JAX_NUM_PROCESSES=1 runs this process alone'


@pytest.mark.parametrize('count', [1, 2, 5])
def test_the_first_process_counts_who_has_connected(count):
  with contextlib.ExitStack() as opened:
    server = opened.enter_context(socket.create_server(('localhost', 0)))
    address = f'localhost:{server.getsockname()[1]}'
    for _ in range(count):
      opened.enter_context(socket.create_connection(server.getsockname()))
    assert f'; {count} of 7 are there after 15 s; ' in waiting(0, 7, address, 15.0)


def test_a_process_that_waits_says_so_and_one_that_has_nobody_to_wait_for_does_not_wait():
  program = """
from espo_jax.parallel import processes
processes._TOLD_EVERY = 0.2
with processes.job():
  print('together with', processes.jax.process_count() - 1, 'others')
"""
  with socket.create_server(('localhost', 0)) as free:
    port = free.getsockname()[1]
  environment = {name: value for name, value in os.environ.items() if not name.startswith('SLURM_')} | {
    'JAX_COORDINATOR_PORT': str(port)
  }
  started = [
    subprocess.Popen(
      [sys.executable, '-c', program],
      cwd=ROOT,
      env=environment | job,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for job in (slurm(4, 1), slurm(4, 2))
  ]
  try:
    assert started[0].communicate(timeout=100)[0] == 'together with 0 others\n'
    line = started[1].stdout.readline()
    assert line.startswith('waiting for the other processes; 1 of 2 are there after 0 s; JAX_NUM_PROCESSES=1 runs')
  finally:
    for process in started:
      process.kill()
      process.communicate()


@pytest.mark.parametrize(
  ('environment', 'message'),
  [
    (MPI, 'OMPI_COMM_WORLD_SIZE=2, but mpirun does not say where the first process is; fix: JAX_COORDINATOR_ADDRESS='),
    (slurm(4, 1) | MPI, 'OMPI_COMM_WORLD_SIZE=2, but mpirun does not say where the first process is; fix: '),
    (slurm(4, 'many'), "SLURM_STEP_NUM_TASKS='many': not a whole number"),
    ({'JAX_NUM_PROCESSES': '2'}, 'JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID; fix: all three'),
    (ADDRESS, 'JAX_COORDINATOR_ADDRESS=host0:8476 alone; fix: '),
    (
      ADDRESS | {'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '2'},
      'JAX_PROCESS_ID=2 with JAX_NUM_PROCESSES=2; fix: from 0 to 1',
    ),
    (ADDRESS | {'JAX_NUM_PROCESSES': 'two', 'JAX_PROCESS_ID': '0'}, "JAX_NUM_PROCESSES='two': not a whole number"),
  ],
)
def test_half_a_job_is_refused(environment, message):
  with pytest.raises(ValueError, match='fix: ') as refused:
    parallel.process_arguments(environment)
  assert message in str(refused.value)


def test_rows_that_do_not_divide_over_the_devices_that_are_there_are_refused():
  with pytest.raises(ConfigError, match=r'rollout.prompts = 12 does not divide by mesh.data \* mesh.fsdp = 8 \* 1'):
    tiny_experiment(lambda c: c.rollout.update(prompts=12), data=-1)
  with pytest.raises(ValueError, match=r'12 rows do not divide over .* 8 blocks on 1 processes; fix: a multiple of 8'):
    parallel.my_rows(parallel.make_mesh(8, 1, 1), 12)


@pytest.mark.parametrize('axis', ['tensor', 'fsdp'])
def test_a_model_that_does_not_divide_over_the_devices_that_are_there_is_refused(axis):
  name = {'tensor': 'num_kv_heads', 'fsdp': 'hidden_size'}[axis]
  with pytest.raises(ConfigError, match=rf'model.{name} = \d+ does not divide by mesh.{axis} = 8; fix: a smaller mesh.{axis}'):
    tiny_experiment(lambda c: c.model.update(num_heads=4, num_kv_heads=2, hidden_size=12), data=1, **{axis: -1})


def test_rows_go_to_the_mesh_and_come_back():
  mesh = parallel.make_mesh(2, 2, 2)
  rows = {'a': np.arange(24.0, dtype=np.float32).reshape(8, 3), 'b': np.arange(8)}
  there = parallel.put_rows(rows, mesh)
  assert there['a'].sharding.is_equivalent_to(parallel.over_batch(mesh), 2)
  for name, value in rows.items():
    np.testing.assert_array_equal(parallel.take_rows(there[name], mesh), value)
    np.testing.assert_array_equal(parallel.fetch(there, mesh)[name], value)
  np.testing.assert_array_equal(parallel.my_rows(mesh, 8), np.arange(8))
