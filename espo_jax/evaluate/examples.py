"""Records a few rollouts under an arm's stop rule token by token, for plots and for reading."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from espo_jax import monitor, parallel, tasks
from espo_jax.experiment import Experiment
from espo_jax.learner import TrainState
from espo_jax.stages.rollouts import stop_thresholds
from espo_jax.stops import StopRule
from espo_jax.types import StopReason

_TEXTS = 32  # the most rollouts in TensorBoard
_TABLE = ('correct', 'stop_reason', 'length', 'full_length', 'answer', 'question')  # its columns there


def write_examples(exp: Experiment, rule: StopRule, state: TrainState, path: pathlib.Path) -> None:
  """Write up to `eval.batch` rollouts on the first of `eval.problems`.

  Stopped rows are decoded to their end, so that it is known whether they would have been right.
  """
  size, most = exp.task.size('test'), min(exp.config.eval.batch, exp.config.eval.problems)
  problems = exp.problems('test', 0, most if size is None else min(most, size))
  batch = [*problems, *[problems[-1]] * (-len(problems) % parallel.batch_shards(exp.mesh))]
  mine = [batch[i] for i in parallel.my_rows(exp.mesh, len(batch))]
  sampler = exp.sampler.plain(samples=1, shadow_share=1.0, features=1)  # the features include the entropy
  rule = rule._replace(group=None)  # one row of a prompt is no group
  rows = sampler(state.params, rule, state.adaptive, exp.prompts(mine), exp.key('examples', 0))
  graded = exp.put_rows(exp.grade(mine, rows))
  rows, threshold, verdicts = exp.fetch((rows, stop_thresholds(exp, rule, state.adaptive, rows), graded.correct))
  threshold = np.minimum(threshold, np.finfo(np.float32).max)
  texts = exp.turns(exp.tagged(problems), exp.decode(rows.tokens[: len(problems)], rows.full_length[: len(problems)]))
  layers, examples = exp.model.config.num_layers, []
  for i, problem in enumerate(problems):
    full = int(rows.full_length[i])
    examples.append(
      {
        'question': exp.task.question(problem),
        'prompt': problem.prompt,
        'tokens': tasks.token_texts(exp.tokenizer, rows.tokens[i, :full].tolist()),
        **{name: getattr(rows, name)[i, :full].tolist() for name in ('regret', 'z', 'values', 'logprobs')},
        'entropy': rows.features.entropy[i, :full].tolist(),
        **({} if rows.depth is None else {'depth': (rows.depth.blocks[i, :full] / layers).tolist()}),
        'threshold': threshold[i, :full].tolist(),
        'length': int(rows.length[i]),
        'full_length': full,
        'stop_reason': StopReason(int(rows.stop_reason[i])).name.lower(),
        'answer': exp.task.stated_answer(texts[i]),
        'correct': bool(verdicts[i] >= 1),
      }
    )
  updates = int(exp.fetch(state.history.updates))
  if parallel.is_first():
    monitor.write_texts(path.parent, updates, [_text(example) for example in examples[:_TEXTS]])
    table = [[f'{i:03d}', *(example[name] for name in _TABLE)] for i, example in enumerate(examples[:_TEXTS])]
    monitor.write_table(path.parent, updates, 'rollouts', ('rollout', *_TABLE), table)
    monitor.atomic_write_text(path, monitor.to_json(examples))  # last, because the file says that this is done


def _text(example: Mapping[str, Any]) -> str:
  """Returns a rollout as TensorBoard shows it."""
  head = f'{"right" if example["correct"] else "wrong"}, {example["stop_reason"]} at token {example["length"]}'
  return f'{head}\n\n{example["question"]}\n\n{"".join(example["tokens"])}'
