"""What one training step does, from prompts to parameters: the functions that `espo_jax.stage` loops over."""

import functools
import pathlib
import time
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array

from espo_jax import parallel, stops, tasks
from espo_jax.collecting import collect
from espo_jax.configs import advantage_name, max_draws, method_options
from espo_jax.experiment import Experiment
from espo_jax.learner import Calibration, Reinforcement, SupervisedLearner, TrainState, make_optimizer, minibatches, pack, put
from espo_jax.memory import during
from espo_jax.model import ActorCritic, ModelConfig, Params, token_flops
from espo_jax.objectives import masked_mean
from espo_jax.recording import write_rollout
from espo_jax.resampling import Draw, informative_batch
from espo_jax.rewards import Judged
from espo_jax.rollout import Serial, row_steps
from espo_jax.stops import StopRule
from espo_jax.types import Metrics, Trajectories


def supervised_learner(exp: Experiment) -> SupervisedLearner:
  """The warm start's learner."""
  c = exp.config
  optimizer = _optimizer(
    c,
    c.warm_start.learning_rate,
    c.warm_start.learning_rate,
    c.warm_start.warmup_steps,
    decay_steps=c.warm_start.steps - c.warm_start.warmup_steps,
    weight_decay=c.warm_start.weight_decay,
    exit_learning_rate=0.0,  # no token leaves early here
    exits_alone=False,
  )
  return SupervisedLearner(exp.model, optimizer, c.rollout.prompt_width, c.learner.logit_chunk)


def calibration_learner(exp: Experiment) -> Calibration:
  """The calibration's learner."""
  c = exp.config
  rate = c.calibration.learning_rate
  return Calibration(
    model=exp.model,
    optimizer=_optimizer(c, rate, rate, c.calibration.warmup_steps),
    kappa=c.calibration.kappa,
    patterns=c.calibration.patterns,
    uniform_patterns=c.calibration.uniform_patterns,
    whole_patterns=c.calibration.whole_patterns,
    divergence_weight=c.calibration.divergence_weight,
    exit_weight=c.calibration.exit_weight,
    temperature=c.rollout.temperature,
    logit_chunk=c.learner.logit_chunk,
  )


def reinforcement_learner(exp: Experiment, rule: StopRule) -> Reinforcement:
  """The learner of the critic warm-up and of an arm."""
  return make_learner(exp.config, exp.model, rule)


def make_learner(c: ml_collections.ConfigDict, model: ActorCritic, rule: StopRule) -> Reinforcement:
  """The learner that a config describes, for which neither data nor devices need be there."""
  gate = c.gate.to_dict()
  return Reinforcement(
    model=model,
    optimizer=_optimizer(c, c.learner.learning_rate, c.critic.learning_rate, c.learner.warmup_steps),
    rule=rule,
    objective=c.objective.name,
    options=method_options(c, 'objective'),
    advantage=advantage_name(c),
    advantage_options=method_options(c, 'advantage'),
    reward=c.reward.name,
    reward_options=method_options(c, 'reward'),
    kl=c.reward.kl,
    kl_coef=c.reward.kl_coef,
    fail_reward=c.stop.fail_reward,
    samples=c.rollout.samples,
    importance_cap=c.learner.importance_cap,
    decision_after=c.learner.decision_after,
    updates=c.learner.updates,
    success_momentum=c.stop.momentum,
    temperature=c.rollout.temperature,
    logit_chunk=c.learner.logit_chunk,
    gate=gate | {'force_after': round(gate.pop('force_at') * c.learner.updates)},
  )


def _optimizer(
  c: ml_collections.ConfigDict, learning_rate: float, critic_learning_rate: float, warmup_steps: int, **others: Any
) -> optax.GradientTransformation:
  """The optimizer of a stage; `others` go before what stages have in common."""
  common = {
    'exit_learning_rate': c.exits.learning_rate,
    'exits_alone': c.exits.alone,
    'weight_decay': c.learner.weight_decay,
    'max_grad_norm': c.learner.max_grad_norm,
    'b1': c.learner.b1,
    'b2': c.learner.b2,
  }
  return make_optimizer(learning_rate, critic_learning_rate, warmup_steps=warmup_steps, **common | others)


def supervised_step(exp: Experiment) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
  """One warm-start step on freshly written solutions."""
  c, learner = exp.config, supervised_learner(exp)

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    rng = np.random.default_rng([c.seed, zlib.crc32(b'warm_start'), step])
    problems = exp.problems('train', (step - 1) * c.warm_start.batch, c.warm_start.batch)
    pairs = [(problem.prompt, exp.task.solution(problem, rng)) for problem in problems]  # one stream: all draw all
    mine = [pairs[i] for i in parallel.my_rows(exp.mesh, len(pairs))]
    batch = tasks.encode_supervised(exp.tokenizer, mine, c.rollout.prompt_width, c.rollout.horizon)
    state, metrics = learner.update(state, exp.put_rows(batch))
    return state, metrics | {'bad_steps': state.bad_steps}

  return step


def calibration_step(exp: Experiment, teacher: Params) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
  """One step of the calibration, on responses that the teacher, the model at full depth, samples.

  Args:
    exp: The experiment.
    teacher: The parameters that the stage started from.
  """
  c, learner = exp.config, calibration_learner(exp)
  sampler, never = exp.with_exits(None).sampler.plain(samples=1), stops.never()

  def step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    problems = exp.my_problems('train', (step - 1) * c.calibration.prompts, c.calibration.prompts)
    key = exp.key('calibration', step)
    rows = sampler(teacher, never, state.adaptive, exp.prompts(problems), key)
    state, metrics = learner.update(state, teacher, rows, key)
    return state, metrics | {'bad_steps': state.bad_steps}

  return step


def reinforcement_step(
  exp: Experiment, rule: StopRule, reference: Params | None, record_in: pathlib.Path | None = None
) -> Callable[[TrainState, int], tuple[TrainState, dict[str, Any]]]:
  """One update: rollout, verdicts, advantages, minibatch steps, and what changes between batches.

  Args:
    exp: The experiment.
    rule: The stop rule; it acts once the state's gate has opened.
    reference: The policy RL started from, where reward or loss ask for it.
    record_in: The folder in which every `rollout.record`-th update's rollout is written down.
  """
  c, learner = exp.config, reinforcement_learner(exp, rule)
  after_warm_start = c.warm_start.steps * c.warm_start.batch  # RL goes on where the warm start's problems end
  most = max_draws(c)
  packed = functools.partial(
    pack,
    width=c.rollout.prompt_width + c.rollout.horizon,
    sizes=c.learner.pack_sizes,
    multiple=parallel.batch_shards(exp.mesh),
  )

  def step(state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    seconds: dict[str, float] = dict.fromkeys(('rollout', 'reward', 'score', 'update'), 0.0)
    sampler = state.params
    if c.rollout.gather_weights:
      seconds['reshard'] = 0.0
      with _timed(seconds, 'reshard'):
        sampler = jax.block_until_ready(exp.gather(sampler))

    def draw(number: int) -> Draw:
      position = after_warm_start + ((step - 1) * most + number) * c.rollout.prompts
      size = c.rollout.prompts // c.rollout.parts
      problems = [exp.my_problems('train', position + i * size, size) for i in range(c.rollout.parts)]
      timed, key = functools.partial(_timed, seconds), exp.key('rollout', step)
      rows, grades = collect(exp, sampler, rule, state.adaptive, problems, key, timed)
      with timed('reward'):
        judged = Judged(grades.correct, grades.formatted, grades.reasoned, grades.levels)
        reward, differ, metrics = learner.graded(rows, judged)
        counted = {'samples': c.rollout.samples, 'parts': c.rollout.parts, 'slots': c.rollout.slots, 'serial': exp.serial}
        metrics |= rollout_metrics(rows, judged.correct, **counted)
        metrics |= stop_metrics(state, rows, judged.correct)
        metrics |= depth_metrics(rows, config=exp.model.config)
        metrics |= {'grading/timeouts': _count(grades.timeout), 'grading/errors': _count(grades.error)}
      if record_in is not None and c.rollout.record and step % c.rollout.record == 0 and number == 0:
        write_rollout(exp, rows, grades.correct, state.adaptive, record_in / f'{step:06d}.npz')
      return Draw(rows, reward, judged.correct, differ, metrics)

    rows, reward, first, drawn = informative_batch(draw, most, c.rollout.samples, exp.mesh)
    del sampler  # where it is a copy, the update needs the room
    with _timed(seconds, 'score'):
      lengths = np.add(*exp.fetch((rows.prompt_lengths, rows.length)))
      in_turn = lengths.reshape(-1, c.learner.minibatches * c.learner.micro_batches).T
      batch, measured = learner.prepare(state.params, reference, rows, reward, put(packed(in_turn), exp.mesh))
      metrics: dict[str, Any] = drawn | measured
      jax.block_until_ready(metrics)
    with _timed(seconds, 'update'):
      parts, filled = [], []
      for chosen in minibatches(c.seed, step, rows.length.shape[0], c.learner.epochs, c.learner.minibatches):
        chosen = chosen.reshape(c.learner.micro_batches, -1)
        packing = packed(lengths[chosen])
        state, part = learner.update(state, batch, reference, exp.put(chosen), put(packing, exp.mesh))
        parts.append(part)
        filled.append(packing.real.mean())
      state = learner.finish(state, first.rows, first.correct, metrics)
      metrics |= {name: float(np.mean([part[name] for part in jax.device_get(parts)])) for name in parts[0]}
    metrics['pad_fraction'] = 1.0 - np.mean(filled)
    metrics |= {f'seconds/{phase}': taken for phase, taken in seconds.items()}
    metrics |= {'bad_steps': state.bad_steps, 'skipped_steps': state.skipped, 'gate_open': state.gate.open}
    generated = sum(int(jax.device_get(metrics[f'rollout/{name}tokens'])) for name in ('', 'shadow_'))
    return state, metrics | {'tokens_per_second': generated / seconds['rollout']}

  return step


@functools.partial(jax.jit, static_argnames=('samples', 'parts', 'slots', 'serial'))
def rollout_metrics(
  rows: Trajectories, verdicts: Array, *, samples: int, parts: int, slots: int, serial: Serial | None = None
) -> Metrics:
  """What was generated: counted and stamped, so that two runs can be compared token by token.

  Tokens are those that were sampled. Accuracy, lengths and truncation are those of full responses, what the policy does when
  nobody asks it for an answer; early exits have figures of their own.

  Args:
    rows: The rows of all parts.
    verdicts: 1 where a row is right.
    samples: The number of rows per prompt.
    parts: Rollouts that the rows come from, one after another.
    slots: The number of rows decoded at a time; 0 for all rows of a part.
    serial: How early exits were made, where there are any.
  """
  right = jnp.where(rows.stopped, 0.0, verdicts)
  generated = rows.length - rows.trained_from
  if serial is None:
    taken = (rows.started + rows.full_length).reshape(parts, -1)
    steps = taken.max(axis=1).sum() * min(slots or taken.shape[1], taken.shape[1])
  else:
    steps = row_steps(rows, parts=parts, samples=samples, slots=slots, inducer=len(serial.inducer))
  early = rows.trained_from > 0

  def mean(x: Array, of: Array) -> Array:
    return masked_mean(x.astype(jnp.float32), of)

  of_exits = {
    'serial/accuracy': mean(right, early),
    'serial/kept_mean': mean(rows.trained_from, early),  # tokens before an answer, the inducer's included
    'serial/answer_mean': mean(generated, early),
  }
  positions = jnp.arange(rows.tokens.size, dtype=jnp.uint32).reshape(rows.tokens.shape)
  return (of_exits if serial else {}) | {
    'accuracy': mean(right, ~early),
    'rollout/rows': jnp.asarray(verdicts.size),
    'rollout/tokens': generated.sum(),
    'rollout/shadow_tokens': (rows.full_length - rows.length).sum(),
    'rollout/row_steps': steps,  # executed; the tokens among them are the useful ones
    'rollout/utilisation': generated.sum() / steps,
    'rollout/length_mean': mean(rows.length, ~early),
    'rollout/truncated_rate': mean(rows.truncated, ~early),
    # Weyl-mixed so that order matters; below 2^24, so that a float32 holds it exactly.
    'rollout/checksum': ((rows.tokens.astype(jnp.uint32) + 1) * (positions * jnp.uint32(2654435761) | 1)).sum() >> 8,
  }


@jax.jit
def stop_metrics(state: TrainState, rows: Trajectories, verdicts: Array) -> Metrics:
  """What the stop rule did, and what its shadow rows say it should not have done."""
  success = state.params.get('critic', {}).get('success')
  return ({} if success is None else {'stop/success': success}) | {
    'stop/enabled': state.adaptive.enabled,
    'stop/rate': rows.stopped.mean(),
    'stop/beta': state.adaptive.beta,
    'stop/mu': state.adaptive.mu,
    'stop/sigma': jnp.sqrt(state.adaptive.var),
    'stop/shadow_rows': rows.shadow.sum(),
    'stop/shadow_correct': jnp.where(rows.shadow, verdicts, 0.0).sum(),
  }


@functools.partial(jax.jit, static_argnames='config')
def depth_metrics(rows: Trajectories, *, config: ModelConfig) -> Metrics:
  """The operations of the tokens that count, as `token_flops` has them; with exits, how deep these were read."""
  count, layers = rows.mask.sum(), config.num_layers
  blocks = count * layers
  exits = {}
  if rows.depth is not None:
    blocks = jnp.where(rows.mask, rows.depth.blocks, 0).sum()
    early = jnp.where(rows.mask, rows.depth.blocks < layers, False).sum()
    exits = {'exits/depth': blocks / (layers * count), 'exits/rate': early / count}
  run, skipped, rest = (x * 1e-9 for x in token_flops(config))
  return exits | {'rollout/gflops': blocks * run + (count * layers - blocks) * skipped + count * rest}


def fork(state: TrainState, rule: StopRule) -> TrainState:
  """The state an arm starts from: what the critic warm-up learned, the gate open, and the arm's own first beta."""
  fresh = rule.init(1).adaptive
  opened = jnp.ones_like(state.gate.open)
  return state.replace(
    adaptive=state.adaptive.replace(beta=fresh.beta, enabled=opened, account=fresh.account),
    gate=state.gate.replace(open=opened.copy()),
  )


@jax.jit
def _count(flags: Array) -> Array:
  return flags.sum()


@contextmanager
def _timed(seconds: dict[str, float], phase: str):
  start = time.perf_counter()
  with during(phase):
    yield
  seconds[phase] += time.perf_counter() - start
