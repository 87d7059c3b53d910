"""The tests' machine: eight virtual CPU devices, shapes checked at every call, compiled programs kept between runs."""

import functools
import gc
import importlib.metadata
import inspect
import os
from typing import Any
from unittest import mock

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'  # compiling is most of the time, and what runs once need not be fast
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'  # programs do not carry the lines they come from
# The newest kernel emitters make programs that take twice as long to compile. The flag's name changed with jaxlib 0.11.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_cpu_parallel_codegen_split_count=1',  # there are as many workers as cores
    '--xla_cpu_use_fusion_emitters=false'
    if importlib.metadata.version('jaxlib').startswith('0.10.')
    else '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',
  ]
)

import jax
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from jax._src.interpreters import mlir

# JAX loads all dialects of MLIR for each program. Here most programs are a single operation, and that is 7 % of the time.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)

_CONF = BeartypeConf(is_pep484_tower=True)  # an int passes for a float


def typechecker(function):
  """What the import hook wraps every function of the package with, and the `__init__` of every dataclass.

  A function inside of another one would be compiled again at every call of that one, which takes a tenth of all the time. So
  would it to ask of each leaf of each tree whether it is an array, which is all that the hint says.
  """
  if '<locals>' in function.__qualname__:
    return function
  for name, hint in function.__annotations__.items():
    if isinstance(hint, type(jaxtyping.PyTree)):
      function.__annotations__[name] = Any
  checked = beartype(conf=_CONF)(function)
  if function.__name__ != '__init__':
    return checked

  @functools.wraps(function)
  def init(*args, **kwargs):  # a tree operation rebuilds a dataclass around anything: shapes, shardings, None
    if all(isinstance(x, jax.Array) for x in jax.tree.leaves((args[1:], kwargs), is_leaf=_no_tree)):
      checked(*args, **kwargs)

  return init


def _no_tree(x):
  return x is None or inspect.isgenerator(x)


jaxtyping.install_import_hook('espo_jax', 'conftest.typechecker')  # before anything imports the package


def pytest_configure(config):
  jax.config.update('jax_compilation_cache_dir', str(config.cache.mkdir('jax')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)  # to write one takes 0.06 s, and to read it 0.1 s
  # JAX says so when it gives another dtype than the one asked for, or loses one in a scatter.
  for message in ('Explicitly requested dtype', 'scatter inputs have incompatible types'):
    config.addinivalue_line('filterwarnings', f'error:{message}')


def pytest_collection_finish(session):
  """Tracing makes millions of small objects: the collector looks at them less often, and never at what was imported."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


def pytest_ignore_collect(collection_path, config):
  """Under `-m quick` a file without a quick test is not even imported: that would take longer than the tests."""
  if config.option.markexpr == 'quick' and collection_path.match('test_*.py'):
    return 'pytest.mark.quick' not in collection_path.read_text() or None
  return None


@pytest.fixture(scope='module', autouse=True)
def programs_of_a_module():
  """Compiled programs are let go with their module: those of all tests together are more mappings than a process may have."""
  yield
  jax.clear_caches()
  mlir.make_ir_context.cache_clear()


@pytest.fixture(scope='module')
def without_pictures():
  """A training draws no plots at its end, which is a tenth of a short one. Those of the notebooks are drawn."""
  with mock.patch('espo_jax.monitor.plots.plot_all', lambda *_: []):
    yield


@pytest.fixture(params=['float32', 'float64'])
def precision(request):
  """The test runs in both; what it compares is held to bounds that `rounding` derives for either."""
  from rounding import computed_in  # imports the package, which the hook must see first

  with computed_in(request.param):
    yield request.param


@pytest.fixture
def in_float64():
  """For identities down to a token: a draw so near an edge that the order of a sum decides it is a billion times as rare."""
  from rounding import computed_in

  with computed_in('float64'):
    yield


@pytest.fixture
def no_rank_promotion():
  """Arrays of different ranks do not meet by accident. The rooms that broadcast on purpose (model, rollout) do without."""
  with jax.numpy_rank_promotion('raise'):
    yield


@pytest.fixture
def no_dtype_promotion():
  """Nothing is cast but by an `astype`."""
  with jax.numpy_dtype_promotion('strict'):
    yield


@pytest.fixture
def registers(monkeypatch):
  """What the test registers is forgotten after it."""
  from espo_jax import (
    decoders,
    environments,
    exits,
    objectives,
    registry,
    rewards,
    sources,
    stops,
    tasks,
  )  # the hook must be there first

  monkeypatch.setattr(registry, '_PLUGINS', {})

  for register in (
    decoders.REGISTRY,
    environments.REGISTRY,
    exits.REGISTRY,
    objectives.REGISTRY,
    objectives.ADVANTAGES,
    rewards.REGISTRY,
    sources.REGISTRY,
    stops.REGISTRY,
    tasks.ALLOCATORS,
    tasks.TASKS,
  ):
    for part in ('_entries', '_methods'):
      monkeypatch.setattr(register, part, dict(getattr(register, part)))
