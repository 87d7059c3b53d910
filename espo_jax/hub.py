"""Names on the Hugging Face Hub, where a folder is wanted."""

import pathlib
import re

_ADDRESS = re.compile(r'(https?:/+)?(www\.)?(huggingface\.co|hf\.co)/+|hf:/+')
_FOLDERS = ('checkpoints', 'data', 'evaluations', 'models', 'out', 'output', 'runs')  # nobody's name, and many a folder's
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


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


def download(name: str) -> str:
  """The command that makes a folder of a name on the Hub, and the folder."""
  folder = f'models/{name.rpartition("/")[2]}'
  return f'hf download {name} --local-dir {folder}, and {folder} in its place'
