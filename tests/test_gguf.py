"""GGUF files in: against the models that they were written from, and against transformers' own reader."""

import copy
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers
from gguf_files import BLOCKED, CASES, make_model, read_by_transformers, write_gguf
from rounding import assert_within
from test_huggingface import jax_logits, limit_of, on_tokens, stored, torch_logits
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from watched import MOST_BYTES

from espo_jax import convert, parallel, tasks
from espo_jax.model import Lora, load_gguf, load_hf, open_gguf, read_end_tokens, rewrite_gguf

# The types of matrices, and the step between two neighbouring values relative to the largest of a block of 32.
QUANTISED = {'Q8_0': 1 / 127, 'Q5_0': 1 / 16, 'Q4_0': 1 / 8}
K_QUANTS = ('Q4_K', 'Q6_K')


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """Writes a case once in each format: the model, its Hugging Face directory, and the GGUF file."""

  @functools.cache
  def write(case, kind='F32'):
    folder = tmp_path_factory.mktemp('gguf')
    model = make_model(case, **(BLOCKED if kind in K_QUANTS else {}))
    model.save_pretrained(folder / 'hf')
    return model, folder / 'hf', write_gguf(folder / 'model.gguf', model, kind)

  return write


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


# ----------------------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize('case', CASES)
def test_a_file_of_float32_is_the_model_that_it_was_written_from(case, written):
  _, directory, file = written(case)
  config, params = load_gguf(file)
  expected, weights = load_hf(directory)
  assert config == dataclasses.replace(expected, family='llama' if case == 'mistral' else expected.family)
  equal(params, weights)


@pytest.mark.parametrize('case', CASES)
def test_the_rewritten_directory_holds_the_same_tensors_under_the_same_names(case, written, tmp_path):
  _, directory, file = written(case)
  rewrite_gguf(open_gguf(file), tmp_path / 'out')
  before, after = stored(directory), stored(tmp_path / 'out')
  assert before.keys() == after.keys()
  for name, x in before.items():
    assert x.dtype == after[name].dtype
    np.testing.assert_array_equal(x, after[name], err_msg=name)


@pytest.mark.parametrize('case', ['qwen2-untied', 'qwen3-tied', 'llama', 'llama-3.2', 'mistral'])
def test_transformers_reads_the_rewritten_directory_as_the_model_that_the_file_was_written_from(case, written, tmp_path):
  model, _, file = written(case)
  rewrite_gguf(open_gguf(file), tmp_path / 'out', end_tokens=(2, 5))
  reread, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out', output_loading_info=True)
  assert not any(report[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  assert reread.generation_config.eos_token_id == [2, 5]
  np.testing.assert_array_equal(torch_logits(reread.eval()), torch_logits(model))


@pytest.mark.parametrize('case', ['qwen2-tied', 'qwen2-untied', 'qwen3-wide', 'llama'])
def test_logits_are_those_of_transformers_reader_of_the_file(case, written):
  _, _, file = written(case)
  config, params = load_gguf(file)
  expected = on_tokens(torch_logits(read_by_transformers(file)))
  assert np.abs(expected).max() > 0.5
  assert_within(on_tokens(jax_logits(config, params)), expected, limit_of(config, params))


def test_scanned_layers_are_those_of_the_directory(written):
  _, directory, file = written('llama')
  equal(load_gguf(file, scan_layers=True), load_hf(directory, scan_layers=True))


def test_adapters_are_drawn_as_for_the_directory(written):
  _, directory, file = written('qwen2-tied')
  options = {'lora': Lora(rank=2), 'key': jax.random.key(3)}
  equal(load_gguf(file, **options)[1], load_hf(directory, **options)[1])


# --------------------------------------------------------------------------------------------------------------- quantised


@pytest.mark.parametrize('kind', [*QUANTISED, *K_QUANTS])
@pytest.mark.parametrize('case', ['qwen2-tied', 'llama'])
def test_quantised_weights_and_logits_are_those_of_transformers_reader(case, kind, written, tmp_path):
  _, _, file = written(case, kind)
  rewrite_gguf(open_gguf(file), tmp_path / 'out')
  model = read_by_transformers(file)
  tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)['tensors']
  ours = stored(tmp_path / 'out')
  assert ours.keys() == tensors.keys()
  for name, x in tensors.items():
    np.testing.assert_array_equal(ours[name], x.numpy(), err_msg=name)
  config, params = load_gguf(file)
  assert config == load_hf(tmp_path / 'out')[0] and config.param_dtype == 'float32'
  equal(params, load_hf(tmp_path / 'out')[1])
  assert_within(on_tokens(jax_logits(config, params)), on_tokens(torch_logits(model)), limit_of(config, params))


@pytest.mark.parametrize('kind', QUANTISED)
@pytest.mark.parametrize('case', ['qwen3-tied', 'llama'])
def test_a_quantised_weight_is_within_a_step_of_the_weight(case, kind, written, tmp_path):
  model, directory, _ = written(case)
  file = write_gguf(tmp_path / 'model.gguf', model, kind)
  rewrite_gguf(open_gguf(file), tmp_path / 'out')
  after = stored(tmp_path / 'out')
  for name, x in stored(directory).items():
    if x.ndim == 1:
      np.testing.assert_array_equal(after[name], x)
      continue
    step = np.abs(x).reshape(len(x), -1, 32).max(-1).repeat(32, 1) * QUANTISED[kind]
    assert (np.abs(after[name] - x) <= step * (1 + 2**-9)).all(), name  # the scale is rounded to 16 bits
    assert np.abs(after[name] - x).max() > 0


@pytest.mark.parametrize(('kind', 'dtype'), [('F16', torch.float16), ('BF16', torch.bfloat16)])
@pytest.mark.parametrize('case', ['qwen2-untied', 'llama'])
def test_sixteen_bits_stay_as_they_are(case, kind, dtype, written, tmp_path):
  model, _, file = written(case, kind)
  rewrite_gguf(open_gguf(file), tmp_path / 'out')
  copy.deepcopy(model).to(dtype).save_pretrained(tmp_path / 'expected')
  config, params = load_gguf(file)
  expected, weights = load_hf(tmp_path / 'expected')
  assert config == expected and config.param_dtype == str(dtype).removeprefix('torch.')
  equal(params, weights)
  before, after = stored(tmp_path / 'expected'), stored(tmp_path / 'out')
  assert {name: x.tobytes() for name, x in before.items()} == {name: x.tobytes() for name, x in after.items()}
  assert load_gguf(file, param_dtype='float32')[0].param_dtype == 'float32'


@pytest.mark.parametrize(('case', 'kind'), [('llama', 'Q8_0'), ('llama-biases', 'F32'), ('qwen2-untied', 'BF16')])
def test_weights_arrive_sharded_as_they_do_whole(case, kind, written):
  _, _, file = written(case, kind)
  config, params = load_gguf(file, mesh=parallel.make_mesh(1, 2, 2))
  kernel = params['layer_0']['attention']['q_proj']['kernel']
  assert kernel.sharding.shard_shape(kernel.shape) == (config.hidden_size // 2, config.num_heads * config.head_dim // 2)
  equal(params, load_gguf(file)[1])


_PEAK = """
import sys
import gguf, jax
from espo_jax import model
from espo_jax.model import gguf as reader

reader._SHARD_BYTES = int(sys.argv[3])
jax.numpy.zeros(1).block_until_ready()
opened = model.open_gguf(sys.argv[1])
reader.read_gguf_config(opened)  # imports transformers' config
print(most_bytes(lambda: model.rewrite_gguf(opened, sys.argv[2]))[0])
"""


def test_a_shard_and_a_tensor_are_in_memory_at_a_time(tmp_path):
  sizes = {'hidden_size': 768, 'intermediate_size': 3072, 'vocab_size': 4096, 'num_hidden_layers': 5}
  file = write_gguf(tmp_path / 'model.gguf', make_model('qwen2-tied', **sizes), 'Q8_0')
  shard = 12 << 20
  command = [sys.executable, '-c', MOST_BYTES + _PEAK, str(file), str(tmp_path / 'out'), str(shard)]
  result = subprocess.run(command, capture_output=True, text=True, check=True)
  tensors = stored(tmp_path / 'out')
  total, largest = sum(x.nbytes for x in tensors.values()), max(x.nbytes for x in tensors.values())
  # A shard is copied while it is written, and a tensor while it is dequantised.
  most = 2 * shard + 3 * largest + 40e6
  assert int(result.stdout) < most < 0.7 * total
  index = json.loads((tmp_path / 'out' / 'model.safetensors.index.json').read_text())
  assert index['metadata'] == {'total_size': total}


# -------------------------------------------------------------------------------------------------------------- real files


@pytest.mark.skipif('ESPO_MODELS' not in os.environ, reason='ESPO_MODELS is not set to a folder with smollm2-135m-*.gguf')
def test_a_real_model_is_the_one_that_transformers_reads(tmp_path, monkeypatch):
  monkeypatch.setattr(gguf, 'GGUFReader', functools.cache(gguf.GGUFReader))  # it takes seconds, and is asked five times
  (file,) = pathlib.Path(os.environ['ESPO_MODELS']).glob('smollm2-135m-*.gguf')
  convert.main([f'--gguf={file}', f'--output={tmp_path / "out"}'])
  ours = tasks.load_tokenizer(str(tmp_path / 'out'))
  theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
  chat = [{'role': 'user', 'content': 'What is 17 + 25? Explain it to a child.'}]
  text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
  assert text == ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
  # Transformers does not know that this vocabulary takes digits apart first, which shows at spaces before a digit.
  for line in (text, 'The sum is 12345 + 67.', 'Été naïve ∀x ≤ 3, 日本語 🙂', 'def f(x):\n  return x', "WE'LL see: don't"):
    assert ours(line)['input_ids'] == theirs(line)['input_ids']
    assert ours.decode(ours(line)['input_ids']) == line
  assert read_end_tokens(tmp_path / 'out') == (ours.convert_tokens_to_ids('<|im_end|>'),)
  tokens = np.array([ours(text)['input_ids']], np.int32)
  lengths = np.array([tokens.shape[1]])
  expected = torch_logits(read_by_transformers(file), tokens, lengths)
  config, params = load_gguf(file, scan_layers=True)
  assert np.abs(jax_logits(config, params, tokens, lengths) - expected).max() < 1e-4 * np.abs(expected).max()
  equal(load_hf(tmp_path / 'out', scan_layers=True)[1], params)
