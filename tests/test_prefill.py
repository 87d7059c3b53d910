"""The first pass over the prompts: how they share sequences, and that each is read as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from small import VOCAB, actor_critic

from espo_jax import parallel
from espo_jax.model import prefill_columns
from espo_jax.model.prefill import pack_prompts, sequence_width

LONGEST = 7


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, LONGEST), min_size=2, max_size=2 * 9).filter(lambda x: len(x) % 2 == 0))
def test_each_prompt_lies_whole_in_one_sequence(lengths):
  lengths = np.array(lengths, np.int32).reshape(2, -1)
  packed = jax.device_get(jax.jit(pack_prompts, static_argnums=1)(jnp.asarray(lengths), LONGEST))
  used = []
  for shard, its in enumerate(lengths):
    cells = list(zip(*np.nonzero(packed.real[shard]), strict=True))
    placed = [(packed.prompt[shard][cell], packed.column[shard][cell]) for cell in cells]
    assert sorted(placed) == [(p, i) for p, n in enumerate(its) for i in range(n)]
    sequences = {(packed.prompt[shard][cell], cell[0], cell[1] - packed.column[shard][cell]) for cell in cells}
    assert len(sequences) == len(its)  # one sequence and one first column per prompt
    used.append(len({sequence for _, sequence, _ in sequences}))
    assert {sequence for _, sequence, _ in sequences} == set(range(used[-1]))
  assert packed.used == max(used)
  # A prompt opens a sequence only if it fits into none, so all but the last opened lack less than a prompt.
  room = sequence_width(lengths.shape[1], LONGEST) - LONGEST
  assert all((count - 1) * room < its.sum() for count, its in zip(used, lengths, strict=True))


@pytest.mark.parametrize(('prompts', 'columns', 'most'), [(16, 288, 0.25), (64, 512, 0.1), (64, 1024, 0.1), (256, 512, 0.06)])
def test_hardly_any_padding_is_read(prompts, columns, most):
  """Lengths as GSM8K's are with a chat template: the mean is near 100 tokens, a few have more than 200."""
  lengths = 60 + np.random.default_rng(0).gamma(2.0, 25.0, (1, prompts)).astype(np.int32).clip(0, columns - 60)
  read = int(prefill_columns(jnp.asarray(lengths), columns))
  assert 0 <= 1 - lengths.sum() / read < most
  assert prompts * columns > 2 * read


LENGTHS = np.array([5, 3, 1, 7, 2, 6, 4, 4], np.int32)
TOKENS = np.random.default_rng(2).integers(2, VOCAB, (8, LONGEST)).astype(np.int32)


def filled(model, params, tokens, lengths):
  """States and caches, of which columns behind the prompt are blank."""
  states, caches = model.prefill(params, tokens, lengths)
  seen = jnp.arange(LONGEST) < lengths[:, None]
  return states, jax.tree.map(lambda x: x if x.ndim == 1 else jnp.where(seen[..., None], x[..., :LONGEST, :], 0), caches)


@pytest.mark.parametrize(('scan_layers', 'separate_critic'), [(False, True), (True, False)])
def test_a_prompt_is_read_as_if_it_were_alone(scan_layers, separate_critic, in_float64):
  model, params = actor_critic(8, scan_layers=scan_layers, separate_critic=separate_critic)
  program = jax.jit(lambda params: filled(model, params, jnp.asarray(TOKENS), jnp.asarray(LENGTHS)))
  together = program(params)
  roundings = 2 * rounding.of_decoder(model.config, LONGEST)
  limits = rounding.of_program(program, params, roundings=roundings)
  alone = [filled(model, params, jnp.asarray(TOKENS[i : i + 1]), jnp.asarray(LENGTHS[i : i + 1])) for i in range(8)]
  joined = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=max(xs[0].ndim - 3, 0) if xs[0].ndim > 2 else 0), *alone)
  rounding.assert_within(together, joined, limits)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_prompts_of_a_mesh_stay_on_their_devices(scan_layers, in_float64):
  """Each shard packs its own prompts. No column of a cache is gathered."""
  model, params = actor_critic(8, scan_layers=scan_layers)
  mesh = parallel.make_mesh(data=4, fsdp=1, tensor=2)
  rows = NamedSharding(mesh, PartitionSpec(parallel.BATCH[0]))
  put = jax.device_put((TOKENS, LENGTHS), (rows, rows))
  whole = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  program = jax.jit(lambda params, *given: filled(model, params, *given))
  limits = rounding.of_program(
    lambda params: program(params, jnp.asarray(TOKENS), jnp.asarray(LENGTHS)),
    params,
    roundings=2 * rounding.of_decoder(model.config, LONGEST),
  )
  rounding.assert_within(jax.device_get(program(whole, *put)), program(params, TOKENS, LENGTHS), limits)
  assert 'all-gather' not in program.lower(whole, *put).compile().as_text()
