"""Tasks: prompts, answers and exact verifiers."""

from typing import Any

from espo_jax.tasks.base import DataError, Problem, Task, lookup
from espo_jax.tasks.batching import SupervisedBatch, decode_responses, encode_prompts, encode_supervised
from espo_jax.tasks.chain import Chain
from espo_jax.tasks.countdown import Countdown
from espo_jax.tasks.gsm8k import Gsm8k
from espo_jax.tasks.numbers import grade_number
from espo_jax.tasks.tokenizer import byte_bpe_tokenizer, character_tokenizer

TASKS: dict[str, type[Task]] = {'chain': Chain, 'countdown': Countdown, 'gsm8k': Gsm8k}


def get(name: str, **kwargs: Any) -> Task:
  """Builds the task registered as `name` with its own keyword arguments."""
  return lookup('task', name, TASKS)(**kwargs)


__all__ = [
  'TASKS',
  'Chain',
  'Countdown',
  'DataError',
  'Gsm8k',
  'Problem',
  'SupervisedBatch',
  'Task',
  'byte_bpe_tokenizer',
  'character_tokenizer',
  'decode_responses',
  'encode_prompts',
  'encode_supervised',
  'get',
  'grade_number',
]
