"""The rollout's benchmark, with our two contenders on a few short rows."""

import importlib
import inspect
import json
import os
import pathlib
import re
import sys
from unittest import mock

import jax
import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / 'scripts'


@pytest.fixture
def script(monkeypatch, request):
  """Imports one of the scripts; the processes that it starts find the compiled programs of the last time."""
  monkeypatch.syspath_prepend(str(SCRIPTS))
  assert jax.device_count() == 8  # this process has its devices before the flag changes for those that it starts
  monkeypatch.setenv('XLA_FLAGS', os.environ['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=1')  # the last one counts
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(request.config.cache.mkdir('jax')))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
  return importlib.import_module


def test_bench_rollout_writes_exact_lengths_and_every_field(script, tmp_path):
  options = '--rows=13 --slots=4 --horizon=24 --prompt_tokens=8 --repeats=2 --vocab_size=256 --hidden_size=192 --layers=1'
  script('bench_rollout').main(
    [*options.split(), '--cases=skewed,stopped', '--contenders=espo_jax,masked_scan', f'--output={tmp_path / "rollout"}']
  )
  written = json.loads((tmp_path / 'rollout.json').read_text())  # every run's lengths were compared on the way here
  case = written['cases']['skewed']
  work, contenders = case['workload'], case['contenders']
  assert list(contenders) == ['espo_jax', 'masked_scan'] and not case['left_out'] and case['transformers'] is None
  for its in contenders.values():
    assert its['tokens_per_second']['mean'] > 0 and len(its['seconds']['values']) == 2
    assert its['utilisation'] == pytest.approx(work['tokens'] / its['executed_row_steps'])
    assert its['largest_logit_gap_to_ours'] == 0 and its['peak_rss_mib'] > 10
    assert len(its['foreign_cores']) == 2
  assert contenders['masked_scan']['executed_row_steps'] == 13 * 24
  assert contenders['espo_jax']['executed_over_list_scheduling'] >= 1
  ratio, ours, theirs = (
    contenders['masked_scan'][key] if key == 'ours_is_faster_by' else contenders[key]['seconds']
    for key in ('ours_is_faster_by', 'espo_jax', 'masked_scan')
  )
  assert ratio['values'] == pytest.approx(np.divide(theirs['values'], ours['values']))
  levels = written['cases']['stopped']['levels']
  assert levels['none']['tokens_ended_percent'] == 0 < levels['some']['tokens_ended_percent']
  assert levels['some']['tokens_ended_percent'] < levels['most']['tokens_ended_percent'] < 60
  assert {'command', 'git', 'hardware', 'versions', 'seeds', 'model', 'repeats'} <= written.keys()
  page = (tmp_path / 'rollout.md').read_text()
  assert re.search(r'\| espo_jax \| \d+ ± \d+ \|', page) and 'scripts/bench_rollout.sh --rows=13' in page


def test_bench_scaling_writes_a_table(script, tmp_path):
  options = '--mean_length=5 --longest=9 --prompt_tokens=4 --hidden_size=64 --layers=1 --repeats=1 --sweeps=rows --values=33'
  script('bench_scaling').main([*options.split(), f'--output={tmp_path / "scaling"}'])
  entries = json.loads((tmp_path / 'scaling.json').read_text())['sweeps']['rows']
  assert [entry['rows'] for entry in entries] == [33]
  assert all(entry['executed_over_list_scheduling'] >= 1 and entry['seconds']['mean'] > 0 for entry in entries)
  assert '| rows | seconds |' in (tmp_path / 'scaling.md').read_text()


def test_bench_gpu_writes_every_table(script, tmp_path):
  options = (
    '--shapes=tiny --batches=3 --context=40 --update_shape=tiny --step_shape=tiny --step_rows=16 --step_slots=4 --repeats=1'
  )
  script('bench_gpu').main([*options.split(), '--horizon=24', '--matrix=64', f'--output={tmp_path / "gpu"}'])
  written = json.loads((tmp_path / 'gpu.json').read_text())
  assert [(its['kernels'], its['batch']) for its in written['decode']] == [(False, 3), (True, 3)]
  assert all(its['share_of_copy_bandwidth'] > 0 for its in written['decode'])
  assert written['update'][0]['share_of_matmul_peak'] > 0
  step = written['step']
  assert 0 < step['saved_percent']['tokens'] < 50 and step['arms']['espo']['tokens'] < step['arms']['ppo']['tokens']
  assert '| tiny | paged kernels | 3 |' in (tmp_path / 'gpu.md').read_text()


def test_list_scheduling_is_greedy(script):
  workload = script('bench.workload')
  rng = np.random.default_rng(0)
  for slots in (1, 3, 50):
    lengths = rng.integers(1, 20, 40)
    busy = np.zeros(slots, int)
    for length in lengths:
      busy[busy.argmin()] += length
    assert workload.list_scheduling(lengths, slots) == busy.max()


def test_prompts_carry_their_numbers(script):
  workload = script('bench.workload')
  lengths = workload.log_normal(2000, 64, 200, 0.6, seed=1)
  assert lengths.min() >= 1 and lengths.max() <= 200 and lengths.mean() == pytest.approx(64, rel=0.05)
  made = workload.make(lengths, slots=8, horizon=256, width=6, vocabulary=99, seed=0, samples=2)
  lengths = np.repeat(lengths, 2)
  assert np.array_equal(workload.decode(made.prompts, 0), lengths)
  work = made.with_lengths(lengths, lengths // 2 + 1)
  assert np.array_equal(workload.decode(work.prompts, 0), lengths)
  assert np.array_equal(workload.decode(work.prompts, 1), lengths // 2 + 1)
  assert np.array_equal(work.prompts[::2], work.prompts[1::2])
  assert work.prompts.min() >= workload.FIRST and work.prompts.max() < 99
  with pytest.raises(ValueError, match='cannot carry'):
    workload.make(lengths, slots=8, horizon=256, width=6, vocabulary=60, seed=0)


def test_a_contender_that_fails_says_so(script, tmp_path):
  protocol = script('bench.protocol')
  contender = protocol.Contender('ours', sys.executable, 'bench.ours', {'kind': 'espo_jax'}, tmp_path / 'log')
  with pytest.raises(protocol.ContenderError, match='no_such_place'):
    contender.ask('load', model='no_such_place')
  contender.close()


@pytest.mark.parametrize('name', sorted(path.stem for path in SCRIPTS.glob('*.py')))
@pytest.mark.parametrize('word', ['--no-such-option=1', 'word'])
def test_a_script_refuses_arguments_that_it_does_not_know(script, monkeypatch, capsys, name, word):
  monkeypatch.setitem(sys.modules, 'qwix', mock.Mock())  # not installed for the tests
  module = script(name)
  needed = {'make_tiny_model': ['--data=data', '--output=out'], 'same_programs': ['record', 'folder']}
  needed |= {
    'measure_signals': ['--rollouts=recorded', '--output=out'],
    'measure_stops': ['--rollouts=recorded', '--output=out'],
    'measure_exits': ['--checkpoint=model', '--train=train', '--data=data', '--output=out'],
    'drill': ['soak'],
    'measure_equal_flops': ['--long=long', '--short=short', '--output=out'],
    'measure_trials': ['--comparison=page', '--output=out'],
    'make_word_problems': ['--output=out'],
    'draw_methods': ['--decoders=decoders', '--stops=stops', '--output=out'],
  }
  argv = [*needed.get(name, []), word]
  monkeypatch.setattr(sys, 'argv', [f'{name}.py', *argv])
  with pytest.raises(SystemExit) as ended:
    module.main(*[argv] * len(inspect.signature(module.main).parameters))
  assert ended.value.code == 2
  assert word in capsys.readouterr().err
