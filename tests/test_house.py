"""The plan of the house holds, and BUILD.md tells it: the top level, the walls between rooms, no circles, nothing too long."""

import ast
import functools
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'espo_jax'
SPINE = {'experiment', 'names', 'registry', 'types'}
ROOMS = {
  'commands',
  'configs',
  'decoders',
  'environments',
  'exits',
  'learner',
  'model',
  'monitor',
  'objectives',
  'parallel',
  'rewards',
  'rollout',
  'stages',
  'stops',
  'tasks',
}
TRAINING = {'learner', 'stages', 'train'}
REINFORCEMENT = {'learner', 'objectives', 'rewards', 'rollout', 'stages', 'stops'}
WALLS = {  # what a room does not import
  'commands': {'experiment', 'learner', 'model', 'rollout', 'stages', 'tasks'},
  'compile_check': {'monitor', 'train'},
  'configs': {'experiment', 'learner', 'monitor', 'parallel', 'rollout', 'stages'},
  'decoders': {*REINFORCEMENT, 'configs', 'experiment', 'model', 'tasks'},
  'environments': {*REINFORCEMENT, 'configs', 'experiment', 'model'},
  'evaluate': {'train'},
  'exits': {'learner', 'model', 'objectives', 'rollout'},
  'experiment': {'learner', 'stages', 'train'},
  'learner': {'experiment', 'monitor', 'stages', 'tasks'},
  'model': {*REINFORCEMENT, 'tasks'},
  'monitor': {'experiment', 'model', *TRAINING},
  'objectives': {'learner', 'model', 'rollout', 'rewards', 'stops'},
  'parallel': {*REINFORCEMENT, 'model', 'tasks'},
  'registry': {'configs', 'model', 'tasks', *REINFORCEMENT},
  'replay': {'learner', 'model', 'train'},
  'report': {'train', 'experiment', 'learner', 'model', 'rollout', 'stages'},
  'rewards': {'learner', 'model', 'objectives', 'rollout', 'stops'},
  'rollout': {'configs', 'experiment', 'learner', 'objectives', 'rewards'},
  'sources': {'learner', 'model', 'objectives', 'rewards', 'rollout', 'stops', 'train'},
  'stops': {'learner', 'model', 'objectives', 'rewards', 'rollout'},
  'sweep': {'model', 'objectives', 'rollout'},
  'tasks': {*REINFORCEMENT, 'configs', 'experiment', 'model'},
  'types': {'configs', 'experiment', 'model', 'registry', 'tasks', *REINFORCEMENT},
}
SOURCES = sorted(PACKAGE.rglob('*.py'))


@functools.cache
def imported() -> dict[str, set[str]]:
  """The modules of the package that each of them imports, at its head or inside of a function."""
  modules = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path for path in SOURCES}
  found: dict[str, set[str]] = {}
  for name, path in modules.items():
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.module:
        names |= {f'{node.module}.{alias.name}' for alias in node.names}
    found[name] = {known for known in (_module(other, modules) for other in names) if known and known != name}
  return found


def _module(name: str, modules: dict[str, pathlib.Path]) -> str:
  """The module that a dotted name is, or is a name in; '' for those of other packages."""
  while name and name not in modules:
    name = name.rpartition('.')[0]
  return '' if name == 'espo_jax' else name


def room(module: str) -> str:
  return module.split('.')[1]


def test_a_top_level_name_is_a_command_the_spine_or_a_room():
  entries = {path.stem: path for path in PACKAGE.iterdir() if path.name not in ('__init__.py', '__pycache__')}
  commands = {
    name
    for name, path in entries.items()
    if (path / '__main__.py').exists() or (path.is_file() and "if __name__ == '__main__':" in path.read_text())
  }
  assert len(entries) <= 30
  assert set(entries) - commands - SPINE - ROOMS == set()
  assert set(entries) >= SPINE | ROOMS


@pytest.mark.parametrize('name', sorted(WALLS))
def test_a_wall_stands(name):
  through = {
    f'{module} imports {other}'
    for module, others in imported().items()
    if module != 'espo_jax' and room(module) == name
    for other in others
    if room(other) in WALLS[name]
  }
  assert not through


def test_the_map_of_the_build_guide_names_every_wall():
  rows = [line.split('|')[1:-1] for line in (ROOT / 'BUILD.md').read_text().splitlines() if re.match(r'\| `\w+(/|\.py)`', line)]
  told, named = {}, set()
  for names, _, walls in (row for row in rows if len(row) == 3):
    names = re.findall(r'`(\w+)(?:/|\.py)`', names)
    named |= set(names)
    groups = {'RL': REINFORCEMENT, 'training': TRAINING}
    kept = set(re.findall(r'`(\w+)`', walls)).union(*(group for name, group in groups.items() if name in walls))
    told |= {names[0]: kept} if kept else {}
  assert told == WALLS
  assert named == {path.stem for path in PACKAGE.iterdir() if path.name not in ('__init__.py', '__pycache__')}


def test_no_module_imports_itself_by_way_of_others():
  packages = {module for module in imported() if any(other.startswith(f'{module}.') for other in imported())}
  graph = {
    module: {other for other in others if other not in packages or not module.startswith(f'{other}.')}
    for module, others in imported().items()
  }
  graphlib.TopologicalSorter(graph).prepare()  # raises where there is a circle


@pytest.mark.parametrize('path', SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES])
def test_a_file_and_its_functions_can_be_read_at_once(path):
  text = path.read_text()
  assert text.count('\n') <= 410
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef) and node.name != 'default_config':
      assert node.end_lineno - node.lineno < 90, f'{node.name} has {node.end_lineno - node.lineno + 1} lines'


def test_the_flow_is_on_one_screen():
  (step,) = (
    node
    for node in ast.walk(ast.parse((PACKAGE / 'stages' / 'rl.py').read_text()))
    if isinstance(node, ast.FunctionDef) and node.name == 'step'
  )
  assert step.end_lineno - step.lineno <= 60
