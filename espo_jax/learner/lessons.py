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
from espo_jax.learner.divergence import divergence
from espo_jax.learner.optimizer import guarded_step
from espo_jax.learner.state import TrainState, jit_update
from espo_jax.model import ActorCritic, Params, States, is_local, join_frozen, likeliest, logits_among, split_frozen
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
    state, step_metrics = guarded_step(state, self.optimizer, value, grads, rests=True)
    return state, metrics | step_metrics

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
    index = rows.prompt_lengths[:, None] - 1 + jnp.arange(rows.tokens.shape[1])
    row = jnp.arange(len(index))[:, None]
    positions = jnp.broadcast_to(jnp.arange(whole.shape[1]), whole.shape[:2])
    whole = whole[row, index]

    def read(networks: Callable[..., Array], *beside: object, mixes: bool) -> Any:
      """Applies networks of the exits to these states. Those that mix a token with earlier ones read whole sequences."""
      if mixes:
        return networks(params, streams, positions, *beside)[:, row, index]
      return networks(params, streams[:, row, index], index, *beside)

    hidden = read(self.model.leaving, mixes=config.exits.translator == 'local_global')

    def logits(states: Float[Array, 'N C D']) -> Float[Array, 'N C V']:
      return self.model.logits(params, States(states, states)) / self.temperature

    def at_exits(function: Callable[..., Array], *beside: Array) -> Float[Array, 'E N T']:
      return jnp.stack([by_chunk(function, self.logit_chunk, left, *beside) for left in hidden])

    def loss(states: Float[Array, 'N C D'], chosen: Int[Array, 'N C']) -> Float[Array, 'N C']:
      logprobs = jax.nn.log_softmax(logits(states))
      return -(logprobs * jax.nn.one_hot(chosen, logprobs.shape[-1])).sum(-1)

    def losses() -> Float[Array, 'F N T']:
      own = by_chunk(loss, self.logit_chunk, whole, rows.tokens)
      return jnp.concatenate([at_exits(loss, rows.tokens), own[None]])

    def apart(temperature: float) -> Float[Array, 'E N T']:
      scaled = functools.partial(divergence, temperature=self.temperature * temperature, chunk=self.logit_chunk)
      return jnp.stack([scaled(self.model, (params, whole), (params, left)) for left in hidden])

    def rank(said: Float[Array, 'N C D'], told: Float[Array, 'N C D']) -> Int[Array, 'N C']:
      likeliest, told = logits(said).argmax(-1, keepdims=True), logits(told)
      return (told > jnp.take_along_axis(told, likeliest, axis=-1)).sum(-1)

    def gates() -> Float[Array, 'E N T']:
      seen, left = None, jax.lax.stop_gradient(hidden)
      if config.exits.kind == 'statistics':
        seen = self._statistics(params, left)
      elif config.exits.kind == 'candidates':
        seen = self._features(params, left)
      return read(self.model.gates, seen, mixes=config.exits.kind == 'recurrence')

    local = np.array([is_local(config, head) for head in range(len(blocks))])
    return {
      'gates': gates,
      'losses': losses,
      'divergence': lambda: apart,
      'ranks': lambda: at_exits(rank, whole),
      'hidden': lambda: hidden,
      'whole': lambda: whole,
      'depths': lambda: jnp.array([*blocks, config.num_layers]) / config.num_layers,
      'alike': lambda: jnp.where(local, local.sum() - 1, len(blocks) - 1),
      'mean': lambda: functools.partial(masked_mean, mask=rows.mask),
    }

  def _statistics(self, params: Params, hidden: Float[Array, 'E N T D']) -> Float[Array, 'E N T 4']:
    """Returns what gates read of the exits' distributions, which are those of temperature 1, as in decoding."""

    def read(states: Float[Array, 'N C D']) -> tuple[Array, ...]:
      return tuple(jnp.moveaxis(gate_statistics(self.model.logits(params, States(states, states))), -1, 0))

    return jnp.stack([jnp.stack(by_chunk(read, self.logit_chunk, left), axis=-1) for left in hidden])

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
