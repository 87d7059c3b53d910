"""What is read from logits, and its gradient, against the plain formulas differentiated by JAX in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_experiment

from espo_jax.learner.chunks import by_chunk
from espo_jax.learner.readout import read_tokens, read_under

VOCABULARY, WIDTH = 23, 5


def plainly(head, chosen, hidden, others=None, *, reference=None):
  """The results by their definitions."""
  logprobs = jax.nn.log_softmax(head(hidden))
  probs = jnp.exp(logprobs)
  entropy = -(probs * logprobs).sum(-1)
  picked = jnp.take_along_axis(logprobs, chosen[..., None], axis=-1)[..., 0]
  onto = jax.nn.one_hot(chosen, VOCABULARY) - probs  # the token's own gradient
  slope = (-probs * (logprobs + entropy[..., None]) * onto).sum(-1)
  found = picked, entropy, jax.lax.stop_gradient(slope)
  if reference is None:
    return found
  theirs = jax.lax.stop_gradient(jax.nn.log_softmax(reference(others)))
  return *found, (probs * (logprobs - theirs)).sum(-1)


def case(shape=(4, 6), scale=3.0):
  rng = np.random.default_rng(0)
  draw = lambda *its: jnp.asarray(scale * rng.normal(size=its))
  weights = {'own': draw(WIDTH, VOCABULARY), 'bias': draw(VOCABULARY), 'reference': draw(WIDTH, VOCABULARY)}
  return weights, draw(*shape, WIDTH), draw(*shape, WIDTH), jnp.asarray(rng.integers(VOCABULARY, size=shape))


def value(read, chunk, with_reference, weights, hidden, others, chosen):
  """A number that all results with a gradient enter with weights of their own, in chunks."""
  head, inputs = lambda x: (x @ weights['own'] + weights['bias']) / 0.7, (chosen, hidden)
  function = functools.partial(read, head)
  if with_reference:
    function, inputs = functools.partial(function, reference=lambda x: x @ weights['reference']), (*inputs, others)
  found = by_chunk(function, chunk, *inputs, recompute=read is plainly)
  places = jnp.arange(chosen.size).reshape(chosen.shape)
  return sum((jnp.cos(places + n) * x).sum() for n, x in enumerate(found)), found


@pytest.mark.parametrize('with_reference', [False, True])
@pytest.mark.parametrize('chunk', [4, 8, 100])
def test_results_and_gradients_are_those_of_the_definitions(with_reference, chunk, in_float64):
  weights, hidden, others, chosen = case()
  found = {}
  for read in (plainly, read_tokens):
    function = functools.partial(value, read, chunk, with_reference, others=others, chosen=chosen)
    found[read] = jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))(weights, hidden)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found[read_tokens], found[plainly])
  (_, results), (of_weights, of_hidden) = found[read_tokens]
  assert len(results) == 3 + with_reference and np.abs(of_hidden).min() > 0 and np.abs(of_weights['own']).min() > 0


def test_the_reference_has_no_gradient(in_float64):
  weights, hidden, others, chosen = case()
  read = lambda weights, others: value(read_tokens, 8, True, weights, hidden, others, chosen)[0]
  of_weights, of_others = jax.grad(read, argnums=(0, 1))(weights, others)
  assert not np.any(of_weights['reference']) and not np.any(of_others) and np.all(of_weights['own'] != 0)


@pytest.mark.parametrize('far', [0.0, 80.0, 3e4])
def test_certain_tokens_stay_finite(far):
  """At 3e4 all other tokens have the probability 0, whose logarithm is far below the smallest float32."""
  logits = jnp.zeros((2, VOCABULARY), jnp.float32).at[:, 3].set(far)
  found, pull = jax.vjp(lambda x: read_tokens(lambda y: y, jnp.array([3, 5]), x), logits)
  (change,) = pull((jnp.ones(2), jnp.ones(2), jnp.zeros(2)))
  assert all(np.isfinite(x).all() for x in (*found, change))
  np.testing.assert_allclose(found[0], plainly(lambda y: y, jnp.array([3, 5]), logits)[0], rtol=1e-6)


def test_the_gradient_keeps_no_logits():
  """What the backward pass is given has no array of a vocabulary per token, and it makes three products of that size."""
  weights, hidden, _, chosen = case((8, 16))
  function = lambda own, hidden: by_chunk(functools.partial(read_tokens, lambda x: x @ own), 8, chosen, hidden, recompute=False)
  _, pull = jax.vjp(function, weights['own'], hidden)
  assert max(x.size for x in jax.tree.leaves(pull) if x.shape != weights['own'].shape) <= hidden.size
  program = str(
    jax.make_jaxpr(lambda own, hidden: jax.grad(lambda *x: sum(y.sum() for y in function(*x)), (0, 1))(own, hidden))(
      weights['own'], hidden
    )
  )
  assert program.count('dot_general') == 4  # the logits, the logits again, the states' gradient, the head's


def test_another_likelihood_reads_the_same(in_float64):
  weights, hidden, _, chosen = case()
  head = lambda x: x @ weights['own']
  for one, other in zip(read_under(jax.nn.log_softmax, head, chosen, hidden), read_tokens(head, chosen, hidden), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_a_vocabulary_over_devices_gives_the_same_gradient():
  """With the head's columns split over the mesh, no device has a whole row of logits."""
  exp = tiny_experiment(tensor=2)
  weights, hidden, _, chosen = case()
  own = jnp.pad(weights['own'], ((0, 0), (0, 1)))
  split = jax.device_put(own, jax.NamedSharding(exp.mesh, jax.sharding.PartitionSpec(None, 'tensor')))
  function = lambda own, hidden: sum(x.sum() for x in read_tokens(lambda y: y @ own, chosen, hidden))
  found, wanted = (jax.jit(jax.grad(function, (0, 1)))(w, hidden) for w in (split, own))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
