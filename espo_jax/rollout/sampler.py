"""An experiment's sampler: the engines with the arguments of one config, spelled once for all who sample or compile."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from espo_jax import parallel
from espo_jax.model import ActorCritic, Params
from espo_jax.rollout.engine import generate
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.serial import Serial, generate_serial
from espo_jax.rollout.speculative import speculate
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
  """How one experiment samples. `sampler(params, rule, adaptive, prompts, key)` gives the rows of a training step.

  Attributes:
    model: Policy and critic.
    mesh: The mesh that parameters and prompts lie on. To lower a program its devices need not be there.
    samples: The number of responses per prompt.
    horizon: The most tokens of a response.
    end_tokens: Token ids that end a response.
    pad_token: The token that fills the columns after a response.
    sampling: How logits become the distribution that is sampled, in numbers of the host.
    shadow_share: The share of rows that, once stopped, go on decoding for measurement only.
    slots: The number of rows decoded at a time; 0 for all of them.
    scan_length: The most decode steps between two times that what was decoded is written out.
    critic_every: The number of tokens that a separate critic reads at a time.
    draft_blocks: The number of blocks that draft, for `speculate`.
    draft_tokens: The most tokens drafted at a time, for `speculate`.
    serial: How early exits are made (S-GRPO); None where all rows are full responses.
    exit_level: The level of the model's exit policy; None for the policy's own.
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
  exit_level: float | None = None

  def __call__(self, params: Params, rule: StopRule, adaptive: Adaptive, prompts: Prompts, key: Key[Array, '']) -> Trajectories:
    """Sample `samples` responses per prompt.

    Args:
      params: The parameters of policy and critic.
      rule: The stop rule.
      adaptive: The state that the rule carries from batch to batch, which is frozen here.
      prompts: `P` prompts.
      key: This step's random key.

    Returns:
      `N = P * samples` rows, group-major, split over the mesh's batch axes.
    """
    engine, options = self._engine(self._put)
    return self._lay(engine(self.model, params, rule, adaptive, prompts, key, **options))

  def plain(
    self,
    *,
    samples: int,
    temperature: float | None = None,
    shadow_share: float = 0.0,
    exit_level: float | None = None,
  ) -> 'Sampler':
    """A sampler of full responses alone, whatever training's rows are.

    Args:
      samples: The number of responses per prompt.
      temperature: The temperature, 0 for greedy decoding; training's by default.
      shadow_share: The share of rows that, once stopped, go on decoding for measurement only.
      exit_level: The level of the model's exit policy; None for the policy's own.
    """
    sampling = self.sampling if temperature is None else self.sampling.replace(temperature=temperature)
    return dataclasses.replace(
      self, samples=samples, sampling=sampling, shadow_share=shadow_share, exit_level=exit_level, serial=None
    )

  def speculate(self, params: Params, prompts: Prompts, key: Key[Array, '']) -> Trajectories:
    """Full responses of the whole model without a stop rule, drafted by its first blocks."""
    rows, _ = speculate(
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
    )
    return self._lay(rows)

  def lower(self, params: Any, rule: StopRule, adaptive: Any, prompts: Any, key: Any) -> jax.stages.Lowered:
    """The program of a call, lowered from arguments that are only described (`jax.ShapeDtypeStruct` with shardings)."""
    engine, options = self._engine(self._described)
    return engine.lower(self.model, params, rule, adaptive, prompts, key, **options)

  def describe(self, params: Any, rule: StopRule, adaptive: Any, prompts: Any, key: Any) -> Trajectories:
    """The rows that a call would return, described, from arguments that are only described."""
    engine, options = self._engine(self._described)
    rows = engine.eval_shape(self.model, params, rule, adaptive, prompts, key, **options)
    sharding = parallel.over_batch(self.mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), rows)

  def _engine(self, place: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """The jitted function of this sampler and its options, of which `place` makes what is traced out of the host's numbers."""
    options = {
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
    if self.serial is not None:
      return generate_serial, options | {'serial': self.serial}
    level = self.exit_level
    if level is None:
      level = self.model.exits.level if self.model.exits else 0.0
    traced = {'shadow_share': np.float32(self.shadow_share), 'exit_level': np.float32(level)}
    return generate, options | place(traced)

  @property
  def _sampling(self) -> Sampling:
    """The distribution's options in the types that the programs are compiled for."""
    s = self.sampling
    return Sampling(np.float32(s.temperature), np.float32(s.top_p), np.int32(s.top_k), np.float32(s.min_p))

  def _put(self, tree: Any) -> Any:
    """Numbers of the host to every device, explicitly, because training forbids implicit transfers."""
    return parallel.put(tree, parallel.replicated(self.mesh))

  def _described(self, tree: Any) -> Any:
    whole = parallel.replicated(self.mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)

  def _lay(self, rows: Trajectories) -> Trajectories:
    return parallel.lay(rows, parallel.over_batch(self.mesh))
