"""The data sets of reasoning-gym: problems that can be drawn again, and the package's own scores, in processes apart."""

import base64
import datetime
import hashlib
import json
import pathlib
import pickle
import runpy
import subprocess
import sys

import numpy as np
import pytest
import reasoning_gym
from benchmark_data import tokenizer
from hostile import hostile_texts

from espo_jax import monitor, tasks
from espo_jax.configs import ConfigError, default_config, load_config, task_arguments, validate
from espo_jax.configs.data import data_problems, task_problems
from espo_jax.configs.day import with_day
from espo_jax.experiment import make_task
from espo_jax.stages.changes import changes_of
from espo_jax.tasks.gym_datasets import dataset_config
from espo_jax.train import train

ROOT = pathlib.Path(__file__).parents[1]
KINDS = (
  'caesar_cipher',
  'chain_sum',
  'codeio',  # draws from the global generator of random numbers
  'countdown',  # its scorer evaluates the answer by sympy
  'gsm_symbolic',  # knows the number of its entries beforehand
  'isomorphic_strings',  # its problems depend on the order of sets
  'knights_knaves',
  'list_functions',
  'mini_sudoku',
  'pool_matrix',  # seeds numpy's global generator, which takes 32 bits
  'prime_factorization',  # its scorer raises errors
  'simple_integration',
  'spell_backward',  # its scorer returns 1.0000000000000002
  'spiral_matrix',  # its scorer evaluates the answer by eval
  'word_ladder',  # allows 20000 entries at most
)
ORDERED = ('codeio', 'isomorphic_strings', 'ransom_note')
SUMS = {'dataset': 'chain_sum', 'min_terms': 2, 'max_terms': 2, 'max_digits': 1}  # 200 problems in all
ROOM = {'max_prompt_tokens': 4096, 'grade_workers': 1}


@pytest.fixture(scope='module')
def mixture():
  """The data sets of `KINDS` as one, so that two processes serve all of them."""
  return tasks.ReasoningGym(dataset='composite', datasets=tuple({'name': name} for name in KINDS), **ROOM)


@pytest.fixture(scope='module')
def drawn(mixture):
  """Three problems of each data set."""
  found = {name: [] for name in KINDS}
  for index in range(1000):
    problem = mixture.problem('train', index)
    found[entry_of(mixture, problem)['metadata']['source_dataset']].append(problem)
    if min(map(len, found.values())) >= 3:
      return {name: problems[:3] for name, problems in found.items()}
  raise AssertionError({name: len(problems) for name, problems in found.items()})


@pytest.fixture(scope='module')
def sums():
  return tasks.ReasoningGym(**SUMS, **ROOM)


def entry_of(task, problem):
  """The entry as the package made it."""
  return pickle.loads(base64.b64decode(task._of(problem).entry))


def said(answer):
  return f'I put it in <answer> tags. Is it <answer>17</answer>? No.\n<answer>\n{answer}\n</answer>\nDone.'


def test_a_problem_whose_process_is_killed_is_drawn_again(sums):
  task = tasks.ReasoningGym(**SUMS, **ROOM)
  assert task.problem('train', 0) == sums.problem('train', 0)
  worker = task._generator._idle.get()
  worker._process.kill()
  worker._process.wait()
  task._generator._idle.put(worker)
  later = range(500, 503)
  assert [task.problem('train', i) for i in later] == [sums.problem('train', i) for i in later]


@pytest.mark.parametrize('name', KINDS)
def test_scores_are_those_of_the_package(mixture, drawn, name):
  alone = reasoning_gym.create_dataset(name, seed=5, size=8)
  for problem in drawn[name]:
    entry = entry_of(mixture, problem)
    assert (problem.answer, mixture.question(problem)) == (entry['answer'], entry['question'])
    assert mixture.verify(problem, said(problem.answer)) == 1 == alone.score_answer(problem.answer, entry)
    assert mixture.verify(problem, mixture.solution(problem, np.random.default_rng(0))) == 1
    assert mixture.verify(problem, problem.answer) == 0  # without tags nothing is answered
    for wrong in ('x', '0 0', '[]', f'{problem.answer} or x', problem.answer[:-1] or '?', '1,2,3'):
      try:
        score = float(alone.score_answer(wrong, entry))
      except ValueError:
        score = None
      verdict = mixture.verify_all([problem], [said(wrong)])[0]
      assert verdict == ((0.0, 'error') if score is None else (score, 'ok'))
  wrong = 'wrong'
  assert all(mixture.verify(problem, said(wrong)) < 1 for problem in drawn[name])


def test_a_score_is_at_most_one(mixture):
  entry = {'question': 'q', 'answer': 'gnignirts', 'metadata': {'source_dataset': 'spell_backward'}}
  alone = reasoning_gym.create_dataset('spell_backward', seed=5, size=8)
  assert alone.score_answer('gnignirts' * 2, entry) > 1
  coded = base64.b64encode(pickle.dumps(entry)).decode()
  assert mixture._scorers.submit(('gnignirts' * 2, coded)).result() == (1.0, 'ok')


# ----------------------------------------------------------------------------------------------------------------- problems


def test_no_text_is_in_both_splits_whatever_the_seed(sums):
  train = {sums.problem('train', i).prompt for i in range(400)}
  test = [sums.problem('test', i).prompt for i in range(60)]
  assert 100 < len(train) < 200
  assert not train & set(test)
  assert len(set(test)) < len(test)  # a small data set repeats, and says so
  other = tasks.ReasoningGym(**SUMS, **ROOM, seed=1)
  elsewhere = [other.problem(split, i).prompt for split in ('train', 'test') for i in range(20)]
  assert not {*elsewhere[:20]} & {*test}
  assert not {*elsewhere[20:]} & train
  assert elsewhere[:20] != [sums.problem('train', i).prompt for i in range(20)]
  assert sums.size('train') is None


def digest(task, indices):
  """A digest of the problems at some positions, which are drawn in this order."""
  found = {i: [task.problem(split, i) for split in ('train', 'test')] for i in indices}
  return hashlib.blake2b(json.dumps([found[i] for i in sorted(found)]).encode()).hexdigest()


def test_problems_are_the_same_in_another_process_in_any_order():
  """These data sets read the order of sets, or random numbers of the whole process."""
  order = (*range(8), 256)
  made = 'tasks.ReasoningGym(dataset="composite", datasets=tuple({"name": name} for name in ORDERED), **ROOM)'
  script = (
    f'import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]\n'
    f'from test_reasoning_gym import *\nprint(digest({made}, {order[::-1]}))'
  )
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, env={'PYTHONHASHSEED': '7'}, check=False
  )
  assert done.stdout.strip() == digest(eval(made), order), done.stderr


def test_a_problem_that_is_too_long_is_replaced_and_reported():
  options = SUMS | {'max_terms': 3}
  sums = tasks.ReasoningGym(**options, **ROOM)
  texts = [sums.problem('train', i).prompt for i in range(50)]
  lengths = [len(sums.tokenizer().encode(text)) for text in texts]
  least = min(lengths)
  assert max(lengths) > least
  short = tasks.ReasoningGym(**options, max_prompt_tokens=least, grade_workers=1)
  kept = [short.problem('train', i).prompt for i in range(50)]
  assert {len(short.tokenizer().encode(text)) for text in kept} == {least}
  assert [text for text, length in zip(texts, lengths, strict=True) if length == least] == [
    text for text, length in zip(kept, lengths, strict=True) if length == least
  ]
  (finding,) = short.findings()
  assert 0 < len(finding.entries) < 32
  assert all(f'rollout.prompt_width = {least} is less than' in entry['reason'] for entry in finding.entries)
  assert finding.message.startswith(f'{len(finding.entries)} of the first 32')
  none = tasks.ReasoningGym(**options, max_prompt_tokens=least - 1, grade_workers=1)
  with pytest.raises(
    tasks.DataError, match=f'rollout.prompt_width = {least - 1} is less .* fix: --config.rollout.prompt_width='
  ):
    none.problem('train', 0)
  with pytest.raises(tasks.DataError, match=f'none of the first 32 .* fix: --config.rollout.prompt_width={max(lengths)}'):
    none.findings()


def test_the_limit_on_solutions_holds_to_the_token_where_the_end_token_has_no_text():
  """The batch of the warm start has the true lengths."""
  sums = tasks.ReasoningGym(**SUMS, **ROOM)
  pairs = [
    (problem.prompt, sums.solution(problem, np.random.default_rng(0)))
    for problem in (sums.problem('train', i) for i in range(40))
  ]
  batch = tasks.encode_supervised(sums.tokenizer(), pairs, 64, 64)
  most = int(batch.response_lengths.max())
  asked = {'needs_solutions': True, 'grade_workers': 1, 'max_prompt_tokens': 64}
  exact = tasks.ReasoningGym(**SUMS, max_response_tokens=most, **asked)
  assert [exact.problem('train', i) for i in range(40)] == [sums.problem('train', i) for i in range(40)]
  assert exact.findings()[0].entries == []
  less = tasks.ReasoningGym(**SUMS, max_response_tokens=most - 1, **asked)
  assert [less.problem('train', i) for i in range(40)] != [sums.problem('train', i) for i in range(40)]


def test_a_data_set_without_answers_cannot_be_written_down():
  task = tasks.ReasoningGym(dataset='rush_hour', **ROOM)
  problem = task.problem('train', 0)
  assert problem.answer == ''
  assert task.verify(problem, said('x')) < 1
  with pytest.raises(tasks.DataError, match=r"'rush_hour'.*states no answers; fix: leave 'warm_start' out of stages"):
    task.solution(problem, np.random.default_rng(0))


def test_too_few_problems_are_an_error_that_says_so():
  one = tasks.ReasoningGym(dataset='count_primes', min_n=3, max_n=3, **ROOM)
  with pytest.raises(tasks.DataError, match=r"'count_primes': .* no text of a problem belongs to the .* split; fix"):
    (one.problem('train', 0), one.problem('test', 0))


# ------------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
  ('response', 'answer'),
  [
    ('<answer>5</answer>', '5'),
    ('<think>2 + 3</think>\n<answer> a\nb </answer> that is it', 'a\nb'),
    ('<answer>4</answer> or rather <answer>5</answer>', '5'),
    ('in <answer> tags: <answer>5</answer>', '5'),
    ('<think><answer>5</answer></think> I do not know', ''),
    ('<think><answer>5</answer>', ''),
    ('<answer>5', ''),
    ('5</answer>', ''),
    ('The answer is \\boxed{5}', ''),
    ('<answer></answer>', ''),
    ('', ''),
  ],
)
def test_the_answer_is_between_the_last_tags_behind_the_thought(sums, response, answer):
  assert sums.stated_answer(response) == answer
  outside = reasoning_gym.utils.extract_answer(response)
  if answer and 'tags' not in response:  # the package takes what begins at the first tag
    assert outside == answer


ATTACKS = (
  "open('hacked', 'w')",
  "__import__('os').system('touch hacked')",
  "(lambda: __import__('os').system('touch hacked'))()",
  "[open('hacked', 'w') for _ in [1]]",
  '().__class__.__base__.__subclasses__()',
  '(g.gi_frame.f_back.f_builtins for g in [(i for i in [1])])',
  "lambdify(x, \"open('hacked', 'w')\")(1)",
  "sympify(\"open('hacked', 'w')\")",
  "lambdify(x, Function('system')(Symbol('\"touch hacked\"')), modules='os')(1)",
  "preview(x, viewer='file', filename='hacked')",
  'exec(\'open("hacked", "w")\')',
  '9**9**9**9',
  "'a' * 10**12",
  '[0] * 10**12',
  'exit()',
  'print("[1.0]")',
  '(' * 50_000,
  '<answer>' * 50_000,
  '7' * 1_000_000,
)


@pytest.mark.parametrize('name', ['countdown', 'spiral_matrix'])
def test_hostile_text_neither_acts_nor_raises_nor_hangs(tmp_path, monkeypatch, name):
  """The scorers of these data sets evaluate the answer."""
  monkeypatch.chdir(tmp_path)
  task = tasks.ReasoningGym(dataset=name, max_prompt_tokens=4096, grade_workers=2, grade_deadline=1.0)
  problem = task.problem('train', 0)
  reasoning_gym.create_dataset(name, seed=5, size=8).score_answer(ATTACKS[0], entry_of(task, problem))
  assert (tmp_path / 'hacked').exists()  # what the package alone would do
  (tmp_path / 'hacked').unlink()
  texts = [*ATTACKS, *hostile_texts()[::24]]
  verdicts = task.verify_all([problem] * 2 * len(texts), [*map(said, texts), *texts])
  assert all(0 <= verdict.correct < 0.1 for verdict in verdicts), [v for v in verdicts if v.correct >= 0.1]
  assert not list(tmp_path.iterdir())
  assert task.verify(problem, said(problem.answer)) == 1  # the processes were replaced


# ------------------------------------------------------------------------------------------------------------------ options


def config(**options):
  c = default_config()
  c.task.name = 'reasoning_gym'
  c.task.options.update({'dataset': 'chain_sum', **options})
  return c


@pytest.mark.parametrize(
  ('options', 'fragments'),
  [
    ({'dataset': 'chain_sun'}, ["task.options.dataset = 'chain_sun'", "did you mean 'chain_sum'?", 'zebra_puzzles']),
    ({'dataset': ''}, ["task.options.dataset = ''", 'known: ab, acre']),
    ({'max_term': 3}, ['task.options.max_term = 3', "'chain_sum'", "did you mean 'max_terms'?", 'min_digits']),
    ({'grade_worker': 3}, ['task.options.grade_worker = 3', "did you mean 'grade_workers'?"]),
    ({'size': 3}, ['task.options.size = 3: no option', 'fix: one of min_terms']),
    ({'max_terms': 'x'}, ["task.options.max_terms = 'x'", 'str instead of int', 'fix: a value such as 6']),
    ({'max_terms': True}, ['task.options.max_terms = True', 'bool instead of int']),
    ({'max_terms': 1}, ['task.options.max_terms = 1', 'max_terms must be >= min_terms', 'by default min_terms = 2']),
    ({'prompt': 'caht'}, ["task.options.prompt = 'caht'", 'fix: one of chat, r1, plain']),
    ({'grade_deadline': 0.0}, ['task.options.grade_deadline = 0.0', 'fix: a number above 0']),
    ({'tokenizer_path': 'x'}, ["task.options.tokenizer_path = 'x'", 'no option of the task']),
    ({'max_prompt_tokens': 99}, ['rollout.prompt_width = 32', 'max_prompt_tokens = 99', 'fix']),
    ({'dataset': 'word_sorting', 'transformation': 'up'}, ["transformation = 'up'", "fix: a value such as 'original'"]),
    ({'dataset': 'time_intervals', 'max_date': '2O00'}, ["max_date = '2O00'", "fix: a value such as '3000-01-01'"]),
    ({'dataset': 'arc_agi', 'board_format_opts': 'x'}, ["board_format_opts = 'x'", 'fix: leave it out']),
    ({'dataset': 'arc_agi', 'rotations': ['90']}, ["rotations = ['90']", "fix: the tuple ('90',)"]),
    ({'dataset': 'composite'}, ["task.options.dataset = 'composite'", 'at least one dataset']),
    ({'dataset': 'composite', 'datasets': 'gcd'}, ["task.options.datasets = 'gcd': no tuple", 'fix']),
    (
      {'dataset': 'composite', 'datasets': ({'name': 'gcd'}, {'name': 'chain_sun'})},
      ["task.options.datasets[1].name = 'chain_sun'", "did you mean 'chain_sum'?"],
    ),
    (
      {'dataset': 'composite', 'datasets': ({'name': 'gcd', 'wieght': 1.0},)},
      ["'wieght'", 'does not describe a data set', 'fix'],
    ),
    (
      {'dataset': 'composite', 'datasets': ({'name': 'gcd', 'config': {'min_numbrs': 3}},)},
      ['datasets[0].config.min_numbrs = 3', "'min_numbers'?"],
    ),
    (
      {'dataset': 'composite', 'datasets': ({'name': 'gcd', 'config': 3},)},
      ["'config': 3", 'does not describe a data set', 'fix'],
    ),
    ({'dataset': 'composite', 'datasets': ({'name': 3},)}, ["{'name': 3} does not describe a data set", 'fix']),
  ],
  ids=str,
)
def test_a_wrong_option_is_named_with_its_value_and_the_fix(options, fragments):
  lines = [*task_problems(config(**options))]
  assert any(all(fragment in line for fragment in fragments) for line in lines), lines


def test_a_model_is_not_trained_from_random_weights_by_mistake():
  c = config()
  c.stages = ('critic_warmup', 'rl')
  (line,) = data_problems(c)
  assert line.startswith(
    "model.path = '': the task 'reasoning_gym' would be trained from random weights; fix: --config.model.path"
  )
  c.stages = ('warm_start', 'critic_warmup', 'rl')
  assert not [*data_problems(c)]


def test_a_missing_package_is_an_error_with_the_line_that_installs_it(monkeypatch):
  for name in [name for name in sys.modules if name.partition('.')[0] == 'reasoning_gym']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  (line,) = task_problems(config())
  assert line.startswith("task.name = 'reasoning_gym': the package reasoning-gym cannot be imported")
  assert line.endswith("fix: pip install -e '.[gym]'")
  with pytest.raises(ConfigError, match='pip install'):
    validate(config())


def test_options_reach_the_data_set():
  made = dataset_config('time_intervals', {'max_date': '2001-02-03', 'task_types': ('date',)})
  assert (made.max_date, made.task_types) == (datetime.date(2001, 2, 3), ['date'])
  assert dataset_config('word_sorting', {'transformation': 'uppercase'}).transformation.name == 'UPPERCASE'
  assert dataset_config('shortest_path', {'p_blocked': 0}).p_blocked == 0.0
  task = tasks.ReasoningGym(dataset='chain_sum', min_terms=4, max_terms=4, min_digits=3, max_digits=3, **ROOM)
  expressions = [task.problem('train', i).prompt.partition(': ')[2].rstrip(' =\n') for i in range(8)]
  assert all([len(number) for number in text.split()] == [3, 1, 3, 1, 3, 1, 3] for text in expressions), expressions
  assert all(eval(text) == int(task.problem('train', i).answer) for i, text in enumerate(expressions))


def test_a_mixture_is_the_same_in_the_config_of_a_run(tmp_path):
  parts = ({'name': 'gcd', 'weight': 2.0}, {'name': 'polynomial_equations', 'config': {'operators': ('+',), 'max_terms': 3}})
  c = config(dataset='composite', datasets=parts)
  assert not [*task_problems(c)]
  monitor.write_run_info(tmp_path, c.to_dict(), 'cpu')
  read = load_config(tmp_path / 'config.json')
  assert read.task.options.datasets == parts
  changes_of(c, tmp_path)


# -------------------------------------------------------------------------------------------------------------------- a run


def test_a_pretrained_model_is_asked_in_its_chat_for_what_is_read(tmp_path):
  c = config(max_terms=2)
  c.model.path, c.stages, c.rollout.prompt_width = tokenizer(tmp_path / 'model'), ('rl',), 256
  assert not [*task_problems(c), *data_problems(c)]
  assert task_arguments(c)['tokenizer_path'] == c.model.path
  task = make_task(c)
  problem = task.problem('train', 0)
  question = task.question(problem)
  instruction = 'Please reason step by step, and put your final answer alone between <answer> and </answer>.'
  assert problem.prompt == f'<|start|>user\n{question}\n{instruction}<|end|>\n<|start|>assistant\n'
  assert task.verify(problem, said(problem.answer)) == 1
  assert len(task.tokenizer().encode(problem.prompt)) <= 256
  c.task.options.prompt = 'r1'
  thinking = make_task(c)
  (first, text) = thinking.problem('train', 0), thinking.solution(thinking.problem('train', 0), np.random.default_rng(0))
  assert first.prompt.endswith('<|start|>assistant\n<think>\n')
  assert text == f'</think>\n\n<answer>{first.answer}</answer>'
  assert thinking.stated_answer(text) == first.answer
  assert thinking.stated_answer(f'<answer>{first.answer}</answer>') == ''  # still inside of the thought
  c.data.today = '2026-13-01'
  assert any('data.today' in line for line in data_problems(c))
  c.data.today = ''
  assert with_day(c, tmp_path, '2026-01-31').data.today == '2026-01-31'


@pytest.mark.usefixtures('without_pictures')
def test_a_small_model_trains_from_scratch(tmp_path):
  c = runpy.run_path(str(ROOT / 'experiments' / 'gym_tasks.py'))['get_config']('smoke')
  c.stages, c.stop.name, c.learner.updates = ('warm_start', 'rl'), 'never', 2
  summary = train(c, tmp_path / 'run', check_memory=False)
  assert summary['arms']['never']['problems'] == 16
