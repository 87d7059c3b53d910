"""What stop rules save at inference, on recorded answers."""

import itertools
import json
import runpy

import measure_stops
import numpy as np
import pytest

from espo_jax import monitor

PROBLEMS, SAMPLES, WIDTH = 12, 4, 16


def test_a_smaller_vote_is_the_mean_over_all_subsets():
  spelled = [['7', '7', '8', ''], ['1', '2', '3', '4']]
  right = np.array([[True, True, False, False], [False, True, False, False]])
  found = measure_stops.smaller_votes(measure_stops.Votes(spelled, right, np.ones((2, 4), int)))
  for problem, size in itertools.product(range(2), range(1, 5)):
    subsets = list(itertools.combinations(range(4), size))
    votes = [monitor.majority([spelled[problem][i] for i in s], right[problem, list(s)]) for s in subsets]
    assert found[problem, size - 1] == pytest.approx(np.mean(votes), abs=0.15)  # 200 draws: 4 deviations of a share
  assert found[0, -1] == 1.0 and found[1, -1] == 0.25


@pytest.fixture
def recorded(tmp_path):
  """Answers of which the wrong ones have unlikely tokens from the fourth on."""
  rng = np.random.default_rng(0)
  right = np.arange(PROBLEMS * SAMPLES) % SAMPLES < 2
  late = np.arange(WIDTH) >= 3
  logprobs = -0.1 - 3.0 * (~right[:, None] & late) + rng.normal(0, 0.01, (right.size, WIDTH))
  rows = {
    'logprobs': logprobs.astype(np.float32),
    'regret': (-logprobs).astype(np.float32),
    'values': np.full_like(logprobs, 0.5, np.float32),
    'full_length': np.full(right.size, WIDTH, np.int32),
    'ended': np.ones(right.size, bool),
    'correct': right.astype(np.float32),
    'stopped': np.zeros(right.size, bool),
    'shadow': np.zeros(right.size, bool),
    'shadow_share': np.float32(0),
    'samples': np.int32(SAMPLES),
    'mu': np.float32(-logprobs.mean()),
    'var': np.float32(logprobs.var()),
  }
  monitor.write_run_info(tmp_path, runpy.run_path('experiments/quickstart.py')['get_config']().to_dict())
  monitor.atomic_write_arrays(tmp_path / 'rollouts' / 'rows.npz', rows)
  answers = [
    {
      'problem': n // SAMPLES,
      'sample': n % SAMPLES,
      'answer': '7' if its else f'wrong {n % 2}',
      'correct': bool(its),
      'length': WIDTH,
    }
    for n, its in enumerate(right)
  ]
  (tmp_path / 'samples.jsonl').write_text(''.join(json.dumps(answer | {'length': WIDTH}) + '\n' for answer in answers))
  return tmp_path


def test_a_rule_that_tells_right_from_wrong_saves_and_loses_nothing(recorded, tmp_path):
  measure_stops.main([f'--rollouts={recorded}', f'--output={tmp_path / "page"}'])
  found = json.loads((tmp_path / 'page.json').read_text())
  assert found['alone'] == 0.5 and found['vote'] == 1.0 and 'espo' in found['rules']
  alone, vote = (found['rules']['espo'][name] for name in ('alone', 'vote'))
  assert alone['lost']['mean'] == 0.0 and 0 < alone['saved']['mean'] < 50  # wrong answers are half of the tokens
  assert vote['lost']['mean'] == 0.0 and vote['saved']['mean'] >= alone['saved']['mean'] - 1e-6
  assert vote['ahead']['mean'] >= 0.0
  assert found['rules']['random']['alone']['lost']['mean'] < 0 or found['rules']['random']['alone']['saved']['mean'] == 0
  assert '| `espo` |' in (tmp_path / 'page.md').read_text()


def test_a_folder_without_recordings_is_told(tmp_path):
  with pytest.raises(SystemExit, match=r'^error: --rollouts=.*: no rollouts were recorded there; fix: '):
    measure_stops.main([f'--rollouts={tmp_path}', '--output=page'])
