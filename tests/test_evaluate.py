"""The evaluate command: what the run found when it ended, a resume to the last bit, models from Hugging Face directories."""

import json
import os
import pathlib
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time

import benchmark_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import randomised

from espo_jax.configs import ConfigError, default_config, load_config
from espo_jax.evaluate import answers, evaluation
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.policies import experiment_of, open_policy
from espo_jax.experiment import Experiment, make_experiment, make_rule
from espo_jax.learner import Checkpoints, init_state
from espo_jax.model import ModelConfig, init, save_hf
from espo_jax.monitor import read_samples, wilson, write_run_info
from espo_jax.stages.results import evaluated
from espo_jax.stages.warm_start import supervised_learner
from espo_jax.tasks import Verdict
from espo_jax.tasks.pretrained import load_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
PROBLEMS = 11


@pytest.fixture(scope='module')
def start(pytestconfig):
  """Starts a command; compiled programs are kept between tests."""
  cache = {
    'JAX_COMPILATION_CACHE_DIR': str(pytestconfig.cache.mkdir('jax')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
  }

  def call(command: str, *flags: str) -> subprocess.Popen:
    arguments = [sys.executable, '-m', f'espo_jax.{command}', *flags]
    return subprocess.Popen(arguments, cwd=ROOT, env=os.environ | cache, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

  return call


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> pathlib.Path:
  """What a run leaves behind, its steps replaced by other random parameters: training takes a minute to compile."""
  path = tmp_path_factory.mktemp('evaluate') / 'run'
  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  config.mesh.data = -1  # as the command has it: one program less to compile
  write_run_info(path, config.to_dict())
  exp = make_experiment(config)
  learner, never = supervised_learner(exp), make_rule(config, 'never')
  for folder, steps in {'warm_start': [2], 'critic_warmup': [1], 'arms/espo': [2, 3]}.items():
    with Checkpoints(path / folder / 'checkpoints') as checkpoints:
      for step in steps:
        params = exp.put(randomised(exp.abstract_params(), seed=step + len(folder)))
        checkpoints.save(step, init_state(params, learner.optimizer, never), done=step == steps[-1])
    evaluated(exp, params, path / folder)
  return path


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
  """A random model as a Hugging Face directory, its embedding padded as those of published ones are."""
  path = tmp_path_factory.mktemp('model') / 'tiny'
  tokenizer = load_tokenizer(benchmark_data.tokenizer(path.parent / 'tokenizer'))
  shape = {'hidden_size': 16, 'intermediate_size': 24, 'num_layers': 2, 'num_heads': 2, 'num_kv_heads': 1, 'head_dim': 8}
  config = ModelConfig(vocab_size=len(tokenizer) + 5, family='qwen2', qkv_bias=True, **shape)
  save_hf(path, config, init(config, jax.random.key(0)), tokenizer=tokenizer)
  return path


@pytest.fixture(scope='module')
def test_set(tmp_path_factory) -> str:
  return benchmark_data.write(
    tmp_path_factory.mktemp('data') / 'test.jsonl', [benchmark_data.gsm8k(i) for i in range(PROBLEMS)]
  )


def run(output: pathlib.Path, **flags) -> tuple[dict, list[dict]]:
  """Evaluates in this process; the summary but for its session, and the answers."""
  evaluate_main([f'--{name}={value}' for name, value in flags.items()] + [f'--output={output}'])
  summary = json.loads((output / 'summary.json').read_text())
  assert summary.pop('session').keys() == {
    'answers',
    'tokens',
    'seconds',
    'tokens_per_second',
    'device',
    'processor',
    'threads',
  }
  return summary, list(read_samples(output))


def texts(answers: list[dict]) -> list[str]:
  return [answer['response'] for answer in answers]


@pytest.mark.parametrize(('arm', 'folder', 'step'), [(None, 'arms/espo', 3), ('warm_start', 'warm_start', 2)])
def test_the_newest_checkpoint_is_what_the_run_ended_with(workdir, capsys, arm, folder, step):
  flags = [f'--checkpoint={workdir}', '--samples=1'] + ([f'--arm={arm}'] if arm else [])
  evaluate_main(flags)
  output = workdir / 'evaluations' / f'{pathlib.Path(folder).name}-{step}-test'
  summary = json.loads((output / 'summary.json').read_text())
  expected = json.loads((workdir / folder / 'evaluation.json').read_text())
  answers = list(read_samples(output))
  assert summary['problems'] == expected['problems'] == len(answers) == 16
  assert summary['scores']['avg@1']['value'] == expected['accuracy']
  assert sum(answer['correct'] for answer in answers) == expected['correct']
  assert np.mean([answer['length'] for answer in answers]) == expected['tokens_mean'] > 0
  assert {answer['stop_reason'] for answer in answers} <= {'eos', 'length'}
  printed = capsys.readouterr().out
  assert f'step {step}: 16 test problems, 1 answer to each at temperature 1' in printed
  assert 'avg@1' in printed
  assert f'wrote {output}' in printed
  greedy = run(
    output.with_name(f'greedy-{step}'), checkpoint=workdir, samples=1, temperature=0, **({'arm': arm} if arm else {})
  )[0]
  assert greedy['scores']['avg@1']['value'] == expected['greedy_accuracy']


def test_a_run_by_a_kernel_is_opened_on_a_machine_without_it(workdir, tmp_path):
  run = shutil.copytree(workdir, tmp_path / 'run')
  path = run / 'config.json'
  config = json.loads(path.read_text())
  config['model']['attention'] = 'splash'
  path.write_text(json.dumps(config))
  with pytest.raises(ConfigError, match=r"model\.attention = 'splash': the kernel is for TPU"):
    make_experiment(load_config(path))
  assert experiment_of(run, open_policy(run)).model.config.attention == 'auto'


def test_a_policy_is_asked_the_same_with_the_same_numbers_however_it_is_asked(workdir, tmp_path):
  summary, four = run(tmp_path / 'four', checkpoint=workdir, samples=4, batch=32)
  assert (summary['settings']['step'], summary['settings']['prompts_per_batch']) == (3, 8)
  one = run(tmp_path / 'one', checkpoint=workdir, samples=1, batch=8, problems=11, slots=4)[1]
  assert texts(one) == texts(four)[: 4 * 11 : 4]
  assert [answer['prompt'] for answer in one] == [answer['prompt'] for answer in four][: 4 * 11 : 4]
  assert len(set(texts(four)[:4])) > 1
  other = run(tmp_path / 'other', checkpoint=workdir, samples=4, batch=32, seed=1)[1]
  assert [answer['id'] for answer in other] == [answer['id'] for answer in four]
  assert texts(other) != texts(four)
  older = run(tmp_path / 'older', checkpoint=workdir, samples=4, batch=32, step=2, arm='espo')[0]
  assert (older['settings']['arm'], older['settings']['step']) == ('espo', 2)
  assert [(answer['problem'], answer['sample']) for answer in four] == [(i, j) for i in range(16) for j in range(4)]


def test_an_interrupted_evaluation_goes_on_to_the_same_bytes(start, workdir, tmp_path):
  flags = {'checkpoint': workdir, 'samples': 4, 'problems': 200, 'batch': 32}
  whole = tmp_path / 'whole'
  summary, answers = run(whole, **flags)
  lines = (whole / 'samples.jsonl').read_bytes()
  assert len(answers) == 200 * 4

  killed = tmp_path / 'killed'
  process = start('evaluate', *(f'--{name}={value}' for name, value in flags.items()), f'--output={killed}')
  while not ((killed / 'samples.jsonl').exists() and (killed / 'samples.jsonl').stat().st_size > len(lines) / 10):
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.001)
  process.kill()
  process.communicate()
  written = (killed / 'samples.jsonl').read_bytes()
  assert len(written) < len(lines)
  assert not (killed / 'summary.json').exists()
  (killed / 'samples.jsonl').write_bytes(written + lines[len(written) : len(written) + 40])  # and in the middle of a line
  assert run(killed, **flags)[0] == summary
  assert (killed / 'samples.jsonl').read_bytes() == lines
  before = (killed / 'summary.json').read_text()
  assert run(killed, **flags) == (summary, answers)  # nothing is left to do
  assert (killed / 'summary.json').read_text() == before


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_batch_at_hand_and_says_how_to_go_on(number, workdir, tmp_path, monkeypatch, capfd):
  flags = [f'--checkpoint={workdir}', '--samples=1', '--batch=8', '--problems=11', '--slots=4']
  evaluate_main([*flags, f'--output={tmp_path / "whole"}'])
  sample = evaluation.sample_answers

  def signalled(*args, **kwargs):
    for batch in sample(*args, **kwargs):
      os.kill(os.getpid(), number)
      yield batch

  monkeypatch.setattr(evaluation, 'sample_answers', signalled)
  capfd.readouterr()
  with pytest.raises(SystemExit) as ended:
    evaluate_main([*flags, f'--output={tmp_path / "two parts"}'])
  told = capfd.readouterr().err
  assert ended.value.code == 143
  assert (
    f'{number.name}: the batch at hand is finished and kept, then the command ends; a second signal ends it at once' in told
  )
  assert f'evaluation: 8 of 11 answers are in {tmp_path / "two parts"}. This goes on from there:' in told
  assert told.endswith(f"  python -m espo_jax.evaluate {shlex.join(flags)} '--output={tmp_path / 'two parts'}'\n")
  monkeypatch.setattr(evaluation, 'sample_answers', sample)
  evaluate_main([*flags, f'--output={tmp_path / "two parts"}'])
  written = [(tmp_path / name / 'samples.jsonl').read_bytes() for name in ('whole', 'two parts')]
  assert written[0] == written[1]


def test_the_answers_of_the_newest_whole_checkpoint_are_those_of_its_step(workdir, tmp_path):
  flags = {'samples': 1, 'batch': 8, 'problems': 11, 'slots': 4}
  damaged = tmp_path / 'run'
  shutil.copytree(workdir, damaged)
  (damaged / 'arms' / 'espo' / 'checkpoints' / '3' / '_CHECKPOINT_METADATA').write_text('{"custom')
  summary, answers = run(tmp_path / 'damaged', checkpoint=damaged, **flags)
  assert summary['settings']['step'] == 2
  assert texts(answers) == texts(run(tmp_path / 'older', checkpoint=workdir, step=2, **flags)[1])


def test_a_hugging_face_directory_is_asked_a_benchmark(model, test_set, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  flags = [
    f'--checkpoint={model}',
    '--benchmark=gsm8k',
    f'--data={test_set}',
    '--samples=4',
    '--horizon=24',
    '--batch=32',
    '--top_p=0.95',
  ]
  evaluate_main(flags)
  printed = capsys.readouterr().out
  output = tmp_path / 'evaluations' / 'tiny-gsm8k'
  summary, answers = json.loads((output / 'summary.json').read_text()), list(read_samples(output))
  assert len(answers) == 4 * PROBLEMS
  first = answers[0]
  assert first.keys() == {
    *('problem', 'id', 'sample', 'prompt', 'response', 'answer', 'expected'),
    *('correct', 'status', 'length', 'stop_reason', 'full_length', 'full_correct', 'depth', 'turns', 'probed', 'spent'),
  }
  question = benchmark_data.gsm8k(0)['question']
  assert first['prompt'].startswith(f'<|start|>user\n{question}\nPlease reason step by step')
  assert first['prompt'].endswith('<|start|>assistant\n')
  assert [answer['expected'] for answer in answers[::4]] == [str(2 * i + 3) for i in range(PROBLEMS)]
  assert {answer['status'] for answer in answers} == {'ok'}
  assert max(answer['length'] for answer in answers) == 24
  assert (summary['settings']['temperature'], summary['settings']['top_p']) == (0.6, 0.95)
  assert (summary['settings']['dtype'], summary['settings']['param_dtype']) == ('float32', 'bfloat16')  # as on every CPU
  assert summary['scores']['avg@4'] == {'value': 0.0, 'interval': list(wilson(0, PROBLEMS))}
  assert 'fix: more than --horizon=24' in printed
  assert len(set(texts(answers)[:4])) == 4


def test_a_run_is_asked_a_benchmark_with_its_own_prompt_and_without_its_train_data(model, test_set, tmp_path):
  config = default_config()
  config.task.name, config.task.options.prompt = 'math', 'plain'
  config.data.benchmark, config.data.path = 'math', 'no_longer_there.jsonl'
  config.data.eval_benchmark, config.data.eval_path = 'gsm8k', test_set
  config.model.path, config.rollout.horizon = str(model), 16
  asked = [benchmark_data.gsm8k(i)['question'] + '\n' for i in range(PROBLEMS)]
  config.rollout.prompt_width = max(map(len, load_tokenizer(str(model))(asked)['input_ids']))
  config.stages, config.baselines, config.stop.name = ('rl',), (), 'never'
  workdir = tmp_path / 'run'
  write_run_info(workdir, config.to_dict())
  config.stages, config.data.path = (), ''
  params = make_experiment(config).init_params()
  with Checkpoints(workdir / 'arms' / 'never' / 'checkpoints') as checkpoints:
    checkpoints.save(7, {'params': params, 'step': jnp.int32(7)}, done=True)

  flags = {'samples': 2, 'horizon': 16, 'temperature': 0.6, 'dtype': 'float32'}
  benchmark = {'benchmark': 'gsm8k', 'data': test_set}
  summary, answers = run(tmp_path / 'benchmark', checkpoint=workdir, **flags, **benchmark)
  assert summary['settings']['arm'] == 'never'
  assert [answer['prompt'] for answer in answers[::2]] == asked
  same = run(tmp_path / 'directory', checkpoint=model, prompt='plain', **flags, **benchmark)[1]
  assert texts(answers) == texts(same)
  own = run(tmp_path / 'own', checkpoint=workdir, **flags)[1]  # the run's test split is the same file
  assert texts(answers) == texts(own)


def test_other_flags_on_the_same_output_are_refused(model, test_set, tmp_path):
  flags = {'checkpoint': model, 'benchmark': 'gsm8k', 'data': test_set, 'horizon': 24, 'batch': 32, 'samples': 4}
  summary = run(tmp_path, **flags)[0]
  with pytest.raises(SystemExit, match=r'settings.json: seed = 1 was 0; fix: another --output, or the command it was begun'):
    run(tmp_path, **flags, seed=1)
  os.utime(model / 'model.safetensors')  # as if written anew
  with pytest.raises(SystemExit, match=r'settings.json: weights = .* was '):
    run(tmp_path, **flags)
  other = benchmark_data.write(tmp_path / 'other.jsonl', [benchmark_data.gsm8k(i + 1) for i in range(PROBLEMS)])
  with pytest.raises(SystemExit, match=r'problems_digest = '):
    run(tmp_path, **flags | {'data': other})
  assert json.loads((tmp_path / 'settings.json').read_text()) == summary['settings']


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ({'arm': 'never'}, r'--arm=never: no checkpoints of it under .*; fix: warm_start or critic_warmup or espo'),
    ({'arm': 'espo', 'step': 9}, r'--step=9: no such checkpoint of espo; fix: 2 or 3'),
    ({'problems': 0}, r'--problems=0: out of range; fix: a number above 0'),
    ({'samples': -1}, r'--samples=-1: out of range; fix: a number above 0'),
    ({'horizon': 0}, r'--horizon=0: out of range'),
    ({'batch': 0}, r'--batch=0: out of range'),
    ({'temperature': -0.5}, r'--temperature=-0.5: out of range; fix: a number of at least 0'),
    ({'temperature': 'nan'}, r'--temperature=nan: out of range'),
    ({'top_p': 0.0}, r'--top_p=0.0: out of range; fix: a number in \(0, 1\]'),
    ({'top_k': -1}, r'--top_k=-1: out of range; fix: a number of at least 0'),
    ({'min_p': 1.5}, r'--min_p=1.5: out of range; fix: a number in \[0, 1\]'),
    ({'temperature': 0}, r'--samples=32 with --temperature=0: .*; fix: --samples=1'),
    ({'seed': -1}, r'--seed=-1: out of range; fix: a number from 0 to 4294967295'),
    ({'data': 'x.jsonl'}, r'--data=x.jsonl: what it holds is not said; fix: --benchmark=gsm8k or '),
    ({'benchmark': 'gsm8k'}, r"--benchmark=gsm8k: the run learned the task 'chain' alone; fix: leave it out"),
    ({'prompt': 'plain'}, r'--prompt=plain: a run has a prompt of its own; fix: leave it out'),
    ({'checkpoint': 'no_such_run'}, r'--checkpoint=.*no_such_run holds no config.json; fix: the folder of a run'),
  ],
)
def test_what_cannot_be_asked_of_a_run_is_said_with_what_can(workdir, flags, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--{name}={value}' for name, value in ({'checkpoint': workdir} | flags).items()])


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ({'arm': 'espo'}, r'--arm=espo: .* is a Hugging Face directory, which has no arms; fix: leave it out'),
    ({'step': 3}, r'--step=3: .* is a Hugging Face directory, which has no steps; fix: leave it out'),
    ({'benchmark': None}, r'--benchmark is missing: .* is no run with a test split; fix: --benchmark=gsm8k or math or '),
    ({'data': 'no.jsonl'}, r"--data = 'no.jsonl': no such file or directory; fix: a JSON-lines file"),
    ({'benchmark': 'dapo_math_17k'}, r"--data = 'BytedTsinghua-SIA/DAPO-Math-17k': holds no test split but train; fix"),
    ({'data': __file__}, r'test_evaluate.py:1: not JSON'),
  ],
)
def test_what_cannot_be_asked_of_a_directory_is_said_with_what_can(model, flags, message):
  flags = {'checkpoint': model, 'benchmark': 'gsm8k'} | flags
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--{name}={value}' for name, value in flags.items() if value is not None])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      ['--decoder=speculative', '--options', 'draft_blocks=2'],
      r'--decoder=speculative: draft_blocks=2: none of the 2 blocks of the policy is left to verify; fix: fewer$',
    ),
    (
      ['--decoder=er_prm_beam'],
      r'--decoder=er_prm_beam: score=value: the policy has no critic, .*; fix: score=regret or score=logprob$',
    ),
  ],
)
def test_a_decoder_that_a_directorys_policy_cannot_draw_for_is_refused(model, test_set, options, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--checkpoint={model}', '--benchmark=gsm8k', f'--data={test_set}', *options])


def test_a_model_that_cannot_be_asked_is_said_in_flags(model, test_set, tmp_path):
  broken = tmp_path / 'broken'
  broken.mkdir()
  for path in model.iterdir():
    if path.name != 'chat_template.jinja':
      (broken / path.name).symlink_to(path)
  flags = [f'--checkpoint={broken}', '--benchmark=gsm8k', f'--data={test_set}']
  with pytest.raises(SystemExit, match=r'no chat template, which --prompt = .chat. asks for; fix: --prompt=plain'):
    evaluate_main(flags)
  (broken / 'model.safetensors').unlink()
  with pytest.raises(SystemExit, match=r'broken'):
    evaluate_main([*flags, '--prompt=plain', f'--output={tmp_path / "out"}'])
  (broken / 'tokenizer.json').unlink()
  (broken / 'tokenizer_config.json').unlink()
  with pytest.raises(SystemExit, match=r'--checkpoint = .*: holds no tokenizer.json'):
    evaluate_main(flags)
  (broken / 'config.json').unlink()
  (broken / 'config.json').write_text('{')
  with pytest.raises(SystemExit, match=r'config.json: not JSON'):
    evaluate_main(flags)


@pytest.mark.quick
def test_rewards_that_add_up_to_1_but_for_rounding_are_right_as_in_training():
  near = sum([0.1] * 10)
  assert near < 1 and np.float32(near) == 1
  own = [Verdict(correct, 'ok') for correct in (near, 0.99, 1.0, 0.0)]

  class OnHost(Experiment):
    fetch = put_rows = lambda self, x: x

  shared = answers._shared(object.__new__(OnHost), own, 4)
  assert [verdict.correct for verdict in shared] == [True, False, True, False]
