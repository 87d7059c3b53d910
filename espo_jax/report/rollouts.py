"""Reads the recorded rollouts of an arm: those after its training, and those of training if the run records any."""

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from espo_jax import tasks
from espo_jax.parallel.storage import DamagedFile, read_arrays, read_json
from espo_jax.report.runs import Arm, ReportError, Run
from espo_jax.types import StopReason

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

SERIES = ('regret', 'z', 'threshold', 'values', 'logprobs', 'entropy', 'depth')  # in the order of the page
MOST_TOKENS = 3_000_000  # of a run's rollouts on a page
_ROW = ('tokens', 'prompt', 'prompt_length', 'length', 'full_length', 'stop_reason', 'stopped', 'shadow', 'correct')
_UNREACHABLE = 1e30  # a rule that never stops has no threshold


class Rollout(NamedTuple):
  """A recorded row.

  Attributes:
    arm: The name of its arm.
    source: When it was sampled.
    question: The problem, as far as it was recorded.
    answer: What the grader read as the answer; None if that was not recorded.
    correct: Whether its whole text is right; None if its own end is not known.
    reason: 'eos', 'length', 'stopped', 'pruned' or 'settled'.
    shadow: Whether it decoded on after a stop.
    length: The number of tokens that count.
    tokens: The text of each token, with those after a stop.
    series: What was recorded of each token, by the names in `SERIES`. It is nan on tokens that an environment wrote.
    turn: The number of each token's turn, -1 where an environment wrote it; None without an environment.
  """

  arm: str
  source: str
  question: str
  answer: str | None
  correct: bool | None
  reason: str
  shadow: bool
  length: int
  tokens: Sequence[str]
  series: Mapping[str, Float[np.ndarray, ' T']]
  turn: Int[np.ndarray, ' T'] | None = None


def read_rollouts(run: Run, most: int) -> list[Rollout]:
  """Reads at most `most` rollouts of a run: first those after training, then those of training from the newest on.

  Arms share the room equally. What one of them does not need, the others get. A source gives no more once it has its share of
  `MOST_TOKENS`, because a browser has to hold them.

  Raises:
    ReportError: A file is damaged.
  """
  sources = [_examples(arm) for arm in run.arms] + [_recorded(run, arm) for arm in run.arms]
  read = [list(itertools.islice(_until(source, MOST_TOKENS // len(sources)), most)) for source in sources]
  room, kept = most, [0] * len(read)
  for i, place in enumerate(sorted(range(len(read)), key=lambda place: len(read[place]))):
    kept[place] = min(len(read[place]), room // (len(read) - i))
    room -= kept[place]
  return [rollout for rollouts, count in zip(read, kept, strict=True) for rollout in rollouts[:count]]


def packed(by_run: Sequence[Sequence[Rollout]]) -> dict[str, Any]:
  """Returns the rollouts of each run for the page, which unpacks a rollout when it is shown.

  Numbers are half-precision floats in base64. Tokens are 32-bit indices into the texts that occur, in base64.
  """
  texts: dict[str, int] = {}
  rows = [
    {
      'run': run,
      'arm': rollout.arm,
      'source': rollout.source,
      'question': rollout.question,
      'answer': rollout.answer,
      'correct': rollout.correct,
      'reason': rollout.reason,
      'shadow': rollout.shadow,
      'length': rollout.length,
      'count': len(rollout.tokens),
      'tokens': _base64(np.array([texts.setdefault(token, len(texts)) for token in rollout.tokens], '<u4')),
      'series': {name: _base64(_halves(rollout.series[name])) for name in SERIES if name in rollout.series},
      'turn': None if rollout.turn is None else _base64(rollout.turn.astype('<i4')),
    }
    for run, rollouts in enumerate(by_run)
    for rollout in rollouts
  ]
  return {'texts': list(texts), 'rows': rows}


def _until(rollouts: Iterator[Rollout], tokens: int) -> Iterator[Rollout]:
  """Yields rollouts until they have so many tokens."""
  for rollout in rollouts:
    yield rollout
    tokens -= len(rollout.tokens)
    if tokens <= 0:
      return


def _examples(arm: Arm) -> Iterator[Rollout]:
  """Yields the rollouts that were sampled after the arm's training."""
  path = arm.folder / 'examples.json'
  if not path.is_file():
    return
  try:
    for item in read_json(path, list):
      series = {name: np.array(item[name], np.float32) for name in SERIES if name in item}
      yield Rollout(
        arm=arm.name,
        source='test, after training',
        question=item['question'],
        answer=item.get('answer'),
        correct=item['correct'],
        reason=item['stop_reason'],
        shadow=item['full_length'] > item['length'],
        length=item['length'],
        tokens=item['tokens'],
        series=_told(series, turn := np.array(item['turn']) if 'turn' in item else None),
        turn=turn,
      )
  except (ValueError, KeyError, TypeError) as error:
    raise ReportError(f'{path}: not the rollouts of a run ({error!r}); fix: remove the file') from error


def _recorded(run: Run, arm: Arm) -> Iterator[Rollout]:
  """Yields the rollouts that were recorded in training, from the newest update on."""
  files = sorted(arm.folder.glob('rollouts/*.npz'), reverse=True)
  if not files:
    return
  try:
    tokenizer = tasks.load_tokenizer(str(run.folder / 'tokenizer'))
  except tasks.DataError as error:
    raise ReportError(f'{run.folder / "tokenizer"}: not a tokenizer; fix: copy the folder of the run as a whole') from error
  for path in files:
    try:
      arrays = read_arrays(path, (*_ROW, *SERIES, 'turn'))
      for row in np.flatnonzero(arrays['full_length']).tolist():
        yield _row(arrays, row, arm.name, f'update {int(path.stem)}', tokenizer)
    except DamagedFile as error:
      raise ReportError(f'{error}, or remove the file') from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
      raise ReportError(f'{path}: not a recording ({error!r}); fix: remove the file') from error


def _row(arrays: Mapping[str, np.ndarray], row: int, arm: str, source: str, tokenizer: 'PreTrainedTokenizerFast') -> Rollout:
  full, stopped, shadow = int(arrays['full_length'][row]), bool(arrays['stopped'][row]), bool(arrays['shadow'][row])
  prompt = arrays['prompt'][row]
  given = prompt[len(prompt) - int(arrays['prompt_length'][row]) :]
  reason = StopReason(int(arrays['stop_reason'][row])).name.lower()
  turn = arrays['turn'][row, :full] if 'turn' in arrays else None
  return Rollout(
    arm=arm,
    source=source,
    question=''.join(tasks.token_texts(tokenizer, given.tolist())),
    answer=None,
    correct=None if stopped and not shadow else bool(arrays['correct'][row] >= 1),
    reason=reason,
    shadow=shadow,
    length=int(arrays['length'][row]),
    tokens=tasks.token_texts(tokenizer, arrays['tokens'][row, :full].tolist()),
    series=_told({name: arrays[name][row, :full].astype(np.float32) for name in SERIES if name in arrays}, turn),
    turn=turn,
  )


def _told(series: dict[str, np.ndarray], turn: Int[np.ndarray, ' T'] | None) -> dict[str, np.ndarray]:
  """Returns series in which a threshold that no score can reach is infinite, and tokens of an environment have no numbers."""
  if 'threshold' in series:
    series['threshold'] = np.where(series['threshold'] < _UNREACHABLE, series['threshold'], np.float32(np.inf))
  return series if turn is None else {name: np.where(turn < 0, np.float32(np.nan), its) for name, its in series.items()}


def _halves(values: Float[np.ndarray, ' T']) -> np.ndarray:
  with np.errstate(over='ignore'):  # a number beyond 65504 is shown as infinite
    return values.astype('<f2')


def _base64(values: np.ndarray) -> str:
  return base64.b64encode(values.tobytes()).decode()
