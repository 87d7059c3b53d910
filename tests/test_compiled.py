"""What is read from compiled programs, against counts by hand; remat, against the compiler's own account."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny import first_params, rule_of, tiny_experiment

from espo_jax import compile_check, parallel
from espo_jax.compile_check.cost import count, group_size
from espo_jax.compile_check.hlo import parse
from espo_jax.compile_check.verdict import Checked, advice
from espo_jax.learner import init_state
from espo_jax.model.prefill import sequence_width
from espo_jax.stages import rl

# By hand: a loop of 12 turns whose body gathers a weight over 4 chips and multiplies by it; a product of batches as a TPU has
# it; a sum over 2 chips that is started and done; a gather in two fusions of one channel; a loop of unknown length.
HLO = """HloModule jit_f, is_scheduled=true

%fused_product (param_0: bf16[64,128], param_1: bf16[128,32]) -> bf16[64,32] {
  %param_0 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = bf16[128,32]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[64,32]{1,0:T(8,128)(2,1)} convolution(%param_0, %param_1), dim_labels=bf_io->bf
}

%fused_slice (param_2: bf16[12,32,32], param_3: s32[]) -> bf16[1,32,32] {
  %param_2 = bf16[12,32,32]{2,1,0} parameter(0)
  %param_3 = s32[]{:T(128)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = bf16[1,32,32]{2,1,0} dynamic-slice(%param_2, %param_3, %zero.1, %zero.1)
}

%body (carried: (s32[], bf16[64,32], bf16[12,32,32])) -> (s32[], bf16[64,32], bf16[12,32,32]) {
  %carried = (s32[]{:T(128)}, bf16[64,32]{1,0}, /*index=2*/bf16[12,32,32]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carried), index=0
  %one = s32[]{:T(128)} constant(1)
  %copied = s32[]{:T(128)S(6)} copy(%i)
  %next = s32[]{:T(128)} add(%copied, %one)
  %weights = bf16[12,32,32]{2,1,0} get-tuple-element(%carried), index=2
  %own = bf16[1,32,32]{2,1,0} fusion(%weights, %copied), kind=kLoop, calls=%fused_slice
  %flat = bf16[32,32]{1,0} bitcast(%own)
  %whole = bf16[128,32]{1,0} all-gather(%flat), channel_id=1, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
  %x = bf16[64,128]{1,0:S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %y = bf16[64,32]{1,0} fusion(%x, %whole), kind=kOutput, calls=%fused_product, metadata={op_name="jit(f)/layer/dot"}
  ROOT %out = (s32[]{:T(128)}, bf16[64,32]{1,0}, bf16[12,32,32]{2,1,0}) tuple(%next, %y, %weights)
}

%condition (carried.1: (s32[], bf16[64,32], bf16[12,32,32])) -> pred[] {
  %carried.1 = (s32[]{:T(128)}, bf16[64,32]{1,0}, bf16[12,32,32]{2,1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carried.1), index=0
  %twelve = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %twelve), direction=LT
}

%started (param_4: f32[256]) -> f32[1024] {
  %param_4 = f32[256]{0} parameter(0)
  ROOT %all-gather.8 = f32[1024]{0} all-gather(%param_4), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}

%done (param_5: f32[256]) -> f32[1024] {
  %param_5 = f32[256]{0} parameter(0)
  %all-gather.9 = f32[1024]{0} all-gather(%param_5), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %custom = f32[1024]{0} custom-call(%param_5, %all-gather.9), custom_call_target="AsyncCollectiveDone"
}

%turn (state: (f32[256])) -> (f32[256]) {
  %state = (f32[256]{0}) parameter(0)
  %a = f32[256]{0} get-tuple-element(%state), index=0
  %moved = f32[256]{0} collective-permute(%a), channel_id=5, source_target_pairs={{0,1},{1,0}}
  ROOT %next.1 = (f32[256]{0}) tuple(%moved)
}

%alive (state.1: (f32[256])) -> pred[] {
  %state.1 = (f32[256]{0}) parameter(0)
  %b = f32[256]{0} get-tuple-element(%state.1), index=0
  ROOT %any = pred[] custom-call(%b), custom_call_target="any"
}

ENTRY %main (p: bf16[64,32], w: bf16[12,32,32], q: bf16[16,4,128,64], f: f32[256]) -> f32[256] {
  %p = bf16[64,32]{1,0} parameter(0)
  %w = bf16[12,32,32]{2,1,0} parameter(1)
  %q = bf16[16,4,128,64]{3,2,1,0} parameter(2)
  %f = f32[256]{0} parameter(3)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %state.2 = (s32[]{:T(128)}, bf16[64,32]{1,0}, bf16[12,32,32]{2,1,0}) tuple(%start, %p, %w)
  %loop = (s32[]{:T(128)}, bf16[64,32]{1,0}, bf16[12,32,32]{2,1,0}) while(%state.2), condition=%condition, body=%body
  %scores = f32[16,4,128,128]{3,2,1,0:S(1)} convolution(%q, %q), WINDOW, dim_labels=01bf_01oi->01bf
  %sum-start = f32[256]{0} all-reduce-start(%f), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %sum = f32[256]{0} all-reduce-done(%sum-start)
  %gather-1 = f32[1024]{0:S(1)} fusion(%sum), kind=kCustom, calls=%started
  %gather-2 = f32[1024]{0:S(1)} fusion(%sum), kind=kCustom, calls=%done
  %given = (f32[256]{0}) tuple(%sum)
  %decoded = (f32[256]{0}) while(%given), condition=%alive, body=%turn, metadata={op_name="jit(f)/decode"}
  ROOT %result = f32[256]{0} get-tuple-element(%decoded), index=0
}
""".replace('WINDOW', 'window={size=16x4 stride=15x3 lhs_dilate=16x4}')


def test_products_collectives_and_turns_are_counted():
  found = count(parse(HLO))
  assert found.once.flops == 12 * 2 * 64 * 128 * 32 + 2 * 16 * 4 * 128 * 128 * 64
  assert found.once.sent == {
    'all-gather': 12 * 3 * 32 * 32 * 2 + 3 * 256 * 4,  # the second one once, though it stands in two fusions
    'all-reduce': 2 * 256 * 4 // 2,
  }
  assert found.turn.sent == {'collective-permute': 256 * 4}
  assert found.unknown == ['jit(f)/decode']
  assert {(name, str(shape)) for name, shape in found.once.gathered} == {
    ('whole', 'bf16[128,32]'),
    ('all-gather.8', 'f32[1024]'),
  }


def test_of_branches_the_one_with_the_most_products_counts():
  """Though the other one reads and writes more."""

  def narrow(x):
    return jnp.cumsum(jnp.cumsum(x, axis=0), axis=1) @ x[:, :2] @ jnp.ones((2, 64))

  def switched(branch, x):
    return jax.lax.switch(branch, [narrow, lambda x: x @ x, narrow], x)

  text = jax.jit(switched).lower(0, jnp.ones((64, 64))).compile().as_text()
  assert count(parse(text)).once.flops == 2 * 64**3


def test_a_slice_is_read_and_scratchpads_are_not():
  """A turn: the counter's two additions of four bytes, the slice of a layer, not the layers; what is gathered; the product."""
  body = parse(HLO).computations['body']
  program = parse(HLO)._replace(entry='body')
  own, whole, y = (2 * 32 * 32, 2 * 128 * 32, 2 * 64 * 32)
  counter = 4 + 4 + 4  # copied to a scratchpad: read; added: the constant read, the sum written
  assert count(program).once.bytes == counter + (4 * 0 + own) + own + (own + whole) + (whole + y)
  assert body.root.name == 'out'


@pytest.mark.parametrize(
  ('attributes', 'size'),
  [
    ('replica_groups={{0,2,4},{1,3,5}}, to_apply=%add', 3),
    ('replica_groups=[4,2]<=[8], dimensions={1}', 2),
    ('replica_groups=[2,8]<=[4,4]T(1,0)', 8),
    ("replica_groups=mesh['a'=4,'b'=2,'c'=3] {'a','c'}, dimensions={0}", 12),
    ('source_target_pairs={{0,1},{1,0}}', 2),
    ('dimensions={0}', 1),
  ],
)
def test_the_devices_of_a_collective(attributes, size):
  assert group_size(attributes) == size


def test_a_product_by_cublas_is_one():
  """As XLA writes one for a GPU."""
  call = 'custom_call_target="__cublas$gemm", backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]}}'
  text = """ENTRY %main (a: bf16[4,16,32], b: bf16[4,32,8]) -> (bf16[4,16,8], s8[1024]) {
  %a = bf16[4,16,32]{2,1,0} parameter(0)
  %b = bf16[4,32,8]{2,1,0} parameter(1)
  ROOT %c = (bf16[4,16,8]{2,1,0}, s8[1024]{0}) custom-call(%a, %b), CALL
}"""
  found = count(parse(text.replace('CALL', call))).once
  assert found.flops == 2 * 4 * 16 * 32 * 8
  assert found.bytes == 2 * (4 * 16 * 32 + 4 * 32 * 8 + 4 * 16 * 8) + 1024


def test_text_that_is_no_program_is_refused():
  with pytest.raises(ValueError, match='no ENTRY computation'):
    parse('HloModule nothing')


def compile_and_count(function, *arguments):
  lowered = jax.jit(function).lower(*arguments)
  return count(parse(lowered.compile().as_text()))


def test_a_scan_counts_every_turn():
  """XLA's own count has the loop's body once."""

  def f(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  found = compile_and_count(f, jnp.ones((7, 48, 48)), jnp.ones((16, 48)))
  assert found.once.flops == 7 * 2 * 16 * 48 * 48
  assert not found.unknown


def test_a_mesh_sends_what_a_ring_would():
  mesh = parallel.make_mesh(1, 8, 1)
  x = jax.device_put(jnp.ones((64, 32)), NamedSharding(mesh, PartitionSpec('fsdp')))
  whole = compile_and_count(lambda x: jax.lax.with_sharding_constraint(x, parallel.replicated(mesh)), x)
  assert whole.once.sent == {'all-gather': 64 * 32 * 4 * 7 // 8}
  total = compile_and_count(lambda x: x.sum(axis=0), x)
  assert total.once.sent == {'all-reduce': 2 * 32 * 4 * 7 // 8}


def test_the_convolutions_of_a_model_count_like_their_products():
  """A convolution in the forms that XLA has for one, against a sum over its definition."""
  x, kernel = jnp.ones((2, 9, 5)), jnp.ones((4, 5, 3))
  for options in (
    {'padding': 'VALID'},
    {'padding': 'SAME'},
    {'padding': [(2, 1)], 'lhs_dilation': (3,), 'window_strides': (2,)},
  ):
    arguments = {'window_strides': (1,), 'dimension_numbers': ('NHC', 'HIO', 'NHC')} | options
    ones = jax.lax.conv_general_dilated(jnp.ones_like(x), jnp.ones_like(kernel), **arguments)
    text = jax.jit(functools.partial(jax.lax.conv_general_dilated, **arguments)).lower(x, kernel).compile().as_text()
    if ' convolution(' in text:  # of ones the result counts the products
      assert count(parse(text)).once.flops == 2 * float(ones.sum()), options


# ------------------------------------------------------------------------------------------------------------ programs


def experiment(prompts=8, **mesh):
  def configure(c):
    c.model.update(num_kv_heads=4, scan_layers=True)
    c.learner.micro_batches = 2
    c.rollout.update(prompts=prompts, samples=4)

  return tiny_experiment(configure, **mesh)


@pytest.mark.parametrize('offload', [False, True])
@pytest.mark.parametrize('mesh', [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'fsdp': 8}])
def test_what_is_described_is_what_training_has(mesh, offload):
  """State and parameters as training makes them: shapes, types and where they lie; moments split as the parameters are."""
  exp = experiment(**mesh)
  exp.config.learner.offload_optimizer = offload
  described = compile_check.Programs(exp.config, exp.mesh).state
  state = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, rule_of(exp)).optimizer, rule_of(exp))
  real = exp.on_mesh(state)
  assert jax.tree.structure(described) == jax.tree.structure(real)
  for path, x in jax.tree_util.tree_leaves_with_path(real):
    its = functools.reduce(lambda tree, key: tree[key.idx] if hasattr(key, 'idx') else _entry(tree, key), path, described)
    assert (its.shape, its.dtype) == (x.shape, x.dtype), path
    assert its.sharding.is_equivalent_to(x.sharding, x.ndim), path
    assert (its.sharding.memory_kind or 'device') == x.sharding.memory_kind, path


def test_offloaded_moments_take_no_room_beside_a_program():
  exp = experiment(fsdp=4)
  programs = compile_check.Programs(exp.config, exp.mesh)
  moments = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(programs.state.opt_state))
  assert compile_check.check(programs, 'prepare', limit=1.0).beside == pytest.approx(
    moments / 4, rel=0.1
  )  # what is small is whole
  exp.config.learner.offload_optimizer = True
  assert compile_check.check(programs, 'prepare', limit=1.0).beside < 100  # counters


def _entry(tree, key):
  return tree[key.key] if hasattr(key, 'key') else getattr(tree, key.name)


@pytest.mark.parametrize('program', ['rollout', 'prepare', 'update'])
def test_devices_share_the_work(program):
  """The products of all devices together are those of one: nothing is computed twice, whatever the mesh.

  A turn of the prefill's loop reads as many columns. On a mesh they are shorter sequences, whose attention is left out here.
  """
  flops = {}
  for mesh in ({}, {'data': 2, 'fsdp': 2, 'tensor': 2}):
    exp = experiment(prompts=4, **mesh)
    checked = compile_check.check(compile_check.Programs(exp.config, exp.mesh), program, limit=1.0)
    assert checked.fits
    assert not checked.gathers_cache
    cost = checked.counted.once + checked.counted.turn
    shape, shards = exp.model.config, parallel.batch_shards(exp.mesh)
    columns = sequence_width(4 // shards, exp.config.rollout.prompt_width)
    assert columns * shards == sequence_width(4, exp.config.rollout.prompt_width)
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * columns**2 * shards
    flops[tuple(mesh.items())] = cost.flops * exp.mesh.size - attention * (program == 'rollout')
    assert bool(cost.sent) == (exp.mesh.size > 1)
  for mesh, total in flops.items():
    assert total == pytest.approx(flops[()], rel=0.05), mesh


def test_the_memory_is_the_compilers():
  exp = experiment(fsdp=4)
  programs = compile_check.Programs(exp.config, exp.mesh)
  memory = compile_check.check(programs, 'update', limit=1.0).memory
  its = programs.lower('update').compile().memory_analysis()  # the compiler's sums, which it gives beside its text
  assert memory.arguments == its.argument_size_in_bytes
  assert memory.temporaries == its.temp_size_in_bytes
  assert memory.largest[0].bytes == max(temporary.bytes for temporary in memory.largest)


def test_logits_of_all_columns_are_seen():
  """In one chunk they are there, in chunks they are not; the one-hot vectors of tokens are as large."""
  for chunk, there in ((1024, True), (4, False)):
    exp = experiment(fsdp=4)
    exp.config.learner.logit_chunk = chunk
    assert compile_check.check(compile_check.Programs(exp.config, exp.mesh), 'update', limit=1.0).holds_logits == there


@pytest.mark.parametrize(
  ('program', 'parts', 'changes', 'fix'),
  [
    (
      'rollout',
      {'parameters': 1, 'caches': 3, 'other temporaries': 2},
      {},
      'caches take 3.00 GiB; fix: fewer rollout.slots (32',
    ),
    ('update', {'gradients': 1, 'activations': 2}, {}, 'fix: learner.micro_batches = 4 or more (8 rows at a time on 4 shards'),
    ('update', {'gradients': 1, 'activations': 2}, {'micro_batches': 4}, "fix: model.remat = 'full' ('none' now)"),
    ('prepare', {'parameters': 1, 'activations': 2}, {'micro_batches': 4}, 'fix: learner.logit_chunk = 128 or less (0 now)'),
    (
      'rollout',
      {'caches': 1, 'arrays kept beside it': 3},
      {},
      'arrays kept beside it take 3.00 GiB; fix: learner.offload_optimizer = True, or a larger mesh.fsdp or mesh.tensor (mesh.',
    ),
    (
      'update',
      {'gradients': 4, 'activations': 2},
      {},
      'gradients take 4.00 GiB; fix: a larger mesh.fsdp or mesh.tensor (mesh.',
    ),
  ],
)
def test_what_is_largest_is_what_to_change(program, parts, changes, fix):
  exp = experiment(fsdp=4)
  exp.config.learner.update(changes)
  sizes = {name: gib * compile_check.GIB for name, gib in parts.items()}
  checked = Checked(program, dict(exp.mesh.shape), None, None, sizes, 0, False, False, 1.0, False)
  assert fix in advice(checked, exp.config)
