"""Draws all methods that were measured on the same recorded answers, decoders and stop rules, in one picture.

  PYTHONPATH=. python scripts/draw_methods.py --decoders=experiments/real/decoders_0.5b.json \
    --stops=experiments/real/stops_0.5b.json --output=experiments/real/methods_0.5b.png

DECODERS is written by `python -m espo_jax.evaluate --curve`, and STOPS by `scripts/measure_stops.py`. On the left is the
accuracy of each method over its tokens, beside votes of one answer, of two, and so on. On the right is by how much each method
is ahead of the votes that have as many tokens, with its interval. Rules whose figures are equal to a percent of the tokens and
a tenth of a point share a point. Rules that end nothing are left out.
"""

import argparse
import json
import pathlib
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from espo_jax.monitor.files import atomic_write_figure
from espo_jax.monitor.style import BASELINE, COLOURS, STYLE

KINDS = {'a stop rule ends answers before a vote': COLOURS[0], 'a decoder chooses among answers, or weighs them': COLOURS[1]}


class Method(NamedTuple):
  """What one method spends and gets.

  Attributes:
    label: Its name, or those of several methods with these figures.
    kind: A key of `KINDS`.
    tokens: Tokens per problem.
    accuracy: Percent.
    lead: Points beyond votes that have as many tokens.
    interval: The 95 % interval of `lead`.
  """

  label: str
  kind: str
  tokens: float
  accuracy: float
  lead: float
  interval: tuple[float, float]


def methods_of(decoders: dict[str, Any], stops: dict[str, Any]) -> list[Method]:
  """Returns the methods of both records, the best lead first.

  Args:
    decoders: What an evaluation writes of its decoders.
    stops: What `measure_stops` writes of stop rules under a vote.
  """
  stopping, choosing = KINDS
  whole = decoders['tokens']['value']
  alike: dict[tuple[float, float], list[str]] = {}
  for name, rule in stops['rules'].items():
    if rule['vote']['saved']['value'] > 0:
      key = round(rule['vote']['saved']['value']), round(rule['vote']['accuracy']['value'], 1)
      alike.setdefault(key, []).append(name)
  found = []
  for names in alike.values():
    rule = stops['rules'][names[0]]
    saved, gained = (rule['vote'][name]['value'] for name in ('saved', 'accuracy'))
    tokens, accuracy = whole * (1 - saved / 100), 100 * stops['vote'] + gained
    found.append(Method(', '.join(names), stopping, tokens, accuracy, rule['ahead']['value'], tuple(rule['ahead']['interval'])))
  for decoder in decoders['decoders']:
    if decoder['name'] != 'majority':
      lead = [100 * x for x in (decoder['lead']['value'], *decoder['lead']['interval'])]
      accuracy, tokens = 100 * decoder['accuracy']['value'], decoder['tokens']['value']
      found.append(Method(decoder['name'], choosing, tokens, accuracy, lead[0], (lead[1], lead[2])))
  return sorted(found, key=lambda method: -method.lead)


def draw(decoders: dict[str, Any], stops: dict[str, Any], output: pathlib.Path) -> None:
  """Writes the picture."""
  (votes,) = (decoder['curve'] for decoder in decoders['decoders'] if decoder['name'] == 'majority')
  methods = methods_of(decoders, stops)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    tokens, solved = ([point[name]['value'] for point in votes] for name in ('tokens', 'accuracy'))
    label = f'votes of 1 to {len(votes)} whole answers'
    left.plot(tokens, [100 * share for share in solved], color=BASELINE, marker='.', label=label)
    for kind, colour in KINDS.items():
      own = [method for method in methods if method.kind == kind]
      left.scatter([m.tokens for m in own], [m.accuracy for m in own], color=colour, label=kind, zorder=3)
    for row, method in enumerate(methods):
      colour = KINDS[method.kind]
      left.annotate(str(row + 1), (method.tokens, method.accuracy), (6, 4), textcoords='offset points', color=colour)
      right.plot(method.interval, [row, row], color=colour)
      right.scatter(method.lead, row, color=colour, zorder=3)
    right.axvline(0, color=BASELINE)
    right.set_yticks(range(len(methods)), [f'{method.label}  {row + 1}' for row, method in enumerate(methods)])
    right.invert_yaxis()
    left.set(xlabel='tokens per problem', ylabel='problems solved, %', title='Better than a plain vote: above the line')
    right.set(xlabel='points, 95 % interval', title='Ahead of votes with as many tokens')
    figure.legend(loc='outside lower center', ncols=3)
    atomic_write_figure(output, figure)


def main(argv: list[str] | None = None) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, what in (('decoders', 'of the decoders'), ('stops', 'of the stop rules')):
    parser.add_argument(f'--{name}', required=True, type=pathlib.Path, metavar='JSON', help=f'the record {what}')
  parser.add_argument('--output', required=True, type=pathlib.Path, metavar='PNG', help='the picture to write')
  args = parser.parse_args(argv)
  decoders, stops = (json.loads(path.read_text()) for path in (args.decoders, args.stops))
  draw(decoders, stops, args.output)
  print(f'wrote {args.output}')


if __name__ == '__main__':
  main()
