"""The command `espo_jax.sources`: from the answers of an evaluation to a file that the warm start trains on."""

import json
import pathlib
import runpy

import numpy as np
import pytest
from run_folder import write_random_run

from espo_jax import methods, monitor, registry, sources, tasks, train
from espo_jax.configs import default_config
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.sources.__main__ import main

ROOT = pathlib.Path(__file__).parents[1]
ANSWER = {'problem': 0, 'id': 1, 'sample': 0, 'prompt': '3a+4=', 'response': 'a+4=7#7', 'expected': '7', 'correct': True} | {
  'stop_reason': 'eos'
}


def recorded(folder: pathlib.Path, answers=(ANSWER,), **settings) -> pathlib.Path:
  """A folder as an evaluation of chain arithmetic with --record leaves it."""
  folder.mkdir(exist_ok=True)
  (folder / 'settings.json').write_text(json.dumps({'samples': 1, 'record': True} | settings))
  (folder / 'samples.jsonl').write_text(''.join(json.dumps(answer) + '\n' for answer in answers))
  monitor.atomic_write_text(folder / 'config.json', monitor.to_json(default_config().to_dict()))
  return folder


def command(folder: pathlib.Path, output: pathlib.Path, *flags: str) -> list[dict]:
  main([f'--rollouts={folder}', f'--output={output}', *flags])
  return [json.loads(line) for line in output.read_text().splitlines()]


def refused(*flags: str) -> str:
  with pytest.raises(SystemExit) as ended:
    main(flags)
  return str(ended.value)


CHAIN = ('--source=step_partial_mask', '--options', 'separator=(?=[a-z#])', 'reflection=')


@pytest.mark.quick
def test_the_command_writes_what_the_options_say_and_the_same_seed_writes_the_same_bytes(tmp_path, capsys):
  wrong = ANSWER | {'response': 'a+4=8#8', 'correct': False, 'sample': 1}
  other = [answer | {'problem': 1, 'id': 3, 'prompt': '1b+1='} for answer in (wrong, ANSWER)]
  silent = ANSWER | {'response': ''}
  folder = recorded(tmp_path / 'answers', [ANSWER, wrong, silent, *other])
  found = command(folder, tmp_path / 'out' / 'mine.jsonl', *CHAIN)
  assert found[1] == {
    'prompt': '3a+4=',
    'segments': [{'text': 'a+4=8', 'loss': 0}, {'text': 'a+4=7#7', 'loss': 1}],
    'weight': 1.0,
    'from': 'samples.jsonl:2',
  }
  assert [line['prompt'] for line in found] == ['3a+4=', '3a+4=', '1b+1=', '1b+1=']
  told = capsys.readouterr().out
  assert 'step_partial_mask separator=(?=[a-z#]) reflection=: 4 examples of 4 rollouts of 2 problems; 74% of their' in told
  assert f'--config.warm_start.data={tmp_path / "out" / "mine.jsonl"}\n' in told
  many = [ANSWER | {'problem': i, 'id': 2 * i + 1, 'response': 'x</think>a+4=7#7'} for i in range(30)]
  folder, drawn = recorded(tmp_path / 'many', many), []
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    command(folder, tmp_path / name, '--source=mode_mixture', f'--seed={seed}')
    drawn.append((tmp_path / name).read_bytes())
  assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.quick
@pytest.mark.parametrize(
  ('flags', 'told'),
  [
    (['--source=sbt'], "--source = 'sbt': 'sbt' is unknown; did you mean 'sbt_"),
    (['--source=sbt_e', '--options', 'treshold=1'], '--source=sbt_e: treshold=1: no such option; fix: threshold, '),
    (['--source=sbt_e', '--options', 'threshold=much'], '--source=sbt_e: threshold=much: not of type float; fix: such as '),
    (['--source=sbt_e', '--options', 'threshold=1', 'threshold=2'], '--options threshold=...: given twice; fix: once'),
    (['--source=sbt_e', '--options', 'threshold'], '--options threshold: no value; fix: NAME=VALUE'),
    (['--source=cut_at_k', '--options', 'k=0'], '--source=cut_at_k: k=0: out of range; fix: a number of at least 1'),
    (['--source=cut_at_k', '--seed=-1'], '--seed=-1: out of range; fix: '),
    (['--options', 'k=0'], '--source is missing; fix: --source=...'),
    (['--source=rise_turns'], "--source=rise_turns: the tokenizer has no token for a part of 'Your answer"),
    (['--source=cut_at_k'], '--source=cut_at_k: none of 1 rollouts, of which 1 are right, makes an example; fix: '),
  ],
)
def test_a_flag_that_cannot_be_is_told_with_the_fix(tmp_path, flags, told):
  folder = recorded(tmp_path / 'answers')
  assert told in refused(f'--rollouts={folder}', f'--output={tmp_path / "mine.jsonl"}', *flags)
  assert not (tmp_path / 'mine.jsonl').exists()


@pytest.mark.quick
@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'prompt': None}, "samples.jsonl:2: prompt = 'None': not of an answer; fix: a copy of the file"),
    ({'correct': 1}, "samples.jsonl:2: correct = '1': not of an answer; fix: "),
    ({'id': True}, "samples.jsonl:2: id = 'True': not of an answer; fix: "),
  ],
)
def test_rollouts_that_are_damaged_are_told_with_their_line(tmp_path, change, told):
  folder = recorded(tmp_path / 'answers', [ANSWER, ANSWER | change])
  flags = [f'--rollouts={folder}', f'--output={tmp_path / "mine.jsonl"}', *CHAIN]
  assert told in refused(*flags)
  (folder / 'samples.jsonl').write_text('{"id": 1}\n')
  assert "samples.jsonl:1: has no 'problem' of an answer; fix: " in refused(*flags)
  (folder / 'samples.jsonl').write_text('{"id"\n')
  assert 'samples.jsonl:1: not JSON' in refused(*flags)


@pytest.mark.quick
def test_a_folder_without_recorded_answers_of_one_turn_is_told(tmp_path):
  flags = [f'--output={tmp_path / "mine.jsonl"}', *CHAIN]
  folder = recorded(tmp_path / 'answers', environment='retry')
  assert "its answers have several turns with the environment 'retry'; fix: " in refused(f'--rollouts={folder}', *flags)
  empty = recorded(tmp_path / 'empty', [])
  assert 'samples.jsonl holds no answer with a text; fix: ' in refused(f'--rollouts={empty}', *flags)
  for name in ('config.json', 'samples.jsonl', 'settings.json'):
    (empty / name).unlink()
    assert f'--rollouts={empty}: holds no {name}; fix: ' in refused(f'--rollouts={empty}', *flags)
  saved = folder / 'config.json'
  saved.write_text(saved.read_text().replace('"chain"', '"chian"'))
  (folder / 'settings.json').write_text('{}')
  assert 'chian' in (told := refused(f'--rollouts={folder}', *flags)) and str(saved) in told


# ---------------------------------------------------------------------------------------------------------- a user's source


PLUGIN = """from espo_jax import sources

@sources.register('right')
def right(problems, rng, *, most=9):
  for asked in problems:
    for rollout in asked.right[:most]:
      yield rollout.example([(rollout.response, True)], weight=2.0)

@sources.register('odd')
def odd(problems, *, what='text'):
  first = problems[0].rollouts[0]
  yield first.response if what == 'text' else first.example([(first.response, False)])
"""


@pytest.mark.quick
def test_a_source_of_a_users_file_is_listed_and_used(tmp_path, registers, capsys):
  (tmp_path / 'mine.py').write_text(PLUGIN)
  folder, plugin = recorded(tmp_path / 'answers', [ANSWER] * 3), f'--plugins={tmp_path / "mine.py"}'
  methods.main([plugin, 'source'])
  assert 'right: paper not said' in capsys.readouterr().out
  found = command(folder, tmp_path / 'out.jsonl', plugin, '--source=right', '--options', 'most=2')
  assert [(line['segments'], line['weight']) for line in found] == [([{'text': 'a+4=7#7', 'loss': 1}], 2.0)] * 2
  flags = [f'--rollouts={folder}', f'--output={tmp_path / "out.jsonl"}', '--source=odd']
  assert "--source=odd: it yields 'a+4=7#7'; fix: an espo_jax.tasks.Example" in refused(*flags)
  assert "--source=odd: samples.jsonl:1: field 'segments': no segment has loss" in refused(*flags, '--options', 'what=mask')
  with pytest.raises(registry.RegistryError, match=r"parameter 'problem' names nothing to read; did you mean 'problems'"):
    sources.register('wrong')(lambda problem: iter(()))


# ------------------------------------------------------------------------------------------------------------- the whole way


def test_recorded_answers_become_examples_that_a_warm_start_trains_on(tmp_path, monkeypatch):
  """The policy is random, and a response of even length is right. The second run has other test problems than the first."""

  def verdicts(_, problems, responses):
    return [tasks.Verdict(len(response) % 2 == 0, 'ok') for _, response in zip(problems, responses, strict=True)]

  monkeypatch.setattr(tasks.Task, 'verify_all', verdicts)
  run, answers, data = write_random_run(tmp_path / 'run'), tmp_path / 'answers', tmp_path / 'mine.jsonl'
  evaluate_main([f'--checkpoint={run}', f'--output={answers}', '--samples=4', '--problems=8', '--batch=32', '--record'])
  lines = command(answers, data, *CHAIN)
  given = list(monitor.read_samples(answers))
  right = [
    (answer['prompt'], answer['response'])
    for answer in given
    if answer['correct'] and answer['response'] and answer['stop_reason'] == 'eos'
  ]
  whole = [(line['prompt'], line['segments'][0]['text']) for line in lines if len(line['segments']) == 1]
  assert 0 < len(right) < len(given) and sorted(whole) == sorted(right)
  masked = [line for line in lines if any(not part['loss'] for part in line['segments'])]
  assert masked and len(masked) + len(whole) == len(lines)

  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  config.stages, config.seed = ('warm_start',), 1
  config.rollout.horizon *= 2  # a corrected response has a step more
  config.warm_start.update(data=str(data), steps=12, warmup_steps=1, batch=16, learning_rate=1e-2)
  train.train(config.lock(), tmp_path / 'second', check_memory=False)
  told = [json.loads(line) for line in (tmp_path / 'second/warm_start/metrics.jsonl').read_text().splitlines()]
  losses = np.array([line['loss/total'] for line in told])
  assert len(losses) == 12 and np.isfinite(losses).all() and losses[-4:].mean() < losses[:4].mean()
