"""Builds the parts that a config describes: the task, the tokenizer, the model, the mesh and the stop rules."""

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Int, Key

from espo_jax import exits, parallel, rewards, rollout, stops, tasks
from espo_jax.configs import (
  ConfigError,
  check_devices,
  check_tokens,
  logit_chunk,
  method_options,
  model_config,
  model_overrides,
  task_arguments,
  trains_critic,
  with_dtype,
)
from espo_jax.exits import ExitPolicy
from espo_jax.model import ActorCritic, ModelConfig, Params, complete, load_hf, read_end_tokens
from espo_jax.parallel.memory import LOADING, READING, during
from espo_jax.rollout import Sampler, Sampling
from espo_jax.stops import StopRule
from espo_jax.tasks.pretrained import special_tokens
from espo_jax.tasks.reasoning import TAGS, has_thought_tag, named_in
from espo_jax.types import Drafts, Prompts, StopReason, Trajectories, Verdicts

OnEither = Array | np.ndarray  # on the device or on the host
State = TypeVar('State', bound=Any)  # a TrainState, which this room does not know


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """The parts of an experiment that all stages share. None of them changes during a run."""

  config: ml_collections.ConfigDict
  task: tasks.Task
  tokenizer: Any
  model: ActorCritic
  mesh: jax.sharding.Mesh
  root_key: Key[Array, '']
  end_tokens: tuple[int, ...]
  serial: rollout.Serial | None = None  # the serial rollout of training, if it has one

  def put(self, tree: Any) -> Any:
    """Puts host arrays onto the mesh, replicated on every device. The loop forbids implicit transfers, so this is explicit."""
    return parallel.put(tree, parallel.replicated(self.mesh))

  def on_mesh(self, state: State) -> State:
    """Returns a train state with every array on the mesh. An array that is not there yet, such as a new scalar, is replicated.

    With `learner.offload_optimizer` moments move to host memory, with their sharding. NumPy arrays stay on the host.
    """

    def place(x: Any) -> Any:
      there = isinstance(x, np.ndarray) or (len(x.sharding.device_set) == self.mesh.size and x.committed)
      return x if there else self.put(x)

    def offload(x: Array) -> Array:
      return jax.device_put(x, x.sharding.with_memory_kind('pinned_host')) if x.ndim else x

    state = jax.tree.map(place, state)
    if not self.config.learner.offload_optimizer:
      return state
    return state.replace(opt_state=jax.tree.map(offload, state.opt_state))

  def put_rows(self, tree: Any) -> Any:
    """Puts this process's rows onto the mesh, and returns the arrays of all rows, split over the batch axes."""
    return parallel.put_rows(tree, self.mesh)

  def fetch(self, tree: Any) -> Any:
    """Fetches whole arrays from the mesh to every host."""
    return parallel.fetch(tree, self.mesh)

  def key(self, stream: str, step: int) -> Key[Array, '']:
    """Returns the random key of a named stream at a step.

    Keys need no checkpoint, and the use of one stream does not change another.
    """
    return _fold(self.root_key, self.put(np.uint32(zlib.crc32(stream.encode()))), self.put(np.uint32(step)))

  def with_exits(self, policy: ExitPolicy | None) -> 'Experiment':
    """Returns the experiment with another exit policy; None for the model at full depth."""
    return dataclasses.replace(self, model=dataclasses.replace(self.model, exits=policy))

  @during(LOADING)
  def init_params(self) -> Params:
    """Returns the initial parameters, each made or read on its own devices.

    They are those of `model.path`. Parameters that it does not have are random.
    """
    given: dict[str, Params] = {}
    if self.config.model.path:
      given['policy'] = load_hf(
        self.config.model.path, mesh=self.mesh, key=self.key('init', 0), **model_overrides(self.config)
      )[1]
    return complete(given, self.model.init_boxed, self.key('init', 0), self.mesh)

  @functools.cached_property
  def gather(self) -> Callable[[Params], Params]:
    """The program that gathers parameters for a rollout with `rollout.gather_weights`. They stay split over the tensor axis."""
    return parallel.gathering(jax.eval_shape(self.model.init_boxed, self.root_key), self.mesh)

  @property
  def logit_chunk(self) -> int:
    """The number of tokens whose logits are in memory at a time, on all devices together."""
    return logit_chunk(self.config, self.model.config.vocab_size, parallel.batch_shards(self.mesh))

  @functools.cached_property
  def sampler(self) -> Sampler:
    """The sampler of responses. A call gives the rows of a training step; `sampler.plain` gives full responses elsewhere."""
    pad = self.tokenizer.pad_token_id
    return make_sampler(self.config, self.model, self.mesh, end_tokens=self.end_tokens, pad_token=pad, serial=self.serial)

  def abstract_params(self) -> Any:
    """Returns the shapes, dtypes and shardings of the parameters."""
    boxed = jax.eval_shape(self.model.init_boxed, self.root_key)
    shardings = parallel.param_shardings(boxed, self.mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), shardings)

  def problems(self, split: str, start: int, count: int) -> list[tasks.Problem]:
    """Returns `count` problems from position `start` on."""
    return [self.task.problem(split, start + i) for i in range(count)]

  def test_problems(self, most: int) -> list[tasks.Problem]:
    """Returns the first `most` test problems, or all of them if there are fewer."""
    size = self.task.size('test')
    return self.problems('test', 0, most if size is None else min(most, size))

  def my_problems(self, split: str, start: int, count: int) -> list[tasks.Problem]:
    """Returns those of the `count` problems from `start` on whose rows this process has. The others are not read."""
    return [self.task.problem(split, start + int(i)) for i in parallel.my_rows(self.mesh, count)]

  def prompts(
    self, problems: Sequence[tasks.Problem], rows: Int[np.ndarray, 'P'] | None = None, drafts: Drafts | None = None
  ) -> Prompts:
    """Encodes the prompts of this process's problems with their tags, and returns the prompts of all problems on the mesh.

    Args:
      problems: This process's problems.
      rows: How many samples of each are begun; None for all.
      drafts: The responses that the samples may keep a part of; None without reuse.
    """
    encoded = tasks.encode_prompts(self.tokenizer, self.tagged(problems), self.config.rollout.prompt_width)
    return self.put_rows(encoded.replace(rows=rows, drafts=drafts))

  def tagged(self, problems: Sequence[tasks.Problem]) -> list[tasks.Problem]:
    """Returns the problems with their tags appended to the prompts."""
    tags = self.config.rollout.tags or ('',)
    return [p._replace(prompt=p.prompt + tags[i]) for p, i in zip(problems, self.levels(problems), strict=True)]

  def levels(self, problems: Sequence[tasks.Problem]) -> Int[np.ndarray, 'P']:
    """Returns the index in `rollout.tags` of each problem's tag; 0 without tags."""
    return np.array([problem.id // 2 % max(len(self.config.rollout.tags), 1) for problem in problems], np.int32)

  def decode(
    self, tokens: Int[OnEither, 'N T'], lengths: Int[OnEither, 'N'], turn: Int[np.ndarray, 'N T'] | None = None
  ) -> list[str]:
    """Decodes the responses. Tags that grading, rewards and the serial rollout read are kept, special tokens or not."""
    return tasks.decode_responses(self.tokenizer, np.asarray(tokens), np.asarray(lengths), self._tags, turn)

  def decode_turns(self, tokens: Int[np.ndarray, 'N T'], turn: Int[np.ndarray, 'N T']) -> list[list[str]]:
    """Decodes the policy's turns of each row; `turn` is that of `Trajectories`."""
    return tasks.decode_turns(self.tokenizer, tokens, turn, self._tags)

  def turns(self, problems: Sequence[tasks.Problem], texts: Sequence[str]) -> list[str]:
    """Returns the texts that the task grades: each response behind its prompt's tag, if that tag opens or closes a thought."""
    tags = [tag if has_thought_tag(tag) else '' for tag in self.config.rollout.tags or ('',)]
    return [tags[level] + text for level, text in zip(self.levels(problems), texts, strict=True)]

  @property
  def critic_every(self) -> int:
    """The number of tokens between two values of the critic that a stop rule sees; 1 without a separate critic."""
    return self.config.critic.every if self.model.separate_critic else 1

  @functools.cached_property
  def _tags(self) -> frozenset[str]:
    reward, serial = self.config.reward, self.config.rollout.serial
    read = (reward.format, reward.reasoning, serial.inducer, serial.end_of_thinking)
    return TAGS | named_in(read, special_tokens(self.tokenizer))

  def grade(self, problems: Sequence[tasks.Problem], rows: Trajectories) -> Verdicts:
    """Grades the whole text of each of this process's rows, a shadow row's continuation included.

    Args:
      problems: This process's share of the problems.
      rows: The rows of all processes.
    """
    tokens, lengths = (parallel.take_rows(x, self.mesh) for x in (rows.tokens, rows.full_length))
    texts = self.decode(tokens, lengths)
    samples = len(texts) // len(problems)
    asked = [problem for problem in problems for _ in range(samples)]
    return self.verdicts(problems, rows, texts, self.verify(asked, self.turns(asked, texts)))

  def verify(self, problems: Sequence[tasks.Problem], texts: Sequence[str]) -> list[tasks.Verdict]:
    """Returns the task's verdict on each text, which has its prompt's tag already: see `turns`."""
    graded = self.task.verify_all(problems, texts)
    if wrong := [(v.correct, text) for v, text in zip(graded, texts, strict=True) if not 0 <= v.correct <= 1]:
      told = f'verify returned {wrong[0][0]!r} for {wrong[0][1][:80]!r}'
      raise tasks.DataError(f'task {self.task.name!r}: {told}; fix: True, False, or a score in [0, 1]')
    return graded

  def verdicts(
    self, problems: Sequence[tasks.Problem], rows: Trajectories, texts: Sequence[str], graded: Sequence[tasks.Verdict]
  ) -> Verdicts:
    """Returns what is found out about this process's rows, from their whole texts and the grade of each."""
    statuses = np.array([verdict.status for verdict in graded])
    correct = np.array([verdict.correct for verdict in graded], np.float32)
    samples = len(texts) // len(problems)
    formatted, reasoned = (
      np.array([re.search(pattern, text) is not None for text in texts])
      for pattern in (self.config.reward.format, self.config.reward.reasoning)
    )
    levels = np.repeat(self.levels(problems), samples)
    verdicts = Verdicts(correct, formatted, reasoned, levels, statuses == 'timeout', statuses == 'error')
    return verdicts if self._text_scorer is None else self._with_scores(problems, rows, verdicts, texts)

  def _with_scores(
    self, problems: Sequence[tasks.Problem], rows: Trajectories, verdicts: Verdicts, texts: Sequence[str]
  ) -> Verdicts:
    """Adds the scores of rewards that read text to the verdicts on this process's rows.

    Args:
      problems: This process's share of the problems.
      rows: The rows of all processes.
      verdicts: The verdicts on this process's rows.
      texts: The whole texts of these rows. Rewards see the texts of shadow rows up to the stop, unless these are trained on.
    """
    assert self._text_scorer is not None
    mine = jax.tree.map(lambda x: parallel.take_rows(x, self.mesh), rows)
    samples = len(mine.length) // len(problems)
    with jax.transfer_guard('allow'):  # a few numbers, on whatever device comes first
      if self.config.stop.returns == 'roulette':
        mine = mine.whole()
      seen = jax.device_get(rewards.observed(mine, verdicts, samples, self.model.config.num_layers))
    responses = list(texts)
    (cut,) = np.nonzero(mine.shadow)
    turn = None if mine.turn is None else mine.turn[cut]
    for i, text in zip(cut, self.decode(mine.tokens[cut], mine.length[cut], turn), strict=True):
      responses[i] = text
    read: dict[str, list[Any]] = {
      'questions': [self.task.question(problem) for problem in problems],
      'responses': [responses[i : i + samples] for i in range(0, len(responses), samples)],
      'answers': [problem.answer for problem in problems],
    }
    values, timeout, error = self._text_scorer.score(seen, read)
    return verdicts.replace(
      scores={name: value.reshape(-1) for name, value in values.items()},
      timeout=verdicts.timeout | timeout.reshape(-1),
      error=verdicts.error | error.reshape(-1),
    )

  @functools.cached_property
  def _text_scorer(self) -> rewards.TextScorer | None:
    """The scorer for rewards of training that read text; None if there are none."""
    c = self.config
    if 'rl' not in c.stages or not rewards.text_rewards(c.reward.name):
      return None
    return rewards.TextScorer(c.reward.name, method_options(c, 'reward'), c.reward.deadline)


def make_experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Builds the parts that a config names. The experiment's own config has a dtype in place of 'auto'."""
  task = make_task(config)
  config = with_dtype(config, parallel.find_devices()[0].platform)
  tokenizer = task.tokenizer()
  shape = model_config(config, len(tokenizer))
  check_tokens(config, len(tokenizer), shape)
  others = read_end_tokens(config.model.path) if config.model.path else ()
  end_tokens = tuple(sorted({tokenizer.eos_token_id, *others}))
  serial = make_serial(config, tokenizer, end_tokens)
  model = make_model(config, shape)
  try:
    mesh = parallel.make_mesh(**config.mesh.to_dict())
  except ValueError as error:
    raise ConfigError([str(error)]) from error
  check_devices(config, shape, mesh)
  root = jax.random.wrap_key_data(parallel.put(jax.random.key_data(jax.random.key(config.seed)), parallel.replicated(mesh)))
  return Experiment(config, task, tokenizer, model, mesh, root, end_tokens, serial)


def make_serial(config: ml_collections.ConfigDict, tokenizer: Any, end_tokens: tuple[int, ...]) -> rollout.Serial | None:
  """Returns the settings of the serial rollout in tokens; None if a config has no inducer or no stage 'rl'.

  Raises:
    ConfigError: A text has no tokens in the tokenizer, has too many, ends the response, or leaves no room for thinking.
  """
  text = config.rollout.serial.inducer
  if not text or 'rl' not in config.stages:
    return None
  answer, horizon = config.rollout.serial.answer_tokens, config.rollout.horizon
  where = f'rollout.serial.inducer = {text!r}'
  try:
    inducer = tuple(tasks.encode_text(tokenizer, text))
    mark = tasks.encode_text(tokenizer, config.rollout.serial.end_of_thinking)
  except ValueError as error:
    raise ConfigError([f'rollout.serial: {error}']) from error
  problems = []
  if ending := [tokenizer.decode([token]) for token in inducer if token in end_tokens]:
    problems.append(f'{where}: {ending[0]!r} in it ends a response; fix: leave it out')
  if len(inducer) + answer >= horizon:
    problems.append(
      f'{where}: its {len(inducer)} tokens and rollout.serial.answer_tokens = {answer} leave nothing of rollout.horizon = '
      f'{horizon} for thinking; fix: rollout.horizon > {len(inducer) + answer}'
    )
  if len(mark) > 1:
    problems.append(
      f'rollout.serial.end_of_thinking = {config.rollout.serial.end_of_thinking!r}: {len(mark)} tokens of this tokenizer; '
      "fix: a text that is one token, or '' to cut anywhere in a response"
    )
  if problems:
    raise ConfigError(problems)
  return rollout.Serial(inducer, answer, *mark)


@during(READING)
def make_task(config: ml_collections.ConfigDict) -> tasks.Task:
  """Makes the task that a config names, with the run's seed."""
  return tasks.get(config.task.name, **task_arguments(config))


def kind_of_turns(config: ml_collections.ConfigDict, tokenizer: Any) -> str:
  """Returns how a config's task poses its problems, as `turn_writer` takes it; '' for a task's own tokenizer."""
  default = 'chat' if tokenizer.chat_template else ''
  return str(config.task.options.get('prompt', default)) if config.model.path else ''


def make_model(config: ml_collections.ConfigDict, shape: ModelConfig) -> ActorCritic:
  """Makes the policy and the critic that a config describes, with the shape of a decoder."""
  critic = trains_critic(config)
  policy = exits.get(config.exits.policy)(**method_options(config, 'exits')) if config.exits.every else None
  return ActorCritic(shape, critic and config.critic.kind == 'separate', critic_free=not critic, exits=policy)


def make_sampler(
  config: ml_collections.ConfigDict,
  model: ActorCritic,
  mesh: jax.sharding.Mesh,
  *,
  end_tokens: tuple[int, ...],
  pad_token: int,
  serial: rollout.Serial | None,
) -> Sampler:
  """Makes the sampler that a config describes. It needs neither data nor devices.

  Args:
    config: The experiment.
    model: Policy and critic.
    mesh: The mesh to sample on.
    end_tokens: Token ids that end a response.
    pad_token: The token that fills the columns after a response.
    serial: The settings of the serial rollout; None if training has none.
  """
  return Sampler(
    model=model,
    mesh=mesh,
    samples=config.rollout.samples,
    horizon=config.rollout.horizon,
    end_tokens=end_tokens,
    pad_token=pad_token,
    sampling=Sampling(config.rollout.temperature, config.rollout.top_p, config.rollout.top_k, config.rollout.min_p),
    shadow_share=config.stop.shadow_share,
    slots=config.rollout.slots,
    scan_length=config.rollout.scan_length,
    critic_every=config.critic.every,
    draft_blocks=config.eval.draft_blocks,
    draft_tokens=config.eval.draft_tokens,
    serial=serial,
    reuse=make_reuse(config),
    turns=rollout.turns_of(config.environment, config.rollout.horizon),
  )


def make_reuse(config: ml_collections.ConfigDict) -> rollout.Reuse | None:
  """Returns how training verifies drafts; None if a config reuses no responses or has no stage 'rl'."""
  if config.rollout.reuse.form == 'none' or 'rl' not in config.stages:
    return None
  return rollout.Reuse(config.rollout.reuse.form, config.rollout.reuse.lenience, config.rollout.reuse.candidates)


def make_rule(config: ml_collections.ConfigDict, name: str, **overrides: float | tuple[int, ...]) -> StopRule:
  """Makes the stop rule `name` with those constants of the config that it takes.

  Constants in the rule's own section replace those of `config.stop`. A user's rule takes constants from its own section only.
  Where stopped rows return what the head expects, every rule has a head. Where they are dropped or graded, its stops prune or
  settle rows.

  Equal constants make the same rule, which programs are compiled for: a second run in a process compiles no rollout again.
  """
  shared = {} if stops.is_users(name) else config.stop.to_dict()
  constants = shared | config.stop.get(name, ml_collections.ConfigDict()).to_dict() | overrides
  reasons = {'drop': StopReason.PRUNED, 'graded': StopReason.SETTLED}
  rule = stops.make(name, constants)._replace(reason=reasons.get(config.stop.returns, StopReason.STOPPED))
  return stops.with_head(rule, memory=config.stop.memory) if config.stop.returns == 'head' else rule


@jax.jit
def _fold(key: Key[Array, ''], stream: Array, step: Array) -> Key[Array, '']:
  return jax.random.fold_in(jax.random.fold_in(key, stream), step)
