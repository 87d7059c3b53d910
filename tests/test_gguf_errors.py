"""GGUF files that cannot be used: each error names the file, the tensor or key, and what to do."""

import re
import sys

import gguf
import numpy as np
import pytest
from gguf_files import Q, make_model, write_gguf
from test_gguf_tokenizer import bpe_keys

from espo_jax import convert
from espo_jax.model import WeightsError, load_gguf, load_hf, open_gguf
from espo_jax.tasks import DataError, load_tokenizer

pytestmark = pytest.mark.quick

GATE, NORM = 'blk.1.ffn_gate.weight', 'output_norm.weight'
FACTORS = 'rope_freqs.weight'


@pytest.fixture(scope='module')
def model():
  return make_model('llama')


@pytest.fixture(scope='module')
def good(model, tmp_path_factory):
  return write_gguf(tmp_path_factory.mktemp('good') / 'model.gguf', model)


def key(name, value):
  return {'keys': {name: value}}


def ones(*shape):
  return np.ones(shape, np.float32)


# What is written instead, and what is said about it.
FILES = {
  'another architecture': (
    key('general.architecture', 'gpt2'),
    r"general\.architecture = 'gpt2' is not supported; fix: one of llama, qwen2, qwen3, which are Llama",
  ),
  'no width': (
    {'drop': ['llama.embedding_length']},
    r'llama\.embedding_length = None: not a whole number above 0; fix: a whole',
  ),
  'no layers': (key('llama.block_count', 0), r'llama\.block_count = 0: not a whole number above 0'),
  'heads by layer': (key('llama.attention.head_count_kv', [2, 1]), r'llama\.attention\.head_count_kv = \[2, 1\]: not a whole'),
  'text for a size': (key('llama.feed_forward_length', 'wide'), r"llama\.feed_forward_length = 'wide': not a whole number"),
  'no epsilon': (
    {'drop': ['llama.attention.layer_norm_rms_epsilon']},
    r'llama\.attention\.layer_norm_rms_epsilon = None: not a number',
  ),
  'heads that do not group': (key('llama.attention.head_count_kv', 3), r'num_heads = 4 must be a multiple of .* = 3'),
  'experts': (key('llama.expert_count', 8), r'llama\.expert_count = 8 is not supported; fix: a model without it'),
  'a window': (key('llama.attention.sliding_window', 4096), r'llama\.attention\.sliding_window = 4096 is not supported'),
  'pooled': (key('llama.pooling_type', 1), r'llama\.pooling_type = 1 is not supported'),
  'not causal': (key('llama.attention.causal', False), r'llama\.attention\.causal = False is not supported'),
  'scaled attention': (key('llama.attention.scale', 0.5), r'llama\.attention\.scale = 0\.5 is not supported'),
  'head sizes by layer': (key('llama.attention.key_length', [8, 4]), r'llama\.attention\.key_length = \[8, 4\]: not a whole'),
  'part of a head rotated': (
    {'keys': {'llama.attention.key_length': 8, 'llama.rope.dimension_count': 4}},
    r'llama has attention\.key_length = 8, rope\.dimension_count = 4, but .* fix: a model in which they are equal',
  ),
  'long rope': (
    key('llama.rope.scaling.type', 'longrope'),
    r"llama\.rope\.scaling\.type = 'longrope' is not supported; fix: a model with none, linear or yarn",
  ),
  'no factor': (
    key('llama.rope.scaling.type', 'yarn'),
    r"llama\.rope\.scaling\.factor = None, though .* = 'yarn'; fix: a",
  ),
  'an extrapolation': (key('llama.rope.scaling.yarn_ext_factor', 0.0), r'yarn_ext_factor = 0\.0 is not supported'),
  'a factor below 0': (key('llama.rope.scaling.factor', -2.0), r'factor = -2\.0 must be a number above 0'),
  'no base': (key('llama.rope.freq_base', 0.0), r'rope_theta = 0\.0: no base of frequencies'),
  'factors that are not Llama 3s': (
    {'tensors': {FACTORS: np.array([1, 2, 3, 4], np.float32)}},
    rf"tensor '{re.escape(FACTORS)}' of shape \(4,\), up to 4, divides the frequencies otherwise than Llama 3",
  ),
  'factors of another head': ({'tensors': {FACTORS: ones(32)}}, rf"tensor '{re.escape(FACTORS)}' of shape \(32,\)"),
  'missing': ({'drop': [NORM]}, rf"tensor '{re.escape(NORM)}' of shape \(32,\) is missing; fix: weights that fit the metadata"),
  'missing in a layer': ({'drop': [GATE]}, rf"tensor '{re.escape(GATE)}' of shape \(64, 32\) is missing"),
  'unexpected': (
    {'tensors': {'blk.0.ffn_gate_inp.weight': ones(4, 32)}},
    r"tensor 'blk\.0\.ffn_gate_inp\.weight' of shape \(4, 32\) is unexpected: the metadata describes a model without it",
  ),
  'half a bias': ({'tensors': {'blk.0.attn_q.bias': ones(32)}}, r"tensor 'blk\.0\.attn_k\.bias' of shape \(16,\) is missing"),
  'a layer too few': (key('llama.block_count', 3), r"tensor 'blk\.2\..* is missing"),
  'a layer too many': (key('llama.block_count', 1), r"tensor 'blk\.1\..* is unexpected"),
  'wrong shape': (
    {'tensors': {GATE: ones(64, 30)}},
    rf"'{re.escape(GATE)}' has shape \(64, 30\), the metadata asks for \(64, 32",
  ),
  'fewer rows than heads': ({'tensors': {'blk.0.attn_q.weight': ones(10, 32)}}, r"attn_q\.weight' has shape \(10, 32\)"),
  'vocabulary of another model': (
    key('llama.vocab_size', 70),
    r"token_embd\.weight' has shape \(62, 32\), .* for \(70, 32\)",
  ),
  'whole numbers': (
    {'tensors': {GATE: (np.ones((64, 32), np.int8), Q.I8)}},
    rf"tensor '{re.escape(GATE)}' has type I8, which the package gguf cannot dequantise; fix: .*Q8_0",
  ),
  'one part of three': ({'keys': {'split.count': 3}}, r'split\.count = 3: one part of a model in 3 files; fix: .*--merge'),
}


@pytest.mark.parametrize('case', FILES)
def test_a_file_of_a_model_that_is_not_supported_is_a_clear_error(case, model, tmp_path):
  options, message = FILES[case]
  file = write_gguf(tmp_path / 'model.gguf', model, **options)
  with pytest.raises(WeightsError, match=f'(?s)^{re.escape(str(file))}: .*{message}'):
    load_gguf(file)


def cut(length):
  return lambda content: content[:length]


BYTES = {
  'empty': (cut(0), r"no GGUF file, because it begins with b'' and not with b'GGUF'; fix: a GGUF file"),
  'another format': (lambda content: b'PK\x03\x04' + content, r"no GGUF file, because it begins with b'PK"),
  'the magic alone': (cut(4), r'cut short or damaged .*; fix: download it again'),
  'cut in the metadata': (cut(300), r'cut short or damaged .*; fix: download it again'),
  'cut in the list of tensors': (cut(1200), r'cut short or damaged'),
  'cut in the last tensor': (cut(-40), r'cut short or damaged'),
  'another version': (lambda content: content[:4] + b'\x09\0\0\0' + content[8:], r'cut short or damaged .*version 9'),
  'half overwritten': (lambda content: content[:100] + b'\xff' * 600 + content[700:], r'cut short or damaged'),
}


@pytest.mark.parametrize('case', BYTES)
def test_a_damaged_file_is_a_clear_error(case, good, tmp_path):
  change, message = BYTES[case]
  file = tmp_path / 'model.gguf'
  file.write_bytes(change(good.read_bytes()))
  with pytest.raises(WeightsError, match=f'(?s)^{re.escape(str(file))}: {message}'):
    load_gguf(file)


def test_every_length_of_a_cut_header_is_a_clear_error(good, tmp_path):
  content, file = good.read_bytes(), tmp_path / 'model.gguf'
  for length in range(5, 1400, 13):
    file.write_bytes(content[:length])
    with pytest.raises(WeightsError, match=r'cut short or damaged'):
      open_gguf(file)


def test_a_file_of_the_other_byte_order_is_refused(tmp_path):
  other = gguf.GGUFEndian.BIG if sys.byteorder == 'little' else gguf.GGUFEndian.LITTLE
  writer = gguf.GGUFWriter(tmp_path / 'model.gguf', 'llama', endianess=other)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(WeightsError, match=f'its byte order is not that of this machine; fix: a {sys.byteorder}-endian file'):
    open_gguf(tmp_path / 'model.gguf')


@pytest.mark.parametrize(('name', 'message'), [('absent.gguf', 'No such file or directory'), ('.', 'Is a directory')])
def test_a_path_without_a_file_is_a_clear_error(name, message, tmp_path):
  with pytest.raises(WeightsError, match=f'{message}; fix: the path of a GGUF file'):
    load_gguf(tmp_path / name)


def test_without_the_package_the_error_says_how_to_install_it(good, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(WeightsError, match=rf'{re.escape(str(good))}: the package gguf, .* fix: pip install gguf'):
    load_gguf(good)


@pytest.mark.parametrize('read', [load_hf, lambda file: load_tokenizer(str(file))])
def test_where_a_directory_is_expected_the_error_names_the_command_that_makes_one(read, good):
  command = (
    rf'fix: python -m espo_jax\.convert --gguf={re.escape(str(good))} --output=models/model, and models/model in its place'
  )
  with pytest.raises((WeightsError, DataError), match=f'a file and no directory; {command}'):
    read(good)


# ----------------------------------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--gguf=FILE', '--checkpoint=runs/x'], r'--checkpoint=runs/x: does not go with --gguf=.*; fix: leave one of them out'),
    (['--gguf=FILE', '--arm=espo'], r'--arm=espo: does not go with --gguf='),
    (['--gguf=FILE', '--step=3'], r'--step=3: does not go with --gguf='),
    ([], r'--checkpoint is missing; fix: --checkpoint=\.\.\., or --gguf=FILE'),
    (['--gguf=absent.gguf'], r'absent\.gguf: No such file or directory; fix: the path of a GGUF file'),
    (['--gguf=FILE'], r'tokenizer\.ggml\.model = None is not supported; fix: gpt2'),
  ],
)
def test_the_command_ends_with_one_line(flags, message, good, tmp_path):
  given = [flag.replace('FILE', str(good)) for flag in flags]
  with pytest.raises(SystemExit, match=message) as error:
    convert.main([*given, f'--output={tmp_path / "out"}'])
  assert '\n' not in str(error.value)
  assert not list(tmp_path.iterdir())


def test_a_directory_that_exists_is_not_overwritten(tmp_path):
  keys, _, _ = bpe_keys('smollm')
  file = write_gguf(tmp_path / 'model.gguf', make_model('llama', vocab_size=len(keys['tokenizer.ggml.tokens'])), keys=keys)
  with pytest.raises(SystemExit, match=r'exists already, and is not overwritten; fix: another directory'):
    convert.main([f'--gguf={file}', f'--output={tmp_path}'])
  assert list(tmp_path.iterdir()) == [file]


def test_more_tokens_than_rows_of_the_embedding_are_refused(model, tmp_path):
  keys, _, _ = bpe_keys('smollm')
  file = write_gguf(tmp_path / 'model.gguf', model, keys=keys)
  count = len(keys['tokenizer.ggml.tokens'])
  with pytest.raises(SystemExit, match=rf'tokenizer\.ggml\.tokens has {count} entries for a vocabulary of 62; fix: download'):
    convert.main([f'--gguf={file}', f'--output={tmp_path / "out"}'])
  assert not (tmp_path / 'out').exists()
  assert list(tmp_path.iterdir()) == [file]
