"""The math task: tokenizers, prompts, epochs, limits, solutions and verdicts."""

import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_data import TEMPLATE, dapo, gsm8k, hendrycks, tokenizer, write
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from espo_jax import parallel
from espo_jax.configs import default_config
from espo_jax.experiment import Experiment
from espo_jax.stages.results import report_data
from espo_jax.tasks import DataError, Math, Problem, Task, Verdict, encode_prompts, get
from espo_jax.tasks.pretrained import INSTRUCTION, load_tokenizer
from espo_jax.tasks.task import in_test
from espo_jax.types import Trajectories

pytestmark = pytest.mark.quick

QUESTION = 'Mia has 1002 pens and buys 1005 more. How many pens has she now?'


@pytest.fixture(scope='module')
def directory(tmp_path_factory) -> str:
  return tokenizer(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def paths(tmp_path_factory) -> dict[str, str]:
  folder = tmp_path_factory.mktemp('data')
  train = write(folder / 'train.jsonl', [gsm8k(i) for i in range(40)])
  return {'path': train, 'eval_path': write(folder / 'test.jsonl', [gsm8k(i) for i in range(1000, 1012)])}


@pytest.fixture(scope='module')
def task(directory, paths) -> Math:
  return Math(directory, 'gsm8k', **paths)


def solved(task: Math, problem) -> str:
  return task.solution(problem, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------------------- prompts


def test_a_chat_asks_with_the_template_and_the_instruction(task):
  assert isinstance(task, Task)
  assert task.problem('test', 2) == (
    5,
    f'<|start|>user\n{QUESTION}\n{INSTRUCTION}<|end|>\n<|start|>assistant\n',
    '2007',
  )


def test_r1_opens_the_thought_unless_the_template_does(paths, tmp_path):
  prompts = []
  for name, template in (('bare', TEMPLATE), ('opened', TEMPLATE.replace('assistant\n', 'assistant\n<think>\n'))):
    task = Math(tokenizer(tmp_path / name, template), 'gsm8k', **paths, prompt='r1')
    prompts.append(task.problem('test', 2).prompt)
  assert prompts == [f'<|start|>user\n{QUESTION}\n{INSTRUCTION}<|end|>\n<|start|>assistant\n<think>\n'] * 2


def test_a_plain_prompt_is_the_problem_and_needs_no_template(paths, tmp_path):
  task = Math(tokenizer(tmp_path / 'bare', None), 'gsm8k', **paths, prompt='plain')
  assert task.problem('test', 2).prompt == f'{QUESTION}\n'


@pytest.mark.parametrize('bos', [False, True])
def test_a_plain_prompt_begins_as_the_tokenizer_begins(paths, tmp_path, bos):
  path = tokenizer(tmp_path / 'bos', None, bos=bos)
  task = Math(path, 'gsm8k', **paths, prompt='plain')
  problem = task.problem('test', 2)
  loaded = AutoTokenizer.from_pretrained(path)
  ids = encode_prompts(task.tokenizer(), [problem], 200)
  assert ids.tokens[0, -ids.lengths[0] :].tolist() == loaded(f'{QUESTION}\n')['input_ids']
  assert problem.prompt.startswith('<bos>') == bos


def test_a_chat_prompt_encodes_as_the_template_says(directory, paths, task):
  loaded = load_tokenizer(directory)
  message = {'role': 'user', 'content': f'{QUESTION}\n{INSTRUCTION}'}
  expected = loaded.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
  ids = encode_prompts(task.tokenizer(), [task.problem('test', 2)], 200)
  assert ids.tokens[0, -ids.lengths[0] :].tolist() == expected
  assert expected[0] == loaded.convert_tokens_to_ids('<|start|>')


@pytest.mark.parametrize('instruction', ['', 'Answer in a box.'])
def test_the_instruction_can_be_chosen(directory, paths, instruction):
  prompt = Math(directory, 'gsm8k', **paths, instruction=instruction).problem('test', 2).prompt
  assert (f'she now?\n{instruction}<|end|>' if instruction else 'she now?<|end|>') in prompt


# ---------------------------------------------------------------------------------------------------------------- rows


def test_an_epoch_covers_each_row_once_in_its_own_order(directory, task, paths):
  epochs = [[task.problem('train', 40 * epoch + i).prompt for i in range(40)] for epoch in range(3)]
  assert all(len(set(epoch)) == 40 for epoch in epochs)
  assert set(epochs[0]) == set(epochs[1])
  assert epochs[0] != epochs[1] != epochs[2]
  again, other = Math(directory, 'gsm8k', **paths), Math(directory, 'gsm8k', **paths, seed=1)
  assert [again.problem('train', i) for i in (119, 3)] == [task.problem('train', i) for i in (119, 3)]
  assert [other.problem('train', i).prompt for i in range(40)] != epochs[0]
  assert len({task.problem('train', i).id for i in range(120)}) == 120


def test_the_test_split_is_in_file_order_and_ends(task):
  assert (task.size('train'), task.size('test')) == (40, 12)
  assert [task.problem('test', i).answer for i in range(12)] == [str(2 * i + 3) for i in range(1000, 1012)]
  with pytest.raises(IndexError, match='the test split has 12 rows'):
    task.problem('test', 12)
  with pytest.raises(ValueError, match="unknown split 'dev'"):
    task.problem('dev', 0)


def test_without_test_data_a_tenth_is_held_out(directory, tmp_path):
  path = write(tmp_path / 'all.jsonl', [gsm8k(i) for i in range(500)])
  task = get('math', tokenizer_path=directory, benchmark='gsm8k', path=path)
  train = {task.problem('train', i).prompt for i in range(task.size('train'))}
  test = [task.problem('test', i) for i in range(task.size('test'))]
  assert len(train) + len(test) == 500
  assert 30 <= len(test) <= 75
  assert not train & {p.prompt for p in test}
  assert [int(p.answer) for p in test] == sorted(int(p.answer) for p in test)


def test_data_of_which_no_row_is_held_out_needs_test_data(directory, tmp_path):
  trained = [gsm8k(i) for i in range(60) if not in_test(gsm8k(i)['question'], 10)][:5]
  path = write(tmp_path / 'few.jsonl', trained)
  with pytest.raises(
    DataError, match=r'none of its 5 rows falls into the test split, one in 10 .*; fix: --config.data.eval_path'
  ):
    get('math', tokenizer_path=directory, benchmark='gsm8k', path=path)


def test_the_splits_may_be_of_different_benchmarks(directory, tmp_path):
  train = write(tmp_path / 'dapo.jsonl', [dapo(i % 9) for i in range(30)])
  test = write(tmp_path / 'math500.jsonl', [hendrycks(2) | {'answer': r'\frac{1}{2}'}])
  task = Math(directory, 'dapo_math_17k', train, 'math500', test)
  assert (task.size('train'), task.problem('test', 0).answer) == (9, r'\frac{1}{2}')
  assert list(task.findings()[0].entries) == [
    {'split': 'train', 'place': train, 'rows': 21, 'reason': 'repeats of earlier rows'}
  ]


def test_what_is_left_out_is_counted_and_listed(directory, paths, tmp_path):
  long_question = {'question': 'why ' * 200, 'answer': '#### 1'}
  long_answer = {'question': 'Short?', 'answer': 'so ' * 200 + '\n#### 1'}
  records = [*(gsm8k(i) for i in range(10)), long_question, long_answer, {'question': 'Why?'}]
  train = write(tmp_path / 'train.jsonl', records)
  options = {'eval_path': paths['eval_path'], 'max_prompt_tokens': 250, 'max_response_tokens': 80}
  with pytest.raises(
    DataError, match=r"train.jsonl:13: field 'answer': missing; fix: add it; or .* --config.data.on_error=skip"
  ):
    Math(directory, 'gsm8k', train, **options)
  for needs_solutions, places in ((False, [13, 11]), (True, [13, 11, 12])):
    task = Math(directory, 'gsm8k', train, **options, on_error='skip', needs_solutions=needs_solutions)
    skipped, overlap = task.findings()
    assert (skipped.file, overlap.file) == ('skipped.jsonl', 'overlap.jsonl')
    assert [entry['place'] for entry in skipped.entries] == [f'{train}:{i}' for i in places]
    assert f'left out {len(places)} rows' in skipped.message
    assert f'{13 - len(places)} train and 12 test rows' in skipped.message
    assert task.size('train') == 13 - len(places)
  assert re.fullmatch(r'prompt of \d+ tokens, more than rollout.prompt_width = 250', skipped.entries[1]['reason'])
  assert re.fullmatch(r'solution of \d+ tokens, more than rollout.horizon = 80', skipped.entries[2]['reason'])
  with pytest.raises(DataError, match='none of 12 train rows fits max_prompt_tokens = 250 and max_response_tokens = 2; fix'):
    Math(directory, 'gsm8k', train, **(options | {'max_response_tokens': 2}), on_error='skip', needs_solutions=True)


def test_the_limits_hold_to_the_token(directory, paths, tmp_path):
  train = write(tmp_path / 'train.jsonl', [{'question': 'a?', 'answer': '#### 1'}, {'question': 'bc?', 'answer': '#### 12'}])
  prompt, response = (len(load_tokenizer(directory).encode(text)) for text in ('a?\n', '#### 1'))
  limits = {'max_prompt_tokens': prompt, 'max_response_tokens': response + 1}  # the end token counts
  test = write(tmp_path / 'test.jsonl', [{'question': 'd?', 'answer': '#### 1'}])
  task = Math(directory, 'gsm8k', train, '', test, prompt='plain', needs_solutions=True, **limits)
  assert [task.problem('train', i).answer for i in range(task.size('train'))] == ['1']
  reasons = [entry['reason'] for entry in task.findings()[0].entries]
  assert reasons == [
    f'prompt of {prompt + 1} tokens, more than rollout.prompt_width = {prompt}; '
    f'solution of {response + 2} tokens, more than rollout.horizon = {response + 1}'
  ]


def test_a_test_prompt_that_does_not_fit_is_an_error(directory, paths, tmp_path):
  test = write(tmp_path / 'test.jsonl', [{'question': f'{"why " * n}?', 'answer': '#### 1'} for n in (200, 1, 300, 250)])
  said = (
    r'test\.jsonl:3: a prompt of (\d+) tokens, the longest of 3 in the test split with more than rollout.prompt_width = 250; '
  )
  with pytest.raises(DataError, match=rf'{said}fix: rollout.prompt_width >= \1, or take such rows out'):
    Math(directory, 'gsm8k', paths['path'], '', test, max_prompt_tokens=250, on_error='skip')


def test_a_special_token_in_a_row_is_said(directory, paths, tmp_path):
  train = write(tmp_path / 'train.jsonl', [gsm8k(1), {'question': 'a<eos>b?', 'answer': '#### 1'}])
  with pytest.raises(DataError, match=r"train.jsonl:2: the problem holds '<eos>', a special token of the tokenizer; fix"):
    Math(directory, 'gsm8k', train, eval_path=paths['eval_path'])


def test_overlap_is_found_and_listed(directory, tmp_path):
  train = write(tmp_path / 'train.jsonl', [gsm8k(i) for i in range(20)])
  test = write(tmp_path / 'test.jsonl', [gsm8k(i) for i in (500, 7, 600)])
  _, overlap = Math(directory, 'gsm8k', train, eval_path=test).findings()
  assert overlap.message == '1 of 3 test problems share 13 words in a row with a train problem, 1 of them all their words'
  (entry,) = overlap.entries
  assert (entry['share'], entry['test']['place'], entry['train']['place']) == (1.0, f'{test}:2', f'{train}:8')


# ------------------------------------------------------------------------------------------------ solutions and verdicts


def test_the_written_solution(task):
  problem = task.problem('test', 2)
  assert solved(task, problem) == 'She has 1002+1005 = 2007 pens.\n#### 2007'


def test_after_think_the_solution_closes_the_thought(directory, paths):
  task = Math(directory, 'gsm8k', **paths, prompt='r1')
  problem = task.problem('test', 2)
  assert solved(task, problem) == 'She has 1002+1005 = 2007 pens.\n#### 2007\n</think>\n\n\\boxed{2007}'
  assert task.verify(problem, solved(task, problem))
  assert not task.verify(problem, 'So it is \\boxed{2007}, I think.')
  assert task.verify(problem, 'So it is 2008, I think.</think>It is \\boxed{2007}.')


@pytest.mark.parametrize(('name', 'record'), [('gsm8k', gsm8k), ('math', hendrycks)])
def test_every_solution_verifies_and_round_trips(directory, tmp_path, name, record):
  task = Math(directory, name, write(tmp_path / 'rows.jsonl', [record(i) for i in range(2, 60)]), needs_solutions=True)
  made = task.tokenizer()
  problems = [task.problem(split, i) for split in ('train', 'test') for i in range(task.size(split))]
  responses = [solved(task, problem) for problem in problems]
  assert len(problems) == 58
  verdicts = task.verify_all(problems, responses)
  assert all(verdict == (True, 'ok') for verdict in verdicts)
  assert not any(verdict.correct for verdict in task.verify_all(problems, responses[1:] + responses[:1]))
  for response in responses:
    ids = made.encode(response, add_special_tokens=False)
    assert made.decode(ids, skip_special_tokens=True) == response
    assert len(ids) + 1 <= task.max_response_tokens


def test_a_benchmark_without_solutions_says_so(directory, tmp_path):
  path = write(tmp_path / 'rows.jsonl', [dapo(i) for i in range(40)])
  task = Math(directory, 'dapo_math_17k', path)
  with pytest.raises(DataError, match=r"no written solution; fix: leave 'warm_start' out of stages"):
    solved(task, task.problem('train', 0))
  with pytest.raises(DataError, match=r"data.benchmark = 'dapo_math_17k': has no written solutions; fix"):
    Math(directory, 'dapo_math_17k', path, needs_solutions=True)


class Undecided(Math):
  """Grades as a grader does that is short of time."""

  def __init__(self):
    pass

  def verify_all(self, problems, responses):
    return [
      Verdict(text == problem.answer, status) for problem, text, status in zip(problems, responses, STATUSES, strict=True)
    ]


STATUSES = ('ok', 'timeout', 'ok', 'error', 'error', 'ok')


def test_a_run_counts_what_could_not_be_graded(directory):
  made = load_tokenizer(directory)
  rows = [made.encode(text) for text in ('7', 'a', '8', 'b', 'c', '9')]
  assert all(len(row) == 1 for row in rows)
  zeros, ones = jnp.zeros((6, 1)), jnp.ones(6, jnp.int32)
  numbers = dict.fromkeys(('logprobs', 'values', 'regret', 'z'), zeros)
  counts = dict.fromkeys(('prompt_lengths', 'length', 'full_length', 'trained_from', 'stop_reason', 'started'), ones)
  trajectories = Trajectories(
    prompt_tokens=jnp.zeros((6, 1), jnp.int32), tokens=jnp.array(rows), shadow=ones < 0, **numbers, **counts
  )
  problems = [Problem(0, '', '7'), Problem(2, '', '9')]
  mesh = parallel.make_mesh(1, 1, 1)
  experiment = Experiment(default_config(), Undecided(), made, None, mesh, None, ())
  grades = experiment.grade(problems, trajectories)
  assert grades.correct.tolist() == [1, 0, 0, 0, 0, 1]
  assert grades.timeout.tolist() == [status == 'timeout' for status in STATUSES]
  assert grades.error.tolist() == [status == 'error' for status in STATUSES]


def test_a_run_lists_in_its_folder_what_there_is_to_know(directory, tmp_path, caplog):
  train = write(tmp_path / 'train.jsonl', [{}, *(gsm8k(i) for i in range(20))])
  test = write(tmp_path / 'test.jsonl', [gsm8k(i) for i in (500, 7)])
  report_data(Math(directory, 'gsm8k', train, eval_path=test, on_error='skip'), tmp_path)
  (skipped,) = map(json.loads, (tmp_path / 'skipped.jsonl').read_text().splitlines())
  assert skipped['place'] == f'{train}:1'
  assert skipped['reason'] == "field 'question': missing; fix: add it"
  (overlap,) = map(json.loads, (tmp_path / 'overlap.jsonl').read_text().splitlines())
  assert overlap['test']['problem'] == gsm8k(7)['question']
  assert (
    f'left out 1 rows that are malformed, too long or repeats; there remain 20 train and 2 test rows; see {tmp_path}'
    in caplog.text
  )
  assert '1 of 2 test problems share 13 words in a row with a train problem' in caplog.text


def test_hostile_text_is_wrong_and_harmless(task):
  problem = task.problem('test', 0)
  responses = ['', '\x00', '\\boxed{', '9' * 10_000, '#### ' + '(' * 5_000, '\\boxed{__import__("os")}', '####' * 5_000]
  assert not any(verdict.correct for verdict in task.verify_all([problem] * len(responses), responses))


# ---------------------------------------------------------------------------------------------------------- tokenizers


def without(*files: str, **changes):
  """A tokenizer directory, without some files and with changes of its configuration."""

  def make(folder: pathlib.Path) -> str:
    path = pathlib.Path(tokenizer(folder / 'broken'))
    for file in files:
      (path / file).unlink()
    config = path / 'tokenizer_config.json'
    if config.exists():
      fields = json.loads(config.read_text()) | changes
      config.write_text(json.dumps({name: value for name, value in fields.items() if value is not ...}))
    return str(path)

  return make


def file_content(name: str, content: bytes):
  def make(folder: pathlib.Path) -> str:
    path = pathlib.Path(tokenizer(folder / 'broken'))
    (path / name).write_bytes(content)
    return str(path)

  return make


def template(text: str | None):
  return lambda folder: tokenizer(folder / 'broken', text)


BAD_TOKENIZERS = [
  (lambda folder: str(folder / 'none'), r"model.path = '.*/none': no such directory; fix: a Hugging Face model directory"),
  (lambda folder: 'none', r"model.path = 'none': no such directory; fix: .* such as hf download"),
  (lambda folder: write(folder / 'file.json', []), 'no such directory; fix'),
  (lambda folder: str(folder), 'holds no tokenizer.json; fix: a Hugging Face model directory with its tokenizer files'),
  (without('tokenizer.json'), 'holds no tokenizer.json; fix'),
  (file_content('tokenizer.json', b'{"version": '), 'no tokenizer can be loaded .*; fix: .* as they were published'),
  (file_content('tokenizer.json', b'{}'), 'no tokenizer can be loaded .*; fix'),
  (file_content('tokenizer_config.json', b'\xff\xfe'), 'no tokenizer can be loaded .*; fix'),
  (file_content('tokenizer_config.json', b'[]'), 'no tokenizer can be loaded .*; fix'),
  (without(eos_token=...), "the tokenizer has no end token; fix: name its 'eos_token' in tokenizer_config.json"),
  (
    template(None),
    "the tokenizer has no chat template, which task.options.prompt = 'chat' asks for; fix: --config.task.options.prompt=plain",
  ),
  (template('{% for'), 'its chat template fails .*; fix'),
  (template('{{ raise_exception("two messages only") }}'), 'its chat template fails .*two messages only.*; fix'),
  (template('hello'), 'its chat template leaves the problem out; fix'),
]


@pytest.mark.parametrize(('make', 'said'), BAD_TOKENIZERS, ids=range(len(BAD_TOKENIZERS)))
def test_a_tokenizer_that_cannot_be_used_names_the_field(paths, tmp_path, make, said):
  with pytest.raises(DataError, match=rf"^model.path = '.*': {said}" if not said.startswith('model') else said):
    Math(make(tmp_path), 'gsm8k', **paths)


def test_the_tokenizer_is_that_of_its_file_whatever_the_model(paths, tmp_path):
  path = pathlib.Path(without(tokenizer_class='Strange', auto_map={'AutoTokenizer': ['strange.Strange', None]})(tmp_path))
  (path / 'strange.py').write_text('raise SystemExit("code of the model was run")')
  (path / 'config.json').write_text('{"model_type": "qwen2"}')
  tokenizer_of_file = Tokenizer.from_file(str(path / 'tokenizer.json'))
  made = load_tokenizer(str(path))
  assert len(made) == tokenizer_of_file.get_vocab_size()
  for text in (QUESTION, 'She sold 2024 clips.', " it's  2\n\n x_1 \u00e9"):
    assert made.encode(text, add_special_tokens=False) == tokenizer_of_file.encode(text, add_special_tokens=False).ids


def test_without_a_pad_token_the_end_token_pads(paths, tmp_path):
  task = Math(without(pad_token=...)(tmp_path), 'gsm8k', **paths)
  assert task.tokenizer().pad_token_id == task.tokenizer().eos_token_id


def test_offline_a_name_on_the_hub_says_so(paths, tmp_path, monkeypatch):
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(
    DataError,
    match=r"'nobody/nothing': no tokenizer can be loaded .*; fix: .*hf download nobody/nothing --local-dir models/nothing",
  ):
    Math('nobody/nothing', 'gsm8k', **paths)


def test_an_unknown_benchmark_or_prompt_is_named_with_the_near_one(directory, paths):
  with pytest.raises(ValueError, match=r"unknown benchmark 'gsm8'; did you mean 'gsm8k'\?"):
    Math(directory, 'gsm8', **paths)
  with pytest.raises(ValueError, match=r"unknown prompt 'caht'; did you mean 'chat'\?"):
    Math(directory, 'gsm8k', **paths, prompt='caht')
