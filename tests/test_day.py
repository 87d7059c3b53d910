"""Chat templates that write today's date: a run keeps the day of its first start, whenever it goes on."""

import datetime
import json
import pathlib
from types import SimpleNamespace

import pytest
from benchmark_data import TEMPLATE, gsm8k, tokenizer, write
from tiny import write_checkpoint
from transformers.utils import chat_template_utils

from espo_jax import monitor, train
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.evaluate import evaluation
from espo_jax.evaluate.policies import open_policy
from espo_jax.experiment import make_task
from espo_jax.tasks import Math, pretrained

pytestmark = pytest.mark.quick

# As Llama 3.2's: a day that the caller may name, else today's where the template can ask for it.
LLAMA = (
  "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
  "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}<|start|>Today Date: {{ date_string }}\n"
)
TEMPLATES = {
  "<|start|>{{ strftime_now('%Y-%m-%d') }}\n": ('2026-01-30', '2026-02-02'),
  "<|start|>{{ strftime_now('%d %B %Y') }}\n": ('30 January 2026', '02 February 2026'),
  "<|start|>It is {{ strftime_now('%A, week %V') }}.\n": ('Friday, week 05', 'Monday, week 06'),
  "<|start|>{{ strftime_now('%b %d, %Y at %H:%M') }}\n": ('Jan 30, 2026 at 00:00', 'Feb 02, 2026 at 00:00'),
  "<|start|>{{ strftime_now(format='%x') }}\n": ('01/30/26', '02/02/26'),
  "<|start|>{{ strftime_now('%-d.%-m.%y, 100%%d') }}\n": ('30.1.26, 100%d', '2.2.26, 100%d'),
  "{% macro day(how) %}{{ strftime_now(how) }}{% endmacro %}<|start|>{{ day('%Y') }} {{ day('%j') }}\n": (
    '2026 030',
    '2026 033',
  ),
  "{% for part in ['%B', '%e'] %}<{{ strftime_now(part) | trim }}>{% endfor %}": ('<January><30>', '<February><2>'),
  "{% set format = '%Y/%m/%d' %}<|start|>{{ 'On ' + strftime_now(format) }}\n": ('On 2026/01/30', 'On 2026/02/02'),
  LLAMA: ('Today Date: 30 Jan 2026', 'Today Date: 02 Feb 2026'),
}
FIRST, LATER = (datetime.datetime(2026, month, day, 17, 5) for month, day in ((1, 30), (2, 2)))
SHAPE = {
  'model_type': 'qwen2',
  'architectures': ['Qwen2ForCausalLM'],
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'vocab_size': 384,
}


class Reached(Exception):
  """How far a test lets a command go."""


@pytest.fixture
def it_is(monkeypatch):
  """Sets the clock of everything that asks for the day."""

  def at(now: datetime.datetime) -> None:
    class Date(datetime.date):
      @classmethod
      def today(cls):
        return now.date()

    class DateTime(datetime.datetime):
      @classmethod
      def now(cls, tz=None):
        return now

    clock = SimpleNamespace(date=Date, datetime=DateTime)
    for module in (train, evaluation, pretrained):
      monkeypatch.setattr(module, 'datetime', clock, raising=False)
    monkeypatch.setattr(chat_template_utils, 'datetime', DateTime)

  return at


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> str:
  return write(tmp_path_factory.mktemp('data') / 'rows.jsonl', [gsm8k(i) for i in range(3)])


def model(folder: pathlib.Path, opening: str) -> str:
  path = tokenizer(folder / 'model', opening + TEMPLATE)
  (folder / 'model' / 'config.json').write_text(json.dumps(SHAPE))
  return path


def config(path: str, rows: str, **fields):
  c = default_config()
  c.task.name, c.stages, c.baselines, c.stop.name = 'math', ('rl',), (), 'never'
  c.data.update({'benchmark': 'gsm8k', 'path': rows, 'eval_path': rows})
  c.model.path, c.rollout.prompt_width = path, 256
  for name, value in fields.items():
    section, _, last = name.rpartition('__')
    (c[section] if section else c)[last] = value
  return c.lock()


@pytest.fixture
def started(monkeypatch):
  """Starts a run, or goes on with it, up to its first stage, and gives its first prompt."""
  made = []

  def make(config):
    made.append(make_task(config))
    return SimpleNamespace(task=made[-1], tokenizer=made[-1].tokenizer(), config=config)

  def stop(*_):
    raise Reached

  monkeypatch.setattr(train, 'make_experiment', make)
  monkeypatch.setattr(train, 'headline', lambda *_: '')
  monkeypatch.setattr(train, 'plan_memory', lambda exp: None)
  monkeypatch.setattr(train, 'check_writer', lambda exp: None)
  monkeypatch.setattr(train, 'warm_start', stop)

  def start(config, workdir: pathlib.Path) -> str:
    with pytest.raises(Reached):
      train.train(config, workdir)
    return made[-1].problem('test', 0).prompt

  return start


def of_run(workdir: pathlib.Path) -> str:
  """The prompt under which a run is evaluated or converted."""
  write_checkpoint(workdir / 'arms' / 'never' / 'checkpoints' / '1')
  policy = open_policy(workdir)
  validate(policy.config, training=False)
  return make_task(policy.config).problem('test', 0).prompt


@pytest.mark.parametrize(('opening', 'days'), TEMPLATES.items(), ids=range(len(TEMPLATES)))
def test_a_run_that_goes_on_later_writes_the_day_of_its_first_start(it_is, started, rows, tmp_path, opening, days):
  c = config(model(tmp_path, opening), rows)
  it_is(FIRST)
  prompt = started(c, tmp_path / 'run')
  assert days[0] in prompt
  it_is(LATER)
  assert started(c, tmp_path / 'run') == of_run(tmp_path / 'run') == prompt
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['data']['today'] == '2026-01-30'
  assert c.data.today == ''


@pytest.mark.parametrize(('opening', 'days'), TEMPLATES.items(), ids=range(len(TEMPLATES)))
def test_the_day_can_be_named(it_is, rows, tmp_path, opening, days):
  it_is(FIRST)
  path = model(tmp_path, opening)
  named, unnamed = (Math(path, 'gsm8k', eval_path=rows, today=today).problem('test', 0).prompt for today in ('2026-02-02', ''))
  assert (days[1] in named, days[0] in unnamed) == (True, True)
  assert named.partition('user\n')[2] == unnamed.partition('user\n')[2]


def test_a_template_with_a_day_of_its_own_keeps_it(rows, tmp_path):
  fixed = LLAMA.replace('strftime_now is defined', 'false')  # as Llama 3.1's
  for today in ('', '2026-02-02'):
    task = Math(model(tmp_path / today / 'x', fixed), 'gsm8k', eval_path=rows, today=today)
    assert task.problem('test', 0).prompt.startswith('<|start|>Today Date: 26 Jul 2024\n')


def test_a_run_that_starts_from_another_one_writes_its_day(it_is, started, rows, tmp_path):
  path = model(tmp_path, LLAMA)
  it_is(FIRST)
  prompt = started(config(path, rows), tmp_path / 'start')
  it_is(LATER)
  assert started(config(path, rows, start_from=str(tmp_path / 'start')), tmp_path / 'arm') == prompt
  (tmp_path / 'start/arms/espo/checkpoints').mkdir(parents=True, exist_ok=True)
  assert started(config(path, rows, start_from=str(tmp_path / 'start/arms/espo')), tmp_path / 'of_arm') == prompt
  assert '02 Feb 2026' in started(
    config(path, rows, start_from=str(tmp_path / 'start'), data__today='2026-02-02'), tmp_path / 'named'
  )


def test_a_run_does_not_go_on_under_another_day(it_is, started, rows, tmp_path):
  path = model(tmp_path, LLAMA)
  it_is(FIRST)
  started(config(path, rows), tmp_path / 'run')
  started(config(path, rows, data__today='2026-01-30'), tmp_path / 'run')
  with pytest.raises(ConfigError, match=r"data.today = '2026-02-02' was '2026-01-30' in .*; fix: that value"):
    started(config(path, rows, data__today='2026-02-02'), tmp_path / 'run')


@pytest.mark.parametrize('day', ['today', '2026-02-30', '30 Jan 2026', '20260130', '2026-W05-5', '2026-1-30'])
def test_what_is_no_day_is_refused(rows, tmp_path, day):
  with pytest.raises(ConfigError, match=rf"data.today = '{day}': no day; fix: one such as 2026-01-31, or leave it empty"):
    validate(config(model(tmp_path, ''), rows, data__today=day))


def test_a_task_without_a_template_keeps_no_day(it_is, started, tmp_path):
  c = default_config()
  c.stages = ('warm_start',)
  c.rollout.update(prompt_width=38, horizon=128)
  it_is(FIRST)
  started(c.lock(), tmp_path)
  it_is(LATER)
  started(c, tmp_path)
  assert json.loads((tmp_path / 'config.json').read_text())['data']['today'] == ''
  with pytest.raises(ConfigError, match=r"data.today = '2026-01-30': the task 'chain' reads no such data"):
    with c.unlocked():
      c.data.today = '2026-01-30'
    validate(c)


def test_an_evaluation_of_a_directory_goes_on_under_the_day_it_began(it_is, monkeypatch, rows, tmp_path):
  path, asked = model(tmp_path, LLAMA), []

  def answer(exp, policy, problems, settings, output, *_):
    asked.append(problems[0].prompt)
    monitor.SampleWriter(output, settings, batch=1, total=1).close()
    raise Reached

  monkeypatch.setattr(evaluation, '_answer', answer)
  for now, output in ((FIRST, 'out'), (LATER, 'out'), (LATER, 'other')):
    it_is(now)
    with pytest.raises(Reached):
      evaluation.evaluate(evaluation.Request(checkpoint=path, benchmark='gsm8k', data=rows, output=str(tmp_path / output)))
  assert asked[0] == asked[1]
  assert ('30 Jan 2026' in asked[0], '02 Feb 2026' in asked[2]) == (True, True)
