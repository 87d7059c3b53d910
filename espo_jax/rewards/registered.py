"""The register of rewards, and the arrays and texts that a reward may read."""

from collections.abc import Callable

from jaxtyping import Array

from espo_jax.registry import Method, Register

SEEN = {
  'correct': 'verdicts, 0 or 1; a stopped row is wrong, whatever its shadow wrote; [P, G]',
  'lengths': 'tokens that count, [P, G]',
  'horizon': 'the most tokens that a response can have, a number',
  'ended': 'whether the response wrote an end token, [P, G]',
  'formatted': 'whether the response ended and its text has the form of `reward.format`, [P, G]',
  'reasoned': 'whether the text reasons, by `reward.reasoning`, [P, G]',
  'needed': 'whether the prompt needs reasoning, [P]',
  'levels': 'which of `rollout.tags` the prompt carries, [P]',
  'depth': "the share of the model's blocks that the response's tokens ran through, [P, G]",
  'values': 'the value of the state that each token was drawn from, [P, G, T]',
  'mask': 'true on the tokens that count, [P, G, T]',
  'turn': 'the turn of each token that the policy wrote, from 0; -1 on other tokens; [P, G, T]',
  'paid': "the environment's reward on the last token of each turn; without one the verdict on the last token; [P, G, T]",
}
TEXT = {
  'questions': 'the problem of each prompt, a list of P texts',
  'responses': 'the responses, up to a stop where there was one, a list of P lists of G texts',
  'answers': "the problems' answers, a list of P texts",
}
REGISTRY: Register[Callable[..., Array]] = Register('reward', 'reward.name', in_expressions=True)


def register(name: str) -> Callable[[Method], Method]:
  """Makes a reward known as `reward.name`, alone or in an expression.

  A reward is a function of arrays with the names in `SEEN`. It returns `float[P, G]`, or `float[P, G, T]` with a reward per
  token. Its keyword-only parameters are options, as in `--config.reward.lam=0.8`.

  A reward that reads text, by the names in `TEXT`, runs on the host, in processes that have `reward.deadline` seconds for the
  responses to one prompt. It is called with `P = 1` and returns `float[P, G]`. It may read arrays of `SEEN` as well.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not in `SEEN` or `TEXT`.
  """
  return REGISTRY.decorator(name, SEEN | TEXT)
