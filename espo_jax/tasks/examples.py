"""Examples of supervised learning with a mask: the JSON lines that espo_jax.sources writes and the warm start reads.

A line holds a prompt and the response in segments. A segment without loss is read by the policy and not learnt:

    {"prompt": "2+2=", "segments": [{"text": "5. Wait, ", "loss": 0}, {"text": "4.", "loss": 1}], "weight": 1.0}

Segments are text, so that a file serves every tokenizer. The response is split into tokens as a whole, as the policy writes it.
A token has loss if all of its characters have. The end token behind the response has the loss of the last segment. `weight`
multiplies the loss of every token of the response, and is 1 if it is left out. Other fields are not read.

A segment with `"end": 1` has the end token behind it, with its loss. So a response may hold several turns of the policy, also
where the tokenizer reads the text of an end token as plain text. What stands before and behind such an end is split separately.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from espo_jax.tasks.files import read_records
from espo_jax.tasks.records import Record, parse_line
from espo_jax.tasks.task import DataError

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_SMALLEST, _LARGEST = 1e-30, 1e30  # of a weight, so that single precision holds it
_SEGMENTS = '[{"text": "...", "loss": 1}]'


class Segment(NamedTuple):
  """A part of a response.

  Attributes:
    text: the text.
    loss: whether its tokens have loss.
    ends: whether it ends a turn, so that the end token stands behind it. The last segment does in any case.
  """

  text: str
  loss: bool
  ends: bool = False


class Example(NamedTuple):
  """A prompt with a response.

  Attributes:
    prompt: the text of the prompt, special tokens included.
    segments: the response in parts, of which at least one has loss.
    weight: the factor of the loss of every token.
    place: the file and line of the example, or of the rollout that it was made of.
  """

  prompt: str
  segments: tuple[Segment, ...]
  weight: float = 1.0
  place: str = ''


class EncodedExample(NamedTuple):
  """The tokens of an example, and the weight of the loss of each response token, the end token included."""

  prompt: list[int]
  response: list[int]
  weights: Float[np.ndarray, ' t']


def record_of(example: Example) -> dict[str, Any]:
  """Returns the object that stands for an example on a line of a file."""
  segments = [
    {'text': segment.text, 'loss': int(segment.loss)} | ({'end': 1} if segment.ends else {}) for segment in example.segments
  ]
  return {'prompt': example.prompt, 'segments': segments, 'weight': example.weight, 'from': example.place}


def read_examples(path: str, field: str) -> list[Example]:
  """Reads and checks all examples of a file.

  Args:
    path: a file of JSON lines.
    field: the config field that named the file, for the messages.

  Raises:
    DataError: The file cannot be read or holds no examples, or a line is no example. The message has the line and the field.
  """
  examples = []
  for number, raw in read_records(path, field):
    place = f'{path}:{number}'
    examples.append(example_of(place, parse_line(place, raw) if isinstance(raw, bytes) else raw))
  if not examples:
    raise DataError(f'{field} = {path!r}: no examples; fix: a file that python -m espo_jax.sources wrote')
  return examples


def encode_example(tokenizer: 'PreTrainedTokenizerFast', example: Example, prompt_width: int, horizon: int) -> EncodedExample:
  """Encodes an example. The end token is appended to the response, and stands behind each segment that ends a turn.

  Raises:
    DataError: A part of a text has no token, or the prompt or the response has too many tokens.
  """
  response, counts = list[int](), list[bool]()
  try:
    prompt = tokenizer.encode(example.prompt, add_special_tokens=False)
    for part in _parts(example.segments):
      encoded = tokenizer(''.join(one.text for one in part), add_special_tokens=False, return_offsets_mapping=True)
      response += [*encoded['input_ids'], tokenizer.eos_token_id]
      counts += [*_whole(part, np.array(encoded['offset_mapping'], np.int64).reshape(-1, 2)), part[-1].loss]
  except Exception as error:  # tokenizers raises nothing narrower, and does not name the text
    text = ''.join(segment.text for segment in example.segments)
    said = f'the tokenizer has no token for a part of {example.prompt + text!r}'
    raise DataError(f'{example.place}: {said}; fix: the tokenizer of the rollouts, or other options of the source') from error
  for what, row, width, where in (
    ('prompt', prompt, prompt_width, 'rollout.prompt_width'),
    ('response', response, horizon, 'rollout.horizon'),
  ):
    if len(row) > width:
      said = f'a {what} of {len(row)} tokens, more than {where} = {width}'
      raise DataError(f'{example.place}: {said}; fix: --config.{where}={len(row)}, or take the line out')
  return EncodedExample(prompt, response, np.float32(example.weight) * np.array(counts, np.float32))


def _parts(segments: Sequence[Segment]) -> Iterator[Sequence[Segment]]:
  """Yields the segments up to each end."""
  start = 0
  for i, segment in enumerate(segments, 1):
    if segment.ends or i == len(segments):
      yield segments[start:i]
      start = i


def _whole(segments: Sequence[Segment], offsets: np.ndarray) -> Bool[np.ndarray, ' t']:
  """Returns which tokens lie in segments with loss alone, from the first character of each and the one behind its last."""
  masked = np.repeat([not segment.loss for segment in segments], [len(segment.text) for segment in segments])
  before = np.concatenate([[0], np.cumsum(masked)])  # how many of the characters before each one are masked
  ends = np.maximum.accumulate(offsets[:, 1])
  start = np.minimum(offsets[:, 0], np.concatenate([[0], ends[:-1]]))  # some tokenizers leave a blank out that a token has
  start = np.minimum(start, len(masked) - 1)
  stop = np.maximum(offsets[:, 1], start + 1)  # a token without characters belongs to the one that follows
  return before[stop] == before[start]


def example_of(place: str, record: Record) -> Example:
  """Returns the example that a record stands for.

  Raises:
    DataError: A field is missing or cannot be used. The message has the place, the field, its value and the fix.
  """
  prompt, found, weight = record.get('prompt'), record.get('segments'), record.get('weight', 1.0)
  if not isinstance(prompt, str) or not prompt:
    raise _refused(place, 'prompt', record, 'a text that is not empty')
  if not isinstance(found, list) or not found:
    raise _refused(place, 'segments', record, f'a list such as {_SEGMENTS}')
  if isinstance(weight, bool) or not isinstance(weight, int | float) or not _SMALLEST <= weight <= _LARGEST:
    raise _refused(place, 'weight', record, f'a number from {_SMALLEST:g} to {_LARGEST:g}, or leave it out for 1')
  segments = []
  for i, part in enumerate(found):
    if not isinstance(part, dict):
      raise DataError(f"{place}: field 'segments.{i}': {_shown(part)}; fix: an object as in {_SEGMENTS}")
    if not isinstance(part.get('text'), str) or not part['text']:
      raise _refused(place, 'text', part, 'a text that is not empty', f'segments.{i}.')
    if part.get('loss') not in (0, 1):
      raise _refused(place, 'loss', part, '1 for a part that is learnt, or 0', f'segments.{i}.')
    if part.get('end', 0) not in (0, 1):
      raise _refused(place, 'end', part, '1 for a part that ends a turn, or 0', f'segments.{i}.')
    segments.append(Segment(part['text'], bool(part['loss']), bool(part.get('end', 0))))
  if not any(segment.loss for segment in segments):
    raise DataError(f'{place}: field \'segments\': no segment has loss; fix: "loss": 1 in one of them, or take the line out')
  return Example(prompt, tuple(segments), float(weight), place)


def _refused(place: str, field: str, record: Record, fix: str, path: str = '') -> DataError:
  said = _shown(record[field]) if field in record else 'missing'
  return DataError(f'{place}: field {path + field!r}: {said}; fix: {fix}')


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:80]}...'
