"""Small data files and tokenizers for the tests, and where the published ones may be."""

import json
import os
import pathlib

import pytest

from espo_jax.tasks import byte_bpe_tokenizer

TEMPLATE = (
  "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
  '{% if add_generation_prompt %}<|start|>assistant\n{% endif %}'
)


def gsm8k(i: int) -> dict[str, str]:
  """A record of GSM8K's form; the answer is 2 i + 3."""
  return {
    'question': f'Mia has {i} pens and buys {i + 3} more. How many pens has she now?',
    'answer': f'She has {i}+{i + 3} = <<{i}+{i + 3}={2 * i + 3}>>{2 * i + 3} pens.\n#### {2 * i + 3:,}',
  }


def hendrycks(i: int) -> dict[str, str]:
  """A record of MATH's form; the answer is `\\frac{1}{i}`."""
  solution = f'We solve for $x$: $x = \\boxed{{\\frac{{1}}{{{i}}}}}$.'
  return {'problem': f'Solve ${i}x = 1$ for $x$.', 'level': 'Level 1', 'type': 'Algebra', 'solution': solution}


def dapo(i: int) -> dict:
  """A record of DAPO's form; the answer is i."""
  content = (
    'Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer '
    f'(without quotes) where $Answer is the answer to the problem.\n\nFind the root of $x = {i}$.\n\n'
    'Remember to put your answer on its own line after "Answer:".'
  )
  return {
    'data_source': 'math_dapo',
    'prompt': [{'role': 'user', 'content': content}],
    'reward_model': {'ground_truth': str(i), 'style': 'rule-lighteval/MATH_v2'},
    'extra_info': {'index': f'id-{i}'},
  }


def write(path: pathlib.Path, records: list) -> str:
  """Writes JSON lines and returns the path."""
  path.write_text(''.join(json.dumps(record) + '\n' for record in records), encoding='utf-8')
  return str(path)


def tokenizer(directory: pathlib.Path, template: str | None = TEMPLATE, bos: bool = False) -> str:
  """Writes a small byte-level tokenizer as a Hugging Face directory and returns its path."""
  made = byte_bpe_tokenizer([json.dumps(gsm8k(i)) for i in range(20)], 320)
  if bos:
    from tokenizers.processors import TemplateProcessing

    made.add_special_tokens({'bos_token': '<bos>'})
    made.backend_tokenizer.post_processor = TemplateProcessing(
      single='<bos> $A', special_tokens=[('<bos>', made.convert_tokens_to_ids('<bos>'))]
    )
  made.add_special_tokens({'additional_special_tokens': ['<|start|>', '<|end|>']})
  made.chat_template = template
  made.save_pretrained(directory)
  return str(directory)


def published(name: str) -> str:
  """A copy of a published file: in ESPO_JAX_DATA, or in shared/data beside the repository."""
  folder = pathlib.Path(os.environ.get('ESPO_JAX_DATA', pathlib.Path(__file__).parents[2] / 'shared' / 'data'))
  if not (folder / name).is_file():
    pytest.skip(f'no {name} in {folder}; set ESPO_JAX_DATA to the folder that has it')
  return str(folder / name)
