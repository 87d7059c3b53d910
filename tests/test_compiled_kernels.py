"""The products and bytes of attention kernels, which `compile_check` counts from their operands, against counts by hand."""

import json
import re

import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import CausalMask, LocalMask
from test_compile_check import CHEAP, QWEN2_7B, needs_libtpu, run

from espo_jax.compile_check.cost import count
from espo_jax.compile_check.hlo import parse
from espo_jax.model import splash

BATCH, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 16

# As XLA writes the kernels: a line break is inside of an attribute, and the source of the call is behind it.
CALL = """  %NAME.1 = (RESULT) custom-call(OPERANDS), custom_call_target="tpu_custom_call", frontend_attributes={metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/jvp()/NAME/pallas_call"}, backend_config={}
"""


def program(phase, blocks, length, batch=BATCH):
  """A splash kernel with the operands that jax gives it. The axis of a single row is left out."""
  axis = f'{batch},' if batch > 1 else ''
  rows = f'{axis}{HEADS},{length},{WIDTH}'
  near = {'fwd': [length, 128], 'dq': [length, 128], 'dkv': [8, length]}[phase]  # a number per query, on the lanes or not
  far = {'fwd': [8, length], 'dq': [8, length], 'dkv': [length, 128]}[phase]
  shapes = [f's8[1,{",".join(map(str, blocks))}]'] * 2 + [f'bf16[{rows}]'] + [f'bf16[{axis}{KV_HEADS},{length},{WIDTH}]'] * 2
  shapes += [f's32[{axis}{x[0]},{x[1]}]' for x in (near, far)]
  sums = f'f32[{axis}{HEADS},{8 if phase == "dkv" else 1},{length}]'
  shapes += [] if phase == 'fwd' else [sums, f'bf16[{rows}]', sums]
  shapes += [f's32[{near[0]},{near[1]}]']
  lines = [f'  %p{i} = {shape} parameter({i})' for i, shape in enumerate(shapes)]
  call = CALL.replace('NAME', f'splash_mha_{phase}_segmented_no_residuals').replace('RESULT', f'bf16[{rows}]')
  call = call.replace('OPERANDS', ', '.join(f'%p{i}' for i in range(len(shapes))))
  other = '%other () -> f32[] {\n' + call.replace('%p', '%q') + '}, execution_thread="other"\n\n'  # is never called
  return other + 'ENTRY %main () -> f32[] {\n' + '\n'.join(lines) + '\n' + call + '  ROOT %r = f32[] constant(0)\n}\n'


def reached(mask, length, size):
  """The blocks of scores that have an entry which the mask lets through, of all queries and keys."""
  whole = np.asarray(mask[:, :])
  return int(whole.reshape(length // size, size, length // size, size).any(axis=(1, 3)).sum())


@pytest.mark.parametrize(('phase', 'products'), [('fwd', 2), ('dq', 3), ('dkv', 4)])
@pytest.mark.parametrize(('window', 'width'), [(0, 8), (1, 1), (100, 2), (129, 2), (130, 3), (600, 6)])
def test_a_splash_kernel_computes_the_blocks_that_its_mask_reaches(phase, products, window, width):
  length, size = 1024, 128
  mask = LocalMask((length, length), (window - 1, 0), 0) if window else CausalMask((length, length))
  found = count(parse(program(phase, [width, 8] if phase == 'dkv' else [8, width], length))).once
  assert found.flops == 2 * products * BATCH * HEADS * reached(mask, length, size) * size**2 * WIDTH


@pytest.mark.parametrize('batch', [1, 2])
def test_the_cost_of_a_splash_kernel_is_what_its_loops_fetch_and_compute(batch):
  """Of 2 blocks the causal mask reaches 3 of 4: a head reads keys and values one and a half times, for its own queries."""
  length = 256
  queries, segments, sums = 2 * length * WIDTH, 4 * length * 128, 4 * length
  result = batch * HEADS * queries
  costs = {phase: count(parse(program(phase, [2, 2], length, batch))).once for phase in ('fwd', 'dq', 'dkv')}

  fetched = batch * HEADS * (queries + 2 * segments + 1.5 * (2 * queries + segments / 16))  # 8 numbers per key, not 128
  assert costs['fwd'].bytes == fetched + result

  fetched = batch * HEADS * (2 * queries + 2 * sums + 2 * segments + 1.5 * (2 * queries + segments / 16))
  assert costs['dq'].bytes == fetched + result

  inner = 1.5 * (2 * queries + 2 * 8 * sums + 2 * segments / 16)
  fetched = batch * (HEADS * inner + KV_HEADS * 2 * queries + segments)
  assert costs['dkv'].bytes == fetched + result

  products = {phase: cost.flops / (2 * batch * HEADS * 3 * 128**2 * WIDTH) for phase, cost in costs.items()}
  assert products == {'fwd': 2, 'dq': 3, 'dkv': 4}


@pytest.mark.parametrize(('direction', 'products'), [('', 2), ('Backward', 5)])
def test_cudnn_computes_all_scores(direction, products):
  text = f"""ENTRY %main (a: bf16[2,64,4,16]) -> bf16[2,4,64,16] {{
  %a = bf16[2,64,4,16]{{3,2,1,0}} parameter(0)
  %b = bf16[2,128,2,16]{{3,2,1,0}} parameter(1)
  ROOT %c = bf16[2,4,64,16]{{3,2,1,0}} custom-call(%a, %b, %b), custom_call_target="__cudnn$fmhaScaleBiasSoftmax{direction}"
}}"""
  found = count(parse(text)).once
  assert found.flops == 2 * products * 2 * 4 * 64 * 128 * 16
  assert found.bytes == 2 * (2 * 2 * 4 * 64 * 16 + 2 * 2 * 2 * 128 * 16)


# Prints the products of the log-probability pass with each form of attention, for a slice and fields of the config.
PRODUCTS = """
import json, runpy, sys
from espo_jax import compile_check
for form in ('chunked', 'auto'):
  c = runpy.run_path('experiments/espo_r1_distill_qwen_7b.py')['get_config']()
  c.update_from_flattened_dict(json.loads(sys.argv[1]) | {'model.attention': form})
  programs = compile_check.Programs(c, compile_check.topology_mesh(c, 'v5e:2x2'))
  print('products', compile_check.check(programs, 'prepare', 16.0).counted.once.flops)
"""


@needs_libtpu
def test_splash_computes_the_causal_half_of_what_chunks_compute(tmp_path):
  """The log-probability pass of one decoder has two products per score, of all blocks or of those up to the diagonal."""
  rows, length, heads, head_dim = 8, 2048, 4, 128
  shape = {'num_hidden_layers': 1, 'hidden_size': heads * head_dim, 'intermediate_size': 256, 'vocab_size': 512}
  shape = QWEN2_7B | shape | {'num_attention_heads': heads, 'num_key_value_heads': 2}
  (tmp_path / 'config.json').write_text(json.dumps(shape))
  fields = {
    'model.path': str(tmp_path),
    'critic.kind': 'shared',
    'mesh.data': 1,
    'mesh.fsdp': 2,
    'mesh.tensor': 2,
    'rollout.prompts': rows // 4,
    'rollout.samples': 4,
    'rollout.slots': rows,
    'learner.minibatches': 1,
    'rollout.prompt_width': length // 2,
    'rollout.horizon': length // 2,
  }
  done = run('-c', PRODUCTS, json.dumps(fields), **CHEAP)
  assert done.returncode == 0, done.stdout + done.stderr
  chunked, splashed = map(float, re.findall(r'^products (.*)$', done.stdout, re.MULTILINE))
  blocks = length // splash.block(length)
  scores = rows * heads * length**2 * head_dim / 4  # of one of the four chips
  assert blocks == 2
  assert chunked - splashed == 4 * scores * (1 - (blocks + 1) / (2 * blocks))
