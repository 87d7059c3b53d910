"""What a name was meant to be: a misspelt or abbreviated one, and one of the Hugging Face Hub where a folder is wanted."""

import difflib
import pathlib
import re
from collections.abc import Iterable

_ADDRESS = re.compile(r'(https?:/+)?(www\.)?(huggingface\.co|hf\.co)/+|hf:/+')
_FOLDERS = ('checkpoints', 'data', 'evaluations', 'models', 'out', 'output', 'runs')  # nobody's name, and many a folder's
_DATA_FILE = re.compile(
  r'(?:hf:/|https://huggingface\.co)/datasets/([\w.-]+/[\w.-]+)/(?:(?:blob|resolve)/main/)?([^?]+)(?:\?.*)?'
)
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
  """The known name that `name` misspells or abbreviates; None where none is near.

  Abbreviations are initials (`lr`), a beginning (`temp`) and a name that has some of the words (`grad_norm`).

  Args:
    name: What was written.
    known: The names that there are.
    likeness: The least ratio, as difflib counts it, of a misspelling.
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
  """The name on the Hub that somebody may have meant by a path that is not there, `Qwen/Qwen2.5-0.5B`; '' where it is none.

  Args:
    path: What was given, or an absolute path made of it; an address of the Hub counts as the name in it.
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
  """The data set on the Hub and the file in it that an address names; None where it is no such address.

  Args:
    path: An address such as `hf://datasets/OWNER/NAME/FILE`, or the one that a browser shows of a file.
  """
  found = _DATA_FILE.fullmatch(path)
  return (found[1], found[2]) if found else None


def download(name: str) -> str:
  """The command that makes a folder of a name on the Hub, and the folder."""
  folder = f'models/{name.rpartition("/")[2]}'
  return f'hf download {name} --local-dir {folder}, and {folder} in its place'
