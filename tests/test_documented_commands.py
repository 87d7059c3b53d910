"""Every command, flag, field and metric that the documentation names exists, and takes the value that is written there."""

import ast
import importlib
import inspect
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags as absl_flags
from ml_collections import config_flags

from espo_jax import methods, monitor, registry, tasks
from espo_jax.commands import CommandParser
from espo_jax.configs import default_config, flatten, parse_flags
from espo_jax.monitor.glossary import GLOSSARY
from espo_jax.tasks.gym_datasets import OWN

ROOT = pathlib.Path(__file__).parents[1]
REAL = ('README', 'decoders', 'self_braking')
PAGES = [
  *(ROOT / name for name in ('README.md', 'BUILD.md', 'CONTRIBUTING.md', *(f'experiments/real/{page}.md' for page in REAL))),
  *sorted([*(ROOT / 'docs').glob('*.md'), *(ROOT / 'docs').glob('[!_]*/*.md')]),
]
CODE = re.compile(r'^```\w*\n.*?^```', re.MULTILINE | re.DOTALL)
PLUGINS = sorted((ROOT / 'experiments' / 'plugins').glob('*.py'))
ROOMS = {'objectives': 'objective', 'rewards': 'reward', 'stops': 'stop', 'exits': 'exits'}  # and the config's sections
CHOICES = {'log': monitor.TRACKERS}  # the values of flags that take one of several
DATA_SETS = ('dataset', 'datasets', 'max_terms')  # options of reasoning-gym's data sets


def commands(text: str) -> list[list[str]]:
  """The commands in the blocks of a page, split into words, without variables, comments and what is left open by '...'."""
  blocks = [line for block in CODE.findall(text) for line in block.splitlines()[1:-1]]
  lines = '\n'.join([*blocks, *re.findall(r'^ {4}.*', CODE.sub('', text), re.MULTILINE)]).replace('\\\n', ' ')
  found = []
  for line in lines.splitlines():
    words = re.sub(r'\s#\s.*', '', line).strip()
    if re.match(r'(?:[A-Z]+=\S+ )*(?:python |scripts/)', words) and '...' not in words:
      found.append([word for word in shlex.split(words) if not re.match(r'[A-Z]+=', word)])
  return found


COMMANDS = sorted({tuple(words) for page in PAGES for words in commands(page.read_text())})


def module_of(name: str) -> str:
  path = ROOT / name.replace('.', '/')
  return f'{name}.__main__' if path.is_dir() else name


def flags_of(module: str) -> list[ast.Call]:
  """The calls that define a module's absl flags; two such modules cannot be imported into one process."""
  source = (ROOT / f'{module_of(module).replace(".", "/")}.py').read_text()
  calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
  return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr.startswith('DEFINE_')]


def parse_like_training(monkeypatch, module: str, words: list[str]) -> None:
  own = absl_flags.FlagValues()
  for call in flags_of(module):
    name = call.args[0].value
    default = ast.literal_eval(call.args[1]) if isinstance(call.args[1], ast.Constant | ast.List) else None
    if call.func.attr == 'DEFINE_config_file':
      config_flags.DEFINE_config_file(name, default, 'x', flag_values=own, lock_config=False, accept_new_attributes=True)
    elif call.func.attr == 'DEFINE_multi_enum':
      absl_flags.DEFINE_multi_enum(name, default, CHOICES[name], 'x', flag_values=own)
    else:
      getattr(absl_flags, call.func.attr)(name, default, 'x', flag_values=own)
  argv = [module, *words]
  monkeypatch.setattr(sys, 'argv', argv)
  assert parse_flags(argv, own) == [module]


class Parsed(Exception):
  pass


def parse_like_the_others(monkeypatch, module: str, words: list[str]) -> None:
  parse = CommandParser.parse_args

  def parsed(self, args=None, namespace=None):
    parse(self, args, namespace)
    raise Parsed

  monkeypatch.setattr(CommandParser, 'parse_args', parsed)
  with pytest.raises(Parsed):
    importlib.import_module(module_of(module)).main(words)


def check(monkeypatch, words: list[str]) -> None:
  """Raises SystemExit or AssertionError if a command is not one that can be given."""
  monkeypatch.chdir(ROOT)
  files = [word.rpartition('=')[2].partition(':')[0] for word in words]
  assert [file for file in files if file.endswith('.py') and not pathlib.Path(file).is_file()] == []
  if words[:2] == ['python', '-m']:
    module, words = words[2], words[3:]
    if flags_of(module):
      parse_like_training(monkeypatch, module, words)
    else:
      parse_like_the_others(monkeypatch, module, words)
    return
  assert (ROOT / words[words[0] == 'python']).is_file(), words
  for word in words[1:]:
    if match := re.match(r'--config\.([\w.]+)', word):
      assert match[1] in FIELDS, word


def fields() -> set[str]:
  """The fields that a config may have, the options of all methods and of all tasks included."""
  config = default_config()
  found = set(flatten(config))
  for method in methods.methods():
    section = methods.REGISTERS[method.kind].field.partition('.')[0]
    found |= {f'{section}.{name}' for name in registry.options(method.function)}
  for task in tasks.TASKS.values():
    found |= {f'task.options.{name}' for name in inspect.signature(task).parameters}
  return found | {f'task.options.{name}' for name in (*OWN, *DATA_SETS)}


FIELDS = fields()
SECTIONS = set(default_config())


def unknown_fields(text: str) -> set[str]:
  """The fields in flags anywhere, and in code of the text, that no config has."""
  flagged = set(re.findall(r'--(?:no)?config\.([a-z][\w.]*\w)', text))
  alone = set(re.findall(r'`([a-z_]+(?:\.[a-z_0-9]+)+)(?: (?:=|<|>)[^`]*)?`', text))
  of_config = {name for name in alone if name.partition('.')[0] in SECTIONS and not name.endswith(('.py', '.md', '.json'))}
  nested = {prefix for name in FIELDS for prefix in _prefixes(name)}
  examples = options_in(*(path.read_text() for path in PLUGINS), *re.findall(r'```python\n(.*?)```', text, re.DOTALL))
  known = FIELDS | nested | examples | {f'{room}.register' for room in ROOMS}
  return {name for name in flagged | of_config if name not in known}


def options_in(*sources: str) -> set[str]:
  """The options of the methods that example code registers."""
  found = set()
  for node in (node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
    for room, section in ROOMS.items():
      if any(ast.unparse(decorator).startswith(f'{room}.register(') for decorator in node.decorator_list):
        found |= {f'{section}.{argument.arg}' for argument in node.args.kwonlyargs}
  return found


def _prefixes(name: str) -> list[str]:
  parts = name.split('.')
  return ['.'.join(parts[:n]) for n in range(2, len(parts))]


def unknown_metrics(text: str) -> set[str]:
  known = {name.partition('/')[0] for name in GLOSSARY if '/' in name}
  named = set(re.findall(r'`([a-z_]+/[a-z_0-9]+)`', text))
  return {name for name in named if name.partition('/')[0] in known and monitor.meaning(name) is None}


@pytest.mark.parametrize('words', COMMANDS, ids=lambda words: ' '.join(words)[:80])
def test_a_documented_command_can_be_given(monkeypatch, registers, words):
  check(monkeypatch, list(words))


def test_the_commands_of_all_pages_are_found():
  modules = {words[2].rpartition('.')[2] for words in COMMANDS if words[:2] == ('python', '-m')}
  assert modules >= {'train', 'evaluate', 'convert', 'report', 'replay', 'sweep', 'compile_check', 'plot_exits'}
  assert len(COMMANDS) > 40
  assert ('scripts/quickstart.sh',) in COMMANDS and any('-m' in words and '--record' in words for words in COMMANDS)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_fields_and_metrics_that_a_page_names_are_there(page):
  text = page.read_text()
  assert unknown_fields(text) == set() and unknown_metrics(text) == set()


@pytest.mark.parametrize(
  'wrong',
  [
    'python -m espo_jax.train --config=experiments/quickstart.py --workdir=x --config.learner.lr=1',
    'python -m espo_jax.train --config=experiments/quickstart.py --workdri=x',
    'python -m espo_jax.train --config=experiments/absent.py --workdir=x',
    'python -m espo_jax.train --config=experiments/quickstart.py --workdir=x --config.learner.updates=many',
    'python -m espo_jax.train --config=experiments/quickstart.py --workdir=x --log=wndb',
    'python -m espo_jax.plot_exits --checkpoint=x --rows=many',
    'python -m espo_jax.sweep --sweep=experiments/sweeps/absent.py --workdir=x --output=y',
    'python -m espo_jax.evaluate --checkpoint=x --sample=3.5',
    'python -m espo_jax.evaluate --checkpoint=x --benchmark=gsm9k',
    'python -m espo_jax.convert --checkpoint=x --ouput=y',
    'scripts/absent.sh',
    'scripts/quickstart.sh --config.learner.lr=1',
  ],
)
def test_a_command_that_cannot_be_given_is_found(monkeypatch, registers, wrong):
  ((*words,),) = commands(f'Text.\n\n    {wrong}\n')
  with pytest.raises((SystemExit, AssertionError)):
    check(monkeypatch, words)


def test_a_field_or_metric_that_does_not_exist_is_found():
  assert unknown_fields('`stop.returns` `stop.retruns = 0` `--config.learner.lr=1` `model.py` `stop.espo`') == {
    'stop.retruns',
    'learner.lr',
    'stop.espo',
  }
  assert unknown_metrics('`rollout/rows` `rollout/rwos` `reuse/tokns` `reward/any` `seconds/any`') == {
    'rollout/rwos',
    'reuse/tokns',
  }
