"""Writes a random model of a few million parameters in Qwen2's format, with a byte-level tokenizer trained on your data.

  PYTHONPATH=. python scripts/make_tiny_model.py --data=train.jsonl --output=runs/tiny_qwen2

The model replaces real weights where none are available. Everything that reads a Hugging Face directory can read it.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from espo_jax import tasks
from espo_jax.model import ModelConfig, init, save_hf
from espo_jax.tasks.files import FORMATS, read_records
from espo_jax.tasks.records import parse_line

# Each turn is one line. The assistant's turns end with the end token.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] + ': ' + message['content'] + (eos_token if message['role'] == 'assistant' else '') + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'assistant:' }}{%- endif -%}"""


def texts(path: str) -> Iterator[str]:
  """Yields every string in the records of a data file."""
  for number, raw in read_records(path, '--data'):
    yield from _strings(parse_line(f'{path}:{number}', raw) if isinstance(raw, bytes) else raw)


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping | list):
    for part in value.values() if isinstance(value, Mapping) else value:
      yield from _strings(part)


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, help=f'the training data of the tokenizer: a file of {FORMATS}')
  parser.add_argument('--output', required=True, type=pathlib.Path, help='the directory to write')
  parser.add_argument('--vocab_size', type=int, default=2048)
  parser.add_argument('--hidden_size', type=int, default=192)
  parser.add_argument('--layers', type=int, default=6)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  try:
    tokenizer = tasks.byte_bpe_tokenizer(list(texts(args.data)), args.vocab_size)
  except tasks.DataError as error:
    sys.exit(f'error: {error}')
  tokenizer.chat_template = CHAT_TEMPLATE
  config = ModelConfig(
    vocab_size=-(-(len(tokenizer) + 1) // 64) * 64,  # padded, as published models are
    hidden_size=args.hidden_size,
    intermediate_size=4 * args.hidden_size,
    num_layers=args.layers,
    num_heads=args.hidden_size // 32,
    num_kv_heads=max(1, args.hidden_size // 96),
    head_dim=32,
    qkv_bias=True,
    rope_theta=1e6,
    family='qwen2',
  )
  params = init(config, jax.random.key(args.seed))
  save_hf(args.output, config, params, tokenizer=tokenizer)
  millions = sum(x.size for x in jax.tree.leaves(params)) / 1e6
  print(f'wrote {args.output}: {millions:.1f} million parameters, {len(tokenizer)} tokens')


if __name__ == '__main__':
  main(sys.argv[1:])
