"""A teacher-forced pass over finished rows: log-probabilities, entropy and values, never a `[N, T, V]` array at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.model import ActorCritic, Params, States


class Scored(NamedTuple):
  """The model's view of given responses. Float32."""

  logprobs: Float[Array, 'N T']
  entropy: Float[Array, 'N T']  # nats
  values: Float[Array, 'N T']
  final_values: Float[Array, 'N']  # of the state after column T - 1, where a row cut by the horizon stands


def score(
  model: ActorCritic,
  params: Params,
  prompt_tokens: Int[Array, 'N L'],
  prompt_lengths: Int[Array, 'N'],
  tokens: Int[Array, 'N T'],
  *,
  temperature: float,
  chunk: int,
) -> Scored:
  """Score responses under the distribution that samples at `temperature`.

  Args:
    model: Policy and critic.
    params: Their parameters.
    prompt_tokens: Prompts, padded on the left.
    prompt_lengths: Their lengths.
    tokens: Responses; what stands after a row's end is scored too and has to be masked by the caller.
    temperature: Of the sampler; a static number here, since a run has one.
    chunk: Response tokens whose logits exist at a time. Their gradient recomputes them.
  """
  width, horizon = prompt_tokens.shape[1], tokens.shape[1]
  offset = jnp.arange(width + horizon) - (width - prompt_lengths[:, None])
  states, _ = model.states(params, jnp.concatenate([prompt_tokens, tokens], axis=1), jnp.maximum(offset, 0), offset >= 0)
  states = jax.tree.map(lambda x: x[:, width - 1 :], states)  # [N, T + 1, D]: before each token, and after the last
  values = model.values(params, states)
  policy = states.policy[:, :-1]

  def read(hidden: Float[Array, 'N C D'], chosen: Int[Array, 'N C']) -> tuple[Array, Array]:
    logits = model.logits(params, States(hidden, hidden)) / temperature
    logprobs = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(logprobs) * logprobs).sum(-1)
    # A one-hot product rather than a gather: the gather's gradient is a scatter, slow on every backend.
    picked = (logprobs * jax.nn.one_hot(chosen, logits.shape[-1])).sum(-1)
    return picked, entropy

  if chunk >= horizon:
    logprobs, entropy = read(policy, tokens)
  else:
    pad = -horizon % chunk

    def split(x: Array) -> Array:  # [N, T, ...] to [chunks, N, chunk, ...]
      x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
      return x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    parts = jax.lax.map(lambda xs: jax.checkpoint(read)(*xs), (split(policy), split(tokens)))
    logprobs, entropy = (x.swapaxes(0, 1).reshape(x.shape[1], -1)[:, :horizon] for x in parts)
  return Scored(logprobs, entropy, values[:, :-1], values[:, -1])
