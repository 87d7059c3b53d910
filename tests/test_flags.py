"""A flag or a field that does not exist, or takes another value, is answered in one line with what was meant."""

import json
import pathlib
import re
import sys

import benchmark_data
import jax
import pytest
from absl import flags as absl_flags
from ml_collections import config_flags
from tiny import write_checkpoint

from espo_jax import convert, methods, prepare_data
from espo_jax.configs import ConfigError, default_config, flatten, parse_flags, validate
from espo_jax.configs.fields import near_field
from espo_jax.evaluate import evaluation, policies
from espo_jax.evaluate.__main__ import _parser
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.model import ModelConfig, WeightsError, init, load_hf, save_hf
from espo_jax.monitor import write_run_info
from espo_jax.names import hub_name, nearest
from espo_jax.replay.__main__ import main as replay_main
from espo_jax.sweep.__main__ import main as sweep_main
from espo_jax.tasks.pretrained import load_tokenizer

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]

FIELDS = [  # what was written, what was meant; None where it is too far from any
  ('learner.lr', 'learner.learning_rate'),
  ('critic.lr', 'critic.learning_rate'),
  ('learner.wd', 'learner.weight_decay'),
  ('learner.grad_norm', 'learner.max_grad_norm'),
  ('learner.microbatches', 'learner.micro_batches'),
  ('learner.num_updates', 'learner.updates'),
  ('lerner.updates', 'learner.updates'),
  ('lerner.lr', 'learner.learning_rate'),
  ('learner.updates.x', 'learner.updates'),
  ('learner.temperature', 'rollout.temperature'),
  ('rollout.temp', 'rollout.temperature'),
  ('rollout.top-p', 'rollout.top_p'),
  ('rollout.Horizon', 'rollout.horizon'),
  ('temperature', 'rollout.temperature'),
  ('seeed', 'seed'),
  ('model.layers', 'model.num_layers'),
  ('modle.hidden', 'model.hidden_size'),
  ('stop.target_rat', 'stop.target_rate'),
  ('stop.regretonly.beta_0', 'stop.regret_only.beta_0'),
  ('stop.espo.beta_min', 'stop.beta_min'),
  ('rollout.serail.inducer', 'rollout.serial.inducer'),
  ('model.lora.rnk', 'model.lora.rank'),
  ('task.nmae', 'task.name'),
  ('mesh.model', None),
  ('gate.foo', None),
]


@pytest.mark.parametrize(('written', 'meant'), FIELDS)
def test_an_unknown_field_is_answered_by_the_one_it_meant(written, meant):
  fix = near_field(written, flatten(default_config()))
  assert fix == f'did you mean {meant}?' if meant else fix.startswith('known: ') and 'did you mean' not in fix


def test_a_name_that_several_sections_have_is_told_of_all():
  fix = near_field('lr', flatten(default_config()))
  assert all(f'{section}.learning_rate' in fix for section in ('learner', 'critic', 'warm_start', 'calibration', 'exits'))


@pytest.mark.parametrize(('name', 'known'), [('foo', ['batch', 'steps']), ('x', ['learning_rate']), ('seed', ['updates'])])
def test_what_is_like_nothing_is_taken_for_nothing(name, known):
  assert nearest(name, known) is None


# ------------------------------------------------------------------------------------------------- flags and their values


@pytest.fixture
def parse(monkeypatch):
  """The parser of train's flags, on flags of its own; what is left of the arguments, and the config."""
  monkeypatch.chdir(ROOT)

  def call(*words: str, config: str = 'experiments/quickstart.py'):
    own = absl_flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
      'config', None, 'x', flag_values=own, lock_config=False, accept_new_attributes=True
    )
    absl_flags.DEFINE_string('workdir', None, 'x', flag_values=own)
    absl_flags.DEFINE_string('compilation_cache_dir', '', 'x', flag_values=own)
    absl_flags.DEFINE_integer('rows', 6, 'x', flag_values=own)
    argv = ['train', f'--config={config}', *words]
    monkeypatch.setattr(sys, 'argv', argv)
    return parse_flags(argv, own), holder.value

  return call


@pytest.mark.parametrize(
  ('word', 'said'),
  [
    ('--config.learner.lr=1', 'no such field; did you mean learner.learning_rate?'),
    ('--config.lerner.updates=3', 'no such field; did you mean learner.updates?'),
    ('--config.learner.updates.x=3', 'no such field; did you mean learner.updates?'),
    ('--noconfig.model.scan_layer', 'no such field; did you mean model.scan_layers?'),
    ('--config.=3', 'names no field; known: advantage'),
    ('--config.stop=espo', 'a section, not a field; fix: a field of it, such as --config.stop.name'),
    ('--config.model.lora=4', 'a section, not a field; fix: a field of it, such as --config.model.lora.'),
    ('--config.stages[0]=rl', 'a part of stages cannot be set alone; fix: --config.stages='),
    ('--config.seed=abc', "invalid literal for int() with base 10: 'abc'; fix: a whole number, such as --config.seed=0"),
    ('--config.learner.updates=1.5', 'fix: a whole number, such as --config.learner.updates=60'),
    ('--config.stop.eta=fast', 'fix: a number, such as --config.stop.eta='),
    ('--config.model.scan_layers=maybe', 'fix: true or false, such as --config.model.scan_layers=False'),
    ('--config.learner.updates=', 'fix: a whole number, such as --config.learner.updates=60'),
    ('--rows=many', 'fix: a whole number, such as --rows=6'),
    ('--workdri=x', 'no such flag; did you mean --workdir?'),
    ('--work_dir=x', 'no such flag; did you mean --workdir?'),
    ('--confg=x', 'no such flag; did you mean --config?'),
    ('--compilation-cache-dir=x', 'no such flag; did you mean --compilation_cache_dir?'),
    ('--stop.name=never', 'no such flag; did you mean --config.stop.name?'),
    ('--stop.nmae=never', 'no such flag; did you mean --config.stop.name?'),
    ('--learner.lr=1', 'no such flag; did you mean --config.learner.learning_rate?'),
    ('--cofnig.seed=5', 'no such flag; did you mean --config.seed?'),
    ('--seed=1', 'no such flag; did you mean --config.seed?'),
    ('--foo', 'no such flag; known: --compilation_cache_dir, --config, --plugins, --rows, --workdir'),
  ],
)
def test_a_flag_of_a_training_is_answered_with_what_was_meant(parse, word, said):
  with pytest.raises(SystemExit) as caught:
    parse(word)
  lines = str(caught.value.code).splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: ') and word.partition('=')[0] in lines[0]
  assert said in lines[0], lines[0]


def test_a_missing_value_is_told_with_its_kind(parse):
  with pytest.raises(SystemExit, match=r'--config.learner.updates; fix: a whole number, such as --config.learner.updates=60'):
    parse('--config.learner.updates')


def test_all_slips_are_told_at_once(parse):
  with pytest.raises(SystemExit) as caught:
    parse('--config.learner.lr=1', '--workdri=x', '--stop.name=never')
  assert len(str(caught.value.code).splitlines()) == 3


@pytest.mark.parametrize(
  ('words', 'field', 'value'),
  [
    (['--config.seed=3'], 'seed', 3),
    (['--config.seed', '3'], 'seed', 3),
    (['-config.seed=3'], 'seed', 3),
    (['--config.model.scan_layers'], 'model.scan_layers', True),
    (['--noconfig.model.scan_layers'], 'model.scan_layers', False),
    (['--config.model.scan_layers', '--config.seed=3'], 'model.scan_layers', True),
    (['--config.stop.fail_reward', '-0.5'], 'stop.fail_reward', -0.5),
    (['--config.learner.learning_rate=1e-4'], 'learner.learning_rate', 1e-4),
    (["--config.baselines=('never','random')"], 'baselines', ('never', 'random')),
    (['--config.baselines=()'], 'baselines', ()),
    (['--config.objective.clip_high=0.28'], 'objective.clip_high', 0.28),
    (['--config.task.options.max_ops=7', '--workdir=x'], 'task.options.max_ops', 7),
    (['--workdir', 'x', '--config.stop.name=never'], 'stop.name', 'never'),
  ],
)
def test_right_flags_are_read_as_before(parse, words, field, value):
  left, config = parse(*words)
  assert left == ['train']
  assert str(flatten(config)[field]) == str(value)


@pytest.mark.parametrize(
  ('main', 'words', 'said'),
  [
    (evaluate_main, ['--checkpiont=runs/x'], r'--checkpiont=runs/x: no such flag of .*evaluate; did you mean --checkpoint\?'),
    (evaluate_main, ['--checkpoint=x', '--n_samples=3'], r'did you mean --samples\?'),
    (evaluate_main, ['--checkpoint=x', '--config.eval.batch=8'], r'did you mean --batch\?'),
    (evaluate_main, ['--checkpoint=x', '--temp_=0'], r'did you mean --temperature\?'),
    (evaluate_main, ['--checkpoint=x', '--samples=abc'], r'--samples=abc: not a whole number; fix: --samples=32'),
    (evaluate_main, ['--checkpoint=x', '--top_p=high'], r'--top_p=high: not a number; fix: --top_p='),
    (evaluate_main, ['--checkpoint=x', '--benchmark=gsm8'], r'--benchmark=gsm8: unknown; did you mean gsm8k\? fix: one of'),
    (evaluate_main, ['--checkpoint=x', '--dtype=bf16'], r'--dtype=bf16: unknown; .*fix: one of float32, bfloat16, float16'),
    (evaluate_main, [], r'--checkpoint is missing; fix: --checkpoint='),
    (evaluate_main, ['runs/x', '--checkpoint=x'], r'runs/x: belongs to no flag; fix: every option is a flag'),
    (convert.main, ['--checkpoint=x', '--outptu=y'], r'--outptu=y: no such flag .*; did you mean --output\?'),
    (convert.main, ['--checkpoint=x', '--output=y', '--step=last'], r'--step=last: not a whole number; fix: --step='),
    (convert.main, ['--checkpoint=x'], r'--output is missing; fix: --output='),
    (replay_main, ['--rollout=x', '--rate=0.1', '--most-lost=1'], r'--most-lost=1: no such flag .*did you mean --most_lost\?'),
    (replay_main, ['--rollouts=x', '--rates=a,b'], r"--rates=a,b: could not convert .*'a'; fix: shares, as in --rates=0.1,0.2"),
    (replay_main, ['--rollouts=x', '--grid', 'smoothing=x'], r'--grid smoothing=x: .*; fix: NAME=VALUES'),
    (replay_main, ['--rollouts=x', '--most_lost=much'], r'--most_lost=much: not a number; fix: --most_lost=0.05'),
    (sweep_main, ['--sweep=x', '--wrokdir=y'], r'--wrokdir=y: no such flag .*did you mean --workdir\?'),
    (sweep_main, ['--sweep=x', '--workdir=y', '--seed=0'], r'--sweep=x: no such file'),
    (
      sweep_main,
      ['--sweep=x', '--workdir=y', '--seeds=zero'],
      r'--seeds=zero: no seeds; fix: whole numbers, as in --seeds=0,2',
    ),
    (prepare_data.main, ['--benchmark=gsm8k', '--date=x'], r'--date=x: no such flag .*did you mean --data\?'),
    (
      prepare_data.main,
      ['--benchmark=gsm8k', '--data=x', '--output=y', '--split=trian'],
      r'--split=trian: .*did you mean train\?',
    ),
    (methods.main, ['--kind=stop'], r'--kind=stop: no such flag of'),
  ],
)
def test_a_flag_of_any_other_command_is_answered_likewise(main, words, said):
  with pytest.raises(SystemExit) as caught:
    main(words)
  message = str(caught.value.code)
  assert message.startswith('error: ') and 'usage' not in message
  assert re.search(said, message), message


# -------------------------------------------------------------------------------------------------------- names on the Hub


@pytest.mark.parametrize(
  ('given', 'name'),
  [
    ('Qwen/Qwen2.5-0.5B', 'Qwen/Qwen2.5-0.5B'),
    ('Qwen/Qwen2.5-0.5B/', 'Qwen/Qwen2.5-0.5B'),
    ('deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B', 'deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B'),
    ('meta-llama/Llama-3.2-1B_it', 'meta-llama/Llama-3.2-1B_it'),
    ('https://huggingface.co/Qwen/Qwen3-8B', 'Qwen/Qwen3-8B'),
    ('https://huggingface.co/Qwen/Qwen3-8B/tree/main', 'Qwen/Qwen3-8B'),
    ('http://www.huggingface.co/Qwen/Qwen3-8B', 'Qwen/Qwen3-8B'),
    ('huggingface.co/Qwen/Qwen3-8B', 'Qwen/Qwen3-8B'),
    ('hf.co/Qwen/Qwen3-8B', 'Qwen/Qwen3-8B'),
    ('hf://Qwen/Qwen3-8B', 'Qwen/Qwen3-8B'),
    ('runs/quickstrat', ''),
    ('models/qwen', ''),
    ('here/none', ''),
    ('here/there', ''),
    ('a/b/c', ''),
    ('/tmp/none', ''),
    ('../x', ''),
    ('gpt2', ''),
    ('', ''),
  ],
)
@pytest.mark.parametrize('absolute', [False, True])
def test_a_name_on_the_hub_is_told_from_a_folder(given, name, absolute, tmp_path, monkeypatch):
  (tmp_path / 'here' / 'there').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert hub_name(pathlib.Path(given).absolute() if absolute else given) == name


@pytest.mark.parametrize('name', ['Qwen/Qwen2.5-0.5B', 'https://huggingface.co/Qwen/Qwen2.5-0.5B'])
@pytest.mark.parametrize('command', ['evaluate', 'convert', 'open', 'load_hf', 'model.path', 'start_from'])
def test_a_name_on_the_hub_is_answered_by_the_command_that_fetches_it(command, name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = default_config()
  config.rollout.update({'prompt_width': 38, 'horizon': 64})

  def configured(section, field):
    section[field] = name
    validate(config)

  calls = {
    'evaluate': lambda: evaluate_main([f'--checkpoint={name}', '--benchmark=gsm8k']),
    'convert': lambda: convert.main([f'--checkpoint={name}', '--output=x']),
    'open': lambda: policies.open_policy(pathlib.Path(name)),  # depth's
    'load_hf': lambda: load_hf(name),
    'model.path': lambda: configured(config.model, 'path'),
    'start_from': lambda: [config.update({'stages': ('critic_warmup', 'rl')}), configured(config, 'start_from')],
  }
  with pytest.raises((SystemExit, policies.RequestError, WeightsError, ConfigError)) as caught:
    calls[command]()
  assert 'hf download Qwen/Qwen2.5-0.5B --local-dir models/Qwen2.5-0.5B' in str(caught.value)


def test_a_hugging_face_directory_is_no_run_to_start_from(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'qwen2'}))
  config = default_config()
  config.stages, config.start_from = ('critic_warmup', 'rl'), str(tmp_path)
  config.rollout.prompt_width = 38
  with pytest.raises(ConfigError, match=rf'a Hugging Face directory, not a run; fix: --config.model.path={tmp_path}'):
    validate(config)


# ---------------------------------------------------------------------------------------- fixes that the command can take


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
  """A random model as a Hugging Face directory."""
  path = tmp_path_factory.mktemp('flags') / 'tiny'
  tokenizer = load_tokenizer(benchmark_data.tokenizer(path.parent / 'tokenizer'))
  shape = {'hidden_size': 16, 'intermediate_size': 24, 'num_layers': 2, 'num_heads': 2, 'num_kv_heads': 1, 'head_dim': 8}
  config = ModelConfig(vocab_size=len(tokenizer), family='qwen2', qkv_bias=True, **shape)
  save_hf(path, config, init(config, jax.random.key(0)), tokenizer=tokenizer)
  return path


def takeable(message: str, own: set[str], file: pathlib.Path | None = None) -> None:
  """Every flag that the message names is one of the command's, and every field stands in the file that it names."""
  assert set(re.findall(r'--(\w[\w.]*)', message)) - {'local', 'dir', 'local-dir'} <= own, message
  fields = [
    field for field in flatten(default_config()) if '.' in field and re.search(rf'(?<![\w./-]){field}(?![\w.])', message)
  ]
  assert not fields or (file is not None and str(file) in message), (fields, message)
  assert not re.search(r'(?<![\w.-])on_error = ', message) or (file is not None and str(file) in message), message


OWN = {action.dest for action in _parser()._actions}
GOOD = benchmark_data.gsm8k(0)
BAD_ROWS = [
  {key: value for key, value in GOOD.items() if key != 'answer'},
  {key: value for key, value in GOOD.items() if key != 'question'},
  GOOD | {'answer': None},
  GOOD | {'answer': ''},
  GOOD | {'answer': 'no final answer'},
  GOOD | {'question': 3},
  GOOD | {'question': '   '},
  GOOD | {'question': 'a <|end|> b'},
  [1],
  'text',
]


@pytest.mark.parametrize('row', BAD_ROWS, ids=str)
def test_a_malformed_row_of_an_evaluation_is_answered_by_a_flag_of_it(model, row, tmp_path):
  data = benchmark_data.write(tmp_path / 'test.jsonl', [GOOD, row])
  with pytest.raises(SystemExit) as caught:
    evaluate_main([f'--checkpoint={model}', '--benchmark=gsm8k', f'--data={data}', f'--output={tmp_path / "out"}'])
  message = str(caught.value)
  assert f'{data}:2' in message and '--on_error=skip' in message
  takeable(message, OWN)
  if '<|end|>' not in str(row):  # which only a tokenizer makes a fault
    with pytest.raises(SystemExit) as caught:
      prepare_data.main(['--benchmark=gsm8k', f'--data={data}', '--split=test', f'--output={tmp_path / "prepared"}'])
    assert '--on_error=skip' in str(caught.value)
    takeable(str(caught.value), {'benchmark', 'data', 'split', 'output', 'on_error'})


def test_malformed_rows_are_left_out_where_that_is_asked_for(model, tmp_path, monkeypatch):
  data = benchmark_data.write(tmp_path / 'test.jsonl', [GOOD, BAD_ROWS[0], benchmark_data.gsm8k(1)])
  asked = []
  monkeypatch.setattr(evaluation, '_answer', lambda exp, policy, problems, *_: asked.extend(problems))
  monkeypatch.setattr(evaluation.monitor, 'read_samples', lambda folder: iter(()))
  monkeypatch.setattr(evaluation.monitor, 'summarise_samples', lambda *_: {})
  output = tmp_path / 'out'
  evaluation.evaluate(
    evaluation.Request(checkpoint=str(model), benchmark='gsm8k', data=data, on_error='skip', output=str(output))
  )
  assert len(asked) == 2
  (left_out,) = map(json.loads, (output / 'skipped.jsonl').read_text().splitlines())
  assert left_out['place'] == f'{data}:2' and "field 'answer': missing" in left_out['reason']


def run_of(folder: pathlib.Path, model: pathlib.Path, **fields) -> pathlib.Path:
  """What a run on data leaves behind, as far as its config and its folders' names go; no training would take long enough."""
  config = default_config()
  config.task.name, config.model.path, config.stages = 'math', str(model), ('critic_warmup', 'rl')
  config.task.options.prompt = 'plain'
  config.data.update({'benchmark': 'gsm8k', 'path': str(folder / 'train.jsonl'), 'eval_path': str(folder / 'test.jsonl')})
  config.rollout.update({'prompt_width': 256, 'horizon': 16})
  for name, value in fields.items():
    section, field = name.split('__')
    config[section][field] = value
  write_run_info(folder / 'run', config.to_dict())
  write_checkpoint(folder / 'run' / 'arms' / 'espo' / 'checkpoints' / '3')
  return folder / 'run'


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({}, 'data.eval_path = '),
    ({'data__eval_path': 'elsewhere/test.jsonl'}, "data.eval_path = 'elsewhere/test.jsonl'"),
    ({'data__eval_path': '', 'data__path': 'gone.parquet'}, "data.path = 'gone.parquet'"),
    ({'data__benchmark': 'gsm'}, "data.eval_benchmark = 'gsm'"),
    ({'data__on_error': 'ignore'}, "data.on_error = 'ignore'"),
    ({'model__path': 'gone/model'}, "model.path = 'gone/model'"),
    ({'model__dtype': 'bf16'}, "model.dtype = 'bf16'"),
    ({'rollout__horizon': 0}, 'rollout.horizon = 0'),
    ({'eval__batch': 0}, 'eval.batch = 0'),
    ({'eval__draft_blocks': 9}, 'eval.draft_blocks = 9: none of the'),
    ({'mesh__fsdp': 0}, 'mesh = '),
    ({'mesh__tensor': 4}, 'mesh.tensor'),
  ],
)
@pytest.mark.parametrize('command', ['evaluate', 'convert'])
def test_what_a_runs_config_says_wrong_is_told_with_the_file_that_says_it(model, fields, said, command, tmp_path):
  run = run_of(tmp_path, model, **fields)
  with pytest.raises(SystemExit) as caught:
    if command == 'evaluate':
      evaluate_main([f'--checkpoint={run}'])
    else:
      convert.main([f'--checkpoint={run}', f'--output={tmp_path / "hf"}'])
  message = str(caught.value)
  assert said in message, message
  takeable(message, OWN if command == 'evaluate' else {'checkpoint', 'output', 'arm', 'step'}, run / 'config.json')


def test_a_run_that_reads_no_rows_has_none_to_leave_out(tmp_path):
  write_run_info(tmp_path / 'run', default_config().to_dict())
  write_checkpoint(tmp_path / 'run' / 'arms' / 'espo' / 'checkpoints' / '3')
  with pytest.raises(SystemExit, match=r"--on_error=skip: the task 'chain' reads no rows; fix: leave it out"):
    evaluate_main([f'--checkpoint={tmp_path / "run"}', '--on_error=skip'])
