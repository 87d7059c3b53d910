"""The notebooks run, on a CPU and in their short mode, and are committed without outputs."""

import dataclasses
import html
import os
import pathlib
import re

import benchmark_data
import nbclient
import nbformat
import numpy as np
import pytest

from espo_jax import convert
from espo_jax.model import load_hf, save_hf
from espo_jax.monitor.examples import Example, coloured
from espo_jax.tasks import load_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))


def code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def executed(name, directory, request, **variables):
  """Runs a notebook in its short mode, and returns its outputs."""
  env = os.environ | {
    'ESPO_JAX_SHORT': '1',
    'ESPO_JAX_RUN': str(directory / 'run'),
    'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}',
    'XLA_FLAGS': os.environ['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=1',  # the last one counts
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
    'JAX_COMPILATION_CACHE_DIR': str(request.config.cache.mkdir('jax')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
    **variables,
  }
  notebook = nbformat.read(ROOT / 'notebooks' / f'{name}.ipynb', as_version=4)
  nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(directory)}}).execute(env=env)
  return [output for cell in code(notebook) for output in cell.outputs]


def printed(outputs):
  return ''.join(output.text for output in outputs if output.output_type == 'stream')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_has_no_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))


def test_the_notebooks_run(request, tmp_path):
  """All in turn, so that the second one looks at what the first one trained."""
  for name in ('quickstart_tpu', 'espo_anatomy', 'empirical_ntk'):
    outputs = executed(name, tmp_path, request)
    assert any('image/png' in output.get('data', {}) for output in outputs)
    text = printed(outputs)
    assert {'quickstart_tpu': '| ESPO ', 'espo_anatomy': 'tokens saved', 'empirical_ntk': 'measured, predicted'}[name] in text
    if name == 'empirical_ntk':
      shares = np.array(re.findall(r'([\d.]+)% +([\d.]+)%', text), float)
      np.testing.assert_allclose(*shares.T, atol=6)  # in percent; a nearly linear network
      assert shares[0, 0] < 5 and shares[-1, 0] > 90
  assert (tmp_path / 'run' / 'summary.json').exists()


@pytest.mark.skipif('ESPO_MODELS' not in os.environ, reason='ESPO_MODELS is not set to a folder with smollm2-135m-*.gguf')
def test_the_notebook_of_a_real_model_runs(request, tmp_path):
  """Its first blocks are enough to run it, and compile in a fifth of the time."""
  (file,) = pathlib.Path(os.environ['ESPO_MODELS']).glob('smollm2-135m-*.gguf')
  convert.main([f'--gguf={file}', f'--output={tmp_path / "whole"}'])
  config, params = load_hf(tmp_path / 'whole')
  kept = {name: its for name, its in params.items() if not name.startswith('layer_') or int(name[6:]) < 6}
  save_hf(
    tmp_path / 'model', dataclasses.replace(config, num_layers=6), kept, tokenizer=load_tokenizer(str(tmp_path / 'whole'))
  )
  rows = benchmark_data.write(tmp_path / 'rows.jsonl', [benchmark_data.gsm8k(i) for i in range(8)])
  outputs = executed(
    'real_model', tmp_path, request, ESPO_JAX_MODEL=str(tmp_path / 'model'), ESPO_JAX_TRAIN=rows, ESPO_JAX_TEST=rows
  )
  assert '| ESPO ' in printed(outputs) and 'full depth: ' in printed(outputs)
  assert sum('image/png' in output.get('data', {}) for output in outputs) == 2
  (page,) = (output.data['text/html'] for output in outputs if 'text/html' in output.get('data', {}))
  assert 'pens has she now?' in page and page.count('<span title="regret ') > 12


def test_a_rollout_is_coloured_by_its_regret():
  regret = np.array([0.0, 2.0, 1.0, 0.5])
  example = Example('1<2? ', ('a', '<b>', '&', 'd'), regret, 2 * regret, 0 * regret + 3, 3, 4, 'stopped', False)
  text = coloured(example)
  spans = re.findall(r'<span title="([^"]*)" style="([^"]*)">([^<]*)</span>', text)
  assert [html.unescape(token) for _, _, token in spans] == list(example.tokens)
  grounds = [float(re.search(r'([\d.]+)\)$', style)[1]) for _, style, _ in spans]
  np.testing.assert_allclose(grounds, regret / regret.max(), atol=0.005)
  assert ['#999' in style for _, style, _ in spans] == [False, False, False, True]
  assert spans[1][0] == 'regret 2.000, z 4.000, threshold 3.000'
  assert text.index('&#9632;') > text.index('&amp;') < text.index('>d<')
  assert text.index('&#9632;') < text.index('>d<')
  assert '1&lt;2? ' in text
