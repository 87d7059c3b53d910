"""Model directories that cannot be used: each names the file, the tensor or field, and what to do."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_huggingface import write_model
from watched import MOST_BYTES

from espo_jax.model import Lora, WeightsError, load_hf, read_end_tokens

EMBED, NORM = 'model.embed_tokens.weight', 'model.norm.weight'
GATE = 'model.layers.1.mlp.gate_proj.weight'


def config(**changes):
  """Change `config.json`; None removes a field."""

  def change(directory: pathlib.Path):
    path = directory / 'config.json'
    written = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in written.items() if value is not None}))

  return change


def weights(change):
  """Change the tensors of the single file."""

  def rewrite(directory: pathlib.Path):
    tensors = load_file(directory / 'model.safetensors')
    change(tensors)
    save_file(tensors, directory / 'model.safetensors')

  return rewrite


def text(name, content):
  return lambda directory: (directory / name).write_text(content)


def truncated(directory: pathlib.Path):
  path = directory / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])


def garbage(directory: pathlib.Path):
  (directory / 'model.safetensors').write_bytes(b'\xff' * 64)


def pickled(name):
  def change(directory: pathlib.Path):
    (directory / 'model.safetensors').rename(directory / name)

  return change


def index(weight_map):
  def change(directory: pathlib.Path):
    (directory / 'model.safetensors').rename(directory / 'a.safetensors')
    (directory / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))

  return change


def rope(**fields):
  return config(rope_parameters={'rope_theta': 1e4} | fields)


def as_int8(tensors):
  tensors[GATE] = tensors[GATE].astype(np.int8)


def narrow(tensors):
  tensors[GATE] = np.ascontiguousarray(tensors[GATE][:, :-2])


CASES = {
  'no config': (lambda d: (d / 'config.json').unlink(), r'config\.json: No such file.*fix: a Hugging Face model directory'),
  'config is not JSON': (text('config.json', '{"model_type": '), r'config\.json: not JSON'),
  'config is a list': (text('config.json', '[]'), r'config\.json: not an object but list'),
  'no family': (config(model_type=None), r'model_type = None is not a known family; fix: one of qwen2, qwen3, llama, mistral'),
  'unknown family': (config(model_type='gpt2'), r"model_type = 'gpt2' is not a known family"),
  'remote code': (config(model_type='mine', auto_map={'AutoConfig': 'x.Y'}), r"model_type = 'mine' is not a known family"),
  'text for a size': (config(hidden_size='wide'), r'config\.json: .*hidden_size'),
  'no layers': (config(num_hidden_layers=0, layer_types=None), r'config\.json: num_layers = 0: not a size'),
  'negative vocabulary': (config(vocab_size=-5), r'config\.json: .*vocab_size'),
  'heads that do not group': (config(num_key_value_heads=3), r'config\.json: .*num_heads = 4 must be a multiple of .* = 3'),
  'odd head size': (config(hidden_size=36), r'config\.json: model\.head_dim = 9 must be even'),
  'other activation': (config(hidden_act='gelu'), r"hidden_act = 'gelu' is not supported; fix: .*'silu'"),
  'other dtype': (config(dtype='float64'), r"dtype = 'float64' is not supported; fix: float32, bfloat16 or float16"),
  'dynamic rope': (
    rope(rope_type='dynamic', factor=2.0),
    r"rope_type = 'dynamic' is not supported; fix: one of default, linear",
  ),
  'old spelling of rope': (
    config(rope_parameters=None, rope_scaling={'type': 'longrope', 'factor': 2.0}),
    r"rope_type = 'longrope' is not supported",
  ),
  'rope without context': (
    rope(rope_type='llama3', factor=8.0),
    r"rope_type = 'llama3' needs original_max_position_embeddings",
  ),
  'rope bands swapped': (
    rope(rope_type='llama3', factor=8.0, original_max_position_embeddings=16, low_freq_factor=4.0, high_freq_factor=1.0),
    r'rope high_freq_factor = 1.0 must be above low_freq_factor = 4.0',
  ),
  'rope factor zero': (rope(rope_type='linear', factor=0.0), r'rope_parameters\.factor = 0\.0 must be a number above 0'),
  'rope is text': (config(rope_parameters='linear'), r"rope_parameters = 'linear': not an object"),
  'partial rotation': (rope(rope_type='default', partial_rotary_factor=0.5), r'partial_rotary_factor is not supported'),
  'windows between full layers': (
    config(num_hidden_layers=2, use_sliding_window=True, sliding_window=4, layer_types=['sliding_attention', 'full_attention']),
    r'layer_types = .*only full layers followed by windowed ones',
  ),
  'end token is text': (config(eos_token_id='</s>'), r'config\.json: .*eos_token_id'),
  'no weights': (
    lambda d: (d / 'model.safetensors').unlink(),
    r'neither model\.safetensors nor model\.safetensors\.index\.json',
  ),
  'pickled .bin': (pickled('pytorch_model.bin'), r'pytorch_model\.bin: pickled weights are refused, for unpickling runs'),
  'pickled .pt': (pickled('model.pt'), r'model\.pt: pickled weights are refused'),
  'cut short': (truncated, r'model\.safetensors: cut short or no safetensors file'),
  'empty': (lambda d: (d / 'model.safetensors').write_bytes(b''), r'model\.safetensors: cut short or no safetensors file'),
  'no safetensors': (garbage, r'model\.safetensors: cut short or no safetensors file'),
  'missing': (weights(lambda t: t.pop(NORM)), rf"tensor '{re.escape(NORM)}' of shape \(32,\) is missing"),
  'missing bias': (
    weights(lambda t: t.pop('model.layers.0.self_attn.q_proj.bias')),
    r"q_proj\.bias' of shape \(32,\) is missing",
  ),
  'unexpected': (weights(lambda t: t.update(extra=t[NORM])), r"safetensors: tensor 'extra' of shape \(32,\) is unexpected"),
  'a layer too many': (config(num_hidden_layers=1, layer_types=None), r"tensor 'model\.layers\.1\..* is unexpected"),
  'a layer too few': (config(num_hidden_layers=3, layer_types=None), r"tensor 'model\.layers\.2\..* is missing"),
  'wrong shape': (
    weights(narrow),
    rf"safetensors: tensor '{re.escape(GATE)}' has shape \(40, 30\), config.json asks for \(40, 32\)",
  ),
  'vocabulary of another model': (config(vocab_size=70), r"embed_tokens\.weight' has shape \(62, 32\), .* asks for \(70, 32\)"),
  'quantised': (weights(as_int8), rf"tensor '{re.escape(GATE)}' has dtype I8; fix: weights in float32, bfloat16 or float16"),
  'head of a tied model': (
    weights(lambda t: t.update({'lm_head.weight': t[EMBED] + 1})),
    r"tensor 'lm_head\.weight' .* is unexpected: .*fix: tie_word_embeddings = false",
  ),
  'index is not JSON': (text('model.safetensors.index.json', 'x'), r'index\.json: not JSON'),
  'index without a map': (text('model.safetensors.index.json', '{}'), r"index\.json: field 'weight_map': not a map"),
  'index names an absent file': (
    index({NORM: 'b.safetensors'}),
    r'b\.safetensors: no such file, though .*index\.json names it',
  ),
  'index promises too much': (index({'other': 'a.safetensors'}), r"a\.safetensors: tensor 'other' is missing, though"),
  'index leaves the directory': (
    index({NORM: '../a.safetensors'}),
    r"'\.\./a\.safetensors' is not the name of a file beside it",
  ),
}


@pytest.fixture(scope='module')
def good(tmp_path_factory):
  directory = tmp_path_factory.mktemp('model')
  write_model(directory, 'qwen2-tied')
  return directory


def copied(good, tmp_path):
  for path in good.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  return tmp_path


@pytest.mark.parametrize('case', CASES)
def test_a_malformed_directory_is_a_clear_error(case, good, tmp_path):
  break_it, message = CASES[case]
  directory = copied(good, tmp_path)
  load_hf(directory)
  break_it(directory)
  with pytest.raises(WeightsError, match=f'(?s){message}') as error:
    load_hf(directory)
    read_end_tokens(directory)
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize('extra', ['lm_head.weight', 'model.layers.0.self_attn.rotary_emb.inv_freq'])
def test_what_follows_from_the_rest_may_be_in_the_file(extra, good, tmp_path):
  directory = copied(good, tmp_path)
  weights(lambda t: t.update({extra: t[EMBED].copy()}))(directory)
  load_hf(directory)


@pytest.mark.parametrize(
  ('lora', 'message'),
  [
    ({'rank': -1}, r'lora\.rank = -1 must be 0'),
    ({'rank': 2, 'targets': ('lm_head',)}, r"lora\.targets = 'lm_head': no such projection; fix: some of q_proj"),
    ({'rank': 2, 'targets': ()}, r'lora\.targets is empty while lora\.rank = 2'),
  ],
)
def test_adapters_that_cannot_be_are_refused(lora, message):
  with pytest.raises(ValueError, match=message):
    Lora(**lora)


_PEAK = """
import sys
import jax, numpy as np
from espo_jax.model import load_hf, read_config

jax.numpy.zeros(1).block_until_ready()
read_config(sys.argv[1])
peak, (_, params) = most_bytes(lambda: load_hf(sys.argv[1]))
sizes = [x.nbytes for x in jax.tree.leaves(params)]
print(peak, sum(sizes), max(sizes))
"""


def test_the_host_holds_its_shards_and_little_more_than_one_tensor(tmp_path):
  import torch
  import transformers

  shape = {'hidden_size': 1024, 'intermediate_size': 4096, 'num_attention_heads': 16, 'num_key_value_heads': 4}
  config = transformers.Qwen2Config(vocab_size=4096, num_hidden_layers=8, tie_word_embeddings=True, **shape)
  transformers.Qwen2ForCausalLM(config).to(torch.float32).save_pretrained(tmp_path)
  result = subprocess.run([sys.executable, '-c', MOST_BYTES + _PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
  peak, total, largest = map(int, result.stdout.split())
  assert total > 400e6
  overhead = 60e6  # tracing, the runtime's arenas
  assert peak < total + 2 * largest + overhead, (peak, total, largest)
