"""A reader of exports beside the tests' own transformers 5: transformers 4.57, in a process of its own."""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pytest

TRANSFORMERS4 = pathlib.Path(sys.prefix) / 'transformers4'  # where scripts/test.sh puts it: torch comes from beside it
needs_transformers4 = pytest.mark.skipif(
  not TRANSFORMERS4.exists(), reason='transformers 4.57 is not there: scripts/test.sh installs it'
)

_LOOP = """
import json, sys
import numpy as np, torch, transformers

def model(directory, tokens, lengths, out):
  model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
  tokens, lengths = torch.tensor(tokens), torch.tensor(lengths)
  mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
  with torch.no_grad():
    np.save(out, model.eval()(tokens, attention_mask=mask).logits.float().numpy())
  return {
    'class': type(model).__name__,
    'not read': [name for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys') for name in report[kind]],
    'end tokens': model.generation_config.eos_token_id,
    'dtype': str(model.dtype),
  }

def tokenizer(directory, texts, messages):
  tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
  ids = [tokenizer(text)['input_ids'] for text in texts]
  chats = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in messages]
  return {
    'ids': ids,
    'bare ids': [tokenizer.encode(text, add_special_tokens=False) for text in texts],
    'texts': [tokenizer.decode(line) for line in ids],
    'plain texts': [tokenizer.decode(line, skip_special_tokens=True) for line in ids],
    'chats': chats,
    'chat ids': [tokenizer.encode(chat, add_special_tokens=False) for chat in chats],
    'special': [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side],
    'all special': sorted(set(tokenizer.all_special_tokens)),
  }

print(json.dumps(transformers.__version__), flush=True)
for line in sys.stdin:
  name, arguments = json.loads(line)
  try:
    answer = {'model': model, 'tokenizer': tokenizer}[name](**arguments)
  except Exception as error:
    answer = {'error': f'{type(error).__name__}: {error}'}
  print(json.dumps(answer), flush=True)
"""


class Reader:
  """The process, which answers one question a line."""

  def __init__(self):
    environment = os.environ | {'PYTHONPATH': str(TRANSFORMERS4), 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    self._process = subprocess.Popen(
      [sys.executable, '-c', _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(self._process.kill)
    self.version: str = self._answer()

  def logits(self, directory: pathlib.Path, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """What the model there says to right-padded rows, and what its loading reports."""
    with tempfile.NamedTemporaryFile(suffix='.npy') as out:
      rows = {'tokens': tokens.tolist(), 'lengths': lengths.tolist()}
      report = self._ask('model', {'directory': str(directory), 'out': out.name} | rows)
      return np.load(out.name), report

  def tokenizer(self, directory: pathlib.Path, texts: list[str], messages: list[list[dict[str, str]]]) -> dict[str, Any]:
    """What the tokenizer there makes of texts and of conversations."""
    return self._ask('tokenizer', {'directory': str(directory), 'texts': texts, 'messages': messages})

  def _ask(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    self._process.stdin.write(json.dumps([name, arguments]) + '\n')
    self._process.stdin.flush()
    answer = self._answer()
    assert 'error' not in answer, answer['error']
    return answer

  def _answer(self) -> Any:
    return json.loads(self._process.stdout.readline())


transformers4 = functools.cache(Reader)
