"""Estimates how another checkpoint would answer, from answers that are recorded. Nothing is sampled: the answers are scored."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from espo_jax import monitor, parallel, tasks
from espo_jax.configs import ConfigError, load_config
from espo_jax.evaluate.answers import problems_digest
from espo_jax.evaluate.measures import is_cv_estimate
from espo_jax.evaluate.policies import RequestError, in_words_of, open_policy
from espo_jax.evaluate.recording import ROWS
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.learner.scoring import score
from espo_jax.model import Params
from espo_jax.monitor.samples import SETTINGS
from espo_jax.parallel.storage import read_arrays, read_json

_WHOLE = {'top_p': 1.0, 'top_k': 0, 'min_p': 0.0}  # the sampler draws from the whole distribution


def estimate(folder: pathlib.Path, output: pathlib.Path, checkpoint: str, arm: str | None, step: int | None) -> dict[str, Any]:
  """Estimates accuracy, tokens and divergence of a checkpoint from the recorded answers of another one.

  Args:
    folder: The output folder of an evaluation with `--record`.
    output: The folder to write `estimate-ARM-STEP.json` to.
    checkpoint: The folder of the run whose checkpoint is estimated.
    arm: An arm or a stage of the run; None for the main arm.
    step: A step that has a checkpoint; None for the newest.

  Returns:
    The content of the file. `accuracy`, `tokens` and `kl` have a `mean`, its standard `error` over problems, and the
    `effective` number of answers. The divergence is that of whole answers from the policy that sampled them, in nats.

  Raises:
    RequestError: The folder has no recorded answers, or answers that were not sampled from a whole distribution, or other
      problems than its config has now.
    CheckpointError: The checkpoint cannot be read, or belongs to another model.
  """
  settings, rows = _recorded(folder)
  try:
    policy = open_policy(pathlib.Path(checkpoint).absolute(), arm, step)
  except RequestError as error:
    raise RequestError(str(error).replace('--checkpoint', '--estimate')) from error
  if not policy.is_run:
    raise RequestError(f'--estimate={checkpoint}: a Hugging Face directory, whose weights are no checkpoint; fix: a run')
  try:
    exp = make_experiment(load_config(folder / 'config.json'))
  except (ConfigError, tasks.DataError) as error:
    raise in_words_of(folder, error, is_run=True) from error
  asked_of = problems_asked(exp, settings, f'--from={folder}')
  if exp.model.exits is not None:
    raise RequestError(f'--from={folder}: with early exits the depth of a token is random too; fix: a model without exits')
  prompts = tasks.encode_prompts(exp.tokenizer, asked_of, exp.config.rollout.prompt_width)
  asked, lengths = (np.repeat(x, settings['samples'], axis=0) for x in (prompts.tokens, prompts.lengths))
  theirs = _logprobs(exp, policy.load(exp), asked, lengths, rows['tokens'], settings)
  real = np.arange(theirs.shape[1]) < rows['full_length'][:, None]
  log_ratios = np.where(real, theirs - rows['logprobs'], 0.0).sum(1, dtype=np.float64)
  values = {'accuracy': rows['correct'], 'tokens': rows['full_length'], 'kl': log_ratios}
  found = {
    'answers': settings,
    'policy': {'checkpoint': str(checkpoint), 'arm': policy.arm, 'step': policy.step},
    'sampled': {name: float(np.mean(values[name])) for name in ('accuracy', 'tokens')},
    **{
      name: is_cv_estimate(log_ratios, value.astype(np.float64), samples=settings['samples'])._asdict()
      for name, value in values.items()
    },
  }
  file = output / f'estimate-{policy.arm}-{policy.step}.json'
  if parallel.is_first():
    monitor.atomic_write_text(file, monitor.to_json(found, indent=1) + '\n')
  return found


def format_estimate(found: Mapping[str, Any]) -> str:
  """Formats an estimate in a sentence, with 95 % intervals, and warns where few answers tell anything."""
  policy, rows = found['policy'], found['answers']['problems'] * found['answers']['samples']

  def cell(name: str, scale: float = 1.0) -> str:
    return f'{scale * found[name]["mean"]:.1f} ± {1.96 * scale * found[name]["error"]:.1f}'

  effective = found['accuracy']['effective']
  told = (
    f'{monitor.arm_label(policy["arm"])}, step {policy["step"]}, estimated: {cell("accuracy", 100)} % right, {cell("tokens")} '
    f'tokens, {cell("kl")} nats from the policy that sampled; {effective:.0f} of {rows} answers tell as much'
  )
  few = not effective >= 0.1 * rows or math.isnan(found['accuracy']['mean'])
  return told + (
    '\nThe two policies are far apart, so the intervals are too narrow; fix: sample its own answers' if few else ''
  )


def problems_asked(exp: Experiment, settings: Mapping[str, Any], where: str) -> list[tasks.Problem]:
  """Returns the problems that recorded answers are to, with their tags.

  Args:
    exp: The experiment of the recording's config.
    settings: The settings of the evaluation.
    where: The place of the recording, for the message.

  Raises:
    RequestError: The test split has other problems now.
  """
  problems = exp.tagged(exp.problems('test', 0, settings['problems']))
  if problems_digest(problems) != settings['problems_digest']:
    raise RequestError(f'{where}: its test split has changed since; fix: evaluate again')
  return problems


def _recorded(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Reads settings and recorded rows, and checks that their log-probabilities are those of the policy."""
  if not (folder / SETTINGS).is_file() or not (folder / ROWS).is_file():
    raise RequestError(f'--from={folder}: holds no recorded answers; fix: evaluate with --record')
  settings = read_json(folder / SETTINGS)
  wanted = ('problems', 'samples', 'prompts_per_batch', 'problems_digest', 'temperature', *_WHOLE)
  if lacking := [name for name in wanted if not isinstance(settings, dict) or name not in settings]:
    raise monitor.OutputError(f'{folder / SETTINGS}: has no {lacking[0]!r} of an evaluation; fix: a copy of it')
  for name, whole in _WHOLE.items():
    if settings[name] != whole:
      raise RequestError(
        f'--from={folder}: its answers were sampled with {name} = {settings[name]}, so some have no probability; '
        f'fix: evaluate with --{name}={whole:g}'
      )
  if environment := settings.get('environment'):
    told = f'an episode with the environment {environment!r} has tokens that no policy drew'
    raise RequestError(f'--from={folder}: {told}; fix: evaluate a run without an environment')
  if named := settings.get('processors'):
    raise RequestError(f'--from={folder}: {", ".join(named)} changed what was drawn; fix: evaluate without --processor')
  return settings, read_arrays(folder / ROWS)


def _logprobs(
  exp: Experiment,
  params: Params,
  prompts: Int[np.ndarray, 'N L'],
  lengths: Int[np.ndarray, 'N'],
  tokens: Int[np.ndarray, 'N T'],
  settings: Mapping[str, Any],
) -> Float[np.ndarray, 'N T']:
  """Returns the log-probabilities of recorded tokens, batch by batch. The last batch repeats its last row.

  The devices share the rows of a batch. They need not be as many as those of the recording.
  """
  shards = parallel.batch_shards(exp.mesh)
  size = -(-settings['prompts_per_batch'] * settings['samples'] // shards) * shards
  mine = list(parallel.my_rows(exp.mesh, size))

  @jax.jit
  def scored(params: Params, prompts: Array, lengths: Array, tokens: Array) -> Array:
    found = score(exp.model, params, prompts, lengths, tokens, temperature=settings['temperature'], chunk=exp.logit_chunk)
    return found.logprobs

  parts = []
  for first in range(0, len(tokens), size):
    chosen = np.minimum(np.arange(first, first + size), len(tokens) - 1)[mine]
    parts.append(exp.fetch(scored(params, *exp.put_rows(tuple(x[chosen] for x in (prompts, lengths, tokens))))))
  return np.concatenate(parts)[: len(tokens)]
