"""Rollouts of a small model: six prompts, three samples each, all three ways to end among them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from small import VOCAB, actor_critic

from espo_jax import rollout, stops
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


@functools.cache
def model_of(variant: str):
  if variant == 'shared':
    return actor_critic(20)
  return actor_critic(14, separate_critic=True, scan_layers=True)


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
):
  """Trajectories as numpy arrays."""
  model, params = model_of(variant)
  rows = rollout.generate(
    model,
    params,
    rule,
    state,
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
  )
  return jax.device_get(rows)


def assert_same_rows(one, two, which_one=slice(None), which_two=slice(None), atol=1e-6):
  """Tokens and endings to the bit, the rest up to float32 rounding."""
  for name in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(one, name)[which_one], getattr(two, name)[which_two], name)
  np.testing.assert_allclose(one.logprobs[which_one], two.logprobs[which_two], rtol=0, atol=atol)
  for name in ('values', 'regret', 'z'):
    np.testing.assert_allclose(getattr(one, name)[which_one], getattr(two, name)[which_two], rtol=1e-6, atol=atol, err_msg=name)
