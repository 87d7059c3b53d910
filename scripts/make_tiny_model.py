"""Write a random model of a few million parameters in Qwen2's format, with a byte-level tokenizer trained on a text of yours.

  PYTHONPATH=. python scripts/make_tiny_model.py --data=train.jsonl --output=runs/tiny_qwen2

It stands in for real weights where none can be had: everything that reads a Hugging Face directory reads it.
"""

import argparse
import json
import pathlib
import sys

import jax

from espo_jax import tasks
from espo_jax.model import ModelConfig, init, save_hf

# One turn of each speaker a line; what the model is asked to write ends with the end token.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] + ': ' + message['content'] + (eos_token if message['role'] == 'assistant' else '') + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'assistant:' }}{%- endif -%}"""


def texts(path: pathlib.Path) -> list[str]:
  """Every string in a JSON-lines file, or the lines of any other."""
  lines = path.read_text().splitlines()
  if path.suffix != '.jsonl':
    return lines
  return [value for line in lines if line.strip() for value in json.loads(line).values() if isinstance(value, str)]


def main(argv: list[str]) -> None:
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, type=pathlib.Path, help='the text the tokenizer is trained on')
  parser.add_argument('--output', required=True, type=pathlib.Path, help='the directory to write')
  parser.add_argument('--vocab_size', type=int, default=2048)
  parser.add_argument('--hidden_size', type=int, default=192)
  parser.add_argument('--layers', type=int, default=6)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  tokenizer = tasks.byte_bpe_tokenizer(texts(args.data), args.vocab_size)
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
