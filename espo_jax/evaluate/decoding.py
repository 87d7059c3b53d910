"""Chooses among the answers of an evaluation with decoders, and reports accuracy over tokens."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from espo_jax import decoders, monitor
from espo_jax.decoders import Decoder, Dependent
from espo_jax.evaluate.asked import Asked, check_directions, check_drawn, check_reads
from espo_jax.evaluate.equal_tokens import leads
from espo_jax.evaluate.lengths import by_length, format_lengths
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.reading import Graded, read_graded

REFERENCE = 'majority'  # the decoder with which curves compare the others
_ORDERS = 16  # the most orders of the samples over which a decoder is averaged


def decode(folder: pathlib.Path, output: pathlib.Path, asked: Sequence[Asked], *, curve: bool) -> dict[str, Any]:
  """Lets decoders choose among the answers of a finished evaluation, and writes `decoders.json`.

  Args:
    folder: The output folder of the evaluation.
    output: The folder to write.
    asked: The decoders.
    curve: Whether each decoder also chooses among the first 1, 2 and so on samples. Then `decoders.png` is drawn.
      Without a curve an older picture is removed.

  Returns:
    The content of `decoders.json`. Each entry of `decoders` has `accuracy` and `tokens` per problem with 95 % intervals. With
    `curve` it also has `lead`, the accuracy beyond that of majority voting at equal tokens (`leads`), and `curve`, a list of
    the three for each number of samples. All are means over up to 16 orders of the samples: the cycle, begun at each of
    them. Any order was as likely as the one in which they were drawn. Samples that a decoder drew itself have their own order
    alone. `scores` has avg@n and maj@n of the same answers, and `independent` says whether these can be had one by one.

  Raises:
    RequestError: The folder has no finished evaluation, or lacks what a decoder reads.
    OutputError: A file of the answers is damaged.
    DamagedFile: The settings or the recording cannot be read.
  """
  needed = frozenset().union(*(one.decoder.reads for one in asked))
  graded = read_graded(folder, needed)
  have = {field for field, value in graded.problems[0]._asdict().items() if value is not None}
  check_reads(asked, have, f'--from={folder}')
  check_drawn(asked, graded.settings.get('drawn_by', ''), curve, f'--from={folder}')
  if (states := graded.problems[0].projections) is not None:
    check_directions(asked, states[0].shape[1], f'--from={folder}')
  samples = len(graded.correct[0])
  if curve and samples == 1:
    raise RequestError(
      f'--curve with --from={folder}: it has one answer to each problem; fix: an evaluation with --samples=16, say'
    )
  pairs = list(zip(graded.problems, graded.correct, strict=True))
  scores = {
    f'avg@{samples}': np.array([right.mean() for _, right in pairs]),
    f'maj@{samples}': np.array([monitor.majority(its.answers, right) for its, right in pairs]),
  }
  record: dict[str, Any] = {
    'settings': graded.settings,
    'problems': len(graded.problems),
    'samples': samples,
    'scores': monitor.with_intervals(scores),
    'independent': not any(isinstance(one.decoder.drawing, Dependent) for one in asked),
    'tokens': _mean_tokens(np.array([[its.total] for its in graded.problems], np.float64))[0],
    'by_length': by_length(graded),
    'decoders': _measured(asked, graded, range(1, samples + 1) if curve else [samples]),
  }
  monitor.atomic_write_text(output / 'decoders.json', monitor.to_json(record, indent=1) + '\n')
  picture = output / 'decoders.png'
  picture.unlink(missing_ok=True)  # an older one shows other decoders
  if curve:
    with monitor.spared(picture):
      from espo_jax.monitor.decoders import plot_decoders  # matplotlib is slow to import and only needed here

      plot_decoders({one['label']: one['curve'] for one in record['decoders']}, picture)
  return record


def format_decoders(record: Mapping[str, Any]) -> str:
  """Formats a table with one row per decoder below those of avg@n and maj@n, and what `ffs` needs to be known."""
  whole, parts = record['tokens'], record['samples'] if record['independent'] else 1
  one = {'value': whole['value'] / parts, 'interval': [end / parts for end in whole['interval']]}
  scores = [(name, score, one if name.startswith('avg') else whole) for name, score in record['scores'].items()]
  chosen = [(its['label'], its['accuracy'], its['tokens']) for its in record['decoders']]
  rows = [('decoder', 'accuracy, %', '95 % interval', 'tokens per problem', '95 % interval')]
  for label, accuracy, tokens in (*scores, *chosen):
    spent = '[{:,.0f}, {:,.0f}]'.format(*tokens['interval'])
    rows.append((label, *monitor.percent_cells(accuracy), f'{tokens["value"]:,.0f}', spent))
  lines = [monitor.format_columns(rows)]
  if any('lead' in its for its in record['decoders']):
    beyond = [(its['label'], *monitor.percent_cells(its['lead'])) for its in record['decoders']]
    lines += ['', monitor.format_columns([(f'beyond {REFERENCE} at equal tokens', 'points', '95 % interval'), *beyond])]
  if any(its['name'] == 'ffs' for its in record['decoders']):
    lines += format_lengths(record['by_length'])
  return '\n'.join(lines)


def _measured(asked: Sequence[Asked], graded: Graded, counts: Sequence[int]) -> list[dict[str, Any]]:
  """Returns the accuracy and the tokens of each decoder for the last of the numbers of samples, and its curve over all."""
  right, tokens = chosen_by_count([one.decoder for one in asked], graded, counts)
  places = list(np.ndindex(right.shape[1:]))
  accuracies = monitor.with_intervals({place: right[:, *place] for place in places})
  columns = tokens.reshape(len(tokens), -1)
  points = {
    place: {'samples': counts[place[1]], 'accuracy': accuracies[place], 'tokens': spent}
    for place, spent in zip(places, _mean_tokens(columns), strict=True)
  }
  if len(counts) > 1:
    its = next((d for d, one in enumerate(asked) if one.named.label == REFERENCE), None)
    reference = chosen_by_count([decoders.REGISTRY[REFERENCE]()], graded, counts) if its is None else (right, tokens)
    found = leads(right.reshape(columns.shape), columns, *(each[:, its or 0] for each in reference))
    for place, lead in zip(places, found, strict=True):
      points[place]['lead'] = lead
  entries: list[dict[str, Any]] = []
  for d, one in enumerate(asked):
    curve = [points[d, k] for k in range(len(counts))]
    entry: dict[str, Any] = {'label': one.named.label, **one.named._asdict()}
    entry |= {name: value for name, value in curve[-1].items() if name != 'samples'}
    entries.append(entry | ({'curve': curve} if len(counts) > 1 else {}))
  return entries


def chosen_by_count(
  chosen: Sequence[Decoder], graded: Graded, counts: Sequence[int]
) -> tuple[Float[np.ndarray, 'P D K'], Float[np.ndarray, 'P D K']]:
  """Lets decoders choose among the first samples of each problem.

  Args:
    chosen: The `D` decoders.
    graded: The answers to `P` problems.
    counts: The `K` numbers of samples.

  Returns:
    Whether each decoder is right with each number of samples, and the tokens that it spends. Both are means over up to 16
    orders of the samples: the cycle, begun at each of them; of samples that a decoder drew itself, over their own order alone.
  """
  found = np.zeros((2, len(graded.problems), len(chosen), len(counts)))
  for p, (samples, correct) in enumerate(zip(graded.problems, graded.correct, strict=True)):
    starts = [0] if samples.spent is not None else sorted({i * len(correct) // _ORDERS for i in range(_ORDERS)})
    for start in starts:
      turned, grades = samples.from_place(start), np.roll(correct, -start)
      for k, count in enumerate(counts):
        part = turned.first(count)
        for d, decoder in enumerate(chosen):
          choice = decoder.choose(part)
          found[:, p, d, k] += choice.sample is not None and grades[choice.sample], choice.tokens
    found[:, p] /= len(starts)
  return found[0], found[1]


def _mean_tokens(tokens: Float[np.ndarray, 'P K']) -> list[dict[str, Any]]:
  """Returns the mean over problems of each column with its 95 % bootstrap interval."""
  pairs = zip(tokens.mean(axis=0), monitor.bootstrap_intervals(tokens), strict=True)
  return [{'value': float(mean), 'interval': interval.tolist()} for mean, interval in pairs]
