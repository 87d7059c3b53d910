"""Limits on lengths apply to the rows that are used: test rows that are asked, train rows that fit."""

import json
import pathlib

import pytest
from benchmark_data import gsm8k, tokenizer, write
from tiny import write_checkpoint

from espo_jax import parallel, prepare_data
from espo_jax.configs import default_config, task_arguments, validate
from espo_jax.evaluate import evaluation
from espo_jax.evaluate.examples import write_examples
from espo_jax.experiment import Experiment, make_task
from espo_jax.monitor import write_run_info
from espo_jax.tasks import DataError, Math, encode_prompts
from espo_jax.tasks.math import HELD_OUT
from espo_jax.tasks.task import in_test

pytestmark = pytest.mark.quick

LIMIT = 250
ROWS = 12


class Reached(Exception):
  """How far a test lets a command go."""


@pytest.fixture(scope='module')
def directory(tmp_path_factory) -> str:
  folder = tmp_path_factory.mktemp('model')
  path = tokenizer(folder / 'made')
  shape = {'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 1, 'num_attention_heads': 2}
  config = {'model_type': 'qwen2', 'num_key_value_heads': 1, 'vocab_size': 384} | shape
  (pathlib.Path(path) / 'config.json').write_text(json.dumps(config))
  return path


def record(i: int, *long: int) -> dict[str, str]:
  """Row `i`; those named are too long."""
  return gsm8k(i) | ({'question': f'{"why " * (200 + i)}{i}?'} if i in long else {})


def rows(folder: pathlib.Path, *long: int) -> str:
  return write(folder / 'test.jsonl', [record(i, *long) for i in range(ROWS)])


@pytest.mark.parametrize(
  ('asked', 'long', 'said'),
  [
    (4, (4,), ''),
    (4, (11,), ''),
    (4, (4, 5, 6, 7, 8, 9, 10, 11), ''),
    (1, tuple(range(1, ROWS)), ''),
    (11, (11,), ''),
    (16, (), ''),
    (None, (), ''),
    (4, (3,), ':4: .* longest of 1 .*, or eval.problems <= 3$'),
    (5, (4, 2, 9), ':5: .* longest of 2 .*, or eval.problems <= 2$'),
    (16, (11,), ':12: .* longest of 1 .*, or eval.problems <= 11$'),
    (None, (7, 8), ':9: .* longest of 2 .*, or eval.problems <= 7$'),
    (1, (0,), ':1: .* longest of 1 .*, or take such rows out$'),
  ],
)
def test_the_limit_on_prompts_is_for_test_rows_that_are_asked(directory, tmp_path, asked, long, said):
  options = {'eval_path': rows(tmp_path, *long), 'max_prompt_tokens': LIMIT, 'test_problems': asked}
  if said:
    with pytest.raises(DataError, match=said):
      Math(directory, 'gsm8k', **options)
    return
  task = Math(directory, 'gsm8k', **options)
  assert task.size('test') == ROWS
  encode_prompts(task.tokenizer(), [task.problem('test', i) for i in range(min(asked or ROWS, ROWS))], LIMIT)


@pytest.mark.parametrize('source', ['lines', 'prepared', 'held out'])
def test_the_limit_is_the_same_wherever_the_rows_come_from(directory, tmp_path, source):
  path = rows(tmp_path, 9)
  given = {'eval_path': path}
  last = 9
  if source == 'prepared':
    prepare_data.prepare('gsm8k', path, 'test', str(tmp_path / 'prepared'))
    given = {'eval_path': str(tmp_path / 'prepared')}
  if source == 'held out':  # the last held-out row is too long, and so is one that is not held out
    held = [i for i in range(200) if in_test(gsm8k(i)['question'], HELD_OUT)]
    long = next(i for i in range(300, 400) if in_test(record(i, i)['question'].strip(), HELD_OUT))
    trained = next(i for i in range(300, 400) if not in_test(record(i, i)['question'].strip(), HELD_OUT))
    given = {'path': write(tmp_path / 'all.jsonl', [record(i, long, trained) for i in (*range(200), long, trained)])}
    last = len(held)
  options = given | {'max_prompt_tokens': LIMIT}
  task = Math(directory, 'gsm8k', **options, test_problems=last)
  assert task.size('test') == (ROWS if source != 'held out' else last + 1)
  if source == 'held out':
    assert task.size('train') == 200 - last  # and the long one is listed
    assert [entry['split'] for entry in task.findings()[0].entries] == ['train']
  with pytest.raises(DataError, match=rf', or eval.problems <= {last}$'):
    Math(directory, 'gsm8k', **options, test_problems=last + 1)


@pytest.mark.parametrize('tags', [(), (' a',), ('', ' be brief'), (' be brief', ' a'), (' why' * 6,)])
def test_a_tag_behind_the_prompt_counts(directory, tmp_path, tags):
  test = write(tmp_path / 'test.jsonl', [gsm8k(10**6)])
  train = write(tmp_path / 'train.jsonl', [gsm8k(10**i) for i in range(7)])
  bare = Math(directory, 'gsm8k', train, eval_path=test)

  def longest(prompt: str) -> int:
    return max(len(bare.tokenizer().encode(prompt + tag)) for tag in tags or ('',))

  prompt = bare.problem('test', 0).prompt
  fitting = sum(longest(bare.problem('train', i).prompt) <= longest(prompt) - 2 for i in range(7))
  assert 0 < fitting < 7
  options = {'benchmark': 'gsm8k', 'path': train, 'eval_path': test, 'tags': tags}
  assert Math(directory, **options, max_prompt_tokens=longest(prompt)).size('train') == 7
  with pytest.raises(
    DataError, match=rf'a prompt of {longest(prompt)} tokens, .* fix: rollout.prompt_width >= {longest(prompt)}'
  ):
    Math(directory, **options, max_prompt_tokens=longest(prompt) - 1)
  short = options | {'eval_path': write(tmp_path / 'short.jsonl', [gsm8k(1)])}
  assert Math(directory, **short, max_prompt_tokens=longest(prompt) - 2).size('train') == fitting


def config(directory: str, path: str):
  c = default_config()
  c.task.name, c.stages, c.baselines, c.stop.name = 'math', ('rl',), (), 'never'
  c.data.update({'benchmark': 'gsm8k', 'path': path, 'eval_path': path})
  c.model.path, c.rollout.prompt_width, c.eval.problems = directory, LIMIT, 4
  return c


def test_a_run_of_few_problems_does_not_fail_on_a_later_row(directory, tmp_path):
  c = config(directory, rows(tmp_path, 7))
  validate(c)
  task = make_task(c)
  assert (task.size('train'), task.size('test')) == (ROWS - 1, ROWS)
  assert task_arguments(c)['test_problems'] == 4
  c.eval.problems = 8
  with pytest.raises(DataError, match=r'fix: rollout.prompt_width >= \d+, or take such rows out, or eval.problems <= 7$'):
    make_task(c)


@pytest.mark.parametrize(('problems', 'batch', 'asked'), [(4, 256, 4), (4, 2, 2), (99, 256, ROWS), (99, 6, 6)])
def test_examples_are_of_the_problems_that_are_evaluated(directory, tmp_path, problems, batch, asked):
  class Asked(Experiment):
    def problems(self, split, start, count):
      raise Reached(split, start, count)

  c = config(directory, rows(tmp_path))
  c.eval.update(problems=problems, batch=batch)
  exp = Asked(c, make_task(c), None, None, parallel.make_mesh(1, 1, 1), None, ())
  with pytest.raises(Reached) as reached:
    write_examples.__wrapped__(exp, None, None, tmp_path / 'examples.json')
  assert reached.value.args == ('test', 0, asked)


@pytest.mark.parametrize(
  ('flags', 'asked', 'wide'),
  [
    ({}, 4, False),
    ({'problems': 6}, 6, False),
    ({'problems': 8}, 8, True),
    ({'problems': 99}, ROWS, True),
    ({'benchmark': True}, ROWS, True),
    ({'benchmark': True, 'problems': 3}, 3, None),
  ],
)
def test_an_evaluation_is_as_wide_as_what_it_asks(directory, tmp_path, monkeypatch, flags, asked, wide):
  path = rows(tmp_path, 7)
  c = config(directory, path)
  write_run_info(tmp_path / 'run', c.to_dict())
  write_checkpoint(tmp_path / 'run' / 'arms' / 'never' / 'checkpoints' / '1')

  def answer(exp, policy, problems, settings, output, processor, drawing):
    encoded = encode_prompts(exp.tokenizer, exp.tagged(problems), exp.config.rollout.prompt_width)
    raise Reached(len(problems), exp.config.rollout.prompt_width, int(encoded.lengths.max()))

  monkeypatch.setattr(evaluation, '_answer', answer)
  if flags.pop('benchmark', False):
    flags = flags | {'benchmark': 'gsm8k', 'data': path}
  with pytest.raises(Reached) as reached:
    evaluation.evaluate(evaluation.Request(checkpoint=str(tmp_path / 'run'), **flags))
  count, width, longest = reached.value.args
  assert count == asked
  assert width == (longest if 'benchmark' in flags or wide else LIMIT)
  assert (width > LIMIT) == bool(wide)
