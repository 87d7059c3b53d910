"""A few rollouts under an arm's stop rule, token by token, for the plots and for reading."""

import pathlib

import jax
import numpy as np

from espo_jax import monitor
from espo_jax.experiment import Experiment
from espo_jax.learner import TrainState
from espo_jax.stops import StopRule
from espo_jax.types import StopReason


def write_examples(exp: Experiment, rule: StopRule, state: TrainState, path: pathlib.Path) -> None:
  """Write up to `eval.batch` rollouts on test problems; stopped rows go on, so that their fate is known."""
  size = exp.task.size('test')
  problems = exp.problems('test', 0, exp.config.eval.batch if size is None else min(exp.config.eval.batch, size))
  rows = exp.rollout(
    state.params,
    rule,
    state.adaptive,
    exp.prompts(problems),
    exp.key('examples', 0),
    samples=1,
    temperature=exp.config.rollout.temperature,
    shadow_share=1.0,
  )
  threshold = np.minimum(jax.device_get(rule.threshold(state.adaptive, rows.values)), np.finfo(np.float32).max)
  verdicts = exp.grade(problems, rows).correct
  rows = jax.device_get(rows)
  examples = []
  for i, problem in enumerate(problems):
    full = int(rows.full_length[i])
    examples.append(
      {
        'prompt': problem.prompt,
        'tokens': exp.tokenizer.convert_ids_to_tokens(rows.tokens[i, :full].tolist()),
        **{name: getattr(rows, name)[i, :full].tolist() for name in ('regret', 'z', 'values')},
        'threshold': threshold[i, :full].tolist(),
        'length': int(rows.length[i]),
        'full_length': full,
        'stop_reason': StopReason(int(rows.stop_reason[i])).name.lower(),
        'correct': bool(verdicts[i]),
      }
    )
  monitor.atomic_write_text(path, monitor.to_json(examples))
