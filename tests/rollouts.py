"""Rollouts of a small model: six prompts, three samples each, all three ways to end among them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import rounding
from small import VOCAB, actor_critic, forward, left_padded

from espo_jax import parallel, rollout, stops
from espo_jax.rollout import Sampling
from espo_jax.stops import Adaptive
from espo_jax.types import Prompts

EOS, PAD = 1, 0
P, G, WIDTH, HORIZON = 6, 3, 5, 24
SMOOTHING, CLIP, EPSILON, DELTA = 0.6, 4.0, 0.25, 1e-3
RULE = stops.espo(smoothing=SMOOTHING, clip=CLIP, epsilon=EPSILON, delta=DELTA)
NEVER = stops.never()
STATE = Adaptive(jnp.float32(0.9), jnp.float32(0.8), jnp.int32(1), jnp.float32(1.6), jnp.asarray(True))


def make_prompts() -> Prompts:
  rng = np.random.default_rng(0)
  lengths = np.array([5, 2, 4, 5, 1, 3], np.int32)
  tokens = np.where(np.arange(WIDTH) >= WIDTH - lengths[:, None], rng.integers(2, VOCAB, (P, WIDTH)), PAD).astype(np.int32)
  return Prompts(tokens, lengths, rng.integers(0, 2**32, P, dtype=np.uint32))


PROMPTS = make_prompts()


@rounding.cached
def model_of(variant: str):
  if variant == 'shared':
    return actor_critic(20)
  return actor_critic(14, separate_critic=True, scan_layers=True)


def in_precision(state: Adaptive) -> Adaptive:
  """The rule's state in what the package computes in."""
  return jax.tree.map(lambda x: x.astype(rounding.precision()) if x.dtype == np.float32 else x, state)


def run(
  *,
  variant='shared',
  rule=RULE,
  state=STATE,
  prompts=PROMPTS,
  samples=G,
  shadow=0.5,
  temperature=1.0,
  key=7,
  scan=8,
  slots=0,
  critic_every=1,
  horizon=HORIZON,
  directions=None,
  **options,
):
  """Trajectories as numpy arrays."""
  model, params = model_of(variant)
  rows = rollout.generate(
    model,
    params,
    rule,
    in_precision(state),
    jax.tree.map(jnp.asarray, prompts),
    jax.random.key(key),
    samples=samples,
    horizon=horizon,
    end_tokens=(EOS,),
    pad_token=PAD,
    sampling=Sampling(jnp.float32(temperature)),
    shadow_share=jnp.float32(shadow),
    scan_length=scan,
    slots=slots,
    critic_every=critic_every,
    directions=directions,
    **options,
  )
  return jax.device_get(rows)


def on_mesh(engine, shape, rule, *, params=None, state=STATE, prompts=PROMPTS, key=7, **options):
  """The rows of an engine on a mesh, as numpy arrays: those of `prompts`, then those of two prompts more."""
  model, own = model_of('shared')
  mesh = parallel.make_mesh(*shape)
  shardings = parallel.param_shardings(jax.eval_shape(model.init_boxed, jax.random.key(0)), mesh)
  whole, rows = parallel.replicated(mesh), parallel.over_batch(mesh)
  eight = jax.tree.map(lambda x: np.concatenate([x, x[:2]]), prompts)  # as many as divide by every mesh
  usual = {'samples': G, 'horizon': HORIZON, 'end_tokens': (EOS,), 'pad_token': PAD, 'slots': 8, 'scan_length': 8}
  found = engine(
    model,
    jax.tree.map(jax.device_put, own if params is None else params, shardings),
    rule,
    jax.device_put(in_precision(state), whole),
    jax.device_put(eight, rows),
    jax.device_put(jax.random.key(key), whole),
    mesh=mesh,
    **(usual | options),
  )
  return jax.device_get(found)


NUMBERS = ('logprobs', 'values', 'regret', 'z')  # what is recorded of a token beside it


def limits_for(model, params, rows, temperature=1.0) -> dict[str, float]:
  """How far rounding may move each of the numbers: they come from a token's logit and the greatest, or all together."""
  tokens = np.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  places = left_padded(tokens.shape[1], rows.prompt_lengths + rows.tokens.shape[1])
  roundings = rounding.of_decoder(model.config, tokens.shape[1])
  logits, values = rounding.of_program(functools.partial(forward, model), params, tokens, *places, roundings=roundings)
  apart = 2 * logits / temperature
  own = rounding.gamma(5 * rows.tokens.shape[1], rows.z.dtype) * CLIP  # the smoothing's
  return {'logprobs': apart, 'values': values, 'regret': apart, 'z': apart / np.sqrt(STATE.var + DELTA) + own}


@rounding.cached
def limits_of(variant: str = 'shared') -> dict[str, float]:
  return limits_for(*model_of(variant), run(variant=variant))


def assert_same_rows(one, two, which_one=slice(None), which_two=slice(None), limits=None):
  """Tokens and endings to the bit, the numbers up to rounding."""
  limits = limits or limits_of()
  for name in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(one, name)[which_one], getattr(two, name)[which_two], name)
  for name in NUMBERS:
    of_one, of_two = getattr(one, name)[which_one], getattr(two, name)[which_two]
    np.testing.assert_allclose(of_one, of_two, rtol=0, atol=limits[name], err_msg=name)
