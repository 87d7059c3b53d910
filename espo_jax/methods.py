"""List every registered method: its paper, its options with their defaults, and which of these are the paper's.

  python -m espo_jax.methods [KIND ...]                     # such as stop, reward, objective, decoder or early_end
  python -m espo_jax.methods config [SECTION ...]           # the fields of a config, such as those of stop and rollout
  python -m espo_jax.methods --markdown > docs/methods.md   # with equations and what each option means, and the config's fields
  python -m espo_jax.methods elsewhere                      # what papers became that is no registered method
  python -m espo_jax.methods metrics > docs/metrics.md      # what each metric of a training means

An option is set by its name in the config's section of that kind: `--config.objective.clip_high=0.28`. The options of decoders
and processors are set by `espo_jax.evaluate --decoder=NAME --options OPTION=VALUE`, those of sources in the same way by
`espo_jax.sources`, and a sweep sets those of its early end. A default marked [U] is our choice, because the paper does not
publish it.
"""

import inspect
import re
import signal
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from espo_jax import decoders, environments, exits, monitor, objectives, registry, rewards, sources, stops, tasks
from espo_jax.commands import CommandParser
from espo_jax.configs import listing
from espo_jax.evaluate import measures
from espo_jax.monitor import diagnostics
from espo_jax.rollout import processors
from espo_jax.sweep import ends, searches

REGISTERS: dict[str, registry.Register[Any]] = {  # by the word for one of their methods
  'stop': stops.REGISTRY,
  'exit': exits.REGISTRY,
  'lesson': exits.LESSONS,
  'reward': rewards.REGISTRY,
  'objective': objectives.REGISTRY,
  'allocation': tasks.ALLOCATORS,
  'advantage': objectives.ADVANTAGES,
  'likelihood': objectives.LIKELIHOODS,
  'gradient': objectives.GRADIENTS,
  'decoder': decoders.REGISTRY,
  'processor': processors.REGISTRY,
  'early_end': ends.REGISTRY,
  'search': searches.REGISTRY,
  'diagnostic': diagnostics.REGISTRY,
  'measure': measures.REGISTRY,
  'environment': environments.REGISTRY,
  'source': sources.REGISTRY,
}


class Method(NamedTuple):
  """A registered method. `note` is what else its registry says about it."""

  kind: str
  name: str
  function: Callable[..., Any]
  note: str = ''


class Elsewhere(NamedTuple):
  """What a paper became here where that is no registered method."""

  name: str
  paper: str
  place: str
  summary: str


NOT_REGISTERED = (
  Elsewhere(
    'expert_budget',
    'ActiveVLN, arXiv 2509.12618',
    'the field environment.expert_budget',
    "Ends an episode of a training after a multiple of its expert's turns.",
  ),
  Elsewhere(
    'serial rollout',
    'S-GRPO, arXiv 2505.07686',
    'the section rollout.serial',
    'Cuts a whole response at several tokens, and asks for an answer behind each cut.',
  ),
  Elsewhere(
    'countdown_dfs, sudoku',
    'To Backtrack or Not to Backtrack, arXiv 2504.07052',
    'the tasks of these names, and scripts/measure_equal_flops.py',
    'Demonstrates searches that backtrack, and compares them with parallel samples of equal operations.',
  ),
  Elsewhere(
    'option_stopping',
    'least squares Monte Carlo, Longstaff and Schwartz 2001, against a learned stop',
    'scripts/measure_option_stopping.py',
    'Prices options by the best time to exercise them, a test problem of stopping with known answers.',
  ),
  Elsewhere(
    'recurring_bandit',
    'exploration from exploitation, arXiv 2508.01287',
    'scripts/measure_recurring_bandit.py',
    'Repeats a bandit within an episode, a test problem of exploration.',
  ),
  Elsewhere(
    'empirical_ntk',
    'the neural tangent kernel, arXiv 1806.07572',
    'notebooks/empirical_ntk.ipynb',
    'Shows what an early end of a training leaves unlearned.',
  ),
)
ELSEWHERE = 'elsewhere'


def methods() -> Iterator[Method]:
  """Yields every registered method."""
  for kind, register in REGISTERS.items():
    for name, entry in register.items():
      if kind == 'objective':
        beside = f'; advantage {entry.advantage}' if entry.advantage else '; stands beside an objective'
        draws = f'; up to {entry.draws} draws a step' if entry.draws > 1 else ''
        yield Method(kind, name, entry.function, beside + draws)
      elif kind == 'advantage':
        function, critic = entry
        yield Method(kind, name, function, '; from a critic' if critic else "; from the prompt's samples")
      else:
        yield Method(kind, name, entry)


def describe(method: Method) -> str:
  """Describes one method in a few lines."""
  paper, published = registry.source_of(method.function)
  summary = (inspect.getdoc(method.function) or '').partition('\n\n')[0].replace('\n', ' ')
  settings = ', '.join(
    f'{name} = {value!r}{"" if name in published else " [U]"}' for name, value in registry.defaults(method.function).items()
  )
  lines = [f'{method.name}: {paper}{method.note}', *(line for line in (summary, settings) if line)]
  return '\n'.join(
    textwrap.fill(line, 128, initial_indent=indent, subsequent_indent='      ', break_long_words=False, break_on_hyphens=False)
    for line, indent in zip(lines, ('  ', '      ', '      '), strict=False)
  )


HEAD = """# The registered methods

`python -m espo_jax.methods --markdown` writes this page. An option is set by its name in the config's section of its kind, such
as `--config.objective.clip_high=0.28`. The options of decoders and processors follow `--options` of `espo_jax.evaluate`, those
of sources follow that flag of `espo_jax.sources`, an early end's stand in `early_end_options` of a sweep, and a search's in the
`options` of its `Search`. A default is the paper's where the table says so. Every other one is ours.
"""


def described(kind: str) -> str:
  """Describes all methods of a kind."""
  if kind == ELSEWHERE:
    return '\n\n'.join(f'  {its.name}: {its.paper}\n      {its.summary}\n      in {its.place}' for its in NOT_REGISTERED)
  return '\n\n'.join(describe(method) for method in methods() if method.kind == kind)


def page(kinds: Sequence[str]) -> str:
  """Returns the methods of some kinds as a page of Markdown."""
  parts = [HEAD]
  for kind in kinds:
    if kind == ELSEWHERE:
      rows = [f'| {its.name} | {its.paper} | {its.place} | {its.summary} |' for its in NOT_REGISTERED]
      parts += ['## Elsewhere\n', '| what | paper | where | what it does |\n|---|---|---|---|', *rows]
      continue
    parts += [f'## {kind.capitalize().replace("_", " ")}\n', *(section(method) for method in methods() if method.kind == kind)]
  return '\n'.join(parts)


def section(method: Method) -> str:
  """Returns one method in Markdown: its paper, the text of its docstring, and a table of its options."""
  paper, published = registry.source_of(method.function)
  text = re.split(r'\n(?:Args|Returns):\n', inspect.getdoc(method.function) or '')[0].rstrip()
  lines = [f'### `{method.name}`\n', f'{paper}{method.note}\n', f'{text}\n']
  if not (defaults := registry.defaults(method.function)):
    return '\n'.join(lines)
  meanings = meanings_of(method.function)
  lines += ['| option | default | of the paper | meaning |', '|---|---|---|---|']
  for name, value in defaults.items():
    yes = 'yes' if name in published else ''
    shown = repr(value).replace('|', r'\|')  # which a table reads as the end of a cell
    lines.append(f'| `{name}` | `{shown}` | {yes} | {meanings.get(name, "")} |')
  return '\n'.join(lines) + '\n'


def meanings_of(function: Callable[..., Any]) -> dict[str, str]:
  """Returns the docstring's entry for each argument, on one line and escaped for a table."""
  entries = (inspect.getdoc(function) or '').partition('\nArgs:\n')[2]
  found = re.findall(r'^  (\w+): ((?:.|\n    )+)', entries, re.MULTILINE)
  return {name: ' '.join(text.replace(' [U]', '').split()).replace('|', r'\|') for name, text in found}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command."""
  kinds = [*REGISTERS, ELSEWHERE]
  parser = CommandParser(prog='python -m espo_jax.methods', description='List the registered methods.')
  parser.add_argument('kinds', nargs='*', metavar='KIND', help=f'of {", ".join(kinds)}; or config and its sections; or metrics')
  parser.add_argument('--markdown', action='store_true', help='write a page with equations and the meaning of each option')
  args = parser.parse_args(argv)
  if args.kinds == ['metrics']:
    print(monitor.glossary_page(), end='')
    return
  if args.kinds[:1] == ['config']:
    try:
      print((listing.page if args.markdown else listing.describe)(args.kinds[1:]), end='')
    except ValueError as error:
      parser.error(str(error))
    return
  wanted = args.kinds or kinds
  if wrong := [kind for kind in wanted if kind not in kinds]:
    parser.error(f'unknown kind {wrong[0]!r}; fix: some of {", ".join([*kinds, "config", "metrics"])}')
  if args.markdown:
    print(page(wanted) + ('' if args.kinds else f'\n{listing.page()}'), end='')
    return
  for kind in wanted:
    print(f'{kind}\n')
    print(described(kind), end='\n\n')


if __name__ == '__main__':
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends the command without a traceback
  main()
