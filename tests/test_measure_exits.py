"""Early exits on a real model: the script's page of a tiny random one, and its agreement with the whole model."""

import json

import benchmark_data
import jax
import measure_exits
import numpy as np
import pytest
from small import randomised

from espo_jax import exits
from espo_jax.model import ModelConfig, init, save_hf
from espo_jax.tasks.pretrained import load_tokenizer

LAYERS = 3


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A directory with a random model, and files of problems."""
  path = tmp_path_factory.mktemp('model')
  tokenizer = load_tokenizer(benchmark_data.tokenizer(path / 'tokenizer'))
  shape = {'hidden_size': 16, 'intermediate_size': 24, 'num_layers': LAYERS, 'num_heads': 4, 'num_kv_heads': 2, 'head_dim': 4}
  config = ModelConfig(-(-len(tokenizer) // 64) * 64, family='qwen2', qkv_bias=True, **shape)
  params = jax.device_put(randomised(jax.eval_shape(lambda: init(config, jax.random.key(0)))))
  save_hf(path / 'hf', config, params, tokenizer=tokenizer)
  for name, numbers in (('train', range(40)), ('test', range(100, 108))):
    (path / f'{name}.jsonl').write_text(''.join(json.dumps(benchmark_data.gsm8k(i)) + '\n' for i in numbers))
  return path


def flags(folder, *others):
  given = [f'--checkpoint={folder / "hf"}', f'--train={folder / "train.jsonl"}', f'--data={folder / "test.jsonl"}']
  small = ['--problems=4', '--batch=4', '--horizon=8', '--prompt_width=288', '--every=1', '--steps=2', '--prompts=4']
  return [*given, *small, '--batches=2', '--timed_tokens=4', '--repeats=2', f'--output={folder / "page"}', *others]


def test_the_page_has_every_policy_of_a_recipe_beside_the_whole_model(folder):
  measure_exits.main(flags(folder, '--recipes=jei_gates'))
  found = json.loads((folder / 'page.json').read_text())
  assert found['blocks'] == LAYERS and len(found['weights']) == 64 and found['recipes'].keys() == {'jei_gates'}
  for entry in found['recipes']['jei_gates']['policies']:
    assert 0 < entry['depth']['value'] <= 100 and 0 <= entry['agreement']['value'] <= 100
    assert entry['time'].keys() == {'2'} and all(its['mean'] > 0 for its in entry['time'].values())
  assert all(1 <= e['tokens_a_pass'] <= 6 and 0 <= e['acceptance'] <= 1 for e in found['recipes']['jei_gates']['drafts'])
  text = (folder / 'page.md').read_text()
  assert '| `jei_gates` | 0.5 |' in text and found['weights'] in text and '`mue_similarity`' in text


def made(folder, name):
  args = [x for x in flags(folder) if x.partition('=')[0] not in ('--batches', '--timed_tokens', '--repeats', '--output')]
  values = {key.strip('-'): int(value) if value.isdecimal() else value for key, _, value in (x.partition('=') for x in args)}
  values |= {'checkpoint': folder / 'hf', 'learning_rate': 1e-3}
  exp = measure_exits.experiment_of(measure_exits.argparse.Namespace(**values), measure_exits.RECIPES[name])
  return exp, exp.init_params()


def test_every_answer_of_a_file_with_fewer_problems_is_compared(folder):
  exp, params = made(folder, 'untrained')
  exp.config.eval.update(problems=12, batch=3)
  assert [len(prompts.lengths) for prompts, _ in measure_exits.own_rows(exp, params)] == [3, 3, 2]
  assert len(measure_exits.answered(exp.with_exits(None), params, None)) == 8


@pytest.mark.parametrize('name', ['untrained', 'lgvit_distill'])
def test_a_policy_that_never_leaves_agrees_with_the_whole_model_on_every_token(folder, name):
  exp, params = made(folder, name)
  rows = list(measure_exits.own_rows(exp, params))
  full = measure_exits.agreed(exp.with_exits(exits.confidence()), params, 1.5, rows)
  assert full == {'value': 100.0, 'interval': [100.0, 100.0]}
  early = measure_exits.agreed(exp.with_exits(exits.fixed()), params, 1.0, rows)
  assert early['value'] < 100.0


def test_agreement_is_that_of_a_token_by_token_decode(folder):
  """The policy's own greedy answers are what it finds likeliest behind each other, so that it agrees with all of them."""
  exp, params = made(folder, 'lgvit_distill')
  policy = exits.confidence()
  deep = exp.with_exits(policy)
  level = 2.0 / len(exp.tokenizer)
  prompts, _ = next(iter(measure_exits.own_rows(exp, params)))
  sampler = deep.sampler.plain(samples=1, temperature=0.0, exit_level=level)
  rows = sampler(params, measure_exits.NEVER, measure_exits.NEVER.init(1).adaptive, prompts, exp.key('evaluation', 0))
  assert (np.asarray(rows.depth.blocks)[np.asarray(rows.mask)] < LAYERS).any()
  assert measure_exits.agreed(deep, params, level, [(prompts, rows)])['value'] == 100.0


def test_calibration_leaves_the_weights_as_they_are(folder):
  exp, params = made(folder, 'dynamax_distill')
  after = measure_exits.calibrated(exp, params, 2)
  same = jax.tree.map(lambda a, b: bool((a == b).all()), params, after)['policy']
  heads = same.pop('exit_heads')
  assert all(jax.tree.leaves(same)) and not any(jax.tree.leaves(heads))


def test_wrong_flags_are_told(folder):
  for flag, told in (('--recipes=absent', 'no such recipe'), ('--problems=5', 'no multiple of --batch=4')):
    with pytest.raises(SystemExit, match=told):
      measure_exits.main(flags(folder, flag))
  with pytest.raises(SystemExit, match=r'^error: --checkpoint='):
    measure_exits.main(flags(folder, f'--checkpoint={folder}'))
