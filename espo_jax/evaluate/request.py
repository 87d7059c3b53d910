"""Holds the flags of an evaluation, and makes the experiment for a policy from them."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from espo_jax import decoders, registry, stops, tasks
from espo_jax.configs import ConfigError, validate
from espo_jax.configs.constants import Constant, told_constant, typed_constant
from espo_jax.evaluate.asked import Asked, check_recorded, drawn_by
from espo_jax.evaluate.drawing import check_drawing, check_processes
from espo_jax.evaluate.options import Named
from espo_jax.evaluate.policies import Policy, RequestError, in_words_of
from espo_jax.evaluate.processing import check_processors
from espo_jax.experiment import Experiment, make_experiment, make_rule
from espo_jax.stages.episodes import check_writer
from espo_jax.stops import StopRule
from espo_jax.tasks.own import FIELDS
from espo_jax.tasks.sources import path_problem
from espo_jax.tasks.task import lookup

BENCHMARKS = (*tasks.BENCHMARKS, tasks.JSONL)
_ANY_WIDTH = 2**20  # a limit that no prompt reaches; prompts are later padded to the longest of them
_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
  *((name, lambda x: x <= 0, 'above 0') for name in ('samples', 'problems', 'horizon', 'batch')),
  *((name, lambda x: x < 0, 'of at least 0') for name in ('top_k', 'slots', 'features')),
  ('temperature', lambda x: not 0 <= x < float('inf'), 'of at least 0'),
  ('top_p', lambda x: not 0 < x <= 1, 'in (0, 1]'),
  ('min_p', lambda x: not 0 <= x <= 1, 'in [0, 1]'),
  ('seed', lambda x: not 0 <= x < 2**32, f'from 0 to {2**32 - 1}'),
)
# Config fields in messages and the flags that set them. No flag sets a run's own data set.
_SKIP = (('--config.data.on_error', '--on_error'),)
_ASKED = (
  ('--config.data.eval_path', '--data'),
  ('data.eval_path', '--data'),
  ('--config.data.eval_benchmark', '--benchmark'),
  ('data.eval_benchmark', '--benchmark'),
  *((f'{prefix}data.{field}', f'--{field}') for field in FIELDS for prefix in ('--config.', '')),
)
_OF_DIRECTORY = (
  ('--config.task.options.prompt', '--prompt'),
  ('task.options.prompt', '--prompt'),
  ('--config.model.path', '--checkpoint'),
  ('model.path', '--checkpoint'),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """The flags of an evaluation. None means the run's own setting, or the default for a Hugging Face directory.

  Attributes:
    checkpoint: the folder of a run, or a Hugging Face directory.
    arm: an arm of a run, or a stage before the arms.
    step: a step of a run that has a checkpoint.
    benchmark: a name in `tasks.BENCHMARKS`, or 'jsonl' for records of the user's own. It replaces the run's own test split.
    data: the place of the benchmark's problems; None for the Hugging Face Hub.
    problem_field: the field of 'jsonl' that holds the problem; None for the run's `data.problem_field`.
    answer_field: the field of 'jsonl' that holds the final answer; None for the run's `data.answer_field`.
    on_error: 'raise' to stop at the first malformed row, or 'skip' to leave such rows out and list them in `skipped.jsonl`.
    prompt: the form of the prompts for a Hugging Face directory.
    samples: the number of answers to each problem.
    problems: the most problems, counted from the first.
    temperature: the temperature of the sampler; 0 is greedy.
    top_p: the share of the distribution that is sampled.
    top_k: the number of tokens that are sampled from; 0 is all.
    min_p: the least probability of a token, relative to that of the likeliest token.
    horizon: the most tokens of an answer.
    batch: the approximate number of answers that are written at a time.
    slots: the number of answers that are decoded at a time. A finished one gives its slot to the next. 0 is the whole batch.
      With a rule that asks for answers, it is the number of probes.
    seed: the seed of the answers; the problems do not depend on it.
    processors: the logit processors of the answers, in their order.
    end_of_thinking: the text of the token that ends the thinking; '' for the tokens that end an answer.
    dtype: the type of weights and activations.
    record: whether the tokens of every answer are recorded for espo_jax.replay.
    features: the number of directions onto which the recorded states are projected; 0 records no features of states.
    stop: the stop rule that ends answers; None for none.
    constants: the constants of the stop rule that replace those of the run.
    decoders: the decoders that choose among the answers.
    curve: whether the decoders also choose among the first 1, 2 and so on answers.
    output: the folder to write.
  """

  checkpoint: str
  arm: str | None = None
  step: int | None = None
  benchmark: str | None = None
  data: str | None = None
  problem_field: str | None = None
  answer_field: str | None = None
  on_error: str | None = None
  prompt: str | None = None
  samples: int = 32
  problems: int | None = None
  temperature: float | None = None
  top_p: float | None = None
  top_k: int | None = None
  min_p: float | None = None
  horizon: int | None = None
  batch: int | None = None
  slots: int | None = None
  seed: int = 0
  processors: Sequence[Named] = ()
  end_of_thinking: str | None = None
  dtype: str | None = None
  record: bool = False
  features: int = 0
  stop: str | None = None
  constants: Sequence[tuple[str, Constant]] = ()
  decoders: Sequence[Asked] = ()
  curve: bool = False
  output: str | None = None


def check(request: Request) -> None:
  """Checks what the flags alone determine; `experiment_for` checks what depends on the policy."""
  for name, bad, wanted in _RANGES:
    value = getattr(request, name)
    if value is not None and bad(value):
      raise RequestError(f'--{name}={value}: out of range; fix: a number {wanted}')
  revises = any(isinstance(one.decoder.drawing, decoders.Revision) for one in request.decoders)
  if request.temperature == 0 and request.samples > 1 and not revises:
    raise RequestError(f'--samples={request.samples} with --temperature=0: the answers would all be the same; fix: --samples=1')
  if request.data and not request.benchmark:
    raise RequestError(f'--data={request.data}: what it holds is not said; fix: --benchmark={" or ".join(BENCHMARKS)}')
  for name in ('problem_field', 'answer_field'):
    if (value := getattr(request, name)) and request.benchmark != tasks.JSONL:
      raise RequestError(f'--{name}={value}: only --benchmark={tasks.JSONL} reads fields by name; fix: leave it out')
  if request.benchmark == tasks.JSONL and not request.data:
    raise RequestError(f'--data is missing: --benchmark={tasks.JSONL} is data of your own; fix: --data=FILE')
  if request.end_of_thinking is not None and not request.processors:
    raise RequestError(
      f'--end_of_thinking={request.end_of_thinking}: no processor reads it; fix: --processor=budget beside it, say'
    )
  check_processors(request.processors)
  _check_stop(request)
  check_recorded(request.decoders, request.record, request.features)
  _check_drawer(request)
  if request.curve and not request.decoders:
    raise RequestError('--curve: no decoder to draw; fix: --decoder=majority beside it, say')
  if request.curve and request.samples == 1:
    raise RequestError('--curve with --samples=1: a curve is over the number of samples; fix: --samples=16, say')


def _check_stop(request: Request) -> None:
  """Checks the flags about recording and stopping."""
  if request.features and not request.record:
    raise RequestError(f'--features={request.features}: nothing is recorded; fix: --record beside it')
  if not request.stop:
    _check_regret('--record', request, request.record)
    for name, value in request.constants:
      raise RequestError(f'--constants {name}={told_constant(value)}: no stop rule reads it; fix: --stop=espo, or leave it out')
    return
  try:
    rule = lookup('stop rule', request.stop, stops.REGISTRY)()
  except ValueError as error:
    raise RequestError(f'--stop={request.stop}: {error}; fix: one of them') from error
  _check_regret(f'--stop={request.stop}', request, request.record or not rule.settles)
  if request.stop == 'never':
    raise RequestError('--stop=never: it stops no answer; fix: leave it out')
  fresh = rule.init(1).adaptive
  if fresh.head is not None or fresh.hazard is not None:
    raise RequestError(
      f'--stop={request.stop}: its head is fitted in training, and a new one knows nothing; fix: another rule, or --record and '
      "espo_jax.replay, which fits the heads of 'own_price', 'wald' and 'hazard_head' to recorded answers"
    )
  if request.stop == 'duet_abort':
    raise RequestError('--stop=duet_abort: its deadline follows the lengths of a training; fix: another rule')
  if request.stop == 'makespan_gate' and 'beta_0' not in dict(request.constants):
    raise RequestError('--stop=makespan_gate: its threshold follows a training; fix: --constants beta_0=1.4, say')
  if rule.probing is not None:
    _check_probing(request)
  known = stops.arguments(request.stop)
  for name, value in request.constants:
    if name not in known:
      where = f'--constants {name}={told_constant(value)}'
      raise RequestError(f'{where}: no constant of the rule {request.stop!r}; fix: one of {", ".join(sorted(known))}')


def _check_drawer(request: Request) -> None:
  """Checks the flags beside a decoder that draws samples of its own."""
  drawer = drawn_by(request.decoders)
  given = {'--record': request.record, '--curve': request.curve, f'--stop={request.stop}': request.stop}
  given |= {f'--processor={one.name}': True for one in request.processors}
  if drawer and (flag := next((flag for flag, value in given.items() if value), '')):
    told = f'{flag} with --decoder={drawer.named.name}'
    raise RequestError(f'{told}: it takes independent samples, and that decoder draws its own; fix: leave it out')


def _check_regret(flag: str, request: Request, is_read: bool) -> None:
  """Checks that regret tells something if it is read."""
  if is_read and request.temperature == 0:
    raise RequestError(f'{flag} with --temperature=0: the regret of a greedy token is 0; fix: a --temperature above 0')


def experiment_for(policy: Policy, request: Request) -> Experiment:
  """Makes the policy's experiment with the test set and the lengths of the request."""
  config = policy.config
  _check_episodes(config.environment.name, request)
  if -1 not in config.mesh.values():
    config.mesh.data = -1  # all devices of this machine, not those of the run's machine
  if request.dtype:
    config.model.dtype = config.model.param_dtype = request.dtype
  if request.prompt:
    if policy.is_run:
      raise RequestError(f'--prompt={request.prompt}: a run has a prompt of its own; fix: leave it out')
    config.task.options.prompt = request.prompt
  if request.on_error:
    if config.task.name != 'math':
      raise RequestError(f'--on_error={request.on_error}: the task {config.task.name!r} reads no rows; fix: leave it out')
    config.data.on_error = request.on_error
  if request.benchmark:
    _use_benchmark(config, request.benchmark, request)
  elif not policy.is_run:
    known = ' or '.join(BENCHMARKS)
    raise RequestError(f'--benchmark is missing: {request.checkpoint} is no run with a test split; fix: --benchmark={known}')
  if config.task.name == 'math':
    config.rollout.prompt_width = _ANY_WIDTH
  drawer = drawn_by(request.decoders)
  drafting = drawer.decoder.drawing if drawer and isinstance(drawer.decoder.drawing, decoders.Speculative) else None
  if drafting:
    config.mesh.update({axis: 1 for axis in config.mesh})  # drafting is for one device
  try:
    validate(config, training=False)
    # These are set after the checks of a config, in which they would be told as fields of the config.
    # The horizon may also be shorter than a task's solutions.
    for name in ('horizon', 'top_p', 'top_k', 'min_p', 'slots'):
      if getattr(request, name) is not None:
        config.rollout[name] = getattr(request, name)
    if drawer and drafting:
      check_processes(drawer.named.name)
      config.eval.draft_blocks, config.eval.draft_tokens = drafting.draft_blocks, drafting.most
    exp = make_experiment(config)
    check_writer(exp)
  except (ConfigError, tasks.DataError) as error:
    flags = (*_SKIP, *(_ASKED if request.benchmark else ()), *(() if policy.is_run else _OF_DIRECTORY))
    raise in_words_of(pathlib.Path(request.checkpoint), error, is_run=policy.is_run, flags=flags) from error
  if request.features > (most := exp.model.config.hidden_size):
    raise RequestError(f'--features={request.features}: a state has {most} numbers; fix: at most {most}')
  if drawer:
    check_drawing(exp, drawer)
  if request.stop:
    asked = dict(request.constants)
    rule = asked_rule(config, request.stop, asked)
    _check_rule(rule, request.stop, exp)
    _check_token_ids(rule, request.stop, exp, asked)
  return exp


def _check_probing(request: Request) -> None:
  """Checks the flags beside a rule that asks for answers."""
  if request.decoders:
    where = f'--decoder={request.decoders[0].named.name} with --stop={request.stop}'
    raise RequestError(f'{where}: no decoder counts the tokens of probes; fix: leave it out')
  given = {'--record': request.record, **{f'--processor={one.name}': True for one in request.processors}}
  if flag := next((flag for flag, value in given.items() if value), ''):
    raise RequestError(f'{flag} with --stop={request.stop}: it would act on probes too; fix: leave it out')


def _check_rule(rule: StopRule, name: str, exp: Experiment) -> None:
  """Checks that a rule with its constants can act on the policy."""
  if rule.directions > (most := exp.model.config.hidden_size):
    where = f'--stop={name}: directions = {rule.directions}'
    raise RequestError(f'{where}: a state has {most} numbers; fix: --constants directions={most}')
  if rule.probing is None:
    return
  if not rule.probing.inducer or set(rule.probing.inducer) & set(exp.end_tokens):
    raise RequestError(
      f'--stop={name}: inducer = {rule.probing.inducer}: it asks for the answer, and no token of it may end one; '
      'fix: --constants inducer=17,4 with the token ids of a text such as "Final answer:"'
    )
  if exp.model.exits is not None:
    raise RequestError(f'--stop={name}: the policy has early exits, with which no answer is probed; fix: another rule')


def _check_token_ids(rule: StopRule, name: str, exp: Experiment, asked: Mapping[str, Constant]) -> None:
  """Checks the constants of a rule of the package that are token ids: those asked for, and else those of the run."""
  if stops.is_users(name):
    return
  own, size = exp.config.stop.get(name, {}), exp.model.config.vocab_size
  for constant, default in registry.defaults(stops.REGISTRY[name]).items():
    if not isinstance(default, tuple):
      continue
    ids = typed_constant(name, constant, asked[constant]) if constant in asked else tuple(own[constant])
    assert isinstance(ids, tuple)  # its default is one
    where = f'--stop={name}: {constant} = {ids}'
    if not ids and rule.settles and rule.probing is None:
      raise RequestError(f'{where}: the rule waits for these token ids; fix: --constants {constant}=17,4, say')
    if unknown := [token for token in ids if type(token) is not int or not 0 <= token < size]:
      raise RequestError(f'{where}: the policy has no token {unknown[0]!r}; fix: ids from 0 to {size - 1}')


def asked_rule(config: Any, name: str, constants: Mapping[str, Constant]) -> StopRule:
  """Makes the stop rule `name` with the config's constants, of which some are replaced.

  Raises:
    RequestError: A constant is not of the type of its default, is outside the range of its config field, or does not go with
      the others.
  """
  try:
    typed = {constant: typed_constant(name, constant, value) for constant, value in constants.items()}
  except ValueError as error:
    raise RequestError(f'--constants {error}') from error
  try:
    return make_rule(config, name, **typed)
  except ValueError as error:
    raise RequestError(f'--stop={name}: {error}') from error


def _check_episodes(environment: str, request: Request) -> None:
  """Checks that no flag of a run with an environment takes an answer for one turn."""
  recorded = [
    one.named.name
    for one in request.decoders
    if one.decoder.reads - frozenset(decoders.ALWAYS) or one.decoder.drawing is not None
  ]
  given = {
    f'--stop={request.stop}': request.stop,
    **{f'--processor={one.name}': True for one in request.processors},
    **{f'--decoder={name}': True for name in recorded},
    f'--features={request.features}': request.features,
  }
  if flag := next((flag for flag, value in given.items() if environment and value), ''):
    where = f'{request.checkpoint} learned with environment.name = {environment!r}'
    raise RequestError(f'{flag}: it takes an answer for one turn, and {where}; fix: leave it out')


def _use_benchmark(config: Any, benchmark: str, request: Request) -> None:
  if config.task.name != 'math':
    raise RequestError(f'--benchmark={benchmark}: the run learned the task {config.task.name!r} alone; fix: leave it out')
  source = tasks.find_benchmark(benchmark)
  path = request.data or source.hub
  if problem := path_problem(source, path, 'test'):
    raise RequestError(f'--data = {problem}')
  config.data.path = config.data.benchmark = ''
  config.data.eval_benchmark, config.data.eval_path = benchmark, path
  config.data.problem_field = request.problem_field or config.data.problem_field
  config.data.answer_field = request.answer_field or config.data.answer_field
