"""The site of the documentation is built without a warning, and holds every method, every public name and every page."""

import fcntl
import functools
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping

import bs4
import pytest

import espo_jax
from espo_jax import methods, registry

ROOT = pathlib.Path(__file__).parents[1]
KINDS = {
  'objectives': 'objective',
  'advantages': 'advantage',
  'rewards': 'reward',
  'stops': 'stop',
  'exits': 'exit',
  'lessons': 'lesson',
  'allocators': 'allocation',
  'decoders': 'decoder',
  'processors': 'processor',
  'environments': 'environment',
  'likelihoods': 'likelihood',
  'gradients': 'gradient',
  'early_ends': 'early_end',
  'searches': 'search',
  'diagnostics': 'diagnostic',
  'measures': 'measure',
  'sources': 'source',
}
FAULTS = {  # a line of a page, and what the build says of it
  '[a](absent.md)': "cross-reference target not found: 'absent.md'",
  '[a](#absent)': "'absent'",
  '[a](index.md#absent)': "'absent'",
  '[a](../espo_jax/absent)': "cross-reference target not found: '../espo_jax/absent'",
  '![a](absent.png)': 'image file not readable: docs/absent.png',
  '```{literalinclude} absent.py\n```': 'absent.py',
  '```{absent}\n```': "Unknown directive type: 'absent'",
  '```{methods} rule\n```': "methods: unknown kind 'rule'; fix: one of stop, exit, lesson",
  '```{command} espo_jax.absent\n```': "espo_jax.absent: no module of the package; fix: such as espo_jax.train",
  '```{eval-rst}\n.. automodule:: espo_jax.absent\n```': "No module named 'espo_jax.absent'",
}  # fmt: skip


def build(root: pathlib.Path, folder: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
  """Runs scripts/docs.sh of a tree, with the packages of this Python in place of an environment of its own."""
  bin_ = folder / 'venv' / 'bin'
  bin_.mkdir(parents=True)
  (bin_ / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
  (bin_ / 'python').chmod(0o755)
  for name in ('requirements.txt', 'requirements-docs.txt'):
    shutil.copy(ROOT / name, bin_.parent / f'{name}.installed')
  env = os.environ | {'VENV': str(bin_.parent), 'SITE': str(folder / 'html'), 'PYTHONPATH': str(ROOT)}
  return subprocess.run([root / 'scripts' / 'docs.sh', *options], env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> pathlib.Path:
  """The site, built and read through by one of the processes that run the tests; the others wait for it."""
  common = tmp_path_factory.getbasetemp()
  folder = (common.parent if 'PYTEST_XDIST_WORKER' in os.environ else common) / 'site'
  with folder.with_suffix('.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (folder / 'built').exists():
      shutil.rmtree(folder, ignore_errors=True)  # of a build that failed
      # Sphinx copies the names beside the pages of the reference for every page of the site, only to drop them there.
      done = build(ROOT, folder, '-D', 'toc_object_entries=0')
      assert done.returncode == 0 and not done.stderr, done.stderr
      (folder / 'read.json').write_text(json.dumps({page: read(soup) for page, soup in Pages(folder / 'html').items()}))
      (folder / 'built').touch()
  return folder / 'html'


class Pages(Mapping[str, bs4.BeautifulSoup]):
  """The pages of a site by their path, parsed when they are asked for; those that show source code are left out."""

  def __init__(self, site: pathlib.Path):
    paths = {str(path.relative_to(site)): path for path in site.rglob('*.html')}
    self._paths = {page: path for page, path in paths.items() if not page.startswith(('_modules/', '_downloads/'))}
    self._parsed = functools.cache(lambda page: bs4.BeautifulSoup(self._paths[page].read_text(), 'html.parser'))

  def __getitem__(self, page):
    return self._parsed(page)

  def __iter__(self):
    return iter(self._paths)

  def __len__(self):
    return len(self._paths)


def read(soup: bs4.BeautifulSoup) -> dict[str, list[str]]:
  """What is asked of every page, for to parse them all takes long. The page is without its code afterwards."""
  found = {
    'ids': [node['id'] for node in soup.select('[id]')],
    'described': [node['id'] for node in soup.select('dt[id]')],
    'linked': [node.get('href') or node['src'] for node in soup.select('a[href], img[src]')],
    'loaded': [node.get('src') or node['href'] for node in soup.select('script[src], link[href], img[src]')],
    'text': [soup.get_text()],
  }
  article = soup.find('article')
  for code in article.select('pre, code, .sig') if article else ():
    code.decompose()
  markup = r'.*(?:`|\|---|:param |\*\*.*\*\*|\]\().*'
  return found | {'markup': re.findall(markup, article.get_text()) if article else []}


@pytest.fixture(scope='module')
def pages(site) -> Pages:
  return Pages(site)


@pytest.fixture(scope='module')
def all_pages(site) -> dict[str, dict[str, list[str]]]:
  """What `read` finds in each page."""
  return json.loads((site.parent / 'read.json').read_text())


def small_tree(folder: pathlib.Path, *lines: str) -> pathlib.Path:
  """A repository whose documentation is one page with these lines."""
  for name in ('docs/ext', 'docs/_static', 'docs/_templates'):
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
  (folder / 'scripts').mkdir()
  for name in ('docs/conf.py', 'scripts/docs.sh', 'scripts/environment.sh', 'requirements.txt', 'requirements-docs.txt'):
    shutil.copy(ROOT / name, folder / name)
  (folder / 'docs' / 'index.md').write_text('\n\n'.join(['# A page', *lines]) + '\n')
  return folder


def test_a_small_site_without_a_fault_is_built(tmp_path):
  done = build(small_tree(tmp_path / 'tree', '[a](#a-page)', '## Exits', '```{methods} exit\n```'), tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'skipdecode' in (tmp_path / 'html' / 'docs' / 'index.html').read_text()


@pytest.mark.parametrize('line', ['[a](absent.md)', '![a](absent.png)'])
def test_one_broken_reference_makes_the_command_fail(tmp_path, line):
  done = build(small_tree(tmp_path / 'tree', line), tmp_path)
  assert done.returncode == 1 and FAULTS[line] in done.stderr and done.stderr.count('WARNING') == 1, done.stderr


def test_every_kind_of_fault_is_told(tmp_path):
  tree = small_tree(tmp_path / 'tree', *FAULTS)
  (tree / 'docs' / 'alone.md').write_text('# A page that no toctree has\n')
  done = build(tree, tmp_path)
  assert done.returncode == 1
  assert [said for said in (*FAULTS.values(), "document isn't included in any toctree") if said not in done.stderr] == []


@pytest.mark.parametrize(('page', 'kind'), KINDS.items())
def test_every_registered_method_has_its_paper_and_its_options_and_an_objective_its_loss(pages, page, kind):
  sections = {section.h3.code.text: section for section in pages[f'docs/methods/{page}.html'].select('section:has(> h3)')}
  registered = {method.name: method for method in methods.methods() if method.kind == kind}
  assert sections.keys() == registered.keys()
  for name, method in registered.items():
    text = sections[name].get_text()
    assert registry.source_of(method.function)[0] in text
    table = [row.td.text for table in sections[name].select('table')[-1:] for row in table.select('tbody tr')]
    assert table == list(registry.options(method.function)), name
    if kind == 'objective':
      assert any('loss = ' in formula.text for formula in sections[name].select('pre, code')), name


def test_no_kind_of_method_is_left_out():
  assert set(KINDS.values()) == {method.kind for method in methods.methods()}


def test_a_method_links_to_the_comparisons_that_have_it(pages):
  """Each page of results is the record of a comparison, whose arms the JSON file beside it names."""
  stops = pages['docs/methods/stops.html']
  for name in ('wald', 'risk_control', 'regret_only', 'deepconf'):
    (section,) = (section for section in stops.select('section:has(> h3)') if section.h3.code.text == name)
    linked = {pathlib.Path(a['href']).stem for a in section.select('a[href*="experiments/results/"]')}
    records = {path.stem: json.loads(path.read_text()) for path in (ROOT / 'experiments' / 'results').glob('*.json')}
    wanted = {
      stem
      for stem, record in records.items()
      if 'arms' in record and f"'{name}'" in str((record['arms'], [run['arms'] for run in record['runs']]))
    }
    assert linked == wanted, name
    assert wanted or name == 'deepconf'


def public() -> list[str]:
  """The functions and classes that the rooms export."""
  found = []
  for info in pkgutil.walk_packages(espo_jax.__path__, 'espo_jax.'):
    if info.ispkg:
      module = importlib.import_module(info.name)
      objects = {name: getattr(module, name) for name in getattr(module, '__all__', ())}
      found += [f'{info.name}.{name}' for name, x in objects.items() if inspect.isfunction(x) or inspect.isclass(x)]
  return found


def test_every_public_name_is_in_the_reference(all_pages):
  names = public()
  assert len(names) > 250 and 'espo_jax.stops.espo' in names
  described = {name for page, found in all_pages.items() if page.startswith('docs/api/') for name in found['described']}
  internal = {
    'espo_jax.tasks.grading',
    'espo_jax.compile_check.plan',
  }  # rooms inside of rooms, which export to their room alone
  assert [name for name in names if name not in described and name.rpartition('.')[0] not in internal] == []


def test_the_reference_shows_shapes_and_parameters_without_what_dataclasses_add(pages, all_pages):
  soup = pages['docs/api/methods.html']
  signature = soup.find(id='espo_jax.objectives.gae').get_text()
  assert "values: Float[Array, 'N T']" in signature and 'jaxlib' not in signature
  fields = soup.find(id='espo_jax.objectives.gae').find_next('dl', class_='field-list').get_text()
  assert 'bootstrap' in fields and "The value after each row's last token where the horizon cut the row" in fields
  assert 'True on the tokens at which a row could have been stopped: all tokens up to its end' in soup.get_text()
  everything = ' '.join(found['text'][0] for page, found in all_pages.items() if page.startswith('docs/api/'))
  assert 'jaxlib._jax' not in everything and 'Alias for field number' not in everything
  assert 'Returns a new object replacing the specified fields' not in everything


def test_tables_and_formulas_of_docstrings_are_read(pages):
  table = pages['docs/api/rollout.html'].find(id='module-espo_jax.types').find_next('table')
  assert [row.td.text for row in table.select('tbody tr')] == ['P', 'G', 'N', 'L', 'T']
  dapo = pages['docs/methods/objectives.html'].find(id='dapo')
  assert dapo.pre.text.startswith('loss = sum_i sum_t -min(r_it A_i') and '\n' not in dapo.pre.text.strip()


def test_no_markup_is_left_in_the_text(all_pages):
  assert {page: found['markup'] for page, found in all_pages.items() if found['markup']} == {}


def test_what_a_page_links_to_is_there(site, all_pages):
  ids = {page: set(found['ids']) for page, found in all_pages.items()}
  missing = set()
  for page, found in all_pages.items():
    for address in found['linked']:
      if urllib.parse.urlsplit(address).scheme:
        continue
      path, _, anchor = urllib.parse.unquote(address).partition('#')
      target = os.path.normpath(pathlib.Path(page).parent / path) if path else page
      if not (site / target).exists() or (anchor and target in ids and anchor not in ids[target]):
        missing.add((page, address))
  assert missing == set()
  assert len(all_pages) > 60


@pytest.mark.parametrize('path', sorted((ROOT / 'experiments').rglob('*.png')), ids=lambda path: path.stem)
def test_a_picture_of_results_is_shown(pages, path):
  page = 'docs/real_model.html' if path.parent.name == 'real' else str(path.relative_to(ROOT).with_suffix('.html'))
  shown = [img['src'] for img in pages[page].select('article img')]
  assert path.name in {pathlib.Path(src).name for src in shown}


@pytest.mark.parametrize('path', sorted((ROOT / 'notebooks').glob('*.ipynb')), ids=lambda path: path.stem)
def test_a_notebook_is_shown_with_all_its_cells(pages, path):
  cells = json.loads(path.read_text())['cells']
  shown = [cell.get_text() for cell in pages[f'notebooks/{path.stem}.html'].select('.cell_input pre')]
  assert shown == [''.join(cell['source']) + '\n' for cell in cells if cell['cell_type'] == 'code']


def test_no_page_needs_the_network(pages, all_pages):
  loaded = {address for found in all_pages.values() for address in found['loaded']}
  assert {address for address in loaded if urllib.parse.urlsplit(address).netloc} == set()
  formulas = pages['notebooks/espo_anatomy.html'].select('article math')
  assert len(formulas) > 5 and formulas[0].msub and formulas[0].get_text().split() == ['g', 't']


def test_every_page_of_the_documentation_is_in_the_site(pages):
  files = [*(ROOT / 'docs').glob('*.md'), *(ROOT / 'docs').glob('[!_]*/*.md')]
  written = [path.relative_to(ROOT) for path in files]
  assert [str(path) for path in written if str(path.with_suffix('.html')) not in pages] == []
