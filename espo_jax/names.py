"""Guesses the meaning of a name: a misspelt or abbreviated one, or a name on the Hub or a file given in place of a folder."""

import difflib
import pathlib
import re
from collections.abc import Iterable

_ADDRESS = re.compile(r'(https?:/+)?(www\.)?(huggingface\.co|hf\.co)/+|hf:/+')
_FOLDERS = ('checkpoints', 'data', 'evaluations', 'models', 'out', 'output', 'runs')  # common folders, no owners on the Hub
_DATA_FILE = re.compile(
  r'(?:hf:/|https://huggingface\.co)/datasets/([\w.-]+/[\w.-]+)/(?:(?:blob|resolve)/main/)?([^?]+)(?:\?.*)?'
)
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
  """Returns the known name that `name` misspells or abbreviates; None if no known name is near.

  An abbreviation is initials (`lr`), a beginning (`temp`), or a name with some of the words (`grad_norm`).

  Args:
    name: The name as it was written.
    known: The known names.
    likeness: The least similarity of a misspelling, as difflib's ratio.
  """
  names = {_plain(other): other for other in sorted(known, reverse=True)}
  wanted = _plain(name)
  if wanted in names:
    return names[wanted]
  initials = {''.join(word[0] for word in other.split('_') if word): other for other in names}
  if len(wanted) > 1 and wanted in initials:
    return names[initials[wanted]]
  if len(wanted) > 2 and (longer := [other for other in names if other.startswith(wanted)]):
    return names[min(longer, key=lambda other: (len(other), other))]
  if close := difflib.get_close_matches(wanted, names, n=1, cutoff=likeness):
    return names[close[0]]
  words = set(wanted.split('_'))
  part = [other for other in names if words <= set(other.split('_')) or set(other.split('_')) <= words]
  return names[min(part, key=lambda other: (len(other), other))] if part else None


def _plain(name: str) -> str:
  return name.lower().replace('-', '_').strip('_')


def hub_name(path: str | pathlib.Path) -> str:
  """Returns the name on the Hub, such as `Qwen/Qwen2.5-0.5B`, that a path which does not exist may mean; '' if it is none.

  Args:
    path: The path as it was given, or made absolute. An address of the Hub stands for the name in it.
  """
  text = str(path)
  here = f'{pathlib.Path.cwd()}/'
  text, addressed = _ADDRESS.subn('', text.removeprefix(here), count=1)
  name = '/'.join(text.split('/')[:2]) if addressed else text.rstrip('/')
  owner = name.partition('/')[0]
  if not _NAME.fullmatch(name) or pathlib.Path(path).exists():
    return ''
  return '' if not addressed and (owner in _FOLDERS or pathlib.Path(owner).is_dir()) else name


def data_file(path: str) -> tuple[str, str] | None:
  """Returns the data set on the Hub and the file in it that an address names; None if it is no such address.

  Args:
    path: An address such as `hf://datasets/OWNER/NAME/FILE`, or the one that a browser shows of a file.
  """
  found = _DATA_FILE.fullmatch(path)
  return (found[1], found[2]) if found else None


def to_directory(path: str | pathlib.Path) -> str:
  """Returns the advice to convert a model in GGUF and to use the directory; '' if the path is no such file."""
  path = pathlib.Path(path)
  folder = f'models/{path.stem}'
  return (
    f'python -m espo_jax.convert --gguf={path} --output={folder}, and {folder} in its place' if path.suffix == '.gguf' else ''
  )


def download(name: str) -> str:
  """Returns the advice to download a name on the Hub and to use the downloaded folder."""
  folder = f'models/{name.rpartition("/")[2]}'
  return f'hf download {name} --local-dir {folder}, and {folder} in its place'
