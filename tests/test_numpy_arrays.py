"""Every public function that takes arrays takes NumPy's, of the widths NumPy makes and of narrow ones, and says the same."""

import functools
import inspect
import operator
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espo_jax import decoders, exits, learner, model, monitor, objectives, registry, replay, rewards, rollout, stops, types

P, G, T, V = 3, 4, 6, 5
RNG = np.random.default_rng(0)
N = P * G


def real(*shape):
  """Numbers that half precision has, so that every width holds the same ones."""
  return (RNG.integers(-64, 64, shape) / 32).astype(np.float64)


def some(*shape):
  return RNG.random(shape) < 0.5


def lengths(*shape):
  return RNG.integers(1, T + 1, shape)


def first(lengths):
  return np.arange(T) < lengths[:, None]


LENGTH = lengths(N)
MASK = first(LENGTH)
ROWS = types.Trajectories(
  prompt_tokens=RNG.integers(0, V, (N, 2)),
  prompt_lengths=np.full(N, 2),
  tokens=RNG.integers(0, V, (N, T)),
  logprobs=-abs(real(N, T)),
  values=real(N, T),
  regret=abs(real(N, T)),
  z=real(N, T),
  trained_from=np.zeros(N, np.int64),
  length=LENGTH,
  full_length=LENGTH,
  stop_reason=RNG.integers(0, 4, N),
  started=RNG.integers(0, 9, N),
  shadow=np.zeros(N, bool),
  depth=types.Depth(RNG.integers(0, 4, (N, T)), -abs(real(N, T))),
)
VERDICTS = types.Verdicts(some(N).astype(np.float64), some(N), some(N), RNG.integers(0, 3, N), some(N), some(N))
SEEN = {
  'correct': np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], np.float64),
  'lengths': lengths(P, G),
  'horizon': T,
  'ended': some(P, G),
  'formatted': some(P, G),
  'reasoned': some(P, G),
  'needed': some(P),
  'levels': RNG.integers(0, 3, P),
  'depth': abs(real(P, G)),
  'values': real(P, G, T),
  'mask': first(lengths(N)).reshape(P, G, T),
  'turn': np.zeros((P, G, T), int),
  'paid': np.full((P, G, T), 0.25),
}
LOSS = {
  **{name: real(N, T) for name in ('logprobs', 'entropy', 'values', 'old_logprobs', 'old_values', 'reference_logprobs')},
  'advantages': real(N, T),
  'returns': real(N, T),
  'mask': MASK,
  'reference_kl': abs(real(N, T)),
  'old_entropy': abs(real(N, T)),
  'reference_entropy': abs(real(N, T)),
  'entropy_slope': real(N, T),
  'opening_logprobs': real(N, V),
  'prefers_short': some(N),
  'past_entropy': np.full((N, T), 0.75),
  'progress': np.array(0.25),
}
CREDIT = {
  'parts': real(P, G, 2),
  'weights': real(2),
  'rewards': real(N, T),
  'values': real(N, T),
  'final_values': real(N),
  'truncated': some(N),
  'mask': MASK,
  'scores': real(P, G),
  'keep': some(P, G),
}
OBSERVED = stops.Observation(
  *(abs(real(N)), real(N), RNG.integers(1, 32, N) / 32, -abs(real(N)), abs(real(N)), abs(real(N)), abs(real(N))),
  tokens=RNG.integers(0, V, N),
  projections=real(N, 16),
  answer=stops.ForcedAnswer(RNG.integers(0, V, (N, 20)), -abs(real(N, 20)), abs(real(N, 20)), lengths(N) + 1, lengths(N)),
)
BY_TOKEN = stops.Observation(abs(real(N, T)), real(N, T), RNG.integers(1, 32, (N, T)) / 32)
RECORDED = stops.Observation(abs(real(N, T)), real(N, T), np.zeros((N, T)), -abs(real(N, T)))
HINDSIGHT = stops.Hindsight(real(N, T), LENGTH, some(N).astype(np.float64), np.ones(N), RECORDED, np.zeros(N, int))
EVIDENCE = stops.evidence.along(jax.tree.map(jnp.asarray, RECORDED), jnp.zeros(N, jnp.int32))
MOMENTS = stops.espo().init(1).adaptive.replace(enabled=jnp.asarray(True), beta=jnp.float32(0.5))
BLOCK = exits.Observation(
  real(2, 3),
  abs(real(2, 3)) / 2,
  real(2, 3, V),
  real(2, 3, V),
  lambda x: x,
  RNG.integers(0, T, (2, 3)),
  abs(real(2, 3)) / 2,
  RNG.integers(0, V, (2, 3, 2)),
)
DECODER = model.ModelConfig(
  vocab_size=V, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4
)


def moments_of(rule):
  fresh = rule.init(1).adaptive
  return MOMENTS.replace(account=fresh.account, head=fresh.head, hazard=fresh.hazard)


def rules():
  waiting = ('candidate_answer', 'duet_settled')
  return {name: make(marker=(3,)) if name in waiting else make() for name, make in stops.REGISTRY.items()}


def stepped(rule, observation):
  adaptive = moments_of(rule)
  return rule.update(rule.init(N, adaptive), observation), rule.threshold(adaptive, observation.values)


def adapted(rule, *batch):
  return rule.adapt(moments_of(rule), *batch)


def asked(policy, part, what):
  blocks = (8,) if part == 'schedule' else ()
  return getattr(policy, part)(what, *blocks, jnp.float32(policy.level))


@functools.cache
def decoder_params():
  return model.init(DECODER, jax.random.key(0))


CASES = {
  **{
    f'rewards.{name}': (method, *(SEEN[x] for x in inspect.signature(method).parameters if x in SEEN))
    for name, method in rewards.REGISTRY.items()
  },
  'rewards.hmpo, mean': (functools.partial(rewards.hmpo, budget='mean'), SEEN['correct'], SEEN['lengths']),
  'rewards.hmpo, fixed': (functools.partial(rewards.hmpo, budget='fixed', fixed_budget=4.0), SEEN['correct'], SEEN['lengths']),
  'rewards.correct': (rewards.correct, SEEN['correct']),
  'rewards.hmpo': (rewards.hmpo, SEEN['correct'], SEEN['lengths']),
  'rewards.short_serves': (rewards.short_serves, SEEN['correct'], SEEN['reasoned']),
  'rewards.evaluate': (lambda seen: rewards.evaluate('hmpo & format + 0.5 * spa_progress', {}, seen), SEEN),
  'rewards.observed': (lambda rows, verdicts: rewards.observed(rows, verdicts, G, 4), ROWS, VERDICTS),
  'rewards.stop_reward': (lambda values: rewards.stop_reward('value', -1.0, values), real(N)),
  'rewards.token_rewards': (rewards.token_rewards, ROWS, types.Reward(real(N), real(N, T))),
  **{
    f'objectives.{name}': (method.function, *(CREDIT[x] for x in registry.inputs(method.function)))
    for name, method in objectives.ADVANTAGES.items()
  },
  **{
    f'objectives.{name}': (method.function, *(LOSS[x] for x in registry.inputs(method.function)))
    for name, method in objectives.REGISTRY.items()
  },
  'objectives.compose': (objectives.compose('ppo + kl_k3', {}), LOSS),
  'objectives.gae': (
    lambda rewards, values, mask, after: objectives.gae(rewards, values, mask, gamma=0.9, lam=0.8, bootstrap=after),
    real(N, T),
    real(N, T),
    MASK,
    real(N),
  ),
  'objectives.group_scores': (lambda rewards, mask: objectives.group_scores(rewards, mask, G), real(N, T), MASK),
  'objectives.softmax_ce': (objectives.softmax_ce, real(N, T, 7)),
  'objectives.stablemax_ce': (objectives.stablemax_ce, real(N, T, 7)),
  'objectives.on_tokens': (objectives.on_tokens, real(P, G), MASK),
  **{f'objectives.{name}': (getattr(objectives, name), real(N, T), real(N, T)) for name in ('k1', 'k2', 'k3')},
  'objectives.estimated_kl': (functools.partial(objectives.estimated_kl, 'k3'), real(N, T), real(N, T), MASK),
  **{
    f'objectives.{name}': (getattr(objectives, name), real(N, T), MASK)
    for name in ('masked_mean', 'masked_sum', 'masked_variance', 'whiten', 'token_mean', 'sequence_mean')
  },
  'objectives.explained_variance': (objectives.explained_variance, real(N, T), real(N, T), MASK),
  'objectives.clipped_policy': (
    functools.partial(objectives.clipped_policy, clip_low=0.2, clip_high=0.3, dual_clip=3.0),
    real(N, T),
    real(N, T),
    real(N, T),
    MASK,
  ),
  'objectives.clipped_value': (
    functools.partial(objectives.clipped_value, clip=0.2),
    real(N, T),
    real(N, T),
    real(N, T),
    MASK,
  ),
  'objectives.importance_weights': (
    functools.partial(objectives.importance_weights, level='sequence', cap=1.5),
    real(N, T) / 8,
    MASK,
  ),
  'objectives.most_varied': (lambda scores, keep: objectives.most_varied(scores, keep, 2), real(P, G), some(P, G)),
  'objectives.Term': (lambda x, y: objectives.Term(x, y).mean, np.array(3.0), np.array(4.0)),
  'stops.surrogate_regret': (stops.surrogate_regret, real(N, T, V), RNG.integers(0, V, (N, T))),
  **{f'stops.{name}, update': (functools.partial(stepped, rule), OBSERVED) for name, rule in rules().items()},
  **{
    f'stops.{name}, adapt': (functools.partial(adapted, rule), abs(real(N, T)), MASK, some(N), HINDSIGHT)
    for name, rule in rules().items()
  },
  'stops.gate_counts': (stops.gate_counts, HINDSIGHT, RNG.integers(1, 32, V) / 32),
  'stops.slope': (stops.slope, real(N, V)),
  'rollout.probe_places': (
    lambda tokens, length: rollout.probe_places(tokens, length, stops.Probing((1,), (3,), 4, 2, 5)),
    RNG.integers(2, 5, (N, T)),
    LENGTH,
  ),
  'replay.overall': (replay.overall, real(N), some(N), np.arange(N) // 2),
  'replay.within_problems': (replay.within_problems, real(N), some(N), np.arange(N) // 2),
  'replay.thirds': (replay.thirds, some(N)[None].astype(np.float64), np.arange(N)[None] // 2, np.ones((1, N))),
  'stops.newton': (
    lambda x, y, w: stops.newton(stops.Regression(jnp.zeros(V), jnp.eye(V)), x, y, w, memory=0.5, steps=2),
    real(N, V),
    real(N),
    np.ones(N),
  ),
  'stops.forecast': (lambda e: stops.forecast(stops.new_head(), e), EVIDENCE),
  'stops.forecasts': (lambda seen: stops.forecasts(stops.new_head(), seen), HINDSIGHT),
  'stops.fit_head': (lambda seen: stops.fit_head(stops.new_head(), seen, memory=0.5), HINDSIGHT),
  'stops.head_calibration': (lambda seen: stops.head_calibration(stops.forecasts(stops.new_head(), seen), seen), HINDSIGHT),
  'stops.group_is_dead': (lambda p: stops.group_is_dead(p, 0.5), RNG.integers(1, 32, (P, G)) / 32),
  'stops.bin_posterior': (stops.bin_posterior, RNG.integers(0, 9, V) * 1.0, RNG.integers(0, 9, V) * 1.0),
  'stops.arrol_survival': (
    functools.partial(stops.arrol_survival, kept=0.5, balance=0.5, least=0.1, most=0.9),
    RNG.integers(1, 32, V) / 32,
    RNG.integers(0, 9, V) * 1.0,
  ),
  'stops.signed_survival': (
    functools.partial(stops.signed_survival, kept=0.5, balance=0.5, least=0.1, most=0.9),
    RNG.integers(1, 32, N) / 32,
    RNG.integers(1, 32, N) / 32,
  ),
  'stops.at_beta': (lambda values: stops.at_beta(MOMENTS, values), real(N)),
  'stops.adaptive': (lambda mu, var: stops.adaptive(stops.espo(), mu=mu, var=var), np.array(0.75), np.array(1.5)),
  'stops.update_gate': (
    lambda loss, explained: stops.update_gate(stops.init_gate(), loss, explained, force_after=5),
    np.array(0.25),
    np.array(0.5),
  ),
  'stops.update_gate, numbers': (
    lambda loss, explained: stops.update_gate(stops.init_gate(), loss.mean(), explained.mean(), force_after=5),
    np.array([0.25, 0.75]),
    np.array([0.5]),
  ),
  'rollout.sampled_logits': (
    lambda logits: rollout.sampled_logits(logits, rollout.Sampling(0.5, top_p=0.75, top_k=3, min_p=0.01)),
    real(N, V),
  ),
  'rollout.sampled_logits, settings': (
    lambda logits, *settings: rollout.sampled_logits(logits, rollout.Sampling(*settings)),
    real(N, V),
    np.array(0.5),
    np.array(0.75),
    np.array(3),
    np.array(0.0),
  ),
  'rollout.row_steps': (lambda rows: rollout.row_steps(rows, parts=1, samples=G, slots=4, inducer=1), ROWS),
  'exits.candidate_features': (exits.candidate_features, real(N, 3), RNG.integers(0, 32, (N, 3)) / 32),
  'exits.exit_pmf': (exits.exit_pmf, RNG.integers(0, 32, (N, 3)) / 32),
  'exits.calm_threshold': (lambda position: exits.calm_threshold(position, 0.9, 4.0, 64), RNG.integers(0, T, (2, 3))),
  'exits.linear_decay': (lambda position: exits.linear_decay(position, 8, 2.0, 1, 5), RNG.integers(0, T, (2, 3))),
  'exits.stream_cosine': (exits.stream_cosine, real(2, 3, V), real(2, 3, V)),
  'exits.gate_statistics': (exits.gate_statistics, real(2, 3, V)),
  'exits.exit_probabilities': (exits.exit_probabilities, RNG.integers(0, 32, (N, 3)) / 32),
  'exits.activation': (exits.activation, RNG.integers(0, 32, N) / 32, RNG.integers(0, 32, N) / 32),
  **{
    f'exits.{name}, {part}': (functools.partial(asked, make(), part), inputs)
    for name, make in exits.REGISTRY.items()
    for part, inputs in (('hazard', BLOCK), ('choice', BLOCK.logit), ('schedule', BLOCK.position))
    if getattr(make(), part)
  },
  'model.apply': (
    lambda tokens, positions, valid: model.apply(DECODER, decoder_params(), tokens, positions, valid),
    RNG.integers(0, V, (2, T)),
    np.tile(np.arange(T), (2, 1)),
    np.ones((2, T), bool),
  ),
  'replay.replay': (
    lambda seen, full_length, ends: replay.replay(stops.espo(), MOMENTS, seen, full_length, ends),
    BY_TOKEN,
    LENGTH,
    some(N, T),
  ),
  'replay.measure': (
    lambda *x: [tuple(m) for m in replay.measure(*x)],
    lengths(2, N),
    some(2, N),
    np.full(N, T),
    some(N).astype(np.float64),
    np.ones(N),
  ),
  'learner.pack': (lambda x: learner.pack(x, T + 2, sizes=2, multiple=1, widths=13, cost=float), lengths(2, N)),
  'learner.pack, groups': (
    lambda x, number: learner.pack(
      x + 1, T + 2, sizes=2, multiple=1, widths=13, cost=float, groups=learner.Groups(number, np.full(x.shape, 2, x.dtype))
    ),
    lengths(2, N),
    RNG.integers(0, 3, (2, N)),
  ),
  'monitor.pass_at_k': (lambda x: monitor.pass_at_k(x, 8, 3), RNG.integers(0, 9, 20)),
  'monitor.bootstrap_intervals': (lambda x: monitor.bootstrap_intervals(x, resamples=2000), abs(real(30, 3))),
  'monitor.resampled_means': (lambda x: monitor.resampled_means(x, resamples=20), abs(real(30, 3))),
  'monitor.with_intervals': (lambda x: monitor.with_intervals({'a': x[0], 'b': x[1]}), real(2, 30) % 1),
  'monitor.with_intervals, all are right': (lambda x: monitor.with_intervals({'a': x}), np.ones(3000)),  # half adds up 2048
  'monitor.mean_interval': (monitor.mean_interval, abs(real(500)) * 64),
  'monitor.mean_p_value': (monitor.mean_p_value, abs(real(500)) * 64),
  'monitor.wilson': (lambda x: monitor.wilson(*x), np.array([90, 120])),
  'decoders.group_confidences': (lambda x: decoders.group_confidences(x, 7), abs(real(3000)) * 64),
  'decoders.least_length': (
    lambda x: decoders.least_length(x, (x > 40) & (x < 70)),
    RNG.integers(1, 120, 300).astype(np.float64),
  ),
  'decoders.vote': (lambda x: decoders.vote(['a', 'b', 'a', '', 'b'], x), abs(real(5))),
  'monitor.majority': (lambda x: monitor.majority(['a', 'b', 'a', 'c', 'a'], x), some(5)),
}
ON_THE_HOST = ('decoders', 'learner', 'monitor')  # rooms whose functions are NumPy's own: the widest width gives what is right
WIDTHS = {
  "NumPy's own": (np.float64, np.int64),
  'single': (np.float32, np.int32),
  'narrow': (np.float16, np.int16),
  'bytes': (np.float16, np.uint8),
}


def of_width(tree, real, whole):
  """The arrays in other widths; numbers that stand for themselves stay."""

  def convert(x):
    if not isinstance(x, np.ndarray) or x.dtype == bool:
      return x
    return x.astype(real if x.dtype.kind == 'f' else whole)

  return jax.tree.map(convert, tree)


def on_device(tree):
  return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, of_width(tree, np.float32, np.int32))


@functools.cache
def wanted(name):
  """What a case gives for arrays of jax, as float64; all widths are compared with it."""
  function, *arrays = CASES[name]
  reference = arrays if name.startswith(ON_THE_HOST) else on_device(arrays)
  return [np.asarray(x, np.float64) for x in jax.tree.leaves(function(*reference))]


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('name', CASES)
def test_arrays_of_numpy_give_what_arrays_of_jax_give(name, width):
  function, *arrays = CASES[name]
  expected = wanted(name)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    found = jax.tree.leaves(function(*of_width(arrays, *WIDTHS[width])))
  assert len(found) == len(expected) > 0
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(np.asarray(one, np.float64), other)  # the same program ran


OF_ROWS = {
  'depth_share': lambda rows: rows.depth_share(4),
  'ordinary': lambda rows: rows.ordinary(),
  'whole': lambda rows: rows.whole(),
  'without': lambda rows: rows.without(rows.stopped),
  'represented': lambda rows: rows.represented(0.25),
  **{name: operator.attrgetter(name) for name, x in vars(types.Trajectories).items() if isinstance(x, property)},
}


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('name', OF_ROWS)
def test_rows_on_the_host_say_what_rows_on_the_device_say(name, width):
  expected, found = OF_ROWS[name](on_device(ROWS)), OF_ROWS[name](of_width(ROWS, *WIDTHS[width]))
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(np.asarray(one, np.float64), np.asarray(other, np.float64))


def test_every_method_of_the_rows_is_tried():
  of_a_pytree = {name for base in types.Trajectories.__mro__[1:] for name in vars(base)} | {'replace'}
  methods = {name for name, x in vars(types.Trajectories).items() if inspect.isfunction(x) or isinstance(x, property)}
  assert {name for name in methods if not name.startswith('_')} - of_a_pytree == OF_ROWS.keys()


# Functions of the rooms that are asked for arrays by their annotations, and where those come from NumPy already or cannot.
ELSEWHERE = {
  'rollout.generate': 'a jitted program: jax narrows what enters it',
  'rollout.generate_serial': 'likewise',
  'rollout.speculate': 'likewise',
  'learner.score': 'runs inside of the update',
  'exits.dynamax_distill': 'likewise',
  'exits.jei_lesson': 'likewise',
  'exits.lgvit_distill': 'likewise',
  'exits.specee_lesson': 'likewise',
}


ROOMS = [decoders, exits, monitor, objectives, replay, rewards, rollout, stops]


def asks_for_arrays(function):
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return False
  return any('Array' in str(p.annotation) or 'ndarray' in str(p.annotation) for p in parameters)


@pytest.mark.parametrize('room', ROOMS, ids=lambda room: room.__name__)
def test_every_public_function_that_asks_for_arrays_is_tried(room):
  short = room.__name__.rpartition('.')[2]
  names = {f'{short}.{name}' for name in room.__all__ if asks_for_arrays(getattr(room, name))}
  functions = {f for name in names if inspect.isfunction(f := getattr(room, name.rpartition('.')[2]))}
  asked = {f'{short}.{f.__name__}' for f in functions}
  assert asked <= {name.partition(',')[0] for name in CASES} | ELSEWHERE.keys()
