"""List every registered method: its paper, its options with their defaults, and which of these are the paper's.

  python -m espo_jax.methods [stop|exit|reward|objective|advantage ...]

An option is set by its name in the config's section of that kind: `--config.objective.clip_high=0.28`. A default marked [U]
is ours: the paper does not publish it.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from espo_jax import exits, objectives, registry, rewards, stops
from espo_jax.commands import CommandParser


class Method(NamedTuple):
  """A registered method; `note` is what its registry says of it besides."""

  kind: str
  name: str
  function: Callable[..., Any]
  note: str = ''


def methods() -> Iterator[Method]:
  """Every registered method, read from the registries themselves."""
  for name, rule in stops.REGISTRY.items():
    yield Method('stop', name, rule)
  for name, policy in exits.REGISTRY.items():
    yield Method('exit', name, policy)
  for name, reward in rewards.REGISTRY.items():
    yield Method('reward', name, reward)
  for name, (function, advantage, draws, *_) in objectives.REGISTRY.items():
    beside = f'; advantage {advantage}' if advantage else '; stands beside an objective'
    yield Method('objective', name, function, beside + (f'; up to {draws} draws a step' if draws > 1 else ''))
  for name, (function, critic) in objectives.ADVANTAGES.items():
    yield Method('advantage', name, function, '; from a critic' if critic else "; from the prompt's samples")


def describe(method: Method) -> str:
  """A few lines on one method."""
  paper, published = registry.source_of(method.function)
  summary = inspect.getdoc(method.function).partition('\n\n')[0].replace('\n', ' ')  # type: ignore[union-attr]
  settings = ', '.join(
    f'{name} = {value!r}{"" if name in published else " [U]"}' for name, value in registry.defaults(method.function).items()
  )
  lines = [f'{method.name}: {paper}{method.note}', summary, *([settings] if settings else [])]
  return '\n'.join(
    textwrap.fill(line, 128, initial_indent=indent, subsequent_indent='      ', break_long_words=False, break_on_hyphens=False)
    for line, indent in zip(lines, ('  ', '      ', '      '), strict=False)
  )


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  kinds = list(dict.fromkeys(method.kind for method in methods()))
  parser = CommandParser(prog='python -m espo_jax.methods', description='List the registered methods.')
  parser.add_argument('kinds', nargs='*', metavar='KIND', help=f'of {", ".join(kinds)}; all by default')
  wanted = parser.parse_args(argv).kinds or kinds
  if wrong := [kind for kind in wanted if kind not in kinds]:
    parser.error(f'unknown kind {wrong[0]!r}; fix: some of {", ".join(kinds)}')
  for kind in wanted:
    print(f'{kind}\n')
    print('\n\n'.join(describe(method) for method in methods() if method.kind == kind), end='\n\n')


if __name__ == '__main__':
  main()
