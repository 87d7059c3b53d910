"""The stage `critic_warmup`: updates without a stop rule, until the critic is accurate enough for a stop rule to use.

Its updates also set the regret's moments and fit a head, which all arms start from: a rule that waited for its own head would
stop rows later than the others. Without a critic the stage is one plain update.
"""

import pathlib

from espo_jax.configs import uses_reference, warmup_updates
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import TrainState, init_state
from espo_jax.model import Params
from espo_jax.monitor.diagnostics import Diagnosis
from espo_jax.parallel.memory import during
from espo_jax.stages.allocation import first_drafts, first_memory
from espo_jax.stages.loop import Interruption, copy_tree, make_stage, run_stage
from espo_jax.stages.rl import reinforcement_learner, reinforcement_step
from espo_jax.stops import with_head


@during('critic warm-up')
def critic_warmup(exp: Experiment, params: Params, workdir: pathlib.Path, signals: Interruption) -> tuple[TrainState, int]:
  """Trains without a stop rule until the gate opens; without a critic, for one update. All arms start from the result.

  The parameters' buffers are donated unless they are the reference, which arms read.
  """
  c = exp.config
  never = with_head(make_rule(c, 'never'), memory=c.stop.memory)
  params = exp.model.critic_from_policy(params)
  reference = params if uses_reference(c) else None
  own = params if reference is None else copy_tree(params)
  learner = reinforcement_learner(exp, never)
  fresh = init_state(own, learner.optimizer, never, learner.turns)
  state = exp.on_mesh(fresh.replace(allocation=first_memory(c), drafts=first_drafts(exp)))
  stage = make_stage(
    c,
    'critic warm-up',
    workdir / 'critic_warmup',
    last=warmup_updates(c),
    step=reinforcement_step(exp, never, reference),
    diagnose=Diagnosis('critic warm-up', workdir / 'critic_warmup'),
    finished=lambda metrics: bool(metrics['gate_open']),
  )
  return run_stage(stage, state, signals)
