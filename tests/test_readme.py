"""What the README says can be done: its Python, its links, its length."""

import pathlib
import re

import jax
import numpy as np
import pytest
from small import config

from espo_jax import model, rollout, stops, tasks
from espo_jax.model import init, save_hf

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted([*(ROOT / 'docs').glob('*.md'), *(ROOT / 'docs').glob('[!_]*/*.md')])
PAGES = [ROOT / 'README.md', ROOT / 'BUILD.md', ROOT / 'CONTRIBUTING.md', *DOCS]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A model of random weights, for which every token is nearly as likely as any other."""
  path = tmp_path_factory.mktemp('models') / 'mine'
  tokenizer = tasks.character_tokenizer(map(chr, range(32, 127)))
  shape = config(vocab_size=len(tokenizer))
  save_hf(path, shape, init(shape, jax.random.key(1)), tokenizer=tokenizer, end_tokens=(tokenizer.eos_token_id,))
  return path


def test_the_python_of_the_readme_stops_rows_and_keeps_what_they_wrote_until_then(folder, capsys):
  (code,) = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), flags=re.DOTALL)
  names: dict = {}
  exec(code.replace('models/mine', str(folder)), names)
  free, rows = names['free'], names['rows']
  assert not free.stopped.any() and rows.stopped.any()
  kept = np.arange(rows.tokens.shape[1]) < np.asarray(rows.length)[:, None]
  np.testing.assert_array_equal(np.where(kept, rows.tokens, 0), np.where(kept, free.tokens, 0))
  assert np.asarray(rows.regret)[kept].min() >= 0 and 'True' in capsys.readouterr().out


def test_a_rule_that_waits_for_a_critic_stops_nothing(folder):
  shape, weights = model.load_hf(folder)
  policy, params = (
    model.ActorCritic(shape, critic_free=True),
    {'policy': weights, 'critic': {'success': jax.numpy.float32(0.5)}},
  )
  prompts = tasks.encode_prompts(tasks.load_tokenizer(str(folder)), [tasks.Problem(0, '1+1', '2')], width=8)
  rule = stops.espo(smoothing=0.0, beta_0=0.01)
  options = {'samples': 2, 'horizon': 8, 'end_tokens': (1,)}
  stopped = {
    enabled: rollout.generate(policy, params, rule, adaptive, prompts, jax.random.key(0), **options).stopped.any()
    for enabled, adaptive in ((False, rule.init(1).adaptive), (True, stops.adaptive(rule)))
  }
  assert stopped == {False: False, True: True}


@pytest.mark.quick
@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_what_there_is(page):
  headings = {}
  for target in re.findall(r'\]\((?!https?:)([^)]+)\)', page.read_text()):
    path, _, anchor = target.partition('#')
    file = (page.parent / path).resolve() if path else page
    assert file.exists(), target
    if anchor:
      lines = re.findall(r'^#+ (.*)$', file.read_text(), flags=re.MULTILINE)
      headings[file] = {re.sub(r'[^\w -]', '', line.lower()).replace(' ', '-') for line in lines}
      assert anchor in headings[file], target


@pytest.mark.quick
@pytest.mark.parametrize(('page', 'most'), [('README.md', 143), ('BUILD.md', 145)])
def test_a_page_is_read_in_one_sitting(page, most):
  assert len((ROOT / page).read_text().splitlines()) <= most
