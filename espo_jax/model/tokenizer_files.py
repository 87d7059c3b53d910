"""A tokenizer's files, in the words that transformers 4 and 5 share."""

import json
import pathlib
from typing import TYPE_CHECKING

from espo_jax.model.weights import read_json

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerBase

_CLEANED_UP_ANYWAY = 'clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output'


def save_tokenizer(tokenizer: 'PreTrainedTokenizerBase', directory: pathlib.Path) -> None:
  """Write `tokenizer` so that transformers from 4.57 on reads the same one.

  `tokenizer.json` alone says how text is split; what stands beside it is put so that no reader changes that. One does: the
  AutoTokenizer of transformers 5 splits for every qwen2 model as Qwen2's own tokenizer does.

  Args:
    tokenizer: The tokenizer.
    directory: Where its files go.
  """
  tokenizer.save_pretrained(directory)
  if not (directory / 'tokenizer.json').exists():
    return  # a tokenizer in Python, which has classes and files of its own
  path = directory / 'tokenizer_config.json'
  written = read_json(path)
  # The class that adds nothing to tokenizer.json: transformers 5 writes its own name for it, of which 4 has not heard.
  written['tokenizer_class'] = 'PreTrainedTokenizerFast'
  if isinstance(written.get('extra_special_tokens'), list):  # to transformers 4 these are an object of named ones
    written['additional_special_tokens'] = written.pop('extra_special_tokens')
  library = read_json(directory / 'tokenizer.json')
  splitting = library['pre_tokenizer'] or {}
  if 'add_prefix_space' in splitting:  # transformers 4 sets what it finds here, and false where it finds nothing
    written['add_prefix_space'] = splitting['add_prefix_space']
  if library['model']['type'] == 'BPE' and not written.get(_CLEANED_UP_ANYWAY):  # where transformers 5 decodes without
    written['clean_up_tokenization_spaces'] = False
  path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + '\n')
