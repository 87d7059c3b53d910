"""Loads the tokenizer of a Hugging Face model directory, and writes prompts in the form that the model expects."""

import datetime
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espo_jax.names import download, to_directory
from espo_jax.tasks.reasoning import THINK, open_thought
from espo_jax.tasks.task import DataError, lookup

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

PROMPTS = ('chat', 'r1', 'plain')
INSTRUCTION = 'Please reason step by step, and put your final answer within \\boxed{}.'
_EMPTY_THOUGHT = re.compile(r'<think>\s*</think>\s*\Z')  # how a template turns thinking off
_STRFTIME_NOW = """\
{%- macro strftime_now(format) -%}
{%- set time = namespace(text=format) -%}
{%- for directive, text in strftime_replaced -%}{%- set time.text = time.text.replace(directive, text) -%}{%- endfor -%}
{{- time.text -}}
{%- endmacro -%}
"""
_HUB_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
_FIELD = 'model.path'


def tokenizer_problem(path: str) -> str | None:
  """Returns what is wrong with the path of a tokenizer, `FIELD = VALUE: PROBLEM; fix: ...`; None if it may hold one."""
  if Path(path).is_dir():
    if (Path(path) / 'tokenizer.json').is_file():
      return None
    return f'{_FIELD} = {path!r}: holds no tokenizer.json; fix: a Hugging Face model directory with its tokenizer files'
  if advice := to_directory(path):
    return f'{_FIELD} = {path!r}: a file and no directory; fix: {advice}'
  if _HUB_NAME.fullmatch(path) and not Path(path).exists():
    return None
  return (
    f'{_FIELD} = {path!r}: no such directory; fix: a Hugging Face model directory, such as '
    'hf download Qwen/Qwen3-0.6B --local-dir models/Qwen3-0.6B makes'
  )


def load_tokenizer(path: str) -> 'PreTrainedTokenizerFast':
  """Loads a tokenizer from its `tokenizer.json`. No code that comes with it is run.

  Special tokens are recognised in text, because a chat template writes them as text. A tokenizer without a padding token pads
  with its end token.

  Args:
    path: a Hugging Face directory, read without the network, or a name on the Hub.

  Raises:
    DataError: There is no usable tokenizer. The message says why and what to do.
  """
  if problem := tokenizer_problem(path):
    raise DataError(problem)
  os.environ.setdefault(
    'TRANSFORMERS_NO_ADVISORY_WARNINGS', '1'
  )  # no warning that torch is missing, because torch is not needed
  from transformers import PreTrainedTokenizerFast  # imported here because it takes a second

  local = Path(path).is_dir()
  try:
    # AutoTokenizer goes by the model's family, and would replace the file's way to split words by the family's.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=local, split_special_tokens=False)
  except Exception as error:  # a damaged file may raise anything, tokenizers' own Exception among it
    fix = 'the tokenizer files as they were published' if local else f'where there is a network {download(path)}'
    reason = ' '.join(str(error).split())[:300]
    raise DataError(
      f'{_FIELD} = {path!r}: no tokenizer can be loaded ({type(error).__name__}: {reason}); fix: {fix}'
    ) from error
  if tokenizer.eos_token_id is None:
    raise DataError(f"{_FIELD} = {path!r}: the tokenizer has no end token; fix: name its 'eos_token' in tokenizer_config.json")
  if tokenizer.pad_token_id is None:
    tokenizer.pad_token = tokenizer.eos_token
  return tokenizer


def special_tokens(tokenizer: 'PreTrainedTokenizerFast') -> tuple[str, ...]:
  """Returns the texts that the tokenizer reads as special tokens wherever they occur."""
  return tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def prompt_writer(kind: str, tokenizer: 'PreTrainedTokenizerFast', instruction: str, today: str = '') -> Callable[[str], str]:
  """Returns the function that turns a problem into the text of a prompt.

  The text includes all special tokens. It is to be encoded without adding any.

  | kind | prompt |
  |---|---|
  | 'chat' | one user message in the chat template |
  | 'r1' | the same, then an opened thought unless the template opens one; it replaces an empty thought (thinking turned off) |
  | 'plain' | the problem on a line of its own, after the tokenizer's first token if it adds one |

  Args:
    kind: 'chat', 'r1' or 'plain'.
    tokenizer: the tokenizer whose template and special tokens are used.
    instruction: the text that follows the problem in a chat; '' for none.
    today: the date for templates that write one, YYYY-MM-DD; '' for the current day.

  Raises:
    DataError: The tokenizer has no chat template, or its template cannot take a single user message.
    ValueError: The `kind` is unknown.
  """
  lookup('prompt', kind, dict.fromkeys(PROMPTS))
  if kind == 'plain':
    first = tokenizer.bos_token if _adds_bos(tokenizer) else ''
    return lambda problem: f'{first}{problem}\n'

  where = f'{_FIELD} = {tokenizer.name_or_path!r}'
  if not tokenizer.chat_template:
    raise DataError(
      f'{where}: the tokenizer has no chat template, which task.options.prompt = {kind!r} asks for; '
      'fix: --config.task.options.prompt=plain, or the directory of a chat model'
    )
  render = chat_writer(tokenizer, today)

  def write(problem: str) -> str:
    written = render([{'role': 'user', 'content': f'{problem}\n{instruction}' if instruction else problem}])
    return with_thought(written, behind_message(written, problem, instruction)) if kind == 'r1' else written

  try:
    sample = write('1 + 1 = ?')
  except Exception as error:  # a template is a program, and may raise anything
    raise DataError(
      f'{where}: its chat template fails ({type(error).__name__}: {error}); fix: the template as published'
    ) from error
  if '1 + 1 = ?' not in sample:
    raise DataError(f'{where}: its chat template leaves the problem out; fix: the template as published')
  return write


def chat_writer(
  tokenizer: 'PreTrainedTokenizerFast', today: str = '', tools: Sequence[Mapping[str, Any]] = ()
) -> Callable[[list[dict[str, str]]], str]:
  """Returns the function that writes messages in the tokenizer's chat template, up to where the assistant's turn begins.

  Args:
    tokenizer: the tokenizer, which has a template.
    today: the date for templates that write one, YYYY-MM-DD; '' for the current day.
    tools: the tools that the template describes, as the OpenAI API has them.
  """
  fixed = _on_day(tokenizer.get_chat_template(), today) | ({'tools': [*tools]} if tools else {})
  return lambda messages: str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **fixed))


def with_thought(written: str, behind: str) -> str:
  """Returns a text behind which the assistant's turn begins, with an opened thought, which replaces an empty one.

  Args:
    written: the text.
    behind: the part of it behind the last message, which may open a thought already.
  """
  return written if open_thought(behind) else f'{_EMPTY_THOUGHT.sub("", written)}{THINK}\n'


def _on_day(template: str, today: str) -> dict[str, Any]:
  """Returns the arguments that make a template which asks for the time see the first minute of a day.

  A template asks for the time with the function `strftime_now`. A macro replaces that function, because data can be passed to a
  template and functions cannot.
  """
  if 'strftime_now' not in template:
    return {}
  day = datetime.datetime.fromisoformat(today or datetime.date.today().isoformat())
  directives = [
    f'%{letter}' for letter in (*'aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZf', *(f'-{x}' for x in 'deHIjklmMSuUVwWy'))
  ]
  replaced = [('%%', '\0'), *((directive, day.strftime(directive)) for directive in directives), ('\0', '%')]
  return {'chat_template': _STRFTIME_NOW + template, 'strftime_replaced': [list(pair) for pair in replaced]}


def behind_message(prompt: str, problem: str, instruction: str) -> str:
  """Returns the part of a prompt behind the user's message, with which the assistant's turn begins."""
  return prompt.rpartition(instruction.strip() or problem.strip())[2]


def _adds_bos(tokenizer: 'PreTrainedTokenizerFast') -> bool:
  return tokenizer.bos_token_id is not None and tokenizer.encode('1')[:1] == [tokenizer.bos_token_id]
