"""The stage `rl`: reinforcement learning under one stop rule, called an arm. `step` shows a whole update on one screen."""

import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from espo_jax import monitor, parallel
from espo_jax.configs import advantage_name, is_ragged, max_draws, method_options
from espo_jax.evaluate.answers import evaluate_params
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import Reinforcement, TrainState, in_parts, minibatches, put_packing, row_sizes
from espo_jax.model import ActorCritic, Params
from espo_jax.monitor.diagnostics import Diagnosis
from espo_jax.parallel.memory import during
from espo_jax.stages.allocation import Asked, Plan
from espo_jax.stages.changes import reopened_at
from espo_jax.stages.loop import Interruption, Step, make_stage, run_stage
from espo_jax.stages.metrics import Clock, mean_metrics, sample_metrics, state_metrics
from espo_jax.stages.optimizers import stage_optimizer
from espo_jax.stages.packings import pack_rows, packing_metrics
from espo_jax.stages.rollouts import Draw, collect, informative_batch, sampling_params, whole_groups, with_totals, write_rollout
from espo_jax.stops import StopRule
from espo_jax.types import Trajectories, Verdicts

Watch = Callable[[str, int, float], None]


def step(
  exp: Experiment,
  learner: Reinforcement,
  reference: Params | None,
  record_in: pathlib.Path | None,
  state: TrainState,
  number: int,
) -> tuple[TrainState, dict[str, Any]]:
  """Makes one update.

  1 chooses the problems, 2 rolls out, 3 grades, 4 computes rewards, 5 computes advantages, 6 updates policy and critic by
  minibatches, 7 updates the stop rule and the gate. Comments number these parts in the code below.

  Args:
    exp: The experiment.
    learner: The learner; its stop rule acts once the state's gate has opened.
    reference: The parameters that reinforcement learning started from; None where neither reward nor loss reads them.
    record_in: The folder where the rollout of every `rollout.record`-th update is saved; None to save none.
    state: The state before the update. Its buffers are donated.
    number: The number of the update; the first is 1.

  Returns:
    The state after the update, and the metrics.
  """
  c, clock = exp.config, Clock()
  plan, weights = Plan(exp, state, number, clock), sampling_params(exp, state.params, clock)
  state = state.replace(drafts=None)  # they are on the host, and `plan` puts the next ones back

  def draw(attempt: int) -> Draw:
    asked, sampled = plan.ask(attempt), functools.partial(collect, exp, weights, learner.rule, state.adaptive, clock)  # 1
    sample, (rows, verdicts), counts = _rolled_out(exp, state, plan, asked, number, sampled, clock)  # 2, 3
    with clock('reward'):
      reward, differ, metrics = learner.graded(rows, verdicts, state.adaptive)  # 4
      reward = reward.replace(weight=None if asked.weights is None else exp.put_rows(asked.weights))
      return Draw(rows, reward, differ, *sample, metrics | counts)

  rows, reward, first, metrics = informative_batch(draw, max_draws(c), c.rollout.samples, exp.mesh)
  del weights  # if they are a copy, the update needs that memory
  if record_in is not None and c.rollout.record and number % c.rollout.record == 0:
    write_rollout(exp, first.sample, first.correct, learner.rule, state.adaptive, record_in / f'{number:06d}.npz')

  with clock('score'):
    lengths, prompts = exp.fetch((row_sizes(learner.rewarded(rows), reward.keep), rows.prompt_lengths))
    packed = functools.partial(pack_rows, exp, lengths, prompts)
    parts_of_all = in_parts(lengths.size, c.learner.minibatches * c.learner.micro_batches, c.rollout.samples)
    batch, measured = learner.prepare(state.params, reference, rows, reward, put_packing(packed(parts_of_all), exp.mesh))  # 5
    metrics = jax.block_until_ready(metrics | measured)
  with clock('update'):
    parts, together = list[dict[str, Any]](), c.rollout.samples if c.learner.whole_groups else 1
    for chosen in minibatches(c.seed, number, lengths.size, c.learner.epochs, c.learner.minibatches, lengths > 0, together):
      if parts and not lengths[chosen].any():  # no row of it is trained on
        continue
      chosen = np.sort(chosen).reshape(c.learner.micro_batches, -1)  # a group's rows in as few parts as possible
      packing = packed(chosen)
      state, part = learner.update(state, batch, reference, exp.put(chosen), put_packing(packing, exp.mesh))  # 6
      parts.append(part | packing_metrics(packing, lengths[chosen]))
    state = learner.finish(state, first.sample, first.correct, metrics)  # 7
    state, remembered = plan.remember(state, batch)
    metrics |= mean_metrics(parts) | remembered
  return state, metrics | state_metrics(state, metrics, clock)


def _rolled_out(
  exp: Experiment,
  state: TrainState,
  plan: Plan,
  asked: Asked,
  number: int,
  sampled: Callable[..., tuple[Trajectories, Verdicts]],
  clock: Clock,
) -> tuple[tuple[Trajectories, Any], tuple[Trajectories, Verdicts], dict[str, Any]]:
  """Samples and grades the rows of a rollout; where an allocator commits to some of the problems, also the rest of their rows.

  Returns:
    The rows of the first rollout, which nothing has selected, with how correct they are; the rows to train on with their
    verdicts; and metrics.
  """
  rows, verdicts = sampled(asked.problems, exp.key('rollout', number), asked.rows, asked.drafts)
  plan.saw(asked, rows, verdicts.correct)
  with clock('reward'):
    metrics = sample_metrics(exp, state, rows, verdicts)
    rows = rows.ordinary()
    sample = rows, verdicts.correct
    rest = plan.commit(asked, rows, verdicts.correct)
  if rest is None:
    return sample, (rows, verdicts), metrics
  more = sampled(asked.problems, exp.key('commit', number), rest.rows)
  metrics = with_totals(metrics, sample_metrics(exp, state, *more)) | {'allocation/passed': rest.passed.mean()}
  return sample, whole_groups((rows, verdicts), more, rest.passed, rest.first, exp.mesh), metrics


def reinforcement_step(
  exp: Experiment, rule: StopRule, reference: Params | None, record_in: pathlib.Path | None = None
) -> Callable[[TrainState, int], tuple[TrainState, dict[str, Any]]]:
  """Binds all arguments of `step` except state and number, and returns the function `(state, number) -> (state, metrics)`."""
  return functools.partial(step, exp, reinforcement_learner(exp, rule), reference, record_in)


def reinforcement_learner(exp: Experiment, rule: StopRule) -> Reinforcement:
  """Returns the learner of the critic warm-up and of an arm."""
  return make_learner(exp.config, exp.model, rule, exp.logit_chunk)


def make_learner(c: ml_collections.ConfigDict, model: ActorCritic, rule: StopRule, logit_chunk: int) -> Reinforcement:
  """Returns the learner that a config describes. Neither data nor devices are needed to build it.

  Args:
    c: The config of the experiment.
    model: Policy and critic.
    rule: The stop rule.
    logit_chunk: The number of tokens whose logits are in memory at a time, on all devices together.
  """
  gate = c.gate.to_dict()
  return Reinforcement(
    model=model,
    optimizer=stage_optimizer(c, c.learner.learning_rate, c.critic.learning_rate, c.learner.warmup_steps),
    rule=rule,
    objective=c.objective.name,
    options=method_options(c, 'objective'),
    advantage=advantage_name(c),
    advantage_options=method_options(c, 'advantage'),
    reward=c.reward.name,
    reward_options=method_options(c, 'reward'),
    kl=c.reward.kl,
    kl_coef=c.reward.kl_coef,
    stop_returns=c.stop.returns,
    fail_reward=c.stop.fail_reward,
    shadow_share=c.stop.shadow_share,
    baseline=c.advantage.baseline,
    rows_kept=c.advantage.rows,
    ragged=is_ragged(c),
    samples=c.rollout.samples,
    critic_every=c.critic.every if model.separate_critic else 1,
    importance=c.learner.importance,
    importance_cap=c.learner.importance_cap,
    decision_after=c.learner.decision_after,
    updates=c.learner.updates,
    turns=c.environment.max_turns if c.environment.name else 1,
    success_momentum=c.stop.momentum,
    temperature=c.rollout.temperature,
    logit_chunk=logit_chunk,
    gate=gate | {'force_after': round(gate.pop('force_at') * c.learner.updates)},
  )


# ------------------------------------------------------------------------------------------------------------------ the arm


@during('reinforcement learning')
def reinforce(
  exp: Experiment,
  arm: str,
  state: TrainState,
  forked_at: int,
  reference: Params | None,
  workdir: pathlib.Path,
  signals: Interruption,
  watch: Watch | None = None,
) -> tuple[StopRule, TrainState]:
  """Runs reinforcement learning under the stop rule `arm`. The metrics file begins with those of the critic warm-up.

  Args:
    exp: The experiment.
    arm: The name of the stop rule.
    state: The state after the critic warm-up. Its buffers are donated.
    forked_at: The updates of the critic warm-up.
    reference: The parameters that reinforcement learning started from; None where neither reward nor loss reads them.
    workdir: The folder of the run.
    signals: The interruption flag, which is read after every update.
    watch: A function that is given the arm, each update and its training accuracy once these are written; an error of it ends
      the run.

  Returns:
    The stop rule, and the state after the last update.
  """
  c = exp.config
  directory = workdir / 'arms' / arm
  matched = parallel.from_first(lambda: _matched_rate(workdir / 'arms' / c.stop.name)) if arm == 'random' else {}
  rule = make_rule(c, arm, **matched)
  parallel.from_first(lambda: _begin_arm(directory, workdir / 'critic_warmup'))
  one = reinforcement_step(exp, rule, reference, directory / 'rollouts')
  if c.eval.every:
    one = _evaluated(one, exp, monitor.arm_label(arm))
  stage = make_stage(
    c,
    monitor.arm_label(arm),
    directory,
    first=forked_at,
    last=c.learner.updates,
    step=one,
    diagnose=Diagnosis(monitor.arm_label(arm), directory),
    finished=lambda metrics: 0 < c.learner.tokens <= metrics['rollout/decoded'],
    reopened=parallel.from_first(lambda: reopened_at(workdir, arm)),
    **({} if watch is None else {'watch': functools.partial(watch, arm)}),
  )
  state, _ = run_stage(stage, exp.on_mesh(fork(state, rule)), signals)
  return rule, state


def fork(state: TrainState, rule: StopRule) -> TrainState:
  """Returns the state that an arm starts from: that of the critic warm-up, with the gate open and the rule's own first state.

  The moments of the regret are those of the critic warm-up, because all rules measure the same ones. So is the head of a rule
  that has one. A hazard begins anew, because the critic warm-up fits none.
  """
  old, opened = state.adaptive, jnp.ones_like(state.gate.open)
  own = rule.init(1).adaptive
  head = None if own.head is None else old.head
  return state.replace(
    adaptive=own.replace(mu=old.mu, var=old.var, batches=old.batches, enabled=opened, head=head),
    gate=state.gate.replace(open=opened.copy()),
  )


def _evaluated(one: Step, exp: Experiment, label: str) -> Step:
  """Adds the results on the test split, as `eval/` metrics, to every `eval.every`-th update.

  They are those of the policy without stops, on the same problems with the same random numbers each time and in each arm. The
  tokens and the seconds of an evaluation are not those of training.
  """

  def evaluated(state: TrainState, number: int) -> tuple[TrainState, dict]:
    state, metrics = one(state, number)
    if number % exp.config.eval.every == 0:
      with jax.transfer_guard('allow'):  # answers are read on the host
        found = evaluate_params(exp, state.params, f'evaluation of {label} after update {number}')
      metrics |= {f'eval/{name}': value for name, value in found.items() if not isinstance(value, str)}
    return state, metrics

  return evaluated


def _begin_arm(directory: pathlib.Path, warmup: pathlib.Path) -> None:
  """Copies the metrics of the critic warm-up into the folder of an arm that has not begun."""
  if not (directory / 'checkpoints').exists():
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(warmup / 'metrics.jsonl', directory / 'metrics.jsonl')


def _matched_rate(directory: pathlib.Path) -> dict[str, float]:
  """Returns the arguments with which `random` stops the same share of rows as the arm under `directory` did on average."""
  rows = [row for row in monitor.read_metrics(directory) if row['stop/enabled']]
  rate = float(np.mean([row['stop/rate'] + row.get('stop/settled', 0) / row['rollout/rows'] for row in rows]))
  length = float(np.mean([row['rollout/tokens'] / row['rollout/rows'] for row in rows]))  # dropped rows included
  beta = -float(np.log(max(rate, 1e-6) / length))
  return {'target_rate': rate, 'beta_0': beta, 'eta': 1.0} | {'beta_min': 0.0, 'beta_max': 100.0}  # the config's bound a z
