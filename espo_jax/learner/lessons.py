"""Exits that learn while the model is frozen, by a registered lesson (`espo_jax/exits/lessons.py`).

One pass of the frozen model gives the streams that enter the exits. They do not depend on what is trained, so that no gradient
goes through the blocks, and an update needs less memory than one that trains the model. Logits exist for one chunk of tokens at
a time.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from espo_jax.exits import Lesson, candidate_features, gate_statistics
from espo_jax.learner.calibration import sequences
from espo_jax.learner.chunks import by_chunk
from espo_jax.learner.optimizer import guarded_step
from espo_jax.learner.state import TrainState, jit_update
from espo_jax.model import ActorCritic, Params, States, join_frozen, likeliest, logits_among, split_frozen
from espo_jax.objectives import masked_mean
from espo_jax.registry import inputs
from espo_jax.types import Metrics, Trajectories


@dataclasses.dataclass(frozen=True, eq=False)
class LessonLearner:
  """Trains the exits' networks alone. The object is static under jit; its methods are pure functions.

  Attributes:
    model: The model, whose parameters include the exits' networks.
    optimizer: The stage's optimizer.
    lesson: The lesson, with its options.
    temperature: The temperature of all distributions.
    logit_chunk: The number of tokens whose logits are in memory at a time.
  """

  model: ActorCritic
  optimizer: optax.GradientTransformation
  lesson: Lesson
  temperature: float
  logit_chunk: int

  @jit_update
  def update(self, state: TrainState, rows: Trajectories, step: Int[Array, '']) -> tuple[TrainState, Metrics]:
    """Makes one optimizer step on responses that the model has sampled at full depth.

    Args:
      state: The state before the step. Its buffers are donated.
      rows: The responses.
      step: The number of the update; the first is 1.
    """
    seqs = sequences(rows)
    trained, held = split_frozen(state.params, exits_alone=True)
    whole, streams = self.model.entering(state.params, seqs.tokens, seqs.positions, seqs.segments)

    def loss(trained: Params) -> tuple[Float[Array, ''], Metrics]:
      seen = self.seen(join_frozen(trained, held), rows, whole, streams) | {'step': lambda: step}
      return self.lesson(*(seen[name]() for name in inputs(self.lesson)))

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    before = state.replace(opt_state=jax.device_put(state.opt_state, jax.memory.Space.Device))
    after, step_metrics = guarded_step(before, self.optimizer, value, grads)
    return _at_rest(grads, after, before), metrics | step_metrics

  def seen(
    self, params: Params, rows: Trajectories, whole: Float[Array, 'N W D'], streams: Float[Array, 'E N W D']
  ) -> dict[str, Callable[[], object]]:
    """Returns what a lesson may read, apart from the number of the update; see `exits.lessons.SEEN`.

    Logits are computed for the states before the tokens of a response alone, because prompts have most of the columns.

    Args:
      params: The parameters.
      rows: The responses.
      whole: The states of the model at full depth.
      streams: The streams that enter the exits.
    """
    config, blocks = self.model.config, self.model.config.exit_blocks
    positions = jnp.broadcast_to(jnp.arange(whole.shape[1]), whole.shape[:2])
    index = rows.prompt_lengths[:, None] - 1 + jnp.arange(rows.tokens.shape[1])
    row = jnp.arange(len(index))[:, None]
    hidden = self.model.leaving(params, streams, positions)[:, row, index]
    whole = whole[row, index]

    def logits(states: Float[Array, 'N C D'], temperature: float = 1.0) -> Float[Array, 'N C V']:
      return self.model.logits(params, States(states, states)) / (self.temperature * temperature)

    def at_exits(function: Callable[..., Array], *beside: Array) -> Float[Array, 'E N T']:
      return jnp.stack([by_chunk(function, self.logit_chunk, left, *beside) for left in hidden])

    def loss(states: Float[Array, 'N C D'], chosen: Int[Array, 'N C']) -> Float[Array, 'N C']:
      logprobs = jax.nn.log_softmax(logits(states))
      return -(logprobs * jax.nn.one_hot(chosen, logprobs.shape[-1])).sum(-1)

    def losses() -> Float[Array, 'F N T']:
      own = by_chunk(loss, self.logit_chunk, whole, rows.tokens)
      return jnp.concatenate([at_exits(loss, rows.tokens), own[None]])

    def divergence(temperature: float) -> Float[Array, 'E N T']:
      def apart(said: Float[Array, 'N C D'], told: Float[Array, 'N C D']) -> Float[Array, 'N C']:
        q, p = (jax.nn.log_softmax(logits(states, temperature)) for states in (said, told))
        return (jnp.exp(p) * (p - q)).sum(-1)

      return at_exits(apart, whole)

    def rank(said: Float[Array, 'N C D'], told: Float[Array, 'N C D']) -> Int[Array, 'N C']:
      likeliest, told = logits(said).argmax(-1, keepdims=True), logits(told)
      return (told > jnp.take_along_axis(told, likeliest, axis=-1)).sum(-1)

    def gates() -> Float[Array, 'E N T']:
      if config.exits.kind in ('statistics', 'candidates'):
        left = jax.lax.stop_gradient(hidden)
        seen = self._statistics(logits, left) if config.exits.kind == 'statistics' else self._features(params, left)
        return self.model.gates(params, streams[:, row, index], index, seen)
      return self.model.gates(params, streams, positions)[:, row, index]

    local = np.arange(len(blocks)) * 2 < len(blocks)
    local &= config.exits.translator == 'local_global'
    return {
      'gates': gates,
      'losses': losses,
      'divergence': lambda: divergence,
      'ranks': lambda: at_exits(rank, whole),
      'hidden': lambda: hidden,
      'whole': lambda: whole,
      'depths': lambda: jnp.array([*blocks, config.num_layers]) / config.num_layers,
      'alike': lambda: jnp.where(local, local.sum() - 1, len(blocks) - 1),
      'mean': lambda: functools.partial(masked_mean, mask=rows.mask),
    }

  def _statistics(self, logits: Callable[[Array], Array], hidden: Float[Array, 'E N T D']) -> Float[Array, 'E N T 4']:
    """Returns what gates read of the exits' distributions."""

    def read(states: Float[Array, 'N C D']) -> tuple[Array, ...]:
      return tuple(jnp.moveaxis(gate_statistics(logits(states) * self.temperature), -1, 0))

    return jnp.stack([jnp.stack(by_chunk(read, self.logit_chunk, jax.lax.stop_gradient(left)), axis=-1) for left in hidden])

  def _features(self, params: Params, hidden: Float[Array, 'E N T D']) -> Float[Array, 'E N T F']:
    """Returns what gates read of the candidates, which the first exit proposes."""
    config = self.model.config

    def read(*lefts: Float[Array, 'N C D']) -> tuple[Array, ...]:
      tokens = likeliest(self.model.logits(params, States(lefts[0], lefts[0])), config)
      seen: list[Array] = []
      local = jnp.zeros(tokens.shape)
      for left in lefts:
        features, local = candidate_features(logits_among(config, params['policy'], left, tokens), local)
        seen.extend(jnp.moveaxis(features, -1, 0))
      return tuple(seen)

    found = jnp.stack(by_chunk(read, self.logit_chunk, *hidden), axis=-1)
    return jnp.moveaxis(found.reshape(*found.shape[:-1], len(hidden), -1), -2, 0)


def _at_rest(grads: Params, after: TrainState, before: TrainState) -> TrainState:
  """Returns `after`, with the arrays without any gradient and their moments as in `before`.

  A lesson that trains its networks in turn gives the others no gradient. Without this, momentum would move them.
  """
  resting = {_keys(path): ~(grad != 0).any() for path, grad in jax.tree_util.tree_leaves_with_path(grads)}

  def kept(path: tuple[Any, ...], new: Array, old: Array) -> Array:
    keys = _keys(path)  # those of a moment end with those of its parameter
    for name, rests in resting.items():
      if keys[-len(name) :] == name:
        return jnp.where(rests, old, new)
    return new

  return jax.tree_util.tree_map_with_path(kept, after, before)


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
