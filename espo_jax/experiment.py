"""A config made concrete: the task, the tokenizer, the model, the mesh and the stop rules of one experiment."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Key

from espo_jax import parallel, rollout, stops, tasks
from espo_jax.configs import ConfigError
from espo_jax.model import ActorCritic, ModelConfig, Params
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """What every stage shares. Nothing here changes during a run."""

  config: ml_collections.ConfigDict
  task: tasks.Task
  tokenizer: Any
  model: ActorCritic
  mesh: jax.sharding.Mesh
  root_key: Key[Array, '']

  def put(self, tree: Any) -> Any:
    """Host arrays to the mesh, the same on every device. Explicit, because the loop forbids implicit transfers."""
    return jax.device_put(tree, parallel.replicated(self.mesh))

  def on_mesh(self, tree: Any) -> Any:
    """A state with every array on the mesh: what is not there yet, as a fresh scalar, goes to every device."""
    return jax.tree.map(lambda x: x if len(x.sharding.device_set) == self.mesh.size and x.committed else self.put(x), tree)

  def put_rows(self, tree: Any) -> Any:
    """Host arrays to the mesh, their rows split over the batch axes."""
    return jax.device_put(tree, parallel.over_batch(self.mesh))

  def key(self, stream: str, step: int) -> Key[Array, '']:
    """The key of a named stream at a step: nothing to checkpoint, nothing that one stream's use changes for another."""
    return _fold(self.root_key, self.put(np.uint32(zlib.crc32(stream.encode()))), self.put(np.uint32(step)))

  def init_params(self) -> Params:
    """Random parameters, created where they will live."""
    shardings = parallel.param_shardings(jax.eval_shape(self.model.init_boxed, self.root_key), self.mesh)
    return jax.jit(self.model.init, out_shardings=shardings)(self.key('init', 0))

  def problems(self, split: str, start: int, count: int) -> list[tasks.Problem]:
    """`count` problems from position `start` on."""
    return [self.task.problem(split, start + i) for i in range(count)]

  def prompts(self, problems: Sequence[tasks.Problem]) -> Prompts:
    """The problems' prompts on the mesh."""
    return self.put_rows(tasks.encode_prompts(self.tokenizer, problems, self.config.rollout.prompt_width))

  def rollout(
    self,
    params: Params,
    rule: StopRule,
    adaptive: Adaptive,
    prompts: Prompts,
    key: Key[Array, ''],
    *,
    samples: int,
    temperature: float,
    shadow_share: float = 0.0,
  ) -> Trajectories:
    """Sample responses under this experiment's horizon and end tokens."""
    return rollout.generate(
      self.model,
      params,
      rule,
      adaptive,
      prompts,
      key,
      samples=samples,
      horizon=self.config.rollout.horizon,
      scan_length=self.config.rollout.scan_length,
      end_tokens=(self.tokenizer.eos_token_id,),
      pad_token=self.tokenizer.pad_token_id,
      temperature=self.put(np.float32(temperature)),
      shadow_share=self.put(np.float32(shadow_share)),
    )

  def grade(self, problems: Sequence[tasks.Problem], rows: Trajectories) -> Float[np.ndarray, 'N']:
    """1 for every row whose whole text, a shadow row's continuation included, solves its problem."""
    tokens, lengths = jax.device_get((rows.tokens, rows.full_length))
    texts = tasks.decode_responses(self.tokenizer, tokens, lengths)
    samples = len(texts) // len(problems)
    verdicts = [self.task.verify(problems[i // samples], text) for i, text in enumerate(texts)]
    return np.asarray(verdicts, np.float32)


def make_experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Build the parts that a config names."""
  task = make_task(config)
  tokenizer = task.tokenizer()
  model = ActorCritic(
    ModelConfig(vocab_size=len(tokenizer), **config.model.to_dict()), separate_critic=config.critic.kind == 'separate'
  )
  try:
    mesh = parallel.make_mesh(**config.mesh.to_dict())
  except ValueError as error:
    raise ConfigError([str(error)]) from error
  root = jax.device_put(jax.random.key(config.seed), parallel.replicated(mesh))
  return Experiment(config, task, tokenizer, model, mesh, root)


def make_task(config: ml_collections.ConfigDict) -> tasks.Task:
  """The task, seeded as the run is; one that reads files gets their paths."""
  files = {name: value for name, value in config.data.to_dict().items() if value}
  return tasks.get(config.task.name, **({'seed': config.seed} | files | config.task.options.to_dict()))


def make_rule(config: ml_collections.ConfigDict, name: str, **overrides: float) -> StopRule:
  """The stop rule `name` with those of the config's constants that it takes; its own section of `config.stop` goes first."""
  constants = config.stop.to_dict() | config.stop.get(name, ml_collections.ConfigDict()).to_dict() | overrides
  return stops.REGISTRY[name](**{k: v for k, v in constants.items() if k in stops.arguments(name)})


@jax.jit
def _fold(key: Key[Array, ''], stream: Array, step: Array) -> Key[Array, '']:
  return jax.random.fold_in(jax.random.fold_in(key, stream), step)
