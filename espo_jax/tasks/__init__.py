"""Tasks: prompts, answers and verifiers."""

from espo_jax.tasks.allocators import ALLOCATORS
from espo_jax.tasks.batching import (
  batch_examples,
  decode_responses,
  decode_turns,
  encode_prompts,
  encode_supervised,
  encode_text,
)
from espo_jax.tasks.benchmarks import BENCHMARKS
from espo_jax.tasks.chain import Chain
from espo_jax.tasks.countdown import Countdown
from espo_jax.tasks.countdown_dfs import CountdownDFS
from espo_jax.tasks.examples import EncodedExample, Example, Segment, encode_example, example_of, read_examples, record_of
from espo_jax.tasks.gguf_tokenizer import gguf_end_tokens, gguf_tokenizer
from espo_jax.tasks.grading import Grader, Verdict, grade
from espo_jax.tasks.grid import Grid
from espo_jax.tasks.math import Math
from espo_jax.tasks.own import JSONL, find_benchmark
from espo_jax.tasks.pieces import text_of, token_texts
from espo_jax.tasks.pretrained import load_tokenizer
from espo_jax.tasks.reasoning_gym import ReasoningGym
from espo_jax.tasks.registered import TASKS, get, register
from espo_jax.tasks.sudoku import Sudoku
from espo_jax.tasks.task import STATUSES, DataError, Finding, Problem, Task, in_test, problem_id, problem_rng
from espo_jax.tasks.tokenizer import byte_bpe_tokenizer, character_tokenizer
from espo_jax.tasks.verifiers import Verifiers

__all__ = [
  'ALLOCATORS',
  'BENCHMARKS',
  'JSONL',
  'STATUSES',
  'TASKS',
  'Chain',
  'Countdown',
  'CountdownDFS',
  'DataError',
  'EncodedExample',
  'Example',
  'Finding',
  'Grader',
  'Grid',
  'Math',
  'Problem',
  'ReasoningGym',
  'Segment',
  'Sudoku',
  'Task',
  'Verdict',
  'Verifiers',
  'batch_examples',
  'byte_bpe_tokenizer',
  'character_tokenizer',
  'decode_responses',
  'decode_turns',
  'encode_example',
  'encode_prompts',
  'encode_supervised',
  'encode_text',
  'example_of',
  'find_benchmark',
  'get',
  'gguf_end_tokens',
  'gguf_tokenizer',
  'grade',
  'in_test',
  'load_tokenizer',
  'problem_id',
  'problem_rng',
  'read_examples',
  'record_of',
  'register',
  'text_of',
  'token_texts',
]
