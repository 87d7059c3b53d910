"""The sampler of an experiment: the rollout engines with the arguments of one config, for all code that samples or compiles."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from espo_jax import parallel
from espo_jax.decoders import Beams
from espo_jax.model import ActorCritic, Params
from espo_jax.rollout.accept_head import Acceptances, acceptances
from espo_jax.rollout.beams import search
from espo_jax.rollout.engine import generate
from espo_jax.rollout.features import directions
from espo_jax.rollout.probes import Probed, generate_probed
from espo_jax.rollout.processors import Processor
from espo_jax.rollout.reuse import Reuse
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.serial import Serial, generate_serial
from espo_jax.rollout.speculative import Accepting, Speculation, speculate
from espo_jax.rollout.turns import Decoding, Observations, Paused, Turns, begin, finished, go_on
from espo_jax.stops import Adaptive, Probing, StopRule, never
from espo_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
  """Samples responses with the options of one experiment: `sampler(params, rule, adaptive, prompts, key)` returns rows.

  Attributes:
    model: Policy and critic.
    mesh: The mesh that parameters and prompts are on. Its devices need not exist to lower a program.
    samples: The number of responses per prompt.
    horizon: The most tokens of a response.
    end_tokens: Token ids that end a response.
    pad_token: The token that fills the columns after a response.
    sampling: How logits become the distribution that is sampled; its numbers are on the host.
    shadow_share: The share of rows that go on decoding after a stop.
    slots: The number of rows decoded at a time; 0 for all of them.
    scan_length: The most decode steps per chunk, after which decoded tokens are written out.
    critic_every: The number of tokens that a separate critic reads at a time.
    draft_blocks: The number of first blocks that draft in `speculate`.
    draft_tokens: The most tokens drafted at a time in `speculate`.
    serial: The options of the serial rollout (S-GRPO); None where all rows are full responses.
    reuse: How the drafts of prompts are verified; None where rows start behind their prompts.
    turns: The options of episodes; None without an environment.
    exit_level: The level of the model's exit policy; None for the policy's own.
    features: The number of directions onto which states are projected to be recorded; 0 records no features of states.
    processor: The change of the logits of each token of full responses; None for none.
  """

  model: ActorCritic
  mesh: jax.sharding.Mesh
  samples: int
  horizon: int
  end_tokens: tuple[int, ...]
  pad_token: int
  sampling: Sampling
  shadow_share: float
  slots: int
  scan_length: int
  critic_every: int
  draft_blocks: int
  draft_tokens: int
  serial: Serial | None = None
  reuse: Reuse | None = None
  turns: Turns | None = None
  exit_level: float | None = None
  features: int = 0
  processor: Processor | None = None

  def __call__(self, params: Params, rule: StopRule, adaptive: Adaptive, prompts: Prompts, key: Key[Array, '']) -> Trajectories:
    """Samples `samples` responses per prompt.

    Args:
      params: The parameters of policy and critic.
      rule: The stop rule.
      adaptive: The state that the rule carries from batch to batch; constant during the rollout.
      prompts: `P` prompts.
      key: This step's random key.

    Returns:
      `N = P * samples` rows, group-major, split over the mesh's batch axes.

    Raises:
      ValueError: The sampler has turns, between which an environment speaks.
    """
    if self.turns is not None:
      raise ValueError('Sampler: turns is set, and a call samples one turn; fix: stages.episodes.play, or turns = None')
    engine, options = self._engine(self._put)
    return self._lay(engine(self.model, params, rule, adaptive, prompts, key, **options))

  def plain(
    self,
    *,
    samples: int,
    temperature: float | None = None,
    shadow_share: float = 0.0,
    exit_level: float | None = None,
    features: int = 0,
    processor: Processor | None = None,
  ) -> 'Sampler':
    """Returns a sampler of full responses only, even where training uses the serial rollout or drafts.

    Args:
      samples: The number of responses per prompt.
      temperature: The temperature, 0 for greedy decoding; None for that of training.
      shadow_share: The share of rows that go on decoding after a stop.
      exit_level: The level of the model's exit policy; None for the policy's own.
      features: The number of directions onto which states are projected to be recorded; 0 records no features of states.
      processor: The change of the logits of each token; None for none.
    """
    sampling = self.sampling if temperature is None else self.sampling.replace(temperature=temperature)
    return dataclasses.replace(
      self,
      samples=samples,
      sampling=sampling,
      shadow_share=shadow_share,
      exit_level=exit_level,
      features=features,
      processor=processor,
      serial=None,
      reuse=None,
    )

  def speculate(
    self, params: Params, prompts: Prompts, key: Key[Array, ''], accepting: Accepting | None = None
  ) -> tuple[Trajectories, Speculation]:
    """Samples full responses from the full-depth model by speculative decoding, without a stop rule.

    Args:
      params: The parameters of policy and critic.
      prompts: `P` prompts.
      key: This step's random key.
      accepting: When a row stops drafting; None for the same number of drafts in all rows.

    Returns:
      The rows, and the statistics of drafting.
    """
    rows, counts = speculate(
      self.model,
      params,
      prompts,
      key,
      samples=self.samples,
      horizon=self.horizon,
      end_tokens=self.end_tokens,
      pad_token=self.pad_token,
      draft_blocks=self.draft_blocks,
      draft_tokens=self.draft_tokens,
      sampling=self._put(self._sampling),
      accepting=accepting,
    )
    return self._lay(rows), counts

  def acceptances(
    self, params: Params, prompts: Prompts, rows: Trajectories, key: Key[Array, ''], *, mixing: float
  ) -> Acceptances:
    """Finds how likely the whole model accepts drafts in the texts of full responses: see `accept_head.acceptances`."""
    options = {'draft_blocks': self.draft_blocks, 'mixing': np.float32(mixing), 'sampling': self._put(self._sampling)}
    return acceptances(self.model, params, prompts, rows.tokens, rows.length, key, **options)

  def probe(self, params: Params, probing: Probing, prompts: Prompts, key: Key[Array, '']) -> Probed:
    """Samples full responses without a stop rule, and asks on the way for their answers."""
    return generate_probed(self.model, params, prompts, key, probing=probing, **self._options(self._put))

  def search(self, params: Params, beams: Beams, prompts: Prompts, key: Key[Array, '']) -> tuple[Trajectories, Int[Array, 'N']]:
    """Searches with `samples` beams per prompt; returns the final beams, and the tokens drawn at the place of each."""
    sampling = self._put(self._sampling)
    return self._lay(search(self._decoding(never()), params, prompts, key, beams=beams, sampling=sampling))

  def begin(self, params: Params, rule: StopRule, adaptive: Adaptive, prompts: Prompts, key: Key[Array, '']) -> Paused:
    """Decodes the first turn of each row; the arguments are those of a call."""
    return begin(self._decoding(rule), params, adaptive, prompts, key, **self._put(self._first_turn))

  def go_on(
    self, params: Params, rule: StopRule, paused: Paused, prompts: Prompts, observed: Observations, number: int
  ) -> Paused:
    """Appends observations and decodes turn `number`, which is at least 1. The buffers of `paused` are donated."""
    assert self.turns is not None
    ahead = paused, prompts, observed, self._put(np.int32(number))
    return go_on(self._decoding(rule), params, *ahead, reset_rule=self.turns.reset_rule, **self._put(self._every_turn))

  def finished(self, paused: Paused, prompts: Prompts, done: Bool[Array, 'N']) -> Trajectories:
    """Returns the rows of episodes, of which the environments have ended those that are `done`."""
    return _finished(parallel.over_batch(self.mesh))(paused, prompts, done, samples=self.samples)

  def lower(self, params: Any, rule: StopRule, adaptive: Any, prompts: Any, key: Any) -> jax.stages.Lowered:
    """Returns the lowered program of a call, from abstract arguments (`jax.ShapeDtypeStruct` with shardings).

    With turns it is the program of the first one.
    """
    if self.turns is not None:
      traced = self._described(self._first_turn)
      return begin.lower(self._decoding(rule), params, adaptive, prompts, key, **traced)
    engine, options = self._engine(self._described)
    return engine.lower(self.model, params, rule, adaptive, prompts, key, **options)

  def describe(self, params: Any, rule: StopRule, adaptive: Any, prompts: Any, key: Any) -> Trajectories:
    """Returns the shapes, dtypes and shardings of the rows that a call or episodes return, from abstract arguments."""
    if self.turns is not None:
      paused = self.describe_paused(params, rule, adaptive, prompts, key)
      rows = finished.eval_shape(paused, prompts, jax.ShapeDtypeStruct(paused.turn.shape[:1], np.bool_), samples=self.samples)
    else:
      engine, options = self._engine(self._described)
      rows = engine.eval_shape(self.model, params, rule, adaptive, prompts, key, **options)
    return self._over_batch(rows)

  def describe_paused(self, params: Any, rule: StopRule, adaptive: Any, prompts: Any, key: Any) -> Paused:
    """Returns the shapes, dtypes and shardings of the rows after a turn, from abstract arguments."""
    traced = self._described(self._first_turn)
    return self._over_batch(begin.eval_shape(self._decoding(rule), params, adaptive, prompts, key, **traced))

  def lower_turn(self, params: Any, rule: StopRule, paused: Any, prompts: Any, observed: Any) -> jax.stages.Lowered:
    """Returns the lowered program of a turn after the first, from abstract arguments."""
    assert self.turns is not None
    ahead = paused, prompts, observed, self._described(np.int32(1))
    traced = self._described(self._every_turn)
    return go_on.lower(self._decoding(rule), params, *ahead, reset_rule=self.turns.reset_rule, **traced)

  def _engine(self, place: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the jitted engine of this sampler and its options. `place` turns the options that are traced into arrays."""
    options = self._options(place)
    if self.serial is not None:
      return generate_serial, options | {'serial': self.serial}
    level = self.exit_level
    if level is None:
      level = self.model.exits.level if self.model.exits else 0.0
    traced: dict[str, Any] = {'shadow_share': np.float32(self.shadow_share), 'exit_level': np.float32(level)}
    if self.features:
      traced['directions'] = directions(self.model.config.hidden_size, self.features)
    return generate, options | place(traced) | {'reuse': self.reuse, 'processor': self.processor}

  def _options(self, place: Callable[[Any], Any]) -> dict[str, Any]:
    """Returns the options that all engines of full responses have."""
    return {
      'samples': self.samples,
      'horizon': self.horizon,
      'end_tokens': self.end_tokens,
      'pad_token': self.pad_token,
      'slots': self.slots,
      'scan_length': self.scan_length,
      'critic_every': self.critic_every,
      'mesh': self.mesh if self.mesh.size > 1 else None,
      'sampling': place(self._sampling),
    }

  def _decoding(self, rule: StopRule) -> Decoding:
    """Returns what the turns of a rollout have in common."""
    return Decoding(
      model=self.model,
      rule=rule,
      samples=self.samples,
      horizon=self.horizon,
      end_tokens=self.end_tokens,
      pad_token=self.pad_token,
      scan_length=self.scan_length,
      mesh=self.mesh,
    )

  @property
  def _every_turn(self) -> dict[str, Any]:
    """The traced options of the programs that decode a turn."""
    assert self.turns is not None
    return {'turn_horizon': np.int32(self.turns.horizon), 'sampling': self._sampling}

  @property
  def _first_turn(self) -> dict[str, Any]:
    return self._every_turn | {'shadow_share': np.float32(self.shadow_share)}

  @property
  def _sampling(self) -> Sampling:
    """The options of the distribution, in the dtypes that the programs are compiled for."""
    s = self.sampling
    return Sampling(np.float32(s.temperature), np.float32(s.top_p), np.int32(s.top_k), np.float32(s.min_p))

  def _put(self, tree: Any) -> Any:
    """Puts host numbers on every device. This is explicit because training forbids implicit transfers."""
    return parallel.put(tree, parallel.replicated(self.mesh))

  def _described(self, tree: Any) -> Any:
    whole = parallel.replicated(self.mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)

  def _over_batch(self, described: Any) -> Any:
    """Returns a description with each array laid out over the batch; numbers are on every device."""
    batch, whole = parallel.over_batch(self.mesh), parallel.replicated(self.mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch if x.ndim else whole), described)

  def _lay(self, rows: Any) -> Any:
    return parallel.lay(rows, parallel.over_batch(self.mesh))


@functools.lru_cache
def _finished(sharding: jax.sharding.NamedSharding) -> Callable[..., Trajectories]:
  """Returns the program of the last step of episodes, whose rows are laid out so on a single device, too."""
  return jax.jit(finished, static_argnames='samples', out_shardings=sharding)
