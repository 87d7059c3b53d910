"""The calibration of learned exits by self-distillation (arXiv 2603.21376, stage 1).

The teacher is the frozen model at full depth. An exit should be likely where it changes the next-token distribution little, and
the model learns to predict the same distribution when it exits.

The target of an exit is measured on the student, whose exits improve as it learns, against the frozen teacher. With a lenient
`kappa` this runs away: only the exits that `kappa` finds good enough are trained, and full depth is forgotten. It happened
once, with `kappa = 1` (commit 4045f9d, `--config=experiments/early_exits.py --config.seed=7`). Two kinds of patterns beside
the paper's prevent it: whole patterns, and uniform patterns, by which an exit learns before it is likely.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.exits import exit_pmf, sampled
from espo_jax.learner.divergence import divergence
from espo_jax.learner.optimizer import guarded_step
from espo_jax.learner.packing import unpacked
from espo_jax.learner.state import TrainState, jit_update
from espo_jax.model import ActorCritic, Forced, Params, join_frozen, split_frozen
from espo_jax.objectives import masked_mean
from espo_jax.types import Metrics, Trajectories


class Sequences(NamedTuple):
  """Each prompt and response in one row, without padding in front."""

  tokens: Int[Array, 'N W']
  positions: Int[Array, 'N W']
  segments: Int[Array, 'N W']
  counts: Bool[Array, 'N W']  # a response token is drawn from the state after this token
  free: Bool[Array, 'N W']  # this token belongs to the response and may exit


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
  """Trains the exits against the model at full depth. The object is static under jit; its methods are pure functions.

  Attributes:
    model: The model, whose parameters include exit heads.
    optimizer: The stage's optimizer.
    kappa: The factor in the target hazard of an exit, `2 sigmoid(-kappa KL)`, where KL is the teacher's divergence from the
      distribution at that exit, in nats.
    patterns: The number of exit patterns that are drawn for each response from the target hazards.
    uniform_patterns: The number of further patterns in which all exits and no exit are equally likely (ours), so that exits
      that are still unlikely learn to agree as well. The heads learn nothing from them.
    whole_patterns: The number of further patterns without exits (ours), which keep the model at full depth as it is.
    divergence_weight: The weight of the divergence from the teacher under these exits.
    exit_weight: The weight of the exits' negative log-likelihood.
    temperature: The temperature at which teacher and student are compared.
    logit_chunk: The number of tokens whose logits are in memory at a time.
  """

  model: ActorCritic
  optimizer: optax.GradientTransformation
  kappa: float
  patterns: int
  uniform_patterns: int
  whole_patterns: int
  divergence_weight: float
  exit_weight: float
  temperature: float
  logit_chunk: int

  @jit_update
  def update(self, state: TrainState, teacher: Params, rows: Trajectories, key: Key[Array, '']) -> tuple[TrainState, Metrics]:
    """Makes one optimizer step on responses that the teacher has sampled.

    Args:
      state: The state before the step. Its buffers are donated.
      teacher: The parameters of the model that the exits learn to agree with.
      rows: The teacher's responses.
      key: The random key that draws the exits.
    """
    seqs = sequences(rows)
    trained, held = split_frozen(state.params, exits_alone=self.model.config.exits.alone)
    told = self.model.states(teacher, seqs.tokens, seqs.positions, seqs.segments).policy
    target = self._target(state.params, teacher, told, seqs)
    exits = self._draw(target, key)  # [K, N, W]
    many = jax.tree.map(lambda x: jnp.tile(x, (exits.shape[0], 1)), seqs)
    blocks = exits.reshape(many.tokens.shape)
    count = self.patterns * seqs.tokens.shape[0]
    drawn = many.free & many.counts & (jnp.arange(blocks.shape[0]) < count)[:, None]
    student = dataclasses.replace(self.model, exits=sampled(level=0.0))

    def loss(trained: Params) -> tuple[Float[Array, ''], Metrics]:
      params = join_frozen(trained, held)
      forced = Forced(blocks, many.free, jnp.zeros(()))
      states = student.states(params, many.tokens, many.positions, many.segments, forced)
      assert states.depth is not None
      whole = jnp.tile(told, (exits.shape[0], 1, 1))
      divergence = self._divergence((params, states.policy), (teacher, whole))
      apart, unlikely = masked_mean(divergence, many.counts), -masked_mean(states.depth.logprobs, drawn)
      value = self.divergence_weight * apart + self.exit_weight * unlikely
      return value, {'loss/divergence': apart, 'loss/exits': unlikely}

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    state, step_metrics = guarded_step(state, self.optimizer, value, grads)
    depth = masked_mean(blocks / self.model.config.num_layers, drawn)
    return state, metrics | step_metrics | {'exits/depth': depth}

  def _target(self, params: Params, teacher: Params, told: Float[Array, 'N W D'], seqs: Sequences) -> Float[Array, 'N W E']:
    """Returns the target hazards, from the divergence between the teacher and each exit of the student at full depth."""
    params = jax.lax.stop_gradient(params)
    streams = self.model.entering(params, seqs.tokens, seqs.positions, seqs.segments)[1]
    entered = self.model.leaving(params, streams, seqs.positions)
    apart = [self._divergence((teacher, told), (params, exit)) for exit in entered]
    return 2 * jax.nn.sigmoid(-self.kappa * jnp.stack(apart, axis=-1))

  def _draw(self, hazards: Float[Array, 'N W E'], key: Key[Array, '']) -> Int[Array, 'K N W']:
    """Draws the patterns as numbers of blocks: first those from the target hazards, then uniform ones, then whole ones."""
    kinds = (self.patterns, self.uniform_patterns, self.whole_patterns)
    noise = jax.random.uniform(key, (sum(kinds[:2]), *hazards.shape[:-1]))
    later = (jnp.cumsum(exit_pmf(hazards)[..., :-1], axis=-1) <= noise[: kinds[0], ..., None]).sum(-1)
    last = hazards.shape[-1]
    uniform = jnp.floor(noise[kinds[0] :] * (last + 1)).astype(later.dtype)
    whole = jnp.full((kinds[2], *hazards.shape[:-1]), last, later.dtype)
    blocks = jnp.array([*self.model.config.exit_blocks, self.model.config.num_layers])
    return blocks[jnp.concatenate([later, uniform, whole])]

  def _divergence(self, p: tuple[Params, Array], q: tuple[Params, Array]) -> Float[Array, 'N W']:
    return divergence(self.model, p, q, temperature=self.temperature, chunk=self.logit_chunk)


def sequences(rows: Trajectories) -> Sequences:
  """Moves each prompt to the beginning of its row, with its response behind it."""
  prompt_width, horizon = rows.prompt_tokens.shape[1], rows.tokens.shape[1]
  packing = unpacked(rows.prompt_lengths, horizon, prompt_width + horizon)
  index = jnp.asarray(packing.index)
  column = jnp.minimum((prompt_width - rows.prompt_lengths)[:, None] + index, prompt_width + horizon - 1)
  tokens = jnp.take_along_axis(jnp.concatenate([rows.prompt_tokens, rows.tokens], axis=1), column, axis=1)
  after = index + 1 - rows.prompt_lengths[:, None]  # index of the response token drawn from the state after this one
  counts = (after >= 0) & (after < rows.length[:, None])
  return Sequences(tokens, index, jnp.asarray(packing.segments), counts, counts & (after > 0))
