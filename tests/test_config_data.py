"""A task that reads data is refused before a row is read, with the field, its value and the fix."""

import pathlib

import ml_collections
import pytest
from benchmark_data import tokenizer

from espo_jax import tasks
from espo_jax.configs import default_config, task_arguments
from espo_jax.configs.data import data_problems, task_problems
from espo_jax.configs.validate import field_problems

pytestmark = pytest.mark.quick


def config(folder: pathlib.Path, **fields) -> ml_collections.ConfigDict:
  """The task math on gsm8k's rows.jsonl in the folder, with fields changed; {} in a value is the folder."""
  (folder / 'rows.jsonl').write_text('{}\n')
  (folder / 'empty').mkdir()
  c = default_config()
  c.task.name = 'math'
  given = {'model.path': '{}/model', 'data.benchmark': 'gsm8k', 'data.path': '{}/rows.jsonl'} | fields
  tokenizer(folder / 'model')
  for name, value in given.items():
    section, _, last = name.rpartition('.')
    holder = c
    for part in section.split('.') if section else ():
      holder = holder[part]
    holder[last] = value.format(folder) if isinstance(value, str) else value
  return c


def problems(c: ml_collections.ConfigDict) -> list[str]:
  return [*field_problems(c), *task_problems(c), *data_problems(c)]


OWN = {'data.benchmark': 'jsonl', 'data.problem_field': 'ask', 'data.answer_field': 'result.final', 'stages': ('rl',)}


EXAMPLES = {  # a warm start that needs no train split, if it has examples
  'stages': ('warm_start',),
  'data.path': '',
  'data.benchmark': '',
  'data.eval_benchmark': 'gsm8k',
  'data.eval_path': '{}/rows.jsonl',
}
BAD = [
  ({'model.path': ''}, ["model.path = ''", "'math' asks a pretrained model", 'fix: --config.model.path=DIR']),
  ({'model.path': '{}/none'}, ["/none': no such directory", 'fix: a Hugging Face model directory']),
  ({'model.path': '{}/empty'}, ["/empty': holds no tokenizer.json", 'fix']),
  ({'data.benchmark': ''}, ["data.benchmark = ''", 'known: aime24', 'fix: --config.data.benchmark=gsm8k']),
  ({'data.benchmark': 'gsm8'}, ["data.benchmark = 'gsm8'", "did you mean 'gsm8k'?"]),
  ({'data.path': ''}, ["data.path = ''", 'fix: --config.data.path=FILE']),
  ({'data.path': 'no.jsonl'}, ["data.path = 'no.jsonl'", 'no such file', 'or openai/gsm8k to fetch gsm8k']),
  ({'data.path': '{}/empty'}, ["/empty': a directory without dataset_info.json", 'espo_jax.prepare_data']),
  ({'data.path': 'openai/gsm8'}, ["data.path = 'openai/gsm8'", 'or openai/gsm8k']),
  ({'data.eval_path': 'no.jsonl'}, ["data.eval_path = 'no.jsonl'", 'no such file']),
  ({'data.eval_benchmark': 'aime24'}, ["data.eval_path = ''", "data.eval_benchmark = 'aime24'", 'fix']),
  (
    {'data.eval_benchmark': 'aime', 'data.eval_path': '{}/rows.jsonl'},
    ["data.eval_benchmark = 'aime'", "did you mean 'aime24'?"],
  ),
  (
    {'data.benchmark': 'math500', 'data.path': 'HuggingFaceH4/MATH-500'},
    ["data.path = 'HuggingFaceH4/MATH-500'", 'no train split but test', 'fix'],
  ),
  (
    OWN | {'data.problem_field': ''},
    ["data.problem_field = ''", "data.benchmark = 'jsonl'", '--config.data.problem_field=NAME'],
  ),
  (OWN | {'data.answer_field': ''}, ["data.answer_field = ''", 'the final answer', '--config.data.answer_field=NAME']),
  (OWN | {'data.benchmark': 'gsm8k'}, ["data.problem_field = 'ask'", "it is 'gsm8k'", '--config.data.benchmark=jsonl']),
  (OWN | {'data.benchmark': 'json'}, ["data.benchmark = 'json'", "did you mean 'jsonl'?"]),
  (OWN | {'data.path': 'no.jsonl'}, ["data.path = 'no.jsonl'", 'fix: a file of JSON lines', 'hf://datasets/OWNER/NAME/FILE']),
  (
    OWN | {'stages': ('warm_start', 'rl')},
    ["'jsonl' has no written solutions", "('rl',), or --config.data.solution_field=NAME"],
  ),
  (
    OWN
    | {'data.benchmark': 'gsm8k', 'data.eval_benchmark': 'jsonl', 'data.eval_path': '{}/rows.jsonl', 'data.answer_field': ''},
    ["data.answer_field = ''", "data.eval_benchmark = 'jsonl'"],
  ),
  (EXAMPLES, ["data.path = ''", 'fix: --config.data.path=FILE']),
  (EXAMPLES | {'stages': ('warm_start', 'rl'), 'warm_start.data': '{}/rows.jsonl'}, ["data.path = ''"]),
  ({'data.on_error': 'ignore'}, ["data.on_error = 'ignore'", 'fix: one of raise, skip']),
  ({'data.benchmark': 'amc23'}, ["'amc23' has no written solutions", "fix: stages = ('critic_warmup', 'rl')"]),
  ({'task.options.prompt': 'caht'}, ["task.options.prompt = 'caht'", 'fix: one of chat, r1, plain']),
  ({'task.options.instruction': 3}, ['task.options.instruction = 3', 'int instead of str']),
  ({'task.options.grade_workers': 0}, ['task.options.grade_workers = 0', 'fix: a number above 0']),
  ({'task.options.grade_deadline': -1.0}, ['task.options.grade_deadline = -1.0', 'fix: a number above 0']),
  ({'task.options.vocab_size': 1024}, ['task.options.vocab_size = 1024', 'no option of the task']),
  ({'task.options.tokenizer_path': 'x'}, ["task.options.tokenizer_path = 'x'", 'no option of the task']),
  ({'task.options.max_response_tokens': 99}, ['rollout.horizon = 64', 'max_response_tokens = 99', 'fix']),
]


@pytest.mark.parametrize(('fields', 'fragments'), BAD, ids=str)
def test_bad_data_is_named_with_its_value_and_the_fix(tmp_path, fields, fragments):
  lines = problems(config(tmp_path, **fields))
  assert any(all(fragment in line for fragment in fragments) for line in lines), lines


@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'data.path': 'openai/gsm8k', 'data.eval_benchmark': 'aime24', 'data.eval_path': '{}/rows.jsonl'},
    {'data.benchmark': 'dapo_math_17k', 'stages': ('critic_warmup', 'rl'), 'task.options.prompt': 'r1'},
    OWN,
    OWN | {'data.solution_field': 'why', 'stages': ('warm_start', 'rl'), 'data.path': 'hf://datasets/me/sums/all.parquet'},
    OWN | {'data.benchmark': 'gsm8k', 'data.eval_benchmark': 'jsonl', 'data.eval_path': '{}/rows.jsonl'},
    {'data.benchmark': 'amc23', 'warm_start.data': '{}/rows.jsonl'},  # which has no written solutions
    EXAMPLES | {'warm_start.data': '{}/rows.jsonl'},
    {'model.path': 'Qwen/Qwen3-0.6B', 'data.on_error': 'skip', 'task.options.instruction': ''},
  ],
  ids=str,
)
def test_good_data_is_accepted(tmp_path, fields):
  assert not problems(config(tmp_path, **fields))


@pytest.mark.usefixtures('registers')
def test_a_task_of_a_user_that_reads_a_tokenizer_sets_the_ranges_of_its_options_itself(tmp_path):
  @tasks.register('mine')
  class Mine(tasks.Countdown):
    def __init__(self, tokenizer_path: str, noise: float = 0.1, most: int | None = None, level: int = 1):
      super().__init__()

  c = config(tmp_path, **{'data.benchmark': '', 'data.path': '', 'rollout.prompt_width': 99, 'rollout.horizon': 999})
  c.task.name = 'mine'
  c.task.options.update(noise=0.0, most=3, level=-1)
  assert not problems(c)
  with c.ignore_type():
    c.task.options.level = 'high'
  assert [*problems(c)] == ["task.options.level = 'high': str instead of int; fix: a value such as 1"]


def test_the_task_takes_what_other_fields_say(tmp_path):
  c = config(tmp_path, **{'rollout.horizon': 99, 'seed': 3, 'task.options.prompt': 'plain'})
  assert task_arguments(c) == {
    'tokenizer_path': f'{tmp_path}/model',
    'benchmark': 'gsm8k',
    'path': f'{tmp_path}/rows.jsonl',
    'eval_benchmark': '',
    'eval_path': '',
    'problem_field': '',
    'answer_field': '',
    'solution_field': '',
    'on_error': 'raise',
    'today': '',
    'prompt': 'plain',
    'max_prompt_tokens': c.rollout.prompt_width,
    'max_response_tokens': 99,
    'needs_solutions': True,
    'test_problems': c.eval.problems,
    'tags': (),
    'seed': 3,
  }
  c.task.name = 'chain'
  del c.task.options['prompt']
  assert task_arguments(c) == {'seed': 3}


def test_a_task_that_extends_one_with_options_has_the_parameters_of_both(registers):
  @tasks.register('slipping')
  class Slipping(tasks.ReasoningGym):
    name = 'slipping'

    def __init__(self, *, slips: float = 0.0, **options):
      super().__init__(**options)
      self.slips = slips

  def asked(slips):
    config = default_config()
    config.task.name, config.seed = 'slipping', 7
    config.task.options.update(dataset='chain_sum', slips=slips, max_terms=3)
    config.rollout.prompt_width, config.rollout.horizon = 40, 48
    return config

  told = {'max_prompt_tokens': 40, 'max_response_tokens': 48, 'seed': 7, 'slips': 0.25, 'max_terms': 3}
  assert task_arguments(asked(0.25)).items() >= told.items()
  assert list(task_problems(asked(0.25))) == []
  assert any('task.options.slips' in line for line in task_problems(asked('often')))
