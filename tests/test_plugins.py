"""Files of a user's own: the examples through the commands, every error with its file and line, and rewards that read text."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from forked import run_each
from tiny import rolled_out, tiny_experiment

from espo_jax import convert, rewards
from espo_jax.commands import CommandParser
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.experiment import make_rule
from espo_jax.registry import PluginError, load_plugin, loaded_plugins
from espo_jax.rewards import RewardError, TextScorer
from espo_jax.tasks import Chain, DataError
from espo_jax.train import same_plugins

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / 'experiments' / 'plugins'
PARITY, FEW_WORDS, FIRST_REGRET = (f'--plugins={EXAMPLES / name}.py' for name in ('parity', 'few_words', 'first_regret'))

pytestmark = pytest.mark.usefixtures('registers')


# ------------------------------------------------------------------------------------------------------ through the commands


def test_the_examples_train_and_a_run_is_converted_and_evaluated_without_what_training_alone_reads(
  tmp_path, tmp_path_factory, request
):
  """One run has a task, a reward that reads text and a stop rule, each of a file of its own."""
  cache, run = request.config.cache.mkdir('jax'), tmp_path / 'run'
  training = [
    *(f'--config={EXAMPLES / "small.py"}', f'--workdir={run}', f'--compilation_cache_dir={cache}', '--nocheck_memory'),
    *('--config.task.name=parity', '--config.reward.name=few_words', '--config.reward.most=6'),
    *('--config.stop.name=first_regret', '--config.stop.first_regret.delta=1e-6'),
    *('--config.baselines=()', "--config.stages=('warm_start', 'rl')", '--config.warm_start.steps=3'),
    *('--config.warm_start.warmup_steps=1', '--config.learner.updates=3', '--config.eval.problems=8', '--config.eval.batch=8'),
  ]

  runs = [[PARITY, FEW_WORDS, FIRST_REGRET, *training], [PARITY, FEW_WORDS, *training]]
  done, refused = run_each('espo_jax.train', runs, tmp_path_factory.mktemp('told'), {})
  assert done.returncode == 0, done.stdout + done.stderr
  kept = json.loads((run / 'plugins.json').read_text())
  assert [pathlib.Path(plugin['path']).stem for plugin in kept] == ['parity', 'few_words', 'first_regret']
  assert json.loads((run / 'config.json').read_text())['stop']['first_regret'] == {'delta': 1e-6}
  lines = [json.loads(line) for line in (run / 'arms/first_regret/metrics.jsonl').read_text().splitlines()]
  assert all('reward/few_words' in line and line['grading/errors'] == 0 for line in lines)

  assert refused.returncode == 1
  assert '--config.stop.first_regret.delta=1e-6: no such field' in refused.stdout + refused.stderr
  with pytest.raises(SystemExit) as ended:
    convert.main([f'--checkpoint={run}', f'--output={tmp_path / "hf"}'])
  told = str(ended.value)
  assert "unknown task 'parity'" in told and f'fix: {PARITY} {FEW_WORDS} {FIRST_REGRET}, if you trust them' in told
  convert.main([PARITY, f'--checkpoint={run}', f'--output={tmp_path / "hf"}'])
  assert (tmp_path / 'hf' / 'model.safetensors').exists()
  flags = [PARITY, f'--checkpoint={run}', '--samples=2', '--problems=4', f'--output={tmp_path / "answers"}']
  evaluate = [sys.executable, '-m', 'espo_jax.evaluate', *flags]
  done = subprocess.run(evaluate, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
  assert (
    'first_regret' in done.stdout + done.stderr and len((tmp_path / 'answers' / 'samples.jsonl').read_text().splitlines()) == 8
  )


@pytest.mark.quick
@pytest.mark.parametrize('name', ['parity', 'few_words', 'first_regret', 'late'])
def test_an_example_is_short_and_has_its_command(name):
  text = (EXAMPLES / f'{name}.py').read_text()
  assert text.count('\n') < 40 and f'--plugins=experiments/plugins/{name}.py' in text


@pytest.mark.quick
def test_a_users_rule_takes_its_own_section_and_its_own_defaults(tmp_path):
  load_plugin(EXAMPLES / 'first_regret.py')
  c = default_config()
  c.rollout.update(prompt_width=38, horizon=128)
  c.stop.name = 'first_regret'
  assert float(make_rule(c, 'first_regret').init(1).adaptive.beta) == 2.0  # not ESPO's 7
  c.stop.first_regret.beta_0 = 3.0
  validate(c)
  assert float(make_rule(c, 'first_regret').init(1).adaptive.beta) == 3.0
  c.stop.first_regret.delta = 1
  with pytest.raises(ConfigError, match=r'stop\.first_regret\.delta = 1: int instead of float; fix: a value such as 1e-08'):
    validate(c)
  del c.stop.first_regret['delta']
  c.stop.first_regret.delat = 0.1
  with pytest.raises(ConfigError, match=r'stop\.first_regret\.delat = 0.1: no such field'):
    validate(c)


# -------------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.quick
@pytest.mark.parametrize(
  ('code', 'told'),
  [
    ('x = 1 / 0', 'line 1: ZeroDivisionError: division by zero'),
    ('\n\nimport no_such_module', "line 3: ModuleNotFoundError: No module named 'no_such_module'"),
    ('def f(:\n  pass', 'line 1: SyntaxError: '),
    ('def f():\n  raise ValueError("mine")\n\nf()', 'line 2: ValueError: mine'),
    ('import sys\nsys.exit(3)', 'line 2: SystemExit: 3'),
    ('from espo_jax import rewards\n@rewards.register("hmpo")\ndef f(correct): ...', "reward 'hmpo': the name is taken by "),
    ('from espo_jax import rewards\n@rewards.register("f")\ndef f(response): ...', "did you mean 'responses'"),
    ('from espo_jax import rewards\n@rewards.register("f")\ndef f(corect): ...', "did you mean 'correct'"),
    ('from espo_jax import stops\n@stops.register("my rule")\ndef f(): ...', 'no name'),
    ('from espo_jax import tasks\n@tasks.register("t")\nclass T: ...', "it has no method 'problem'"),
    ('from espo_jax import objectives\n@objectives.register("o")\ndef o(x, mask): ...', "parameter 'x' names nothing to read"),
  ],
)
def test_a_file_that_cannot_be_loaded_is_told_with_its_line(tmp_path, code, told):
  path = tmp_path / 'mine.py'
  path.write_text(code)
  with pytest.raises(PluginError) as caught:
    load_plugin(path)
  assert str(caught.value).startswith(f'--plugins={path}: ') and told in str(caught.value)
  assert loaded_plugins() == ()


@pytest.mark.quick
@pytest.mark.parametrize(
  ('name', 'told'),
  [
    ('absent.py', 'No such file or directory; fix: '),
    ('folder', 'Is a directory; fix: '),
    ('notes.txt', 'no Python file; fix: '),
  ],
)
def test_what_is_no_file_of_python_is_told(tmp_path, name, told):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'notes.txt').write_text('x = 1')
  with pytest.raises(PluginError, match=told):
    load_plugin(tmp_path / name)


@pytest.mark.quick
def test_a_command_loads_the_files_of_its_flags_and_ends_with_a_line_where_it_cannot(tmp_path, capsys):
  (tmp_path / 'good.py').write_text(
    'from espo_jax import rewards\n@rewards.register("good")\ndef good(correct): return correct'
  )
  (tmp_path / 'bad.py').write_text('1 / 0')
  parser = CommandParser(prog='x')
  parser.add_argument('--other')
  found = parser.parse_args([f'--plugins={tmp_path / "good.py"}', f'--plugins={tmp_path / "good.py"}', '--other=1'])
  assert vars(found) == {'other': '1'} and 'good' in rewards.REGISTRY and len(loaded_plugins()) == 1
  with pytest.raises(SystemExit, match=r'error: --plugins=.*bad.py: line 1: ZeroDivisionError'):
    parser.parse_args([f'--plugins={tmp_path / "bad.py"}'])


@pytest.mark.quick
def test_a_run_goes_on_with_the_files_that_it_began_with_or_not_at_all(tmp_path):
  same_plugins(tmp_path)  # it has not begun
  (tmp_path / 'config.json').write_text('{}')
  same_plugins(tmp_path)  # it began without any
  path = tmp_path / 'mine.py'
  path.write_text('x = 1')
  plugin = load_plugin(path)
  with pytest.raises(
    ConfigError, match=rf'--plugins: mine.py \({plugin.digest}\); the run in .* began with no file; fix: no --plugins'
  ):
    same_plugins(tmp_path)
  (tmp_path / 'plugins.json').write_text(json.dumps([plugin._asdict()]))
  same_plugins(tmp_path)
  path.write_text('x = 2')
  load_plugin(path)
  with pytest.raises(ConfigError, match=rf'began with mine.py \({plugin.digest}\); fix: --plugins={path} as it was then'):
    same_plugins(tmp_path)


# ----------------------------------------------------------------------------------------------------- rewards that read text


TEXTS = {'questions': ['1+1', '2+2'], 'responses': [['two', 'ten'], ['four and no more', '']], 'answers': ['two', 'four']}
SEEN = {'correct': np.asarray([[1, 0], [1, 0]], np.float32), 'lengths': np.asarray([[3, 3], [9, 0]], np.int32), 'horizon': 9}
MINE = """import time
import numpy as np
from espo_jax import rewards

@rewards.register('found')
def found(answers, responses, questions):
  assert isinstance(questions[0], str) and len(responses) == len(answers) == 1
  return [[float(answers[0] in text) for text in responses[0]]]

@rewards.register('short')
def short(responses, lengths, correct, horizon, *, weight=0.5):
  return correct * (1 - weight * lengths / horizon)

@rewards.register('slow')
def slow(responses):
  time.sleep(60 if 'ten' in responses[0] else 0)
  return np.ones((1, 2))

@rewards.register('broken')
def broken(responses):
  return [[1.0, 1 / len(text)] for text in responses[0]][-1:]

@rewards.register('misshaped')
def misshaped(responses):
  return 1.0

@rewards.register('infinite')
def infinite(responses):
  return [[float('inf'), 0.0]]
"""


@pytest.fixture
def mine(tmp_path):
  (tmp_path / 'mine.py').write_text(MINE)
  return load_plugin(tmp_path / 'mine.py')


def test_a_reward_reads_text_and_arrays_beside_it(mine):
  values, timeout, error = TextScorer('found + 0.1 * short', {'weight': 0.25}, deadline=20.0).score(SEEN, TEXTS)
  np.testing.assert_array_equal(values['found'], [[1, 0], [1, 0]])
  np.testing.assert_allclose(values['short'], [[1 - 0.25 / 3, 0], [0.75, 0]], rtol=1e-6)
  assert not timeout.any() and not error.any()
  grouped = {'correct': SEEN['correct'], 'mask': np.ones((2, 2, 3), bool), 'scores': values}
  value, _ = rewards.evaluate('found + 0.1 * short', {'weight': 0.25}, grouped)
  np.testing.assert_allclose(value, values['found'] + 0.1 * values['short'], rtol=1e-6)


def test_a_reward_that_is_stuck_costs_its_prompt_and_no_more(mine):
  start = time.monotonic()
  values, timeout, error = TextScorer('slow', {}, deadline=2.0).score(SEEN, TEXTS)
  assert time.monotonic() - start < 50
  np.testing.assert_array_equal(timeout, [[True, True], [False, False]])
  np.testing.assert_array_equal(values['slow'], [[0, 0], [1, 1]])
  assert not error.any()


@pytest.mark.parametrize(
  ('name', 'told'),
  [
    ('broken', r"reward 'broken': .*mine.py:21: ZeroDivisionError"),
    ('misshaped', r"reward 'misshaped': returned 1.0; fix: a finite number per response"),
    ('infinite', r"reward 'infinite': returned \[\[inf, 0.0\]\]; fix: a finite number"),
  ],
)
def test_a_reward_that_fails_is_told_with_its_place(mine, name, told):
  with pytest.raises(RewardError, match=told):
    TextScorer(name, {}, deadline=20.0).score(SEEN, TEXTS)


def test_a_file_that_is_gone_by_the_time_a_reward_is_called_ends_in_an_error_of_that_reward(mine):
  scorer = TextScorer('found', {}, deadline=20.0)
  pathlib.Path(mine.path).unlink()
  with pytest.raises(RewardError, match=r"reward 'found': the worker .* did not start: PluginError: .*mine.py: No such file"):
    scorer.score(SEEN, TEXTS)


# ------------------------------------------------------------------------------------------------------------ scores of a task


class Graded(Chain):
  score = 0.5

  def verify(self, problem, response):
    return self.score


@pytest.mark.parametrize(('score', 'told'), [(1.5, 'verify returned 1.5 for'), (-0.1, 'verify returned -0.1 for')])
def test_a_score_outside_of_0_and_1_is_refused(score, told):
  _, grade = graded(score)
  with pytest.raises(DataError, match=told):
    grade()


def test_a_score_is_what_training_earns():
  rows, grade = graded(0.5)
  np.testing.assert_array_equal(grade().correct, np.full(rows.length.shape, 0.5))


def graded(score):
  exp = tiny_experiment()
  _, rows, _ = rolled_out(exp)
  task = Graded(min_ops=2, max_ops=4)
  object.__setattr__(task, 'score', score)
  problems = exp.problems('train', 0, exp.config.rollout.prompts)
  return rows, lambda: dataclasses.replace(exp, task=task).grade(problems, rows)
