"""A model whose every token is known beforehand, for tests of what decodes."""

import jax
import jax.numpy as jnp
import numpy as np
from small import VOCAB

from espo_jax.model import ActorCritic, Cache, Caches, States

EOS, PAD = 1, 0
FOLLOWS = np.array([0, 5, 3, 4, EOS, 6, 7, 8, 9, 9])  # the token behind each token: 2 3 4 EOS, and 5 6 7 8 9 9 9 ...


class Known(ActorCritic):
  """After each token comes `FOLLOWS` of it; a state is the token, its value a tenth of that, and so is a cache's column."""

  def _read(self, tokens, cache):
    columns = cache.lengths[:, None] + jnp.arange(tokens.shape[1])
    rows = jnp.arange(tokens.shape[0])[:, None]
    keys = cache.keys[0].at[0, rows, columns, 0].set(tokens.astype(jnp.float32), mode='drop')
    return Cache((keys,), cache.values, cache.lengths + tokens.shape[1])

  def init_caches(self, batch, columns):
    side = (jnp.zeros((1, batch, columns, 1)),)
    cache = Cache(side, side, jnp.zeros(batch, jnp.int32))
    return Caches(cache, cache if self.separate_critic else None)

  def prefill(self, params, tokens, lengths, level=0.0):
    last = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1).astype(jnp.float32)
    side = (tokens.astype(jnp.float32)[None, :, :, None],)
    cache = Cache(side, side, lengths)
    return States(last, last), Caches(cache, cache if self.separate_critic else None)

  def logits(self, params, states):
    return 100.0 * jax.nn.one_hot(jnp.asarray(FOLLOWS)[states.policy[..., 0].astype(jnp.int32)], VOCAB)

  def values(self, params, states):
    return states.critic[..., 0] / 10

  def extend_policy(self, params, tokens, counts, states, caches, longest, deciding=None):
    state = tokens.astype(jnp.float32)
    critic = states.critic if self.separate_critic else state
    return States(state, critic), caches.replace(policy=self._read(tokens, caches.policy))

  def extend_critic(self, params, tokens, counts, caches, longest):
    return tokens.astype(jnp.float32)[..., None], caches.replace(critic=self._read(tokens, caches.critic))

  def draft(self, params, tokens, cache, longest, blocks):
    return tokens.astype(jnp.float32)[..., None], self._read(tokens, cache)

  def readout(self, params, stream, blocks):
    return self.logits(params, States(stream, stream))

  def verify(self, params, stream, cache, longest, blocks):
    return States(stream, stream), cache
