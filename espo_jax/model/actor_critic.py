"""Policy and critic as one bundle: the critic is a value head on the policy's trunk, or a network of its own."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from espo_jax.model.cache import Cache, init_cache, repeat_rows
from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Decoder, Params, init_boxed


class States(flax.struct.PyTreeNode):
  """What the trunk knows about each token: enough for logits and a value."""

  policy: Float[Array, '... D']
  critic: Float[Array, '... D']  # the same array as `policy` under a shared trunk


class Caches(flax.struct.PyTreeNode):
  """The policy's cache, and the critic's where it has a trunk of its own."""

  policy: Cache
  critic: Cache | None


@dataclasses.dataclass(frozen=True)
class ActorCritic:
  """A hashable description of policy and critic; parameters are passed to its methods.

  Parameters are `{'policy': ...}`, with `'critic'` beside it when `separate_critic` is set.
  """

  config: ModelConfig
  separate_critic: bool = False

  @property
  def _policy(self) -> Decoder:
    return Decoder(self.config, value_head=not self.separate_critic)

  @property
  def _critic(self) -> Decoder:
    return Decoder(self.config, value_head=True)

  def init_boxed(self, key: PRNGKeyArray) -> PyTree:
    """Random parameters in boxes that name their logical axes. A separate critic starts like the policy."""
    params = {'policy': init_boxed(self.config, key, value_head=not self.separate_critic)}
    if self.separate_critic:
      params['critic'] = init_boxed(self.config, key, value_head=True)
    return params

  def init(self, key: PRNGKeyArray) -> Params:
    """Random parameters."""
    return nn.unbox(self.init_boxed(key))

  def critic_from_policy(self, params: Params) -> Params:
    """The parameters with a separate critic's trunk set to the policy's; its value head is left alone."""
    if not self.separate_critic:
      return params
    trunk = jax.tree.map(jnp.copy, params['policy'])
    return params | {'critic': trunk | {'value': params['critic']['value']}}

  def states(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    positions: Int[Array, 'B S'],
    valid: Bool[Array, 'B S'],
    caches: Caches | None = None,
  ) -> tuple[States, Any]:
    """Run the trunk, or both trunks, over tokens; return their states, and the caches with the tokens appended, if given."""

    def run(decoder: Decoder, name: str, cache: Cache | None) -> Any:
      return decoder.apply({'params': params[name]}, tokens, positions, valid, cache)

    policy, policy_cache = run(self._policy, 'policy', None if caches is None else caches.policy)
    critic, critic_cache = policy, None
    if self.separate_critic:
      critic, critic_cache = run(self._critic, 'critic', None if caches is None else caches.critic)
    return States(policy, critic), None if caches is None else Caches(policy_cache, critic_cache)

  def logits(self, params: Params, states: States) -> Float[Array, '... V']:
    """Next-token logits, float32."""
    logits: Any = self._policy.apply({'params': params['policy']}, states.policy, method='logits')
    return logits

  def values(self, params: Params, states: States) -> Float[Array, '...']:
    """State values, float32."""
    name, decoder = ('critic', self._critic) if self.separate_critic else ('policy', self._policy)
    values: Any = decoder.apply({'params': params[name]}, states.critic, method='values')
    return values

  def init_caches(self, batch: int, columns: int) -> Caches:
    """Empty caches."""
    critic = init_cache(self.config, batch, columns) if self.separate_critic else None
    return Caches(init_cache(self.config, batch, columns), critic)


def repeat_samples(states: States, caches: Caches, times: int) -> tuple[States, Caches]:
  """Each prompt's prefilled state, `times` times over."""
  states = jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), states)
  critic = None if caches.critic is None else repeat_rows(caches.critic, times)
  return states, Caches(repeat_rows(caches.policy, times), critic)
