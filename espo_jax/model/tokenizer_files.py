"""Writes a tokenizer's files so that transformers 4 and 5 read them alike."""

import json
import pathlib
from typing import TYPE_CHECKING

from espo_jax.model.weights import read_json

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerBase

_CLEANED_UP_ANYWAY = 'clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output'


def save_tokenizer(tokenizer: 'PreTrainedTokenizerBase', directory: pathlib.Path) -> None:
  """Write `tokenizer` so that transformers 4.57 and later reads an identical tokenizer.

  `tokenizer.json` alone determines how text is split, and the other files are written so that no reader changes that. There is
  one exception: for every qwen2 model, AutoTokenizer of transformers 5 splits text like Qwen2's own tokenizer.

  Args:
    tokenizer: The tokenizer.
    directory: The directory of the files.
  """
  tokenizer.save_pretrained(directory)
  if not (directory / 'tokenizer.json').exists():
    return  # a Python tokenizer, which has its own class and files
  path = directory / 'tokenizer_config.json'
  written = read_json(path)
  # This class adds nothing to tokenizer.json. Transformers 5 writes another name for it, which transformers 4 does not know.
  written['tokenizer_class'] = 'PreTrainedTokenizerFast'
  if isinstance(written.get('extra_special_tokens'), list):  # transformers 4 expects an object here
    written['additional_special_tokens'] = written.pop('extra_special_tokens')
  library = read_json(directory / 'tokenizer.json')
  splitting = library['pre_tokenizer'] or {}
  if 'add_prefix_space' in splitting:  # transformers 4 reads this, with false as the default
    written['add_prefix_space'] = splitting['add_prefix_space']
  if library['model']['type'] == 'BPE' and not written.get(_CLEANED_UP_ANYWAY):  # as transformers 5 decodes
    written['clean_up_tokenization_spaces'] = False
  path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + '\n')
