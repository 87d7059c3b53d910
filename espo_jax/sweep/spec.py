"""Describes a comparison as data: a file with `get_sweep()`, which is read and checked before anything runs."""

import dataclasses
import pathlib
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from espo_jax.configs import ConfigError
from espo_jax.sweep.columns import ACCURACY, TRAINING_TOKENS, Column, Counts
from espo_jax.sweep.searches.space import Between, OneOf, Search

START = 'start'  # the folder of the stages that a seed's arms share, and the name of their row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """A comparison of arms over seeds.

  Attributes:
    base: The experiment's config as `--config` takes it, such as 'experiments/quickstart.py' or '...:smoke'.
    common: The fields that all arms override, such as `{'learner.updates': 40}`.
    arms: The further fields that each arm overrides, by the name of the arm. Arms with equal fields share one run.
    seeds: The seeds of the runs.
    baseline: The arm that differences refer to.
    shared_stages: The stages that are trained once per seed and from which every arm starts; `()` for none. An arm runs the
      config's other stages unless it names its own.
    rules: The stop rule that each arm stands for. An arm that is not named stands for its `stop.name`. A run also trains the
      rules in its `baselines`, from one critic warm-up.
    columns: The table's columns.
    primary: The label of the column in which arms are tested against the baseline; '' for no test. It has differences.
    curves: The metrics that are drawn over the course of the training.
    over: The metric on the horizontal axis of these curves: 'step', the number of the update, or such as 'rollout/decoded'.
    scatter: The two fields of an arm's entry in `summary.json` that are drawn against each other.
    early_end: The early end of `sweep.ends` that ends a run which the earlier arms of its seed leave behind; '' for none. The
      baseline's runs are never ended, and neither is the best run so far.
    early_end_options: The options of the early end.
    search: The search that proposes further arms, each from the results of those before; None for none. An arm that it
      proposes is set in all seeds.
  """

  base: str
  arms: Mapping[str, Mapping[str, Any]]
  seeds: tuple[int, ...]
  baseline: str
  common: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  shared_stages: tuple[str, ...] = ('warm_start',)
  rules: Mapping[str, str] = dataclasses.field(default_factory=dict)
  columns: tuple[Column | Counts, ...] = (ACCURACY, TRAINING_TOKENS)
  primary: str = ''
  curves: tuple[str, ...] = ('accuracy', 'rollout/length_mean')
  over: str = 'step'
  scatter: tuple[str, str] = ('rollout_tokens', 'accuracy')
  early_end: str = ''
  early_end_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  search: Search | None = None


def load_sweep(path: str | pathlib.Path) -> tuple[Sweep, str]:
  """Reads the comparison in a file, and its title, which is the first line of the file's docstring.

  Raises:
    ConfigError: The file or its `get_sweep` fails, or the comparison has no baseline, no seeds or invalid names.
  """
  if not pathlib.Path(path).is_file():
    raise ConfigError([f'--sweep={path}: no such file; fix: a file with get_sweep(), such as experiments/sweeps/quickstart.py'])
  try:
    module = runpy.run_path(str(path))
    sweep = module['get_sweep']() if 'get_sweep' in module else None
  except Exception as error:  # a sweep file is code and may raise anything
    raise ConfigError([f'--sweep={path}: {type(error).__name__}: {error}']) from error
  if 'get_sweep' not in module:
    raise ConfigError([f'--sweep={path}: no get_sweep() in it; fix: a file such as experiments/sweeps/quickstart.py'])
  if not isinstance(sweep, Sweep):
    raise ConfigError([f'--sweep={path}: get_sweep() returns {type(sweep).__name__}; fix: return a Sweep'])
  if problems := list(_problems(sweep)):
    raise ConfigError(f'--sweep={path}: {problem}' for problem in problems)
  return sweep, (module['__doc__'] or pathlib.Path(path).stem).strip().splitlines()[0].rstrip('.')


def _problems(sweep: Sweep) -> Iterator[str]:
  if misread := list(_no_tuples(sweep)):
    yield from misread
    return
  if sweep.baseline not in sweep.arms:
    yield f'baseline = {sweep.baseline!r} is none of the arms {", ".join(sweep.arms) or "()"}; fix: one of them'
  for name in sweep.arms:
    if name == START or not re.fullmatch(r'[\w.+-]+', name):
      yield f'arms: {name!r} names a folder; fix: letters, digits, "_", ".", "+" and "-", and not {START!r}'
  for name in sweep.rules:
    if name not in sweep.arms:
      yield f'rules: {name!r} is none of the arms {", ".join(sweep.arms)}; fix: one of them'
  if not sweep.seeds or len(set(sweep.seeds)) != len(sweep.seeds):
    yield f'seeds = {sweep.seeds}: none, or one of them twice; fix: such as (0, 1, 2)'
  if sweep.search is not None:
    yield from _search_problems(sweep, sweep.search)
  tested = [column.label for column in sweep.columns if isinstance(column, Column) and column.against == 'difference']
  if sweep.primary and sweep.primary not in tested:
    yield f'primary = {sweep.primary!r} is no column with differences; fix: one of {", ".join(map(repr, tested)) or "()"}'
  labels = [column.label for column in sweep.columns]
  if not labels or len(set(labels)) != len(labels):
    yield f'columns = {labels}: none, or two of one label; fix: a label for each'


def _no_tuples(sweep: Sweep) -> Iterator[str]:
  """Yields which fields are no tuples of what they list, such as `(3)`, which lacks its comma."""
  listed = {
    'seeds': (int, '(0, 1, 2)'),
    'columns': (Column | Counts, '(ACCURACY,)'),
    'shared_stages': (str, "('warm_start',)"),
    'curves': (str, "('accuracy',)"),
  }
  for name, (kind, example) in listed.items():
    value = getattr(sweep, name)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, kind) for one in value):
      yield f'{name} = {value!r}: no tuple of what it lists; fix: such as {example}, with a comma also behind a single entry'


def _search_problems(sweep: Sweep, search: Search) -> Iterator[str]:
  if type(search.arms) is not int or search.arms < 1:
    yield f'search.arms = {search.arms!r}: no number of arms; fix: a whole number of at least 1'
  if not search.space:
    yield 'search.space = {}: nothing to set; fix: such as {"learner.learning_rate": Between(1e-6, 1e-4, log=True)}'
  for field, values in search.space.items():
    if not isinstance(values, Between | OneOf):
      yield f'search.space[{field!r}] = {values!r}: no values; fix: Between(low, high) or OneOf((a, b))'
  for name in sweep.arms:
    if name.startswith(f'{search.by}_'):
      yield f'arms: {name!r} begins as the names of the arms of the search {search.by!r} do; fix: another name'
