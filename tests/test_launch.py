"""The launch scripts: what they would run is shell that parses, manifests are valid, and running them does what they say."""

import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import yaml
from absl import app, flags, logging

from espo_jax import train

pytestmark = pytest.mark.quick

SCRIPTS = pathlib.Path(__file__).parents[1] / 'scripts'
SHELLCHECK = shutil.which('shellcheck', path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}')
FLAGS = ['--config=experiments/gsm8k.py', "--config.baselines=('never', 'random')", r'--config.reward.format=\d+" $HOME`id`']
POD = {'ZONE': 'us-west4-a', 'SHARE': '10.0.0.2:/runs'}
GKE = {'IMAGE': 'registry/espo_jax:1', 'CLAIM': 'runs'}


def script(name: str, *arguments: str, path: pathlib.Path | None = None, **env: str) -> str:
  env = os.environ | env | ({'PATH': f'{path}:{os.environ["PATH"]}'} if path else {})
  done = subprocess.run([SCRIPTS / name, *arguments], env=env, capture_output=True, text=True, timeout=30)
  assert done.returncode == 0, done.stderr
  return done.stdout


def parses(text: str) -> None:
  subprocess.run(['bash', '-n'], input=text, check=True, text=True, timeout=30)


def stub(path: pathlib.Path, body: str) -> None:
  """An executable that notes its arguments beside itself, a line a call, and then does `body`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {path}.calls; echo >> {path}.calls\n{body}\n')
  path.chmod(0o755)


def calls(path: pathlib.Path) -> list[list[str]]:
  noted = path.with_name(path.name + '.calls')
  if not noted.exists():
    return []
  # %q writes $'...' where it must, which bash alone reads.
  read = 'while IFS= read -r line; do eval "set -- $line"; printf "%s\\0" "$@"; printf "\\n"; done < "$0"'
  text = subprocess.run(['bash', '-c', read, noted], check=True, capture_output=True, text=True).stdout
  return [line.split('\0') for line in text.split('\0\n')[:-1]]


def test_scripts_that_make_the_environment_use_the_folder_that_it_was_asked_to_be_in():
  sourced = [path for path in SCRIPTS.glob('*.sh') if 'source scripts/environment.sh' in path.read_text()]
  local = [path for path in sourced if path.name != 'launch_tpu_pod.sh']  # which makes it on other machines
  assert len(local) >= 3
  for path in local:
    assert not re.search(r'(^|[ ="])\.venv/bin', path.read_text(), re.MULTILINE), path.name


@pytest.mark.parametrize('path', sorted(SCRIPTS.glob('*.sh')), ids=lambda path: path.name)
def test_the_scripts_pass_shellcheck(path):
  done = subprocess.run(
    [SHELLCHECK, '--shell=bash', '--external-sources', path], cwd=SCRIPTS.parent, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', ['launch_tpu_pod.sh', 'launch_slurm.sh', 'launch_gke.sh'])
def test_what_is_missing_is_said(name):
  for arguments in ([], ['--dry-run']):
    done = subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert '--config=experiments/' in done.stderr


# ------------------------------------------------------------------------------------------------------------ arguments

TOOLS = ('gcloud', 'git', 'sbatch', 'srun', 'scontrol', 'kubectl', 'xpk', 'docker', 'envsubst', 'ssh', 'scp', 'sudo', 'python')
HARMLESS = ('bash', 'cat', 'dirname', 'env', 'sed')
TRAIN = ['--config=experiments/gsm8k.py', '--workdir=runs/x', '--config.seed=1']
COMMANDS = {
  'launch_tpu_pod.sh': [['create'], ['install'], ['start', *TRAIN], ['tail'], ['stop'], ['delete']],
  'launch_slurm.sh': [TRAIN, TRAIN[:1]],
  'launch_gke.sh': [TRAIN, TRAIN[:1]],
}
CASES = [(name, command) for name, commands in COMMANDS.items() for command in commands]
UNKNOWN = [
  'dry-run',
  '--dry_run',
  '--dryrun',
  '--dry-run=true',
  '-dry-run',
  '--Dry-Run',
  '-n',
  '--help',
  'now',
  'create',
  'config.seed=1',
  'config=experiments/gsm8k.py',
  '--workdirs=runs/x',
  '--workdir',
  '--configs.seed=1',
  '--seed=1',
  '---config.seed=1',
  '--config=',
  '--',
  '',
  'two words',
]


@pytest.fixture(scope='session')
def machine(tmp_path_factory):
  """Runs a script where every tool is a stub that notes its calls and nothing else is there: how it ended, and the calls."""
  room = tmp_path_factory.mktemp('tools')
  for tool in TOOLS:
    stub(room / tool, 'exit 0')
  for tool in HARMLESS:
    (room / tool).symlink_to(shutil.which(tool))

  def run(name: str, arguments: list[str]) -> tuple[subprocess.CompletedProcess, dict[str, list[list[str]]]]:
    env = {'PATH': str(room), 'HOME': str(room), **POD, **GKE}
    done = subprocess.run([SCRIPTS / name, *arguments], env=env, capture_output=True, text=True, timeout=30)
    called = {tool: found for tool in TOOLS if (found := calls(room / tool))}
    for tool in TOOLS:
      (room / f'{tool}.calls').unlink(missing_ok=True)
    return done, called

  return run


def placed(command: list[str], word: str) -> list[list[str]]:
  """A command with a word at every position."""
  return [[*command[:i], word, *command[i:]] for i in range(len(command) + 1)]


@pytest.mark.parametrize(('name', 'command'), CASES, ids=lambda x: x if isinstance(x, str) else x[0].partition('=')[0])
def test_a_dry_run_calls_nothing_wherever_it_is_asked_for(machine, name, command):
  printed = set()
  for arguments in [*placed(command, '--dry-run'), ['--dry-run', *command, '--dry-run']]:
    done, called = machine(name, arguments)
    assert (done.returncode, called) == (0, {}), (arguments, done.stderr, called)
    printed.add(done.stdout)
  assert len(printed) == 1 and '--dry-run' not in next(iter(printed))


@pytest.mark.parametrize(('name', 'command'), CASES, ids=lambda x: x if isinstance(x, str) else x[0].partition('=')[0])
def test_without_a_dry_run_a_command_reaches_its_tool(machine, name, command):
  done, called = machine(name, command)
  assert done.returncode == 0, done.stderr
  assert {'launch_slurm.sh': 'sbatch', 'launch_gke.sh': 'kubectl', 'launch_tpu_pod.sh': 'gcloud'}[name] in called


@pytest.mark.parametrize('word', UNKNOWN)
def test_an_unknown_word_is_refused_before_anything_is_called(machine, word):
  for name, command in [
    ('launch_slurm.sh', TRAIN),
    ('launch_gke.sh', TRAIN),
    ('launch_tpu_pod.sh', ['start', *TRAIN]),
    ('launch_tpu_pod.sh', ['create']),
    ('launch_tpu_pod.sh', ['delete']),
  ]:
    for arguments in placed(command, word):
      done, called = machine(name, arguments)
      assert (done.returncode, done.stdout, called) == (2, '', {}), (arguments, called)
      assert 'error: ' in done.stderr and '; fix: ' in done.stderr, arguments


def test_every_flag_of_training_is_passed_on(machine):
  known = [
    *TRAIN,
    '--config=experiments/early_exits.py:smoke',
    '--config.stop.name=espo',
    "--config.baselines=('never', 'random')",
    '--config.reward.name=',
    '--config.rollout.serial.inducer=--dry-run',
    '--config.model.scan_layers',
    '--noconfig.model.scan_layers',
    '--config.stages[0]=rl',
    '--compilation_cache_dir=',
  ]
  modules = {train.__name__, app.__name__, logging.__name__}
  for module, defined in flags.FLAGS.flags_by_module_dict().items():
    known += [f'--{flag.name}=1' for flag in defined if module in modules]
  manifest = yaml.safe_load(machine('launch_gke.sh', ['--dry-run', *known])[0].stdout)
  assert manifest['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']['containers'][0]['args'] == known


# -------------------------------------------------------------------------------------------------------------- TPU pod


def pod(*arguments: str, path: pathlib.Path | None = None) -> str:
  return script('launch_tpu_pod.sh', *arguments, path=path, **POD)


def test_a_dry_run_of_each_pod_command_prints_commands_for_all_workers():
  printed = {name: pod('--dry-run', name) for name in ('create', 'install', 'tail', 'stop', 'delete')}
  printed['start'] = pod('--dry-run', 'start', *FLAGS)
  for name, text in printed.items():
    parses(text)
    assert all(line.startswith(('gcloud compute tpus tpu-vm ', 'git archive ')) for line in text.splitlines()), text
    if name not in ('create', 'delete', 'tail'):
      assert '--worker=all' in text
  assert '--worker=0' in printed['tail']


@pytest.mark.parametrize(('there', 'created', 'deleted'), [(True, 0, 1), (False, 1, 0)])
def test_the_slice_is_created_and_deleted_once(tmp_path, there, created, deleted):
  stub(tmp_path / 'gcloud', f'[ "$4" != describe ] || exit {0 if there else 1}')
  pod('create', path=tmp_path)
  pod('delete', path=tmp_path)
  commands = [call[3] for call in calls(tmp_path / 'gcloud')]
  assert (commands.count('create'), commands.count('delete')) == (created, deleted)


def test_a_worker_starts_once_with_the_flags_as_they_were_given_and_stops(tmp_path):
  stub(tmp_path / 'gcloud', '')
  for command in (['start', *FLAGS], ['stop']):
    pod(*command, path=tmp_path)
  start, stop = (call[-2].removeprefix('--command=') for call in calls(tmp_path / 'gcloud'))
  home = tmp_path / 'home'
  (home / 'runs').mkdir(parents=True)
  stub(home / 'espo_jax/.venv/bin/python', 'sleep 60')

  def on_worker(command: str) -> str:
    return subprocess.run(['bash', '-c', command], env=os.environ | {'HOME': str(home)}, capture_output=True, text=True).stdout

  on_worker(start)
  process = int((home / 'espo.pid').read_text())
  while not (begun := calls(home / 'espo_jax/.venv/bin/python')):
    time.sleep(0.01)
  assert begun == [['-m', 'espo_jax.train', f'--config={home}/espo_jax/experiments/gsm8k.py', *FLAGS[1:]]]
  assert 'running' in on_worker(start)
  assert len(calls(home / 'espo_jax/.venv/bin/python')) == 1
  on_worker(stop)
  deadline = time.monotonic() + 10
  while pathlib.Path(f'/proc/{process}').exists() and 'Z' not in pathlib.Path(f'/proc/{process}/stat').read_text().split()[2]:
    assert time.monotonic() < deadline
    time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------------------- SLURM


def test_the_batch_script_starts_a_process_a_gpu_and_queues_an_interrupted_job_again(tmp_path):
  text = script('launch_slurm.sh', '--dry-run', *FLAGS, NODES='2', GPUS='4')
  parses(text)
  options = dict(
    line.removeprefix('#SBATCH --').partition('=')[::2] for line in text.splitlines() if line.startswith('#SBATCH')
  )
  assert (options['nodes'], options['ntasks-per-node'], options['gres']) == ('2', '4', 'gpu:4')
  for status, queued in ((143, 1), (1, 0), (0, 0)):
    room = tmp_path / str(status)
    stub(room / 'srun', f'exit {status}')
    stub(room / 'scontrol', '')
    env = os.environ | {'PATH': f'{room}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'}
    assert subprocess.run(['bash'], input=text, env=env, text=True).returncode == status
    assert calls(room / 'srun') == [['--kill-on-bad-exit=1', '.venv/bin/python', '-m', 'espo_jax.train', *FLAGS]]
    assert calls(room / 'scontrol') == [['requeue', '7']] * queued


# ------------------------------------------------------------------------------------------------------------------ GKE


def test_the_manifest_is_a_valid_job_set():
  """The custom resource by its required fields, what Kubernetes itself reads by Kubernetes' schema."""
  manifest = yaml.safe_load(script('launch_gke.sh', '--dry-run', *FLAGS, **GKE, SLICES='2'))
  assert (manifest['apiVersion'], manifest['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  assert manifest.keys() == {'apiVersion', 'kind', 'metadata', 'spec'}
  assert manifest['spec'].keys() == {'failurePolicy', 'replicatedJobs'}
  (jobs,) = manifest['spec']['replicatedJobs']
  assert jobs.keys() == {'name', 'replicas', 'template'}
  assert jobs['replicas'] == 2
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': jobs['name']}, **jobs['template']}
  kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)

  spec = job['spec']
  pod = spec['template']['spec']
  (container,) = pod['containers']
  assert spec['parallelism'] == spec['completions']
  chips = spec['parallelism'] * container['resources']['limits']['google.com/tpu']
  assert chips == math.prod(map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x')))
  assert container['args'] == FLAGS
  assert shlex.join(container['command']) == 'python -m espo_jax.train'
