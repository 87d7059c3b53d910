"""Commands take paths that are relative to the working directory, and say nothing of a library's business."""

import logging
import pathlib
import runpy

import numpy as np
import pytest
from absl import flags
from absl import logging as absl_logging
from absl.testing import flagsaver
from small import randomised

from espo_jax import convert, plot_exits
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.policies import open_policy, start_params
from espo_jax.experiment import make_experiment
from espo_jax.learner import Checkpoints
from espo_jax.monitor import write_run_info

if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()

ROOT = pathlib.Path(__file__).parents[1]
SPELLINGS = [
  'run',
  './run',
  'run/',
  './/run',
  'sub/../run',
  '../here/run',
  '../here/sub/../run',
  'link',
  'sub/link',
  '{cwd}/run',
]


@pytest.fixture(scope='module')
def here(tmp_path_factory) -> pathlib.Path:
  """A folder with a run of a model with exits, and links to it."""
  folder = tmp_path_factory.mktemp('paths') / 'here'
  (folder / 'sub').mkdir(parents=True)
  config = runpy.run_path(str(ROOT / 'experiments/early_exits.py'))['get_config']('smoke')
  config.stages = ('calibration',)
  config.start_from = 'elsewhere'
  write_run_info(folder / 'run', config.to_dict())
  exp = make_experiment(config)
  with Checkpoints(folder / 'run/calibration/checkpoints') as checkpoints:
    checkpoints.save(4, {'params': exp.put(randomised(exp.abstract_params(), 0))}, done=True)
  (folder / 'link').symlink_to('run')
  (folder / 'sub/link').symlink_to('../run')
  return folder


@pytest.fixture
def at_work(here, monkeypatch):
  """The working directory, with absl's loggers as `app.run` leaves them; what is logged below a warning fails the test."""
  monkeypatch.chdir(here)
  before, told = absl_logging.get_verbosity(), []
  absl_logging.set_verbosity(absl_logging.INFO)
  handler = logging.Handler()
  handler.emit = lambda record: told.append(record.getMessage())
  loggers = [logging.getLogger(), absl_logging.get_absl_logger()]
  for logger in loggers:
    logger.addHandler(handler)
  yield here
  for logger in loggers:
    logger.removeHandler(handler)
  absl_logging.set_verbosity(before)
  assert told == []


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_a_policy_is_read_from_any_spelling_of_its_folder(here, monkeypatch, spelling):
  monkeypatch.chdir(here)
  policy = open_policy(pathlib.Path(spelling.format(cwd=here)))
  exp = make_experiment(policy.config)
  monkeypatch.chdir('/')  # what was opened stays what it is
  read = policy.load(exp)
  expected = randomised(exp.abstract_params(), 0)
  np.testing.assert_array_equal(read['policy']['embedding'], expected['policy']['embedding'])


@pytest.mark.parametrize('spelling', SPELLINGS[::3])
def test_a_run_starts_from_any_spelling_of_another(here, monkeypatch, spelling):
  monkeypatch.chdir(here)
  config = runpy.run_path(str(ROOT / 'experiments/early_exits.py'))['get_config']('smoke')
  config.start_from = spelling.format(cwd=here)
  exp = make_experiment(config)
  assert start_params(exp)['policy']['embedding'].shape == (exp.model.config.vocab_size, 16)


def test_depth_draws_a_relative_run_to_a_relative_picture(at_work, capsys):
  with flagsaver.flagsaver(checkpoint='link', output='new/depth.png', rows=2):
    plot_exits.main(['depth'])
  assert (at_work / 'new/depth.png').read_bytes().startswith(b'\x89PNG')
  assert capsys.readouterr().out == 'wrote new/depth.png\n'


@pytest.mark.parametrize(
  'output', ['depth', 'depth.txt', 'a.b/depth', 'depth.png.gone', 'depth.jpgg', '.png', 'x.npz', 'x.', 'x.json', 'run']
)
def test_depth_refuses_what_is_no_picture_before_it_asks_anything(at_work, output):
  with (
    flagsaver.flagsaver(checkpoint='run', output=output),
    pytest.raises(SystemExit, match=f'--output={output}: no picture; fix: '),
  ):
    plot_exits.main(['depth'])


def test_convert_and_evaluate_take_relative_paths(at_work):
  convert.main(['--checkpoint=sub/../run', '--output=hf/model'])
  assert (at_work / 'hf/model/config.json').exists()
  evaluate_main(['--checkpoint=./run', '--samples=1', '--problems=2', '--output=answers'])
  assert len((at_work / 'answers/samples.jsonl').read_text().splitlines()) == 2
