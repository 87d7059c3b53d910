"""Long answers against short ones at equal cost: what an answer costs, the best of n, and the page of two evaluations."""

import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import measure_equal_flops
import numpy as np
import pytest
from tiny import tiny_experiment

from espo_jax import monitor
from espo_jax.evaluate.answers import problems_digest
from espo_jax.evaluate.measures import flop_matched_eval
from espo_jax.evaluate.policies import RequestError
from espo_jax.model import Decoder, ModelConfig, answer_flops, column_flops

SHAPE = {'hidden_size': 256, 'intermediate_size': 512, 'num_layers': 1, 'num_heads': 4, 'num_kv_heads': 2, 'head_dim': 64}
CONFIG = ModelConfig(vocab_size=512, **SHAPE)


def test_what_a_token_costs_is_what_xla_counts():
  """XLA counts a whole sequence, in which each token computes the scores of all columns."""
  width = 256
  tokens = jnp.ones((1, width), jnp.int32)
  inputs = (tokens, jnp.broadcast_to(jnp.arange(width), tokens.shape), jnp.ones_like(tokens))
  model = Decoder(CONFIG)
  params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))
  counted = jax.jit(model.apply).lower(params, *inputs).compile().cost_analysis()['flops']
  assert width * column_flops(CONFIG, width) == pytest.approx(counted, rel=0.05)


def test_an_answer_costs_its_tokens_each_with_what_stands_before_it():
  logits = 2 * CONFIG.hidden_size * CONFIG.vocab_size
  for prompt, length in ((5, 1), (1, 4), (7, 9)):
    wanted = sum(column_flops(CONFIG, column) for column in range(1, prompt + length)) - (prompt - 1) * logits
    assert answer_flops(CONFIG, prompt, length) == pytest.approx(wanted, rel=1e-12)
  assert answer_flops(CONFIG, 1, 800) > 8 * answer_flops(CONFIG, 1, 100)  # attention grows with the square


def best_of_all(right, count) -> float:
  """The share of the subsets of so many answers with a right one, by trying all."""
  return float(
    np.mean([any(row[i] for i in chosen) for row in right for chosen in itertools.combinations(range(len(row)), count)])
  )


def test_the_best_of_n_is_that_of_all_subsets_and_linear_between_numbers_of_samples():
  rng = np.random.default_rng(0)
  right, long_right = rng.random((20, 6)) < 0.3, rng.random((20, 2)) < 0.6
  flops = np.full((20, 6), 10.0)
  for count, mixed in ((2, 0.0), (3, 0.5), (5, 0.25)):
    found = flop_matched_eval(right, flops, long_right, np.full((20, 2), 10 * (count + mixed)))
    wanted = (1 - mixed) * best_of_all(right, count) + (mixed and mixed * best_of_all(right, count + 1))
    assert found.short == pytest.approx(wanted) and found.samples == pytest.approx(count + mixed) and found.enough
    assert found.long == pytest.approx(long_right.mean()) and found.lead == pytest.approx(found.long - found.short)
    assert found.interval[0] < found.lead < found.interval[1]


@pytest.mark.parametrize('best_of', [1, 2, 3])
def test_the_best_of_some_long_answers_costs_all_of_them(best_of):
  rng = np.random.default_rng(2)
  right, long_right = rng.random((20, 6)) < 0.3, rng.random((20, 3)) < 0.4
  found = flop_matched_eval(right, np.full((20, 6), 10.0), long_right, np.full((20, 3), 20.0), best_of=best_of)
  assert found.long == pytest.approx(best_of_all(long_right, best_of)) and found.samples == 2 * best_of
  assert found.short == pytest.approx(best_of_all(right, 2 * best_of)) and found.enough


def test_equal_answers_have_no_lead_and_too_few_samples_are_told():
  right = np.random.default_rng(1).random((30, 4)) < 0.5
  flops = np.full((30, 4), 3.0)
  same = flop_matched_eval(right, flops, right, flops)
  assert same.samples == 1 and same.lead == pytest.approx(0) and same.interval == pytest.approx((0, 0))
  dear = flop_matched_eval(right, flops, right, 5 * flops)
  assert not dear.enough and dear.short == pytest.approx(right.any(axis=1).mean())


def test_the_answers_of_a_recorded_evaluation_are_read_with_their_cost(tmp_path):
  exp = tiny_experiment()
  rows = [(length, length % 2 == 1) for length in (3, 8, 5, 2)]
  lines = [{'answer': 'a', 'stop_reason': 'eos', 'length': length, 'correct': right} for length, right in rows]
  (tmp_path / 'samples.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  (tmp_path / 'settings.json').write_text(json.dumps({'samples': 2, 'problems': 2, 'problems_digest': 'other'}))
  with pytest.raises(SystemExit, match=r'holds no config\.json of a recording; fix: evaluate with --record'):
    measure_equal_flops.main([f'--long={tmp_path}', f'--short={tmp_path}', f'--output={tmp_path / "page"}'])
  (tmp_path / 'config.json').write_text(monitor.to_json(exp.config.to_dict(), indent=2))
  with pytest.raises(RequestError, match='its test split has changed since; fix: evaluate again'):
    measure_equal_flops.read_answers(tmp_path)
  digest = problems_digest(exp.tagged(exp.problems('test', 0, 2)))
  (tmp_path / 'settings.json').write_text(json.dumps({'samples': 2, 'problems': 2, 'problems_digest': digest}))
  found = measure_equal_flops.read_answers(tmp_path)
  assert found.prompts == [problem.prompt for problem in exp.problems('test', 0, 2)]
  np.testing.assert_array_equal(found.right, [[True, False], [True, False]])
  prompts = [len(exp.tokenizer.encode(prompt)) for prompt in found.prompts]
  wanted = [[answer_flops(exp.model.config, p, n) for n in its] for p, its in zip(prompts, ((3, 8), (5, 2)), strict=True)]
  np.testing.assert_array_equal(found.flops, wanted)


def test_the_page_compares_two_evaluations(monkeypatch, tmp_path):
  long = measure_equal_flops.Answers(['a', 'b'], np.array([[True], [False]]), np.array([[40.0], [40.0]]))
  short = measure_equal_flops.Answers(['a', 'b'], np.array([[True, False], [True, True]]), np.full((2, 2), 20.0))
  other = long._replace(prompts=['a', 'c'])
  folders = {'long': long, 'short': short, 'other': other}
  monkeypatch.setattr(measure_equal_flops, 'read_answers', lambda folder: folders[folder.name])
  measure_equal_flops.main(['--long=long', '--short=short', f'--output={tmp_path / "page"}'])
  assert '| 1 | 1 | 2.00 | 50.0 | 100.0 | -50.0 [' in (tmp_path / 'page.md').read_text()
  assert json.loads((tmp_path / 'page.json').read_text())['measured'][0][0]['samples'] == 2
  measure_equal_flops.main(['--long', 'short', 'short', '--short', 'long', 'long', f'--output={tmp_path / "page"}'])
  text = (tmp_path / 'page.md').read_text()
  assert all(f'| {pair} | {best_of} | ' in text for pair in (1, 2) for best_of in (1, 2)) and '| 2 | 4 |' not in text
  for long, short, told in [
    (['other'], ['short'], 'other problems; fix: tasks of one difficulty and seed'),
    (['long', 'long'], ['short'], '2 folders behind --long and 1 behind --short; fix: pairs'),
    (['long', 'short'], ['short', 'long'], 'fix: equal numbers'),
  ]:
    with pytest.raises(SystemExit, match=told):
      measure_equal_flops.main(['--long', *long, '--short', *short, f'--output={tmp_path / "page"}'])
