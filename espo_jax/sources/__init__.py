"""Sources: examples for the warm start, made of recorded rollouts.

A source is a function that registers itself. It reads the problems of an evaluation with all rollouts of each, and yields
examples. An example is a prompt and a response in segments, and a segment without loss is read and not learnt
(`espo_jax.tasks.examples`):

    @sources.register('right')
    def right(problems):
      for asked in problems:
        for rollout in asked.rollouts:
          if rollout.correct:
            yield rollout.example([(rollout.response, True)])

| source | an example is | without loss is |
|---|---|---|
| `sbt_e` | a right rollout that ends after its second solution | what would have followed |
| `sbt_d` | a right rollout that ends where it becomes redundant | the steps before that end |
| `step_partial_mask` | a wrong rollout up to its slip, then the right steps | the slip |
| `rise_turns` | a wrong rollout, the request to try again, a better one | all but the better one |
| `mode_mixture` | a right rollout with or without its thought | the tag that asks for it |
| `cut_at_k` | a right rollout that concludes after its `k`-th answer | nothing |

| file | what is in it |
|---|---|
| `rollouts.py` | the problems and rollouts of an evaluation's folder |
| `judge.py` | what the task and its tokenizer say of a text |
| `traces.py` | a response as steps of a thought and a conclusion |
| `redundancy.py` | how redundant a thought is, which `sbt_e` and `sbt_d` share |
"""

from espo_jax.registry import import_files
from espo_jax.sources.cut_at_k import cut_at_k
from espo_jax.sources.judge import Judge
from espo_jax.sources.mode_mixture import mode_mixture
from espo_jax.sources.redundancy import redundancy
from espo_jax.sources.registered import READS, REGISTRY, register
from espo_jax.sources.rise_turns import reward_weight, rise_turns
from espo_jax.sources.rollouts import Asked, Rollout, SourceError, read_rollouts
from espo_jax.sources.sbt_d import sbt_d
from espo_jax.sources.sbt_e import sbt_e
from espo_jax.sources.step_partial_mask import step_partial_mask
from espo_jax.sources.traces import Trace, read_trace, split_steps

import_files(__name__, __path__)

__all__ = [
  'READS',
  'REGISTRY',
  'Asked',
  'Judge',
  'Rollout',
  'SourceError',
  'Trace',
  'cut_at_k',
  'mode_mixture',
  'read_rollouts',
  'read_trace',
  'redundancy',
  'register',
  'reward_weight',
  'rise_turns',
  'sbt_d',
  'sbt_e',
  'split_steps',
  'step_partial_mask',
]
