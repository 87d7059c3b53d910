"""SpecDec++'s head: how likely the whole model accepts a draft, read from the draft's state in the blocks that draft.

The head is fitted to acceptances of drafts in texts of the policy. A row then stops drafting once one of its drafts is likely
to be rejected. The stop depends on the drafts up to there alone, so the law of the output stays that of the whole model.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.model import ActorCritic, Params, States, caches_of_samples
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import prefill
from espo_jax.types import Prompts


class AcceptHead(flax.struct.PyTreeNode):
  """Residual blocks with SiLU, and a linear map to the logits of rejection and acceptance."""

  weights: Float[Array, 'B D D']
  biases: Float[Array, 'B D']
  out: Float[Array, 'D 2']
  out_bias: Float[Array, '2']


class Acceptances(flax.struct.PyTreeNode):
  """Drafts in texts of the policy, with how likely the whole model accepts each."""

  streams: Float[Array, 'N K D']  # the residual stream of the blocks that draft, at the draft
  labels: Float[Array, 'N K']  # the probability of acceptance, `min(1, p / q)`
  counts: Bool[Array, 'N K']  # False behind the end of a text, for the text's own tokens, and for tokens that are never drafted


def new_head(size: int, blocks: int) -> AcceptHead:
  """Returns a head for states of `size` numbers that says one half everywhere."""
  return AcceptHead(jnp.zeros((blocks, size, size)), jnp.zeros((blocks, size)), jnp.zeros((size, 2)), jnp.zeros(2))


def log_probabilities(head: AcceptHead, streams: Float[Array, '*B D']) -> Float[Array, '*B 2']:
  """Returns the log-probabilities of rejection and acceptance; a stream is scaled to the root mean square 1 before."""
  x = streams.astype(jnp.float32)
  x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6)
  for weights, bias in zip(head.weights, head.biases, strict=True):
    x = x + jax.nn.silu(x @ weights + bias)
  return jax.nn.log_softmax(x @ head.out + head.out_bias)


def stops_drafting(log_accepted: Float[Array, '*B'], threshold: float | Float[Array, '']) -> Bool[Array, '*B']:
  """Returns whether the probability that at least one draft is rejected is above `threshold`.

  Args:
    log_accepted: The sum of the log-probabilities of acceptance of all drafts.
    threshold: The threshold; 1 for never.
  """
  return -jnp.expm1(log_accepted) > threshold


@functools.partial(jax.jit, static_argnames=('blocks', 'steps'))
def fit_head(
  found: Acceptances, *, blocks: int, mismatch: float | Float[Array, ''], steps: int, rate: float | Float[Array, '']
) -> AcceptHead:
  """Fits a head by Adam to the cross-entropy with soft labels, in which rejections weigh `mismatch` times as much.

  Args:
    found: The drafts.
    blocks: The number of residual blocks.
    mismatch: The weight of rejections.
    steps: The number of steps, each over all drafts.
    rate: The learning rate.
  """
  weights = found.counts.astype(jnp.float32)

  def loss(head: AcceptHead) -> Float[Array, '']:
    rejected, accepted = jnp.moveaxis(log_probabilities(head, found.streams), -1, 0)
    terms = found.labels * accepted + mismatch * (1 - found.labels) * rejected
    return -(weights * terms).sum() / jnp.maximum(weights.sum(), 1)

  adam = optax.adam(rate)

  def step(carry: tuple[AcceptHead, optax.OptState], _: None) -> tuple[tuple[AcceptHead, optax.OptState], None]:
    head, state = carry
    change, state = adam.update(jax.grad(loss)(head), state)
    return (optax.apply_updates(head, change), state), None

  head = new_head(found.streams.shape[-1], blocks)
  return jax.lax.scan(step, (head, adam.init(head)), None, length=steps)[0][0]


@functools.partial(jax.jit, static_argnames=('model', 'draft_blocks'))
def acceptances(
  model: ActorCritic,
  params: Params,
  prompts: Prompts,
  tokens: Int[Array, 'N T'],
  length: Int[Array, 'N'],
  key: Key[Array, ''],
  *,
  draft_blocks: int,
  mixing: float | Float[Array, ''],
  sampling: Sampling,
) -> Acceptances:
  """Puts drafts in the place of most tokens of responses, and finds how likely the whole model accepts each behind the others.

  Args:
    model: Policy and critic with unrolled layers and one trunk.
    params: The parameters of policy and critic.
    prompts: `P` prompts.
    tokens: Responses of the policy, group-major.
    length: The number of tokens of each response.
    key: A random key.
    draft_blocks: The number of first blocks that draft.
    mixing: The share of tokens that stay the response's own.
    sampling: How logits become the distribution that is sampled. Greedy drafts have the probabilities of temperature 1.

  Returns:
    The drafts of all tokens but the first, `K = T - 1`.
  """
  sampling = jax.tree.map(jnp.asarray, sampling)
  greedy, (rows, width) = draws.is_greedy(sampling), tokens.shape
  samples = rows // prompts.lengths.shape[0]
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), samples)
  noise = jax.vmap(lambda t: draws.token_noise(keys, jnp.full(rows, t), 2))(jnp.arange(1, width))  # [K, N, 2]
  _, caches = prefill(model, params, prompts)
  cache = caches_of_samples(caches.policy, samples, columns=prompts.tokens.shape[1] + width)
  begun, longest = cache.lengths, (cache.lengths + width).max()

  def drafted(at: tuple[Array, Array]) -> Int[Array, 'N']:
    stream, uniform = at
    logits = draws.sampled_logits(model.readout(params, stream, draft_blocks), sampling)
    return draws.draw(logits, uniform, greedy)[0]

  def accepted(at: tuple[Array, Array, Array]) -> tuple[Float[Array, 'N'], Bool[Array, 'N']]:
    stream, state, token = at
    q = draws.sampled_logits(model.readout(params, stream, draft_blocks), sampling)
    p = draws.sampled_logits(model.logits(params, States(state, state)), sampling)
    drafting = draws.logprobs_of(q, token)  # -inf for a token that a truncation cuts off behind the mixed text
    possible = drafting > -jnp.inf
    ratio = draws.logprobs_of(p, token) - jnp.where(possible, drafting, 0)
    return jnp.where(possible, jnp.exp(jnp.minimum(ratio, 0)), 0), possible

  streams, _ = model.draft(params, tokens, cache, longest, draft_blocks)
  drafts = jax.lax.map(drafted, (streams[:, :-1].swapaxes(0, 1), noise[..., 0])).T  # a column at a time: logits are large
  own = mixing > noise[..., 1].T
  mixed = jnp.concatenate([tokens[:, :1], jnp.where(own, tokens[:, 1:], drafts)], axis=1)
  streams, read = model.draft(params, mixed, cache, longest, draft_blocks)
  verified, _ = model.verify(params, streams, read.replace(lengths=begun), longest, draft_blocks)
  columns = (x.swapaxes(0, 1) for x in (streams[:, :-1], verified.policy[:, :-1], mixed[:, 1:]))
  labels, possible = (x.T for x in jax.lax.map(accepted, tuple(columns)))
  return Acceptances(streams[:, 1:], labels, possible & ~own & (jnp.arange(1, width) < length[:, None]))
