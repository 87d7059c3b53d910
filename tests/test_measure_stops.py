"""What stop rules save at inference, on recorded answers."""

import json
import runpy

import jax
import measure_stops
import numpy as np
import pytest

from espo_jax import monitor
from espo_jax.decoders import Samples
from espo_jax.evaluate.reading import Graded

PROBLEMS, SAMPLES, WIDTH = 12, 4, 16
VOTES = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


def test_a_stopped_answer_has_no_vote_and_the_tokens_up_to_its_stop():
  samples = Samples(['7', '7', '8'], np.ones(3, bool), np.array([5, 6, 7]))
  graded = Graded({}, [samples], [np.array([True, True, False])])
  assert measure_stops.measured(graded) == (2 / 3, 1.0, 18)
  left = measure_stops.cut(graded, np.array([[2, 3, 7]]), np.array([[True, True, False]]))
  assert measure_stops.measured(left) == (0.0, 0.0, 12)


def test_each_half_is_measured_at_the_threshold_that_the_other_one_chooses():
  free = measure_stops.Measured(np.full(4, 0.5), np.ones(4), np.full(4, 10.0))
  kinds = [
    measure_stops.Measured(np.full(4, 0.5), vote, np.full(4, tokens)) for vote, tokens in zip(VOTES, (2.0, 6.0), strict=True)
  ]
  found = measure_stops.held_out([kinds, kinds], free, 'vote')  # the even problems may take the first, which loses an odd vote
  np.testing.assert_array_equal(found.tokens, [6.0, 2.0, 6.0, 2.0])
  np.testing.assert_array_equal(found.vote, [1.0, 0.0, 1.0, 1.0])
  losing = [measure_stops.Measured(np.zeros(4), np.zeros(4), np.ones(4))]
  jax.tree.map(np.testing.assert_array_equal, measure_stops.held_out([losing, losing], free, 'alone'), free)


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
    {'problem': n // SAMPLES, 'sample': n % SAMPLES, 'answer': '7' if its else f'wrong {n % 2}', 'correct': bool(its)}
    for n, its in enumerate(right)
  ]
  kind = {'length': WIDTH, 'stop_reason': 'eos'}
  (tmp_path / 'samples.jsonl').write_text(''.join(json.dumps(answer | kind) + '\n' for answer in answers))
  (tmp_path / 'settings.json').write_text(json.dumps({'problems': PROBLEMS, 'samples': SAMPLES}))
  return tmp_path


def test_a_rule_that_tells_right_from_wrong_saves_and_loses_nothing(recorded, tmp_path):
  measure_stops.main([f'--rollouts={recorded}', f'--output={tmp_path / "page"}'])
  found = json.loads((tmp_path / 'page.json').read_text())
  assert found['alone'] == 0.5 and found['vote'] == 1.0 and 'espo' in found['rules']
  alone, vote, ahead = (found['rules']['espo'][name] for name in ('alone', 'vote', 'ahead'))
  assert alone['accuracy']['value'] == 0.0 and 0 < alone['saved']['value'] < 50  # wrong answers are half of the tokens
  assert vote['accuracy']['value'] == 0.0 and vote['saved']['value'] >= alone['saved']['value'] - 1e-6
  assert ahead['value'] > 0.0
  by_lot = found['rules']['random']['alone']
  assert by_lot['accuracy']['value'] < 0 or by_lot['saved']['value'] == 0
  assert '| `espo` |' in (tmp_path / 'page.md').read_text()


def test_a_folder_without_recordings_is_told(tmp_path):
  with pytest.raises(SystemExit, match=r'^error: --rollouts=.*: no rollouts were recorded there; fix: '):
    measure_stops.main([f'--rollouts={tmp_path}', '--output=page'])
