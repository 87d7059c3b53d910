"""Tasks: prompts, answers and verifiers."""

from typing import Any

from espo_jax.tasks.base import DataError, Finding, Problem, Task, lookup
from espo_jax.tasks.batching import SupervisedBatch, decode_responses, encode_prompts, encode_supervised, encode_text
from espo_jax.tasks.benchmarks import BENCHMARKS
from espo_jax.tasks.chain import Chain
from espo_jax.tasks.countdown import Countdown
from espo_jax.tasks.grading import Grader, Verdict, grade
from espo_jax.tasks.math import Math
from espo_jax.tasks.own import JSONL, find_benchmark
from espo_jax.tasks.pieces import token_texts
from espo_jax.tasks.tokenizer import byte_bpe_tokenizer, character_tokenizer

TASKS: dict[str, type[Task]] = {'chain': Chain, 'countdown': Countdown, 'math': Math}


def get(name: str, **kwargs: Any) -> Task:
  """Builds the task registered as `name` with its own keyword arguments."""
  return lookup('task', name, TASKS)(**kwargs)


__all__ = [
  'BENCHMARKS',
  'JSONL',
  'TASKS',
  'Chain',
  'Countdown',
  'DataError',
  'Finding',
  'Grader',
  'Math',
  'Problem',
  'SupervisedBatch',
  'Task',
  'Verdict',
  'byte_bpe_tokenizer',
  'character_tokenizer',
  'decode_responses',
  'encode_prompts',
  'encode_supervised',
  'encode_text',
  'find_benchmark',
  'get',
  'grade',
  'token_texts',
]
