"""Keeps the registers of methods, and reads what a method declares about itself.

A method is a function that registers itself under a name. A config selects it by that name:

    @rewards.register('brief')
    def brief(correct, lengths, horizon, *, weight=0.1):
      return correct * (1.0 - weight * lengths / horizon)

The positional parameters name the values that a method reads. Each room has a table of these values, so that a wrong name is an
error at the function's definition, before anything runs. The keyword-only parameters are the method's options. The config sets
them by name, and the command `espo_jax.methods` lists them.

A file of a user's own registers methods in the same way. The flag `--plugins=FILE` of every command runs it with `load_plugin`.
No file is ever run because a run's folder names it.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import keyword
import pathlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeAlias, TypeVar

from espo_jax.names import nearest
from espo_jax.types import takes_numpy

Method = TypeVar('Method', bound=Callable[..., Any])
Entry = TypeVar('Entry')

ABOVE_0 = 'above 0'
PositiveInt: TypeAlias = Annotated[int, ABOVE_0]  # the types of options that 0 makes meaningless, such as a divisor
PositiveFloat: TypeAlias = Annotated[float, ABOVE_0]


class RegistryError(ValueError):
  """A method that cannot be registered. The message has its file and line, its name and the fix."""


class Register(Mapping[str, Entry], Generic[Entry]):
  """The methods of one kind, by name. Only the decorator of a room adds methods.

  Attributes:
    field: The config field or the flag that names one, such as 'stop.name' or '--decoder'.
  """

  def __init__(self, kind: str, field: str, *, in_expressions: bool = False):
    """Makes an empty register.

    Args:
      kind: The word for one of its methods, such as 'stop rule'.
      field: The config field or the flag that names one, such as 'stop.name' or '--decoder'.
      in_expressions: Whether that field is an expression over names, which then have to be identifiers.
    """
    self._kind, self.field, self._in_expressions = kind, field, in_expressions
    self._entries: dict[str, Entry] = {}
    self._methods: dict[str, Callable[..., Any]] = {}

  def __getitem__(self, name: str) -> Entry:
    return self._entries[name]

  def __iter__(self) -> Iterator[str]:
    return iter(sorted(self._entries))  # the order does not depend on which file is imported first

  def __len__(self) -> int:
    return len(self._entries)

  def find(self, name: str, expression: str | None = None) -> Entry:
    """Returns the entry of a name that a config gives.

    Raises:
      ValueError: The name is unknown. The message has the field, the expression that the name stands in, and the nearest name.
    """
    if name not in self._entries:
      raise ValueError(unknown(self.field, name if expression is None else expression, name, self._entries))
    return self._entries[name]

  def decorator(
    self, name: str, reads: Mapping[str, str], entry: Callable[[Any], Any] = lambda method: method
  ) -> Callable[[Method], Method]:
    """Returns a decorator that registers a function of arrays, and lets it also take NumPy arrays.

    Args:
      name: The method's name.
      reads: The values that the method's positional parameters may name, each with its meaning.
      entry: The function that makes the register's entry from the method; by default the entry is the method.

    Raises:
      RegistryError: The decorator is used without a name, or `check` refuses the function.
    """
    self.check_called(name)

    def mark(method: Method) -> Method:
      method = takes_numpy(method)
      self.check(name, method, reads)
      return self.add(name, method, entry(method))

    return mark

  def check_called(self, name: Any) -> None:
    """Raises RegistryError if a decorator is used without a name, because it would register nothing."""
    if callable(name):
      fix = f"fix: @register('{getattr(name, '__name__', 'my_method')}')"
      raise RegistryError(f'{place(name)}: {self._kind}: registered without a name; {fix}')

  def check(self, name: str, method: Callable[..., Any], reads: Mapping[str, str] | None = None) -> None:
    """Checks that a method can be registered. A method from a file that is loaded twice can be registered again.

    Args:
      name: The method's name.
      method: The function or class.
      reads: The values that the method's positional parameters may name, each with its meaning; None skips this check.

    Raises:
      RegistryError: The name is taken or invalid, or a parameter names a value that does not exist.
    """
    reason = self._wrong_name(name)
    if not reason and name in self and _identity(method) != _identity(other := self._methods[name]):
      reason = f'the name is taken by {place(other)}; fix: another name'
    if not reason and reads is not None:
      reason = _wrong_signature(method, reads)
    if reason:
      raise RegistryError(f'{place(method)}: {self._kind} {name!r}: {reason}')

  def add(self, name: str, method: Method, entry: Entry) -> Method:
    """Stores the entry of a method that has passed `check`, and returns the method."""
    self._entries[name], self._methods[name] = entry, method
    return method

  def _wrong_name(self, name: str) -> str:
    fitting = re.sub(r'\W+', '_', str(name)).strip('_')
    if not fitting.isidentifier() or keyword.iskeyword(fitting):
      fitting = 'my_method'
    fix = f'fix: letters, digits and underscores, such as {fitting!r}'
    if not isinstance(name, str) or not re.fullmatch(r'\w[\w.-]*', name):
      return f'no name, which would be a part of a command line and a folder; {fix}'
    if self._in_expressions and (not name.isidentifier() or keyword.iskeyword(name)):
      return f'no identifier, and {self.field} is an expression over names; {fix}'
    return ''


class Source(NamedTuple):
  """The paper of a method. `published` names the options with the paper's defaults. Other defaults are our choice [U]."""

  paper: str
  published: tuple[str, ...]


def source(paper: str, *published: str) -> Callable[[Method], Method]:
  """Marks a method with its paper and with the options whose defaults the paper publishes, and applies `takes_numpy`."""

  def mark(method: Method) -> Method:
    method = takes_numpy(method)
    vars(method)['source'] = Source(paper, published)
    return method

  return mark


def source_of(method: Callable[..., Any]) -> Source:
  """Returns the mark that `source` set, or one with the paper 'paper not said' for an unmarked method."""
  return vars(method).get('source', Source('paper not said', ()))


def options(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
  """Returns the keyword-only parameters by name."""
  parameters = inspect.signature(method).parameters
  return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def defaults(method: Callable[..., Any]) -> dict[str, Any]:
  """Returns the options with their defaults."""
  return {name: p.default for name, p in options(method).items()}


def check_type(option: str, value: Any, default: Any) -> Any:
  """Returns the value of an option, in which a whole number may stand for a float.

  Raises:
    ValueError: The value is not of the type of the default.
  """
  wanted = type(default)
  if wanted is float and type(value) is int and abs(value) < 2**1023:  # a larger one may be no float
    return float(value)
  if type(value) is not wanted:
    raise ValueError(f'{option}={value}: not of type {wanted.__name__}; fix: such as {option}={default}')
  return value


def inputs(method: Callable[..., Any]) -> tuple[str, ...]:
  """Returns the names of the parameters that are not options, in order."""
  return tuple(name for name, p in inspect.signature(method).parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY)


def chosen(method: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
  """Returns the entries of `values` that are options of the method."""
  return {name: value for name, value in values.items() if name in options(method)}


def unknown(field: str, value: str, name: str, known: Iterable[str]) -> str:
  """Returns the message for a name that is not registered."""
  near = nearest(name, known := sorted(known))
  hint = f' did you mean {near!r}?' if near else ''
  return f'{field} = {value!r}: {name!r} is unknown;{hint} known: {", ".join(known)}'


def import_files(package: str, path: Iterable[str]) -> None:
  """Imports every file of a room except its command, so that the methods in it register themselves.

  Args:
    package: The room's `__name__`.
    path: The room's `__path__`.
  """
  for file in pkgutil.iter_modules(path):
    if file.name != '__main__':
      importlib.import_module(f'{package}.{file.name}')


class PluginError(ValueError):
  """A user's file that cannot be loaded. The message has the flag, the file, the line and the reason."""


class Plugin(NamedTuple):
  """A user's file that has registered its methods."""

  path: str
  digest: str  # a hash of the file's bytes


PLUGINS_HELP = 'A Python file of your own that registers tasks, rewards, stop rules and their like. May be repeated.'
_PLUGINS: dict[str, Plugin] = {}


def load_plugin(file: str | pathlib.Path) -> Plugin:
  """Runs a user's file, so that the methods in it register themselves.

  Raises:
    PluginError: There is no such file, or running it raised an error.
  """
  path = pathlib.Path(file).absolute()
  try:
    plugin = Plugin(str(path), hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest())
  except OSError as error:
    raise PluginError(f'--plugins={file}: {error.strerror}; fix: a Python file that registers methods') from error
  name = f'espo_jax_plugin_{plugin.digest}'
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise PluginError(f'--plugins={file}: no Python file; fix: a file that ends in .py')
  module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up here
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:  # a plugin is code and may raise anything
    del sys.modules[name]
    raise PluginError(f'--plugins={file}: {_told(error, path)}') from error
  _PLUGINS[plugin.path] = plugin
  return plugin


def loaded_plugins() -> tuple[Plugin, ...]:
  """Returns the users' files that this process has loaded."""
  return tuple(_PLUGINS.values())


def _told(error: BaseException, path: pathlib.Path) -> str:
  """Describes an error in a file with the line where it occurred."""
  if isinstance(error, RegistryError):  # its message has the place already
    return str(error)
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
  line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
  return f'line {line}: {type(error).__name__}: {error}'


def place(method: Callable[..., Any]) -> str:
  """Returns the file and line of the definition of a function or class."""
  method = _innermost(method)
  if code := getattr(method, '__code__', None):
    return f'{code.co_filename}:{code.co_firstlineno}'
  try:
    return f'{inspect.getsourcefile(method)}:{inspect.getsourcelines(method)[1]}'
  except (OSError, TypeError):
    return str(getattr(method, '__module__', type(method)))


def _innermost(method: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function inside decorators and partial applications."""
  method = inspect.unwrap(method)
  return _innermost(method.func) if isinstance(method, functools.partial) else method


def _identity(method: Callable[..., Any]) -> tuple[str, str]:
  """Returns a key that is the same for a method each time its file is loaded."""
  return place(method), str(getattr(_innermost(method), '__qualname__', ''))


def _wrong_signature(method: Callable[..., Any], reads: Mapping[str, str]) -> str:
  """Returns what is wrong with a method's parameters, and the fix; '' if nothing is."""
  try:
    parameters = inspect.signature(method).parameters
  except (TypeError, ValueError):
    return 'its parameters cannot be read; fix: a function written in Python'
  for name, p in parameters.items():
    if p.kind is inspect.Parameter.VAR_POSITIONAL:
      return f"parameter '*{name}' names nothing to read; fix: {_readable(reads)}"
    if p.kind is inspect.Parameter.VAR_KEYWORD:
      return f"parameter '**{name}' hides the options from the config; fix: each by its name, with a default"
    if p.kind is inspect.Parameter.KEYWORD_ONLY:
      if p.default is p.empty:
        return f'option {name!r} has no default; fix: {name}=VALUE, which the config may replace'
    elif name not in reads:
      near = nearest(name, reads)
      hint = f' did you mean {near!r} ({reads[near]})?' if near else ''
      return f'parameter {name!r} names nothing to read;{hint} fix: {_readable(reads, briefly=bool(near))}'
  return ''


def _readable(reads: Mapping[str, str], *, briefly: bool = False) -> str:
  """Lists the values that a method may read, as the fix of an error."""
  if not reads:
    return "options alone: a '*' in front of them, and a default for each"
  if briefly:
    return f"one of {', '.join(reads)}, or an option: behind a '*', with a default"
  return '\n  '.join(["one of these, or an option: behind a '*', with a default", *(f'{k}: {v}' for k, v in reads.items())])
