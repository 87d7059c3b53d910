"""The notebooks run, on a CPU and in their short mode, and are committed without outputs."""

import html
import os
import pathlib
import re

import nbclient
import nbformat
import numpy as np
import pytest

from espo_jax.monitor.examples import Example, coloured

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_has_no_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == 'code')


def test_the_notebooks_run(request, tmp_path):
  """All in turn, so that the second one looks at what the first one trained."""
  env = os.environ | {
    'ESPO_JAX_SHORT': '1',
    'ESPO_JAX_RUN': str(tmp_path / 'run'),
    'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}',
    'XLA_FLAGS': os.environ['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=1',  # the last one counts
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
    'JAX_COMPILATION_CACHE_DIR': str(request.config.cache.mkdir('jax')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
  }
  for name in ('quickstart_tpu', 'espo_anatomy', 'empirical_ntk'):
    notebook = nbformat.read(ROOT / 'notebooks' / f'{name}.ipynb', as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}).execute(env=env)
    shown = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
    assert any('image/png' in output.get('data', {}) for output in shown)
    printed = ''.join(output.text for output in shown if output.output_type == 'stream')
    assert {'quickstart_tpu': '| ESPO ', 'espo_anatomy': 'tokens saved', 'empirical_ntk': 'measured, predicted'}[
      name
    ] in printed
    if name == 'empirical_ntk':
      shares = np.array(re.findall(r'([\d.]+)% +([\d.]+)%', printed), float)
      np.testing.assert_allclose(*shares.T, atol=6)  # in percent; a nearly linear network
      assert shares[0, 0] < 5 and shares[-1, 0] > 90
  assert (tmp_path / 'run' / 'summary.json').exists()


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
