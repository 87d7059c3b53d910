"""Makes tokenizers for tasks without a pretrained model: one token per character (or number), and byte-level BPE."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

PAD, EOS = '<pad>', '<eos>'  # ids 0 and 1


def character_tokenizer(alphabet: Iterable[str], pattern: str | None = None) -> 'PreTrainedTokenizerFast':
  """Makes a tokenizer whose vocabulary is `<pad>` (0), `<eos>` (1) and the alphabet in the order given.

  Args:
    alphabet: the pieces: a string of characters, or longer pieces such as '17' if `pattern` matches them.
    pattern: the regular expression of one piece; a single character by default.

  Returns:
    A tokenizer with `decode(encode(text)) == text`. Encoding a text outside the alphabet raises an error, so that nothing is
    dropped silently.
  """
  pieces = [PAD, EOS, *alphabet]
  if len(set(pieces)) != len(pieces):
    raise ValueError('the alphabet has a piece twice')
  tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}))
  tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern or r'[\s\S]'), behavior='isolated')
  tokenizer.decoder = decoders.Fuse()
  return _wrap(tokenizer)


def byte_bpe_tokenizer(lines: Iterable[str], vocab_size: int) -> 'PreTrainedTokenizerFast':
  """Trains a byte-level BPE tokenizer on `lines`. It can encode any text, and equal lines give equal tokenizers.

  Every digit is a token of its own, because arithmetic on merged digits has to be learned by heart.

  Args:
    lines: the training text.
    vocab_size: the size of the vocabulary, `<pad>`, `<eos>` and the 256 bytes included.
  """
  smallest = len(pre_tokenizers.ByteLevel.alphabet()) + 2
  if vocab_size < smallest:
    raise ValueError(f'vocab_size = {vocab_size} is too small for 256 bytes and 2 special tokens; fix: at least {smallest}')
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[PAD, EOS],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(lines, trainer)
  return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> 'PreTrainedTokenizerFast':
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')  # torch is not needed
  from transformers import PreTrainedTokenizerFast  # imported here because it takes a second

  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=PAD,
    eos_token=EOS,
    padding_side='left',
    clean_up_tokenization_spaces=False,
    split_special_tokens=True,  # '<eos>' in a data file is plain text
  )
