"""The logit processors that a command asks for."""

from collections.abc import Iterable, Sequence

from espo_jax import registry, tasks
from espo_jax.evaluate.options import Named
from espo_jax.evaluate.policies import RequestError
from espo_jax.experiment import Experiment
from espo_jax.rollout import processors
from espo_jax.rollout.processors import Processor


def check_processors(asked: Iterable[Named]) -> None:
  """Raises RequestError if an option is out of range, or if what was registered makes no processor.

  A processor may compute on a device, so this is called once the processes of a job know each other.
  """
  for one in asked:
    try:
      _make(one, (0,), (0,))  # which tokens it changes does not matter here
    except ValueError as error:
      raise RequestError(f'--processor={one.name}: {error}') from error


def make_processor(exp: Experiment, asked: Sequence[Named], end_of_thinking: str) -> Processor | None:
  """Makes one processor of all that are asked for; None for none.

  Args:
    exp: The experiment, whose tokenizer and end tokens are taken.
    asked: The processors, in their order.
    end_of_thinking: The text of the token that ends the thinking; '' for the tokens that end a response.

  Raises:
    RequestError: The text is not one token.
  """
  if not asked:
    return None
  ends = exp.end_tokens
  if end_of_thinking:
    try:
      ends = tuple(tasks.encode_text(exp.tokenizer, end_of_thinking))
    except ValueError as error:
      raise RequestError(f'--end_of_thinking={end_of_thinking}: {error}') from error
    if len(ends) != 1:
      raise RequestError(
        f'--end_of_thinking={end_of_thinking}: {len(ends)} tokens of this tokenizer; fix: a text that is one token, or '
        "--end_of_thinking='' for the tokens that end an answer"
      )
  return processors.one_after_another(tuple(_make(one, ends, exp.end_tokens) for one in asked))


def _make(one: Named, thinking_end: tuple[int, ...], end_tokens: tuple[int, ...]) -> Processor:
  method = processors.REGISTRY[one.name]
  known = {'thinking_end': thinking_end, 'end_tokens': end_tokens}
  made = method(*(known[name] for name in registry.inputs(method)), **one.options)
  if not isinstance(made, Processor):
    raise ValueError(f'it returned {made!r}; fix: a Processor')
  return made
