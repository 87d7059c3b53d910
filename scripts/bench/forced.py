"""Defines our model with responses of forced length, and writes its random weights."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bench.workload import END, Workload, decode
from espo_jax import rollout, stops
from espo_jax.model import ActorCritic, Caches, Deciding, ModelConfig, Params, States, init, load_hf, save_hf
from espo_jax.stops.controller import Control, controlled_rule
from espo_jax.types import Prompts, Trajectories

SURE = 1e9  # a logit whose token is certain; finite, so that no regret is infinite


class Counted(States):
  """States that count: `critic` holds a row's forced length, its stop and the number of its tokens so far.

  The critic needs no states of its own, because it shares the policy's trunk.
  """

  critic: Float[Array, '... 3']


@dataclasses.dataclass(frozen=True)
class Forced(ActorCritic):
  """Ends each row at the length that its prompt encodes: the end token is certain there and impossible before.

  Attributes:
    announces_stop: Whether the value is 1 from the token of the row's stop on and 0 before, instead of the value head's.
  """

  announces_stop: bool = False

  def prefill(self, params: Params, tokens: Array, lengths: Array, level: Array | float = 0.0) -> tuple[States, Caches]:
    """Runs the base method, and reads the length and the stop from the prompt."""
    states, caches = super().prefill(params, tokens, lengths, level)
    numbers = [decode(tokens, 0), decode(tokens, 1), jnp.zeros_like(lengths)]
    return Counted(states.policy, jnp.stack(numbers, axis=-1).astype(jnp.float32)), caches

  def extend_policy(
    self,
    params: Params,
    tokens: Array,
    counts: Array,
    states: States,
    caches: Caches,
    longest: Array,
    deciding: Deciding | None = None,
  ) -> tuple[States, Caches]:
    """Runs the base method, and counts the token."""
    new, caches = super().extend_policy(params, tokens, counts, states, caches, longest, deciding)
    return Counted(new.policy, states.critic + jnp.array([0.0, 0.0, 1.0])), caches

  def logits(self, params: Params, states: States) -> Array:
    """Returns the logits of the base method with another logit for the end token."""
    ends = states.critic[:, 2] + 1 >= states.critic[:, 0]
    return super().logits(params, states).at[:, END].set(jnp.where(ends, SURE, -SURE))

  def values(self, params: Params, states: States) -> Array:
    """Returns the values of the value head, or those that announce the stop."""
    if self.announces_stop:
      return (states.critic[:, 2] + 1 >= states.critic[:, 1]).astype(jnp.float32)
    return super().values(params, States(states.policy, states.policy))


def stop_where_announced() -> stops.StopRule:
  """Returns the rule that stops a row of `Forced(announces_stop=True)` at its stop."""
  return controlled_rule(
    lambda state, observation: observation.values,
    lambda adaptive, values: jnp.full(values.shape, 0.5),
    Control(0.0, beta_max=0.0, eta=0.0, target_rate=0.0, momentum=0.0),
  )


def qwen2_shaped(vocab_size: int = 4096, hidden_size: int = 384, layers: int = 6, **overrides: Any) -> ModelConfig:
  """Returns the decoder of the benchmarks, by default with 11 million weights; `hidden_size` is a multiple of 192."""
  heads = hidden_size // 64
  return ModelConfig(
    vocab_size=vocab_size,
    hidden_size=hidden_size,
    intermediate_size=hidden_size * 8 // 3,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=heads // 3,
    head_dim=64,
    qkv_bias=True,
    family='qwen2',
    **overrides,
  )


def write_model(directory: str | pathlib.Path, config: ModelConfig, seed: int) -> int:
  """Writes random weights as a Hugging Face directory, and returns their number."""
  params = init(config, jax.random.key(seed))
  save_hf(directory, config, params, end_tokens=(END,))
  return sum(x.size for x in jax.tree.leaves(params))


def read_model(directory: str | pathlib.Path) -> tuple[ModelConfig, Params]:
  """Reads the config and the policy's parameters, and adds a random value head."""
  config, policy = load_hf(directory)
  return config, with_value_head(config, policy)


def with_value_head(config: ModelConfig, policy: Params) -> Params:
  """Returns the parameters of policy and critic: those of the policy and a random value head."""
  return {'policy': init(config, jax.random.key(0), value_head=True) | policy}


def generate(
  model: Forced, params: Params, rule: stops.StopRule, workload: Workload, seed: int, *, stopping: bool = True
) -> Trajectories:
  """Decodes the workload's rows with the engine; without `stopping` the rule is disabled."""
  own = workload.prompts[:: workload.samples]
  count, width = own.shape
  adaptive = rule.init(1).adaptive.replace(enabled=jnp.asarray(stopping))
  prompts = Prompts(own, jnp.full(count, width, jnp.int32), jnp.arange(count, dtype=jnp.uint32))
  return rollout.generate(
    model,
    params,
    rule,
    adaptive,
    prompts,
    jax.random.key(seed),
    samples=workload.samples,
    horizon=workload.horizon,
    end_tokens=(END,),
    slots=workload.slots,
  )


def executed_steps(result: Trajectories) -> int:
  """Returns the number of decode steps that the engine took."""
  return int((result.started + result.full_length).max())
