"""Policy and critic as one bundle: the critic is a value head on the policy's trunk, a separate network, or one number.

A model has a critic where its advantages come from one. Elsewhere the value is one number among the parameters: it is frozen
during a rollout and checkpointed, and the stop rule and the engine read it as they read any value. This is ours, because no
paper runs ESPO without a critic.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from espo_jax import parallel
from espo_jax.exits.policy import ExitPolicy
from espo_jax.exits.routes import route_of
from espo_jax.model.cache import Cache, init_cache, refill
from espo_jax.model.config import ExitHeads, ModelConfig
from espo_jax.model.decoder import Decoder, Params, init_boxed
from espo_jax.model.depth import Deciding, Forced
from espo_jax.model.prefill import Columns, Read, prefill
from espo_jax.types import Depth


class States(flax.struct.PyTreeNode):
  """The hidden states of tokens, from which logits and values are computed."""

  policy: Float[Array, '... D']
  critic: Float[Array, '... D']  # the same array as `policy` where the trunk is shared
  depth: Depth | None = None  # depth in the policy's trunk; None where the model has no exits


class Caches(flax.struct.PyTreeNode):
  """The cache of the policy, and that of a separate critic."""

  policy: Cache
  critic: Cache | None

  def of_lengths(self, lengths: Int[Array, 'B']) -> 'Caches':
    """The caches whose rows count so many tokens. The columns behind them are kept."""
    critic = None if self.critic is None else self.critic.replace(lengths=lengths)
    return Caches(self.policy.replace(lengths=lengths), critic)


@dataclasses.dataclass(frozen=True)
class ActorCritic:
  """A hashable description of policy and critic. Its methods take the parameters as an argument.

  | setting | parameters | value of a state |
  |---|---|---|
  | default | `{'policy': ...}` | a value head on the policy's trunk |
  | `separate_critic` | `{'policy': ..., 'critic': ...}` | the value head of a separate trunk |
  | `critic_free` | `{'policy': ..., 'critic': {'success': ...}}` | the number `success`, the same for every state |

  The learner sets `success` to the policy's running success rate, so that a stop rule has a value to compare with under
  objectives that train no critic (ours).

  Attributes:
    config: The shape of the decoder.
    separate_critic: Whether the critic has its own trunk.
    critic_free: Whether there is no critic but one number.
    exits: The exit policy for the tokens of a response; None for full depth. Prompts are always read at full depth.
  """

  config: ModelConfig
  separate_critic: bool = False
  critic_free: bool = False
  exits: ExitPolicy | None = None

  @property
  def _policy(self) -> Decoder:
    return Decoder(self.config, value_head=self._shares_trunk, exits=self.exits)

  @property
  def _shares_trunk(self) -> bool:
    return not (self.separate_critic or self.critic_free)

  @property
  def _critic(self) -> Decoder:
    return Decoder(self._critic_config, value_head=True)

  @property
  def _critic_config(self) -> ModelConfig:
    return dataclasses.replace(self.config, exits=ExitHeads())  # a separate critic always runs at full depth

  def init_boxed(self, key: PRNGKeyArray) -> PyTree:
    """Random parameters in boxes that name their logical axes. A separate critic is drawn with the same key as the policy."""
    params = {'policy': init_boxed(self.config, key, value_head=self._shares_trunk)}
    if self.separate_critic:
      params['critic'] = init_boxed(self._critic_config, key, value_head=True)
    if self.critic_free:
      params['critic'] = {'success': jnp.zeros(())}
    return params

  def init(self, key: PRNGKeyArray) -> Params:
    """Random parameters."""
    return nn.unbox(self.init_boxed(key))

  def critic_from_policy(self, params: Params) -> Params:
    """The parameters with a separate critic's trunk set to the policy's; its value head does not change."""
    if not self.separate_critic:
      return params
    trunk = {name: jax.tree.map(jnp.copy, part) for name, part in params['policy'].items() if name != 'exit_heads'}
    return params | {'critic': trunk | {'value': params['critic']['value']}}

  def states(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    positions: Int[Array, 'B S'],
    segments: Int[Array, 'B S'],
    forced: Forced | None = None,
    prompts: Int[Array, 'B S'] | None = None,
  ) -> States:
    """Run the trunk, or both trunks, over whole sequences.

    Args:
      params: The parameters of policy and critic.
      tokens: Token ids.
      positions: The tokens' positions, which RoPE reads.
      segments: The number of the sequence that each token belongs to; 0 is padding. Several may share a row.
      forced: The depth of each token in the policy's trunk; None for full depth.
      prompts: The segment of the prompt that each token attends to beside its own segment; None for none.
    """
    out: Any = self._policy.apply({'params': params['policy']}, tokens, positions, segments, forced, prompts)
    policy, _, depth = out
    if not self.separate_critic:
      return States(policy, policy, depth)
    critic: Any = self._critic.apply({'params': params['critic']}, tokens, positions, segments, None, prompts)[0]
    return States(policy, critic, depth)

  def entering(
    self, params: Params, tokens: Int[Array, 'B S'], positions: Int[Array, 'B S'], segments: Int[Array, 'B S']
  ) -> tuple[Float[Array, 'B S D'], Float[Array, 'E B S D']]:
    """The policy's states and the streams at its exits for whole sequences: see `Decoder.entering`."""
    out: Any = self._policy.apply({'params': params['policy']}, tokens, positions, segments, method='entering')
    return out

  def routing(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    positions: Int[Array, 'B S'],
    segments: Int[Array, 'B S'],
  ) -> tuple[Float[Array, 'B S D'], Columns, Float[Array, 'B S L']]:
    """The policy's states and cache columns of prompts, and what its routers say: see `Decoder.routing`."""
    out: Any = self._policy.apply({'params': params['policy']}, tokens, positions, segments, method='routing')
    return out

  def leaving(self, params: Params, streams: Float[Array, 'E B S D'], positions: Int[Array, 'B S']) -> Float[Array, 'E B S D']:
    """The hidden states of an exit at each exit block: see `Decoder.leaving`."""
    out: Any = self._policy.apply({'params': params['policy']}, streams, positions, method='leaving')
    return out

  def gates(
    self,
    params: Params,
    streams: Float[Array, 'E B S D'],
    positions: Int[Array, 'B S'],
    seen: Float[Array, 'E B S F'] | None = None,
  ) -> Float[Array, 'E B S']:
    """The logits of the exits' gates: see `Decoder.gates`."""
    out: Any = self._policy.apply({'params': params['policy']}, streams, positions, seen, method='gates')
    return out

  def prefill(
    self, params: Params, tokens: Int[Array, 'B L'], lengths: Int[Array, 'B'], level: float | Float[Array, ''] = 0.0
  ) -> tuple[States, Caches]:
    """The states of each row's last token, and caches of `L` columns with all tokens.

    Args:
      params: The parameters of policy and critic.
      tokens: Prompts, padded on the right.
      lengths: The number of tokens of each prompt, at least 1.
      level: The level of the exit policy; unused without a router.
    """
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    width, router = self.config.hidden_size, None if self.exits is None else self.exits.router

    def network(decoder: Decoder, name: str) -> tuple[Read, Cache]:
      def read(tokens: Array, positions: Array, segments: Array) -> tuple[Array, Columns]:
        if name == 'policy' and router is not None:
          hidden, columns, keep = self.routing(params, tokens, positions, segments)
          runs = router(keep, jnp.asarray(level, jnp.float32))  # beside the state, because it belongs to the last token too
          return jnp.concatenate([hidden, runs.astype(hidden.dtype)], axis=-1), columns
        out: Any = decoder.apply({'params': params[name]}, tokens, positions, segments)
        return out[:2]

      return read, init_cache(decoder.config, *tokens.shape)

    networks = [network(self._policy, 'policy'), *([network(self._critic, 'critic')] if self.separate_critic else [])]
    beside = 0 if router is None else self.config.num_layers
    (policy, cache), *others = prefill(networks, tokens, lengths, width + beside)
    depth = None
    if self.exits is not None:
      route = None if router is None else route_of(policy[:, width:] > 0)
      depth = Depth(jnp.full(lengths.shape, self.config.num_layers, jnp.int32), jnp.zeros(lengths.shape), route)
    critic, critic_cache = others[0] if others else (policy, None)
    return States(policy[:, :width], critic[:, :width], depth), Caches(cache, critic_cache)

  def extend_policy(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    counts: Int[Array, 'B'],
    states: States,
    caches: Caches,
    longest: Int[Array, ''],
    deciding: Deciding | None = None,
  ) -> tuple[States, Caches]:
    """Append tokens to the policy's cache: see `Decoder.extend`. The state of a separate critic does not change."""
    hidden, cache, depth = self._extend(self._policy, params['policy'], tokens, counts, caches.policy, longest, deciding)
    critic = states.critic if self.separate_critic else hidden[:, -1]
    depth = None if depth is None else jax.tree.map(lambda x: x[:, -1], depth)
    return States(hidden[:, -1], critic, depth), caches.replace(policy=cache)

  def extend_critic(
    self, params: Params, tokens: Int[Array, 'B S'], counts: Int[Array, 'B'], caches: Caches, longest: Int[Array, '']
  ) -> tuple[Float[Array, 'B S D'], Caches]:
    """Append tokens to a separate critic's cache; return the critic's state after each token, and the caches."""
    assert caches.critic is not None
    hidden, cache, _ = self._extend(self._critic, params['critic'], tokens, counts, caches.critic, longest)
    return hidden, caches.replace(critic=cache)

  def extend_both(
    self, params: Params, tokens: Int[Array, 'B S'], caches: Caches, longest: Int[Array, '']
  ) -> tuple[States, Caches]:
    """Append tokens to all caches at full depth; return the states after each token, and the caches."""
    counts = jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32)
    hidden, cache, _ = self._extend(self._policy, params['policy'], tokens, counts, caches.policy, longest)
    if not self.separate_critic:
      return States(hidden, hidden), caches.replace(policy=cache)
    critic, caches = self.extend_critic(params, tokens, counts, caches, longest)
    return States(hidden, critic), caches.replace(policy=cache)

  def _extend(
    self,
    decoder: Decoder,
    params: Params,
    tokens: Array,
    counts: Array,
    cache: Cache,
    longest: Array,
    deciding: Deciding | None = None,
  ) -> tuple[Array, Cache, Depth | None]:
    out: Any = decoder.apply({'params': params}, tokens, counts, cache, longest, deciding, method='extend')
    return out

  def draft(
    self, params: Params, tokens: Int[Array, 'B S'], cache: Cache, longest: Int[Array, ''], blocks: int
  ) -> tuple[Float[Array, 'B S D'], Cache]:
    """Run new tokens through the policy's first `blocks` blocks: see `Decoder.draft`."""
    out: Any = self._policy.apply({'params': params['policy']}, tokens, cache, longest, blocks, method='draft')
    return out

  def verify(
    self, params: Params, stream: Float[Array, 'B S D'], cache: Cache, longest: Int[Array, ''], blocks: int
  ) -> tuple[States, Cache]:
    """Run the streams that `draft` returned through the other blocks: see `Decoder.verify`."""
    out: Any = self._policy.apply({'params': params['policy']}, stream, cache, longest, blocks, method='verify')
    hidden, cache = out
    return States(hidden, hidden), cache

  def readout(self, params: Params, stream: Float[Array, '... D'], blocks: int) -> Float[Array, '... V']:
    """The logits of a residual stream behind `blocks` blocks: see `Decoder.readout`."""
    logits: Any = self._policy.apply({'params': params['policy']}, stream, blocks, method='readout')
    return logits

  def logits(self, params: Params, states: States) -> Float[Array, '... V']:
    """Next-token logits, float32."""
    logits: Any = self._policy.apply({'params': params['policy']}, states.policy, method='logits')
    return logits

  def values(self, params: Params, states: States) -> Float[Array, '...']:
    """State values, float32."""
    if self.critic_free:
      return jnp.broadcast_to(jax.lax.stop_gradient(params['critic']['success']), states.critic.shape[:-1])
    name, decoder = ('critic', self._critic) if self.separate_critic else ('policy', self._policy)
    values: Any = decoder.apply({'params': params[name]}, states.critic, method='values')
    return values

  def init_caches(self, batch: int, columns: int) -> Caches:
    """Empty caches."""
    critic = init_cache(self._critic_config, batch, columns) if self.separate_critic else None
    return Caches(init_cache(self.config, batch, columns), critic)


def refill_rows(
  states: States,
  caches: Caches,
  prompts: tuple[States, Caches],
  source: Int[Array, 'R'],
  target: Int[Array, 'R'],
  behind: Int[Array, 'R'] | int = 0,
) -> tuple[States, Caches]:
  """Reset the rows `target` to the prompts `source` and `behind` columns more. A target past the last row is ignored."""
  prompt_states, prompt_caches = prompts
  states = jax.tree.map(lambda old, new: old.at[target].set(new[source]), states, prompt_states)
  critic = None
  if caches.critic is not None and prompt_caches.critic is not None:
    critic = refill(caches.critic, prompt_caches.critic, source, target, behind)
  return states, Caches(refill(caches.policy, prompt_caches.policy, source, target, behind), critic)


def picked_rows(states: States, caches: Caches, source: Int[Array, 'B']) -> tuple[States, Caches]:
  """The states and caches whose row `n` is the row `source[n]`."""

  def picked(cache: Cache) -> Cache:
    keys, values = jax.tree.map(
      lambda x: jnp.take(x, source, axis=x.ndim - 3), (cache.keys, cache.values)
    )  # rows come third to last
    heads = None if cache.heads is None else cache.heads[:, source]
    return Cache(keys, values, cache.lengths[source], heads)

  critic = None if caches.critic is None else picked(caches.critic)
  return jax.tree.map(lambda x: x[source], states), Caches(picked(caches.policy), critic)


def spread_rows(tree: tuple[States, Caches], mesh: jax.sharding.Mesh) -> tuple[States, Caches]:
  """`tree` with rows split over the mesh's batch axes and key-value heads over the tensor axis."""

  def constrain(path: tuple, x: Array) -> Array:
    names = {getattr(entry, 'name', '') for entry in path}
    heads = (None,) * (x.ndim - 4) + ('tensor',) if names & {'keys', 'values'} else ()  # there rows come third to last
    heads = (None,) if 'heads' in names else heads
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, PartitionSpec(*heads, *parallel.BATCH)))

  return jax.tree_util.tree_map_with_path(constrain, tree)
