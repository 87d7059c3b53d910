"""The page of a run: what is read of its folder, what becomes of it, and that the file needs and runs nothing else."""

import base64
import hashlib
import html.parser
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from run_folder import HOSTILE, example, write_recording, write_run

from espo_jax import monitor, report
from espo_jax.monitor.glossary import GLOSSARY
from espo_jax.report import __main__ as command
from espo_jax.report.curves import ACCURACY, MOST_POINTS, RIGHT_STOPPED, SECONDS, curves
from espo_jax.report.rollouts import MOST_TOKENS, packed
from espo_jax.types import StopReason

pytestmark = pytest.mark.quick
PACKAGE = pathlib.Path(__file__).parents[1] / 'espo_jax'


class Elements(html.parser.HTMLParser):
  """The elements of a page, and the texts of its scripts by their order."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.scripts, self.policy, self.inside = [], [], [], '', False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    self.inside = tag == 'script'
    if self.inside:
      self.scripts.append('')
    if ('http-equiv', 'Content-Security-Policy') in attrs:
      self.policy = dict(attrs)['content']

  def handle_endtag(self, tag):
    self.inside = False

  def handle_data(self, data):
    if self.inside:
      self.scripts[-1] += data


def page_of(tmp_path, *folders, **options):
  path = report.write_page(report.read_runs(folders), tmp_path / 'page.html', **options)
  return path.read_text()


def data_of(text):
  return json.loads(Elements(text).scripts[0])


# ----------------------------------------------------------------------------------------------------------------- the curves


def test_curves_have_their_axes_and_what_follows_from_the_metrics():
  rows = [
    {'step': 3, 'rollout/decoded': 10, 'seconds/a': 1.0, 'seconds/b': 0.5, 'accuracy': 0.25, 'accuracy_unstopped': np.nan},
    {'step': 4, 'rollout/decoded': 25, 'seconds/a': 2.0, 'accuracy': 0.5, 'accuracy_unstopped': 0.75, 'late': 7.0},
  ]
  shadows = [{'stop/shadow_rows': 4, 'stop/shadow_correct': 1}, {'stop/shadow_rows': 0, 'stop/shadow_correct': 0}]
  found = curves([row | shadow for row, shadow in zip(rows, shadows, strict=True)])
  assert found['over'] == {'updates': [3, 4], 'tokens': [10, 25], 'seconds': [1.5, 3.5]}
  assert found['metrics'][ACCURACY] == (None, [0.25, 0.75])  # stopped rows hide the first
  assert found['metrics']['late'] == ([1], [7.0])
  assert found['metrics'][SECONDS] == (None, [1.5, 2.0])
  assert found['metrics'][RIGHT_STOPPED] == (None, [0.25, 0.25])
  without = curves([{'step': 1, 'rollout/tokens': 5.0}, {'step': 2, 'rollout/tokens': 7.0}])
  assert without['over']['tokens'] == [5, 12]
  assert curves([]) == {'over': {'updates': [], 'tokens': [], 'seconds': []}, 'metrics': {}}


@pytest.mark.parametrize('count', [1, MOST_POINTS, MOST_POINTS + 1, 7 * MOST_POINTS])
def test_long_curves_are_thinned_and_keep_their_ends(count):
  rows = [{'step': i + 1, 'x': float(i), 'rare': float(i) if i % 10 == 0 else np.nan} for i in range(count)]
  found = curves(rows)
  at, values = found['metrics']['x']
  at = list(range(count)) if at is None else at
  assert len(values) == min(count, MOST_POINTS) and (at[0], at[-1]) == (0, count - 1)
  assert values == pytest.approx(at, rel=1e-4)  # five digits
  rare, _ = found['metrics']['rare']
  assert len(rare or [0]) == min(-(-count // 10), MOST_POINTS)  # thinning begins with the points that there are


# --------------------------------------------------------------------------------------------------------------- the rollouts


def unpacked(row, texts):
  tokens = [texts[i] for i in np.frombuffer(base64.b64decode(row['tokens']), '<u4')]
  return tokens, {name: np.frombuffer(base64.b64decode(its), '<f2') for name, its in row['series'].items()}


def test_packed_rollouts_say_the_same_to_half_precision(tmp_path):
  tokens = [*'ab\n', '<eos>', 'a', *HOSTILE[:4]]
  run = write_run(tmp_path / 'run', examples=[example(tokens, seed=1), example(['b'], seed=2)])
  rollouts = report.read_rollouts(report.read_runs([run])[0], 10)
  found = packed([rollouts])
  for row, rollout in zip(found['rows'], rollouts, strict=True):
    read, series = unpacked(row, found['texts'])
    assert read == list(rollout.tokens)
    for name, values in series.items():
      np.testing.assert_allclose(values, rollout.series[name], rtol=2**-11, atol=2**-25)  # unit roundoff of half precision
  assert len(found['texts']) == len(set(tokens))


def test_rollouts_of_training_are_read_with_their_ends_and_newest_first(tmp_path):
  run = write_run(tmp_path / 'run', examples=[example('ab')])
  texts, prompts = ['a+1=2#2', 'a+1=3#3', 'a+1=4'], ['1a+1=', '1a+1=', '12a+1=']
  changes = {
    'length': np.array([7, 4, 5], np.int32),
    'stop_reason': np.array([StopReason.EOS, StopReason.STOPPED, StopReason.LENGTH], np.int32),
    'stopped': np.array([False, True, False]),
    'shadow': np.array([False, True, False]),
    'correct': np.array([1, 0, 0], np.float32),
  }
  write_recording(run, 'espo', 10, texts, prompts, **changes)
  reasons = np.array([StopReason.PRUNED, StopReason.SETTLED], np.int32)
  write_recording(run, 'espo', 20, texts[:2], prompts[:2], stopped=reasons == StopReason.PRUNED, stop_reason=reasons)
  write_recording(run, 'espo', 5, texts[:1], prompts[:1], threshold=np.full((1, 7), np.finfo(np.float32).max))
  found = report.read_rollouts(report.read_runs([run])[0], 100)
  assert [rollout.source for rollout in found] == ['test, after training', *['update 20'] * 2, *['update 10'] * 3, 'update 5']
  _, pruned, settled, right, stopped, cut, free = found
  assert (pruned.reason, pruned.correct) == ('pruned', None)  # it did not decode on
  assert (settled.reason, settled.correct) == ('settled', True)
  assert (right.reason, right.correct, right.question, ''.join(right.tokens)) == ('eos', True, '1a+1=', 'a+1=2#2')
  assert (stopped.reason, stopped.shadow, stopped.length, len(stopped.tokens)) == ('stopped', True, 4, 7)
  assert (cut.reason, cut.correct, cut.question) == ('length', False, '12a+1=')
  assert np.isinf(free.series['threshold']).all()  # a rule that never stops
  for most in (0, 3, 5):
    assert len(report.read_rollouts(report.read_runs([run])[0], most)) == most


@pytest.mark.parametrize(
  ('most', 'of_first', 'of_second'), [(100, 2, 6), (8, 2, 6), (7, 2, 5), (4, 2, 2), (3, 1, 2), (2, 1, 1)]
)
def test_arms_share_the_room_for_rollouts(tmp_path, most, of_first, of_second):
  run = write_run(tmp_path / 'run', examples=[example('a')] * 6)
  (run / 'arms/never/examples.json').write_text(json.dumps([example('b')] * 2))
  found = report.read_rollouts(report.read_runs([run])[0], most)
  assert [rollout.arm for rollout in found] == ['never'] * of_first + ['espo'] * of_second


def test_a_page_has_no_more_tokens_than_a_browser_holds(tmp_path, monkeypatch):
  monkeypatch.setattr('espo_jax.report.rollouts.MOST_TOKENS', 40)  # ten of each of four sources
  run = write_run(tmp_path / 'run', examples=[example('abcd')] * 9)
  assert len(report.read_rollouts(report.read_runs([run])[0], 100)) == 3  # the third one passes ten
  assert MOST_TOKENS >= 1_500_000  # five thousand rollouts of three hundred


# ---------------------------------------------------------------------------------------------------------------- the folders


def test_runs_are_told_apart_by_the_ends_of_their_paths(tmp_path):
  for name in ('seed_0/a', 'seed_0/b', 'seed_1/a'):
    write_run(tmp_path / name, updates=2)
  found = report.read_runs([tmp_path / 'seed_1', tmp_path])
  assert [run.name for run in found] == ['seed_1/a', 'seed_0/a', 'seed_0/b']
  assert [run.name for run in report.read_runs([tmp_path / 'seed_0'])] == ['a', 'b']
  assert [arm.name for arm in found[0].arms] == ['never', 'espo']


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(tmp_path):
  run = write_run(tmp_path / 'run', updates=12, done=False)
  with (run / 'arms/espo/metrics.jsonl').open('a') as file:
    file.write('{"step": 13, "accur')  # it is being written
  (found,) = report.read_runs([run])
  assert not found.finished and [len(arm.metrics) for arm in found.arms] == [12, 12]
  text = page_of(tmp_path, run, every=60)
  assert 'Still going on or interrupted: run.' in text and data_of(text)['every'] == 60
  done = page_of(tmp_path, write_run(run, updates=12))
  assert 'Still going on' not in done and data_of(done)['every'] is None


def test_a_run_without_reinforcement_is_finished_with_its_last_stage(tmp_path):
  write_run(tmp_path / 'run', done=False)
  fields = json.loads((tmp_path / 'run/config.json').read_text())
  for stages, finished in ((['warm_start'], True), (['warm_start', 'calibration'], False), (['warm_start', 'rl'], False)):
    (tmp_path / 'run/config.json').write_text(json.dumps(fields | {'stages': stages}))
    assert report.read_runs([tmp_path / 'run'])[0].finished == finished


def test_a_model_among_runs_is_no_run(tmp_path):
  write_run(tmp_path / 'runs/a', updates=2)
  (tmp_path / 'runs/a/export').mkdir()
  (tmp_path / 'runs/a/export/config.json').write_text('{"model_type": "qwen2"}')
  assert [run.name for run in report.read_runs([tmp_path / 'runs'])] == ['a']


def other_arrays():
  file = io.BytesIO()
  np.savez(file, full_length=np.ones(2, np.int32), length=np.ones(1, np.int32))
  return file.getvalue()


def damaged(tmp_path, name, content):
  run = write_run(tmp_path / 'run', examples=[example('ab')])
  write_recording(run, 'espo', 1, ['a+1=2#2'], ['1a+1='])
  (run / name).write_bytes(content)
  return run


@pytest.mark.parametrize(
  ('name', 'content', 'told'),
  [
    ('config.json', b'{"half": ', 'config.json: not JSON'),
    ('environment.json', b'[', 'environment.json: not JSON'),
    ('warm_start/evaluation.json', b'{', 'evaluation.json: not JSON'),
    ('config.json', b'[1]', 'config.json: not a dict in JSON'),
    ('warm_start/evaluation.json', b'{}', "evaluation.json: not an evaluation (KeyError('problems'))"),
    ('arms/espo/evaluation.json', b'{"problems": "x"}', 'evaluation.json: not an evaluation'),
    ('arms/espo/metrics.jsonl', b'{"step": 1}\nnonsense\n{"step": 2}\n', 'metrics.jsonl, line 2: not a line of metrics'),
    ('arms/espo/examples.json', b'[{"question": "x"}]', 'examples.json: not the rollouts of a run'),
    ('arms/espo/examples.json', b'{"half": ', 'examples.json: not the rollouts of a run'),
    ('arms/espo/examples.json', b'[1, 2]', 'examples.json: not the rollouts of a run'),
    ('arms/espo/rollouts/000001.npz', b'PK\x03\x04 cut', '000001.npz: no NumPy archive'),
    ('arms/espo/rollouts/000001.npz', b'', '000001.npz: no NumPy archive'),
    ('arms/espo/rollouts/000001.npz', other_arrays(), '000001.npz: not a recording'),
  ],
)
def test_a_damaged_file_is_named_with_its_fix(tmp_path, name, content, told):
  run = damaged(tmp_path, name, content)
  with pytest.raises(SystemExit, match=rf'error: \S*{re.escape(told)}.*; fix: .*remove') as caught:
    command.main([f'--workdir={run}'])
  assert '\n' not in str(caught.value) and not (run / 'report.html').exists()


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (['--workdir={}/none'], 'none: no such folder; fix: the folder of a run'),
    (['--workdir={}'], 'holds no config.json beside an environment.json; fix: the folder of a run'),
    (['--workdir={}', '--rollouts=-1'], '--rollouts=-1: out of range; fix: 0 or more'),
    (['--workdir={}', '--rolouts=3'], 'did you mean --rollouts'),
    ([], 'one of the arguments --workdir --compare is required'),
  ],
)
def test_a_wrong_argument_is_named_with_its_fix(tmp_path, arguments, told):
  with pytest.raises(SystemExit, match=f'error: .*{re.escape(told)}'):
    command.main([argument.format(tmp_path) for argument in arguments])


def test_a_run_without_its_tokenizer_and_a_page_that_cannot_be_written_are_told(tmp_path):
  run = write_run(tmp_path / 'run')
  write_recording(run, 'espo', 1, ['a+1=2#2'], ['1a+1='])
  with pytest.raises(SystemExit, match=r'error: /proc/page.html: cannot be written \(.+\); fix: --output=FILE'):
    command.main([f'--workdir={run}', '--output=/proc/page.html'])
  shutil.rmtree(run / 'tokenizer')
  with pytest.raises(SystemExit, match=r'error: \S*/run/tokenizer: not a tokenizer; fix: copy the folder'):
    command.main([f'--workdir={run}'])


def test_the_command_writes_beside_the_run_or_where_it_is_told(tmp_path, capsys):
  run = write_run(tmp_path / 'run', updates=3)
  command.main([f'--workdir={run}'])
  command.main(['--workdir', str(run), f'--output={tmp_path / "new/page.html"}', '--live'])  # the run is finished
  assert capsys.readouterr().out.split() == ['wrote', str(run / 'report.html'), 'wrote', str(tmp_path / 'new/page.html')]
  assert (run / 'report.html').read_text() == (tmp_path / 'new/page.html').read_text()


# ------------------------------------------------------------------------------------------------------------------- the page


def test_the_page_needs_no_other_file_and_runs_its_own_scripts_alone(tmp_path):
  run = write_run(tmp_path / 'run', examples=[example('ab')])
  text = page_of(tmp_path, run)
  found = Elements(text)
  assert not {'link', 'iframe', 'object', 'embed', 'base', 'img'} & set(found.tags)
  assert not [(name, value) for name, value in found.attributes if name in ('src', 'href') or name.startswith('on')]
  digests = re.findall("'sha256-([^']+)'", found.policy)
  data, plotly, own = found.scripts
  assert [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (own, plotly)] == digests
  assert found.policy.startswith("default-src 'none'; script-src 'sha256-") and 'unsafe-eval' not in found.policy
  assert json.loads(data)['over'] == {'updates': 'update', 'tokens': 'decoded tokens', 'seconds': 'seconds of training'}


def test_hostile_texts_stay_texts(tmp_path):
  """In tokens, problems and answers of the model, and in names of arms, fields and folders."""
  rollouts = [example([text, 'b'], question=text, answer=text) for text in HOSTILE]
  plain = Elements(page_of(tmp_path, write_run(tmp_path / 'plain', examples=[example('ab')])))
  name = '<b onclick=x>&"\''
  run = write_run(tmp_path / name, examples=rollouts, stop__own=HOSTILE[1])
  text = page_of(tmp_path, run)
  found = Elements(text)
  assert sorted(found.tags) == sorted([*plain.tags, *['tr', 'td', 'td']])  # one more field of the config
  shown = data_of(text)['rollouts']
  assert [row['question'] for row in shown['rows']] == [row['answer'] for row in shown['rows']] == list(HOSTILE)
  assert [unpacked(row, shown['texts'])[0][0] for row in shown['rows']] == list(HOSTILE)
  text.encode()  # no lone surrogate is left


def test_tables_have_the_figures_and_only_fields_that_differ(tmp_path):
  runs = [write_run(tmp_path / name, stop__eta=eta, stop__target_rate=0.25) for name, eta in (('a', 0.1), ('b', 0.2))]
  text = page_of(tmp_path, *runs)
  assert '<tr><td>stop.eta</td><td>0.1</td><td>0.2</td></tr>' in text and 'target_rate' not in text
  assert '<tr><td>stop.target_rate</td><td>0.25</td></tr>' in page_of(tmp_path, runs[0])
  low, high = monitor.wilson(48, 64)
  assert f'<td>75.0 [{100 * low:.1f}, {100 * high:.1f}]</td>' in text
  assert '<td>40 of 40</td>' in text and '<td>32.0</td><td>8.0</td><td>20.0</td>' in text  # tokens (k), per row, stop rate
  wrong = monitor.wilson(40, 400)
  assert f'<td>10.0 [{100 * wrong[0]:.1f}, {100 * wrong[1]:.1f}] (40 of 400)</td>' in text
  assert '<td>20.0</td><td>60.0</td>' in text  # seconds of the two phases


def test_the_page_tells_with_what_a_run_went_on(tmp_path):
  run = write_run(tmp_path / 'run')
  assert 'What was changed' not in page_of(tmp_path, run)
  changes = [{'field': 'learner.updates', 'was': 20, 'now': 40}]
  (run / 'changes.json').write_text(
    json.dumps([{'changes': changes, 'after': {'never': 20, 'espo': 12}, 'reopened': ['never']}])
  )
  row = ''.join(f'<td>{cell}</td>' for cell in ('run', 'learner.updates', '20', '40', 'never 20, espo 12'))
  assert f'<tr>{row}</tr>' in page_of(tmp_path, run)


def test_every_entry_of_the_glossary_is_of_a_metric_that_the_code_writes():
  code = ''.join(path.read_text() for path in PACKAGE.rglob('*.py') if path.name != 'glossary.py')
  for name, entry in GLOSSARY.items():
    family, _, last = name.rpartition('/')
    assert f"'{name}'" in code or (family in ('eval', 'head') and f"'{last}'" in code), name
    assert entry.text.endswith('.')
  assert monitor.meaning('loss/policy') and monitor.meaning('eval/accuracy_long') and monitor.meaning('mine/own') is None
