"""Records a few rollouts under an arm's stop rule token by token, for plots and for reading."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from espo_jax import monitor, parallel, tasks
from espo_jax.evaluate.answers import last_turns
from espo_jax.experiment import Experiment
from espo_jax.learner import TrainState
from espo_jax.stages.episodes import play, verdicts_on
from espo_jax.stages.rollouts import stop_thresholds
from espo_jax.stops import StopRule
from espo_jax.types import StopReason, Trajectories

_TEXTS = 32  # the most rollouts in TensorBoard
_TABLE = ('correct', 'stop_reason', 'length', 'full_length', 'answer', 'question')  # its columns there


def write_examples(exp: Experiment, rule: StopRule, state: TrainState, path: pathlib.Path) -> None:
  """Write up to `eval.batch` rollouts on the first of `eval.problems`.

  Stopped rows are decoded to their end, so that it is known whether they would have been right. The answer of an episode is the
  one in its last turn.
  """
  problems = exp.test_problems(min(exp.config.eval.batch, exp.config.eval.problems))
  batch = [*problems, *[problems[-1]] * (-len(problems) % parallel.batch_shards(exp.mesh))]
  mine = [batch[i] for i in parallel.my_rows(exp.mesh, len(batch))]
  rule = rule._replace(group=None)  # one row of a prompt is no group
  rows, graded = _sampled(exp, rule, state, mine)
  rows, threshold, verdicts = exp.fetch((rows, stop_thresholds(exp, rule, state.adaptive, rows), exp.put_rows(graded)))
  threshold = np.minimum(threshold, np.finfo(np.float32).max)
  tokens, lengths, tagged = rows.tokens[: len(problems)], rows.full_length[: len(problems)], exp.tagged(problems)
  if rows.turn is None:
    texts = exp.turns(tagged, exp.decode(tokens, lengths))
  else:
    texts = last_turns(exp, tagged, tokens, rows.turn[: len(problems)])
  layers, examples = exp.model.config.num_layers, []
  for i, problem in enumerate(problems):
    full = int(rows.full_length[i])
    examples.append(
      {
        'question': exp.task.question(problem),
        'prompt': problem.prompt,
        'tokens': tasks.token_texts(exp.tokenizer, rows.tokens[i, :full].tolist()),
        **{name: getattr(rows, name)[i, :full].tolist() for name in ('regret', 'z', 'values', 'logprobs')},
        **({} if rows.features is None else {'entropy': rows.features.entropy[i, :full].tolist()}),
        **({} if rows.turn is None else {'turn': rows.turn[i, :full].tolist()}),
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


def _sampled(
  exp: Experiment, rule: StopRule, state: TrainState, problems: Sequence[tasks.Problem]
) -> tuple[Trajectories, Float[np.ndarray, 'P']]:
  """Returns a row of each of this process's problems, decoded to its end, and whether it is right."""
  key = exp.key('examples', 0)
  if exp.sampler.turns is not None:
    sampler = exp.sampler.plain(samples=1, shadow_share=1.0)
    (played,) = play(exp, sampler, state.params, rule, state.adaptive, [problems], key)
    return played.rows, np.asarray(verdicts_on(exp, problems, played).correct)
  sampler = exp.sampler.plain(samples=1, shadow_share=1.0, features=1)  # the features include the entropy
  rows = sampler(state.params, rule, state.adaptive, exp.prompts(problems), key)
  return rows, np.asarray(exp.grade(problems, rows).correct)


def _text(example: Mapping[str, Any]) -> str:
  """Returns a rollout as TensorBoard shows it."""
  head = f'{"right" if example["correct"] else "wrong"}, {example["stop_reason"]} at token {example["length"]}'
  return f'{head}\n\n{example["question"]}\n\n{"".join(example["tokens"])}'
