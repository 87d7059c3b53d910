"""Lowers the programs of a training step from shapes alone: reshard, rollout, later turns, log-probability pass, update."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from espo_jax import objectives, parallel, rewards, rollout
from espo_jax.configs import check_attention, logit_chunk, model_config, uses_reference, with_dtype
from espo_jax.experiment import Experiment, make_model, make_rule, make_sampler, make_task
from espo_jax.learner import Groups, Packing, Reinforcement, TrainState, init_state, pack, packing_shardings
from espo_jax.model import ActorCritic, Caches
from espo_jax.rollout import Observations, Paused
from espo_jax.stages import packings, rl
from espo_jax.stages.drafts import no_drafts
from espo_jax.stops import Adaptive
from espo_jax.types import Drafts, Prompts, Trajectories, Verdicts

PROGRAMS = ('reshard', 'rollout', 'turn', 'prepare', 'update')


class Programs:
  """The programs that training would compile for a config on a mesh, whose devices need not exist.

  All rows have the most tokens that they can have, so packing saves nothing. The program of the largest size is lowered.

  Attributes:
    config: The experiment, with the dtype of the mesh's platform in place of 'auto'.
    mesh: The mesh on which the experiment would run.
    model: The policy and the critic.
  """

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh, experiment: Experiment | None = None):
    """Describe the model. It reads only the `config.json` of a `model.path`; without one the task's tokenizer is made.

    Args:
      config: The experiment's config.
      mesh: The mesh on which the experiment would run.
      experiment: The experiment itself, if it is there. Its programs have its token ids and are therefore those that it runs;
        without it they have other token ids and need the same memory.

    Raises:
      ConfigError: No experiment is given, and the mesh's devices cannot compute the form of attention that the config names.
      DataError: There is no such tokenizer.
    """
    config = with_dtype(config, mesh.devices.flat[0].platform)
    self.config, self.mesh = config, mesh
    self.model, self._sampler = _described_parts(config, mesh) if experiment is None else (experiment.model, experiment.sampler)
    self._rule = make_rule(config, config.stop.name)
    chunk = logit_chunk(config, self.model.config.vocab_size, parallel.batch_shards(mesh))
    self._learner = rl.make_learner(config, self.model, self._rule, chunk)
    self._laid: dict[str, Any] = {}  # the shardings of results, by program

  @property
  def names(self) -> tuple[str, ...]:
    """The entries of `PROGRAMS` that the config runs.

    Weights are resharded only with `rollout.gather_weights`. With an environment 'rollout' decodes the first turn of each row
    and 'turn' a later one, and without one, or with a single turn, there is no 'turn'.
    """
    runs = {
      'reshard': self.config.rollout.gather_weights,
      'turn': self._sampler.turns is not None and self._sampler.turns.most > 1,
    }
    return tuple(name for name in PROGRAMS if runs.get(name, True))

  @property
  def params(self) -> PyTree[jax.ShapeDtypeStruct]:
    """The parameters, each with its sharding."""
    return self._params(gathered=False)

  def _params(self, *, gathered: bool) -> PyTree[jax.ShapeDtypeStruct]:
    boxed = jax.eval_shape(self.model.init_boxed, jax.random.key(0))
    return jax.tree.map(_described, nn.unbox(boxed), parallel.param_shardings(boxed, self.mesh, gathered=gathered))

  @property
  def state(self) -> TrainState:
    """The train state. Moments have the sharding of their parameters, on the devices or in the hosts' memory."""
    params, whole = self.params, parallel.replicated(self.mesh)
    state = jax.eval_shape(lambda p: init_state(p, self._learner.optimizer, self._rule, self._learner.turns), params)
    like = dict(jax.tree_util.tree_leaves_with_path(params))

    def place(path: tuple, x: Any) -> Any:
      found = next((like[path[i:]].sharding for i in range(len(path)) if path[i:] in like), whole)
      offloaded = self.config.learner.offload_optimizer and path[0].name == 'opt_state' and x.ndim
      return _described(x, found.with_memory_kind('pinned_host') if offloaded else found)

    return jax.tree_util.tree_map_with_path(place, state)

  def beside(self, name: str) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns the arrays that training keeps on the devices while a program runs that does not read them."""
    reads_all = 'reference_kl' in objectives.reads(self._learner.objective, self._learner.options)
    others = self.config.rollout.parts - 1 if self._sampler.turns is not None and name in ('rollout', 'turn') else 0
    return {
      'moments': None if name == 'update' else self.state.opt_state,
      'reference': None if name == 'prepare' or (name == 'update' and reads_all) else self._reference,
      'params': self.params if name in ('rollout', 'turn') and self.config.rollout.gather_weights else None,
      'paused': [self._paused for _ in range(others)],
    }

  @property
  def slots(self) -> int:
    """The number of rows that have a cache at a time.

    These are the rows that are decoded. With `rollout.serial` the full responses count besides the early exits, and with
    `rollout.reuse` all rows count besides the slots.
    """
    r = self.config.rollout
    full, rest = (self._prompts, self._prompts * (r.samples - 1)) if r.serial.inducer else (0, self._prompts * r.samples)
    if self._sampler.reuse is not None:
      full = rest
    return full + min(r.slots or rest, rest)

  @property
  def columns(self) -> int:
    """The number of columns of the caches."""
    every = self.config.critic.every
    return self.config.rollout.prompt_width + -(-self.config.rollout.horizon // every) * every

  @property
  def caches(self) -> Caches:
    """The key-value caches that the rollout keeps between its steps."""
    return jax.eval_shape(lambda: self.model.init_caches(self.slots, self.columns))

  @property
  def sequences(self) -> int:
    """The number of packed sequences per device in one part of a minibatch."""
    over = self.mesh.shape['data'] * self.mesh.shape['fsdp']
    return self._packing(1).row.shape[1] // over

  def lower(self, name: str) -> jax.stages.Lowered:
    """Lowers one of `PROGRAMS`. Arguments that are results of another one are laid out as `compile` found them."""
    programs = {
      'reshard': self._reshard,
      'rollout': self._rollout,
      'turn': self._turn,
      'prepare': self._prepare,
      'update': self._update,
    }
    return programs[name]()

  def compile(self, name: str) -> jax.stages.Compiled:
    """Compiles one of `PROGRAMS`, and keeps how its results are laid out for those that are lowered afterwards."""
    compiled = self.lower(name).compile()
    self._laid[name] = compiled.output_shardings
    return compiled

  def _reshard(self) -> jax.stages.Lowered:
    boxed = jax.eval_shape(self.model.init_boxed, jax.random.key(0))
    return parallel.gathering(boxed, self.mesh).lower(self.params)

  def _rollout(self) -> jax.stages.Lowered:
    return self._sampler.lower(*self._sampled_from(self._prompts))

  def _turn(self) -> jax.stages.Lowered:
    turns, rows = self._sampler.turns, parallel.over_batch(self.mesh)
    assert turns is not None
    params, rule, _, prompts, _ = self._sampled_from(self._prompts)
    paused = self._paused
    if 'rollout' in self._laid:
      paused = jax.tree.map(_described, paused, self._laid['rollout'])
    count = prompts.lengths.shape[0] * self.config.rollout.samples
    observed = Observations(
      _array((count, turns.observation), jnp.int32, rows), _array((count,), jnp.int32, rows), _array((count,), jnp.bool_, rows)
    )
    return self._sampler.lower_turn(params, rule, paused, prompts, observed)

  @property
  def _prompts(self) -> int:
    """The number of prompts of a part of the rollout."""
    return self.config.rollout.prompts // self.config.rollout.parts

  @property
  def _paused(self) -> Paused:
    """The rows of a part between two turns."""
    return self._sampler.describe_paused(*self._sampled_from(self._prompts))

  def _sampled_from(self, prompts: int) -> tuple[Any, ...]:
    """Describes the arguments of the sampler for a number of prompts."""
    r = self.config.rollout
    whole, rows = parallel.replicated(self.mesh), parallel.over_batch(self.mesh)
    return (
      self._params(gathered=r.gather_weights),
      self._rule,
      self._adaptive,
      Prompts(
        _array((prompts, r.prompt_width), jnp.int32, rows),
        _array((prompts,), jnp.int32, rows),
        _array((prompts,), jnp.uint32, rows),
        _array((prompts,), jnp.int32, rows) if self._learner.ragged else None,
        self._drafts(prompts),
      ),
      _described(jax.eval_shape(lambda: jax.random.key(0)), whole),
    )

  def _drafts(self, prompts: int) -> Drafts | None:
    r, reuse = self.config.rollout, self._sampler.reuse
    if reuse is None:
      return None
    drafts = no_drafts(reuse, prompts, r.samples, r.horizon, self.model.config.vocab_size)
    return jax.tree.map(lambda x: _described(x, parallel.over_batch(self.mesh)), drafts)

  @property
  def _adaptive(self) -> Adaptive:
    whole = parallel.replicated(self.mesh)
    return jax.tree.map(lambda x: _described(x, whole), jax.eval_shape(lambda: self._rule.init(1).adaptive))

  @property
  def _rows(self) -> Trajectories:
    rows = self._sampler.describe(*self._sampled_from(self.config.rollout.prompts)).ordinary()
    finished = self._sampler.turns is not None  # another program makes the rows, and lays them out
    if finished or self.mesh.size > 1 or self.config.rollout.parts > 1 or 'rollout' not in self._laid:
      return rows  # laid out over the batch
    return jax.tree.map(_described, rows, self._laid['rollout'].ordinary())

  @property
  def _reference(self) -> Any:
    return self.params if uses_reference(self.config) else None

  def _packing(self, parts: int) -> Packing:
    """Describes the packing of rows of maximum length in `parts` parts of a minibatch or of the batch."""
    c, r = self.config, self.config.rollout
    count = r.prompts * r.samples // c.learner.minibatches // c.learner.micro_batches
    width = r.prompt_width + r.horizon
    shards = self.mesh.shape['data'] * self.mesh.shape['fsdp']
    groups = None
    if packings.shares_prompts(c, self.model.config, self.mesh.abstract_mesh.abstract_device):
      groups = Groups(np.arange(count)[None] // r.samples, np.full((1, count), r.prompt_width))
    packing = pack(np.full((1, count), width), width, sizes=1, multiple=shards, widths=1, cost=float, groups=groups)
    shardings = packing_shardings(packing, self.mesh)
    return jax.tree.map(lambda x, s: _array((parts, *x.shape[1:]), x.dtype, s), packing, shardings)

  def _prepare_arguments(self) -> tuple[Any, ...]:
    c = self.config
    rows = self._rows
    count = rows.length.shape[0]
    per_row = parallel.over_batch(self.mesh)
    number, flag, level = (_array((count,), dtype, per_row) for dtype in (jnp.float32, bool, jnp.int32))
    scores = dict.fromkeys(rewards.text_rewards(c.reward.name), number)
    paid = None if rows.turn is None else _array(rows.turn.shape, jnp.float32, per_row)
    verdicts = Verdicts(number, flag, flag, level, flag, flag, scores, paid)
    reward, _, _ = jax.eval_shape(self._learner.graded, rows, verdicts, self._adaptive)
    if 'rollout' in self._laid:
      laid, _, _ = Reinforcement.graded.lower(self._learner, rows, verdicts, self._adaptive).compile().output_shardings
      reward = jax.tree.map(_described, reward, laid)
    else:
      reward = jax.tree.map(lambda x: _described(x, per_row), reward)
    if self._learner.ragged:
      reward = reward.replace(weight=number)
    return self.params, self._reference, rows, reward, self._packing(c.learner.minibatches * c.learner.micro_batches)

  def _prepare(self) -> jax.stages.Lowered:
    return Reinforcement.prepare.lower(self._learner, *self._prepare_arguments())

  def _update(self) -> jax.stages.Lowered:
    c = self.config
    batch, _ = jax.eval_shape(self._learner.prepare, *self._prepare_arguments())
    if 'prepare' in self._laid:
      batch = jax.tree.map(_described, batch, self._laid['prepare'][0])
    else:
      batch = jax.tree.map(lambda x: _described(x, parallel.over_batch(self.mesh)), batch)
    count = batch.advantages.shape[0] // c.learner.minibatches // c.learner.micro_batches
    chosen = _array((c.learner.micro_batches, count), jnp.int32, parallel.replicated(self.mesh))
    return Reinforcement.update.lower(
      self._learner, self.state, batch, self._reference, chosen, self._packing(c.learner.micro_batches)
    )


def _described_parts(config: ml_collections.ConfigDict, mesh: Mesh) -> tuple[ActorCritic, rollout.Sampler]:
  """Makes the model and the sampler of a config, with token ids that stand for those of a tokenizer."""
  vocab_size = 0 if config.model.path else len(make_task(config).tokenizer())
  model = make_model(config, model_config(config, vocab_size))
  check_attention(model.config, mesh.abstract_mesh.abstract_device)
  inducer = config.rollout.serial.inducer  # without a tokenizer, its bytes bound its tokens
  serial = rollout.Serial((1,) * len(inducer.encode()), config.rollout.serial.answer_tokens) if inducer else None
  return model, make_sampler(config, model, mesh, end_tokens=(0,), pad_token=0, serial=serial)


def _array(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Any:
  """Describes an array by shape, type and sharding, without making it."""
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _described(x: Any, sharding: NamedSharding) -> Any:
  return _array(x.shape, x.dtype, sharding)
