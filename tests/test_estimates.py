"""What another checkpoint would do, estimated from the recorded answers of one."""

import json
import pathlib
import re
import runpy

import jax
import numpy as np
import pytest
from small import randomised

from espo_jax.evaluate import estimates
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.learner import Checkpoints, init_state
from espo_jax.monitor import write_run_info
from espo_jax.stages.warm_start import supervised_learner

ROOT = pathlib.Path(__file__).parents[1]
PROBLEMS, SAMPLES = 9, 16  # the devices do not share the problems evenly


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> pathlib.Path:
  """A run whose step 3 differs a little from its step 2."""
  path = tmp_path_factory.mktemp('estimates') / 'run'
  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  config.mesh.data = -1
  write_run_info(path, config.to_dict())
  exp = make_experiment(config)
  learner, never = supervised_learner(exp), make_rule(config, 'never')
  first, other = (randomised(exp.abstract_params(), seed=seed) for seed in (1, 2))
  near = jax.tree.map(lambda a, b: 0.97 * a + 0.03 * b, first, other)
  with Checkpoints(path / 'arms' / 'espo' / 'checkpoints') as checkpoints:
    for step, params in ((2, first), (3, near)):
      checkpoints.save(step, init_state(exp.put(params), learner.optimizer, never), done=step == 3)
  return path


@pytest.fixture(scope='module')
def recorded(run) -> pathlib.Path:
  folder = run.parent / 'recorded'
  evaluate_main(
    [f'--checkpoint={run}', '--step=2', f'--samples={SAMPLES}', f'--problems={PROBLEMS}', '--record', f'--output={folder}']
  )
  return folder


def test_the_estimate_for_the_sampling_checkpoint_is_what_was_sampled(run, recorded, tmp_path, capsys):
  evaluate_main([f'--from={recorded}', f'--estimate={run}', '--step=2', f'--output={tmp_path}'])
  found = json.loads((tmp_path / 'estimate-espo-2.json').read_text())
  summary = json.loads((recorded / 'summary.json').read_text())
  with np.load(recorded / 'rollouts' / 'rows.npz') as rows:
    right, lengths = rows['correct'], rows['full_length']
  assert found['accuracy']['mean'] == pytest.approx(right.mean(), abs=1e-4)
  assert found['tokens']['mean'] == pytest.approx(lengths.mean(), rel=1e-4)
  assert found['accuracy']['effective'] == pytest.approx(PROBLEMS * SAMPLES, rel=1e-4)
  assert found['kl']['mean'] == pytest.approx(0.0, abs=1e-4)
  assert found['sampled']['accuracy'] == pytest.approx(right.mean()) and summary['settings'] == found['answers']
  assert f'{PROBLEMS * SAMPLES} of {PROBLEMS * SAMPLES} answers tell as much' in capsys.readouterr().out


def test_the_ratios_of_a_near_checkpoint_have_the_mean_one(run, recorded, tmp_path, monkeypatch):
  """Probabilities of both policies sum to one over all answers, so it holds only if each row is scored behind its prompt."""
  seen = []

  def spy(log_ratios, values, samples):
    seen.append(log_ratios)
    assert samples == SAMPLES
    return is_cv_estimate(log_ratios, values, samples=samples)

  is_cv_estimate = estimates.is_cv_estimate
  monkeypatch.setattr(estimates, 'is_cv_estimate', spy)
  evaluate_main([f'--from={recorded}', f'--estimate={run}', '--step=3', f'--output={tmp_path}'])
  ratios = np.exp(seen[0])
  assert 0.05 < ratios.std() < 1.5
  assert abs(ratios.mean() - 1) <= 4 * ratios.std() / np.sqrt(len(ratios))
  found = json.loads((tmp_path / 'estimate-espo-3.json').read_text())
  assert 0 < found['kl']['mean'] < 1 and found['accuracy']['effective'] < 0.999 * len(ratios)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'top_p': 0.9}, r'were sampled with top_p = 0.9, so some have no probability; fix: evaluate with --top_p=1'),
    ({'processors': ['eot_scale bias=1']}, r'eot_scale bias=1 changed what was drawn; fix: evaluate without --processor'),
    ({'problems_digest': 'other'}, r'its test split has changed since; fix: evaluate again'),
  ],
)
def test_answers_that_cannot_be_scored_are_refused(run, recorded, tmp_path, settings, message):
  for file in ('settings.json', 'config.json', 'rollouts/rows.npz'):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes((recorded / file).read_bytes())
  known = json.loads((recorded / 'settings.json').read_text())
  (tmp_path / 'settings.json').write_text(json.dumps(known | settings))
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--from={tmp_path}', f'--estimate={run}'])


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--from=none', '--estimate=runs/a'], '--from=none: holds no recorded answers; fix: evaluate with --record'),
    (['--checkpoint=a', '--estimate=b'], '--estimate=b: no answers to estimate from; fix: --from=DIR'),
    (['--from=none', '--decoder=ffs', '--step=2'], '--step=2 with --from=none: nothing is sampled'),
  ],
)
def test_flags_that_estimate_nothing_are_refused(flags, message):
  with pytest.raises(SystemExit, match=re.escape(message)):
    evaluate_main(flags)


def test_an_estimate_takes_a_run_and_answers_with_their_settings(recorded, run, tmp_path):
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'config.json').write_text('{"model_type": "qwen2"}')
  with pytest.raises(
    SystemExit, match=r'--estimate=.*model: a Hugging Face directory, whose weights are no checkpoint; fix: a run'
  ):
    evaluate_main([f'--from={recorded}', f'--estimate={tmp_path / "model"}'])
  with pytest.raises(SystemExit, match=r'--estimate=.*absent'):
    evaluate_main([f'--from={recorded}', f'--estimate={tmp_path / "absent"}'])
  (tmp_path / 'rollouts').mkdir()
  (tmp_path / 'rollouts' / 'rows.npz').write_bytes(b'')
  (tmp_path / 'settings.json').write_text('{}')
  with pytest.raises(SystemExit, match=r"settings\.json: has no 'problems' of an evaluation; fix: a copy of it"):
    evaluate_main([f'--from={tmp_path}', f'--estimate={run}'])


def test_of_several_processes_all_score_and_the_first_alone_writes(recorded, run, tmp_path, monkeypatch):
  monkeypatch.setattr(estimates.parallel, 'is_first', lambda: False)
  evaluate_main([f'--from={recorded}', f'--estimate={run}', '--step=2', f'--output={tmp_path}'])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('log_ratios', 'effective'), [([-1000.0] * 64, 64), ([800.0] + [0.0] * 63, 1)])
def test_ratios_beyond_double_precision_estimate_nothing_and_are_warned_of(log_ratios, effective):
  estimated = estimates.is_cv_estimate(np.array(log_ratios), np.ones(64))
  assert np.isnan(estimated.mean) and np.isnan(estimated.error) and estimated.effective == pytest.approx(effective)
  found = dict.fromkeys(('accuracy', 'tokens', 'kl'), estimated._asdict())
  found |= {'policy': {'arm': 'espo', 'step': 40}, 'answers': {'problems': 16, 'samples': 4}}
  assert 'fix: sample its own answers' in estimates.format_estimate(found)


def test_a_far_checkpoint_is_told_to_sample_its_own_answers():
  found = {name: {'mean': 0.5, 'error': 0.1, 'effective': 3.0} for name in ('accuracy', 'tokens', 'kl')}
  found |= {'policy': {'arm': 'espo', 'step': 40}, 'answers': {'problems': 10, 'samples': 4}}
  told = estimates.format_estimate(found)
  assert 'ESPO, step 40, estimated: 50.0 ± 19.6 % right' in told and 'fix: sample its own answers' in told
  found['accuracy']['effective'] = 20.0
  assert 'fix' not in estimates.format_estimate(found)
