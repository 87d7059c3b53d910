"""Builds the tokenizer that the metadata of a GGUF file describes.

| tokenizer.ggml.model | tokenizer |
|---|---|
| `gpt2` | byte-level BPE; `tokenizer.ggml.pre` names the way in which text is split into words before |
| `llama` | BPE of SentencePiece on whole texts, with bytes for unknown characters |
"""

import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from espo_jax.tasks.task import DataError

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _, _BYTE = range(1, 7)  # tokenizer.ggml.token_type
_SPACE = '▁'  # how SentencePiece writes a space
_END_TOKENS = ('eos_token_id', 'eot_token_id', 'eom_token_id')


class _Words(NamedTuple):
  """How text is split into words, none of which a token of a byte-level vocabulary goes beyond."""

  digits: str = ''  # the expression of digits, where words are those of Qwen2 and Llama 3; '' for GPT-2's words
  lone_digits: bool = False  # whether GPT-2's words are taken between digits, each of which is a word
  composed: bool = False  # whether characters are composed first (NFC)
  known_whole: bool = False  # whether a word that is a token is never built by merges
  begins: bool = False  # whether the first token is added where the file does not say


_PRE_TOKENIZERS = {
  'default': _Words(),
  'deepseek-r1-qwen': _Words(digits=r'\p{N}', composed=True),
  'llama-bpe': _Words(digits=r'\p{N}{1,3}', known_whole=True, begins=True),
  'qwen2': _Words(digits=r'\p{N}', composed=True),
  'smollm': _Words(lone_digits=True),
}


def gguf_tokenizer(metadata: Mapping[str, Any], file: str | pathlib.Path) -> 'PreTrainedTokenizerFast':
  """The tokenizer of a GGUF file, with its special tokens and its chat template.

  Control tokens become special tokens, and user-defined ones are recognised in text as they stand.

  Args:
    metadata: The metadata of the file by llama.cpp's keys.
    file: The path of the file, for messages.

  Raises:
    DataError: The metadata lack an entry, or name a tokenizer that is not supported; the message names the key.
  """
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')  # no warning that torch is missing
  from transformers import PreTrainedTokenizerFast  # imported here because it takes a second

  reader = _Reader(metadata, file)
  kind = metadata.get('tokenizer.ggml.model')
  if kind not in ('gpt2', 'llama'):
    raise DataError(
      f'{file}: tokenizer.ggml.model = {kind!r} is not supported; fix: gpt2 (byte-level BPE) or llama (SentencePiece)'
    )
  tokens = reader.entries('tokens', str)
  types = reader.entries('token_type', int, len(tokens))
  vocabulary = {token: i for i, token in enumerate(tokens)}
  if len(vocabulary) < len(tokens):
    twice = next(token for i, token in enumerate(tokens) if vocabulary[token] != i)
    raise DataError(f'{file}: tokenizer.ggml.tokens has {twice!r} twice; fix: a file whose tokens differ')
  if kind == 'gpt2':
    tokenizer, begins = _byte_level(reader, vocabulary)
  else:
    tokenizer, begins = _sentencepiece(reader, vocabulary, types), True
  of_type = {which: [token for token, found in zip(tokens, types, strict=True) if found == which] for which in set(types)}
  special = of_type.get(_UNKNOWN, []) + of_type.get(_CONTROL, [])
  tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
  tokenizer.add_tokens([AddedToken(token, normalized=False) for token in of_type.get(_USER_DEFINED, [])])
  names = {
    f'{name}_token': tokens[i]
    for name, key in {'bos': 'bos', 'eos': 'eos', 'unk': 'unknown', 'pad': 'padding'}.items()
    if (i := reader.token_id(f'{key}_token_id', len(tokens))) is not None
  }
  first = [names['bos_token']] if 'bos_token' in names and metadata.get('tokenizer.ggml.add_bos_token', begins) else []
  last = [names['eos_token']] if 'eos_token' in names and metadata.get('tokenizer.ggml.add_eos_token', False) else []
  if first or last:
    both = [(token, vocabulary[token]) for token in {*first, *last}]
    tokenizer.post_processor = processors.TemplateProcessing(
      single=[*first, '$A', *last],
      pair=[*first, '$A', *last, *(f'{x}:1' for x in first), '$B:1', *(f'{x}:1' for x in last)],
      special_tokens=both,
    )
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    chat_template=metadata.get('tokenizer.chat_template'),
    clean_up_tokenization_spaces=False,
    **names,
  )


def gguf_end_tokens(metadata: Mapping[str, Any], file: str | pathlib.Path) -> tuple[int, ...]:
  """The tokens that end a response: those that end the text, a turn and a message.

  Args:
    metadata: The metadata of the file by llama.cpp's keys.
    file: The path of the file, for messages.

  Raises:
    DataError: The metadata have no tokens, or name one that is not among them; the message names the key.
  """
  reader = _Reader(metadata, file)
  count = len(reader.entries('tokens', str))
  return tuple(sorted({i for name in _END_TOKENS if (i := reader.token_id(name, count)) is not None}))


class _Reader(NamedTuple):
  """Reads and checks entries of the metadata."""

  metadata: Mapping[str, Any]
  file: str | pathlib.Path

  def entries(self, name: str, kind: type, length: int | None = None) -> list[Any]:
    """A list of values of one type."""
    key = f'tokenizer.ggml.{name}'
    found = self.metadata.get(key)
    if not isinstance(found, list) or not all(isinstance(value, kind) for value in found):
      raise DataError(f'{self.file}: {key} is missing or no list of {kind.__name__}; fix: a file with its vocabulary')
    if length is not None and len(found) != length:
      raise DataError(f'{self.file}: {key} has {len(found)} entries for {length} tokens; fix: download it again')
    return found

  def token_id(self, name: str, count: int) -> int | None:
    """The id of a token, or None where the file names none."""
    key = f'tokenizer.ggml.{name}'
    found = self.metadata.get(key)
    if found is not None and not (type(found) is int and 0 <= found < count):
      raise DataError(f'{self.file}: {key} = {found!r}, but there are {count} tokens; fix: download it again')
    return found

  def merges(self, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs of tokens that join to a token, the first merge first."""
    pairs = []
    for merge in self.entries('merges', str):
      left, _, right = merge.partition(' ')
      if not {left, right, left + right} <= vocabulary.keys():
        raise DataError(f'{self.file}: tokenizer.ggml.merges has {merge!r}, no pair of tokens; fix: download it again')
      pairs.append((left, right))
    return pairs


def _byte_level(reader: _Reader, vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
  """The tokenizer of a byte-level vocabulary, and whether it adds the first token where the file does not say."""
  name = reader.metadata.get('tokenizer.ggml.pre')
  if name not in _PRE_TOKENIZERS:
    raise DataError(
      f'{reader.file}: tokenizer.ggml.pre = {name!r} is not supported; fix: a model with one of {", ".join(_PRE_TOKENIZERS)}'
    )
  words = _PRE_TOKENIZERS[name]
  tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=reader.merges(vocabulary), ignore_merges=words.known_whole))
  if words.composed:
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_splits(words))
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer, words.begins


def _splits(words: _Words) -> list[Any]:
  if words.digits:
    expression = (
      r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
      rf'{words.digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
    )
    split = pre_tokenizers.Split(Regex(expression), behavior='isolated')
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  digits = [pre_tokenizers.Digits(individual_digits=True)] if words.lone_digits else []
  return [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]


def _sentencepiece(reader: _Reader, vocabulary: dict[str, int], types: list[int]) -> Tokenizer:
  """The tokenizer of a SentencePiece vocabulary, whose scores say in which order tokens are merged.

  A space is put in front of a text, and of what follows a special token, as llama.cpp and the files of Llama 2 do it.
  """
  if 'tokenizer.ggml.merges' in reader.metadata:
    merges = reader.merges(vocabulary)
  else:
    merges = _merges(vocabulary, types, reader.entries('scores', float, len(types)))
  unknown = next((token for token, kind in zip(vocabulary, types, strict=True) if kind == _UNKNOWN), None)
  tokenizer = Tokenizer(
    models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=_BYTE in types)
  )
  prefixed = reader.metadata.get('tokenizer.ggml.add_space_prefix', True)
  spaces = normalizers.Replace(' ', _SPACE)
  tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces] if prefixed else [spaces])
  steps = [decoders.Replace(_SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
  tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(' ', 1, 0)] if prefixed else steps)
  return tokenizer


def _merges(vocabulary: dict[str, int], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
  """The pairs of tokens that join to a token, those of the highest score first. Only normal tokens are joined."""
  normal = {token for token, kind in zip(vocabulary, types, strict=True) if kind == _NORMAL}
  pairs = [
    (-scores[vocabulary[token]], token[:i], token[i:])
    for token in normal
    for i in range(1, len(token))
    if token[:i] in normal and token[i:] in normal
  ]
  return [
    (left, right) for _, left, right in sorted(pairs, key=lambda pair: (pair[0], vocabulary[pair[1]], vocabulary[pair[2]]))
  ]
