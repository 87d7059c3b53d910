"""What the pages say to run is there, what it writes is not in git's way, and results say on which machine they were made."""

import json
import os
import pathlib
import re
import shlex
import subprocess

import pytest

from espo_jax import monitor
from espo_jax.monitor import environment
from espo_jax.sweep import Sweep
from espo_jax.sweep.page import record_of

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*(ROOT / 'experiments' / 'results').glob('*.md'), *(ROOT / 'experiments' / 'benchmarks').glob('[!R]*.md')])
DOCS = sorted([*(ROOT / 'docs').glob('*.md'), *(ROOT / 'docs').glob('[!_]*/*.md')])
SOURCES = [
  ROOT / 'README.md',
  ROOT / 'BUILD.md',
  *DOCS,
  *sorted((ROOT / 'experiments').rglob('*.py')),
  *sorted((ROOT / 'espo_jax').glob('*.py')),
  *sorted((ROOT / 'scripts').glob('[!l]*')),  # the launch scripts write where the jobs are
  *sorted((ROOT / 'notebooks').glob('*.ipynb')),
]
DOCUMENTS = sorted([*ROOT.glob('*.md'), *DOCS, *(ROOT / 'experiments' / 'benchmarks').glob('*.md')])
LINK = re.compile(r'\]\(([^)#:\s]+)(?:#[^)]*)?\)')  # not those of the web
FILE = re.compile(r'`((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|md|sh))?)`')  # such as `tests/rounding.py` and `model/`
WRITES = re.compile(r'--(?:workdir|output|local-dir|checkpoint_dir)[= ]([\w./-]+)|\'ESPO_JAX_RUN\', \'([\w./-]+)\'')
PUBLISHED = ('experiments/results/', 'experiments/real/', 'experiments/benchmarks/')  # written to be committed


def written(text: str) -> set[str]:
  """The paths inside the repository that the commands in a text write."""
  found = {path for match in WRITES.finditer(text) for path in match.groups() if path}
  return {path for path in found if path.strip('./-') and not path.startswith(('/', *PUBLISHED))}


def ignored(path: str) -> bool:
  return subprocess.run(['git', 'check-ignore', '-q', path], cwd=ROOT, timeout=30).returncode == 0


@pytest.fixture(scope='module', autouse=True)
def in_git():
  if subprocess.run(['git', 'rev-parse'], cwd=ROOT, capture_output=True, timeout=30).returncode:
    pytest.skip('not a checkout of git')


ALL = sorted({path for source in SOURCES if source.is_file() for path in written(source.read_text())})
DEFAULTS = ['depth.png', 'evaluations/tiny-gsm8k', 'runs/quickstart/evaluations/espo-60-test', 'runs/a/report.md', 'espo-7.log']


def test_the_commands_write_where_they_are_looked_for():
  assert {'runs/quickstart', 'models/quickstart', 'models/r1-7b', 'data/gsm8k_train', 'depth.png'} <= set(ALL)


@pytest.mark.parametrize('path', sorted({*ALL, *DEFAULTS}))
def test_what_a_documented_command_writes_is_ignored_by_git(path):
  assert ignored(path)


@pytest.mark.parametrize('path', ['espo_jax/model/config.py', 'espo_jax/data.py', 'tests/x.py', 'experiments/results/new.md'])
def test_what_belongs_to_the_repository_is_not_ignored(path):
  assert not ignored(path)


@pytest.mark.parametrize('page', DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
  assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize('page', ['BUILD.md', 'CONTRIBUTING.md', 'docs/memory.md', 'docs/pod.md', 'docs/sharding.md'])
def test_the_files_that_a_page_names_are_there(page):
  named = FILE.findall((ROOT / page).read_text())
  assert named and [name for name in named if not (ROOT / name).exists() and not (ROOT / 'espo_jax' / name).exists()] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_a_command_that_exists(page):
  command = next(line for line in page.read_text().splitlines() if line.startswith('    ') and line.strip())
  words = [word for word in shlex.split(command, comments=True) if not re.match('[A-Z]+=', word)]
  if words[0] == 'python' and words[1] == '-m':
    module = ROOT / words[2].replace('.', '/')
    assert module.with_suffix('.py').is_file() or (module / '__main__.py').is_file(), command
  else:
    assert (ROOT / words[words[0] == 'python']).is_file(), command
  for word in words:
    if match := re.match(r'--(?:sweep|config)=([^:]+)', word):
      assert (ROOT / match[1]).is_file(), command


@pytest.mark.parametrize(
  ('variables', 'threads'),
  [
    ({}, None),
    ({'NPROC': '3'}, 3),
    ({'NPROC': '1'}, 1),
    ({'NPROC': ''}, None),
    ({'NPROC': 'all'}, None),
    ({'NPROC': '0'}, None),
  ],
)
def test_threads_are_those_of_xlas_pool(variables, threads):
  assert environment._threads(variables) == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
  ('text', 'processor'),
  [
    (
      'processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold\n',
      'Intel(R) Xeon(R) Gold',
    ),
    ('model name : AMD EPYC 7B12: 64-Core\nmodel name : other\n', 'AMD EPYC 7B12: 64-Core'),
    ('processor : 0\nModel\t: Raspberry Pi 4\n', 'Raspberry Pi 4'),
    ('processor : 0\nCPU part : 0xd40\n', None),
    ('', None),
    (None, None),
  ],
)
def test_the_processor_has_a_name_on_every_machine(tmp_path, text, processor):
  file = tmp_path / 'cpuinfo'
  if text is not None:
    file.write_text(text)
  found = environment._processor(file)
  assert found == processor if processor else found


def test_a_run_and_a_comparison_record_processor_and_threads(tmp_path, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_max_isa=AVX2')
  monitor.write_run_info(tmp_path, {})
  one = json.loads((tmp_path / 'environment.json').read_text())
  assert {name: one[name] for name in ('processor', 'threads')} == monitor.machine()
  assert one['processor'] and one['threads'] > 0 and one['xla_flags'] == '--xla_cpu_max_isa=AVX2'

  plan = Sweep(base='', arms={}, seeds=(0,), baseline='')

  def hardware(*environments) -> dict:
    return record_of(plan, '', '', [], environments, {})['hardware']

  assert hardware(one)['processor'] == one['processor'] and hardware(one)['threads'] == str(one['threads'])
  other = one | {'processor': 'another', 'threads': 9}
  assert hardware(one, one, other)['processor'] == f'{one["processor"]} or another'
  earlier = {name: value for name, value in one.items() if name not in ('processor', 'threads')}
  assert hardware(earlier, one)['threads'] == f'unknown or {one["threads"]}'
