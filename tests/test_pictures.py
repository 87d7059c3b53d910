"""Pictures by their content: texts, limits of axes, what lies on top."""

import html
import json
import re

import benchmark_data
import matplotlib.figure
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from espo_jax import monitor, tasks
from espo_jax.monitor import examples, exit_plots, frontier, plots
from espo_jax.monitor.arms import plot_arms
from espo_jax.monitor.examples import Example, coloured

pytestmark = pytest.mark.quick


@pytest.fixture
def figures(monkeypatch):
  """The figures that were saved, in order."""
  saved = []
  monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', lambda figure, *args, **kwargs: saved.append(figure))
  return saved


def texts_of(axes) -> list[str]:
  return [text.get_text() for text in axes.texts]


# ------------------------------------------------------------------------------------------------------- text of the tokens

TEXTS = [
  'She has 2+5 = 7 pens.',
  ' a blank in front',
  'two  blanks\n\nand a paragraph',
  '\ttab and \r\n line ends',
  'x²+√2≈π, “quoted”…',
  '她有七支笔。',
  'Сколько ручек?',
  '🙂👍🏽 and é, e\u0301',
  'a₁ + a₂ ∈ ∅ \\boxed{\\frac{1}{2}}',
  '<b>&amp; not HTML</b>',
  '\ufffd stands in the text itself',
  'ĠĊ are letters too: Ġ',
]


def metaspace() -> PreTrainedTokenizerFast:
  """A tokenizer that writes blanks as `▁` and falls back to bytes, as Llama 2's does."""
  made = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>'))
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
  )
  tokens = ['<unk>', '<eos>', '<pad>', *(f'<0x{byte:02X}>' for byte in range(256))]
  trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=tokens, limit_alphabet=40, show_progress=False)
  made.train_from_iterator(['She has seven pens and buys two more of them'] * 3, trainer)
  return PreTrainedTokenizerFast(tokenizer_object=made, eos_token='<eos>', pad_token='<pad>', unk_token='<unk>')


@pytest.fixture(scope='module')
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
  lines = [benchmark_data.gsm8k(i)['answer'] for i in range(20)]
  return {'bytes': tasks.byte_bpe_tokenizer(lines, 320), 'metaspace': metaspace()}


@pytest.mark.parametrize('kind', ['bytes', 'metaspace'])
@pytest.mark.parametrize('text', TEXTS)
def test_the_texts_of_the_tokens_are_the_text(tokenizers, kind, text):
  tokenizer = tokenizers[kind]
  tokens = tokenizer.encode(text, add_special_tokens=False)
  pieces = tasks.token_texts(tokenizer, tokens)
  assert len(pieces) == len(tokens)
  whole = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
  assert ''.join(pieces).removeprefix(' ') == whole.removeprefix(' ')  # the first blank is the tokenizer's to leave out
  for mark in {'Ġ', 'Ċ', '▁'} - set(text):
    assert not any(mark in piece for piece in pieces)


def test_special_tokens_and_bytes_that_are_no_character_are_seen(tokenizers):
  tokenizer = tokenizers['bytes']
  vocabulary = tokenizer.get_vocab()
  assert tasks.token_texts(tokenizer, [vocabulary['a'], 1, 0]) == ['a', '<eos>', '<pad>']
  half = vocabulary['æ']  # the byte that begins a character of three
  assert tasks.token_texts(tokenizer, [half, vocabulary['a']]) == ['', '�a']
  assert ''.join(tasks.token_texts(tokenizer, [half] * 7)) == '�' * 7
  assert tasks.token_texts(tokenizer, []) == []
  broken = [tokenizer.convert_tokens_to_ids(piece) for piece in ('ð', 'Ł', 'ĺ')]  # three bytes of a character of four
  whole = tokenizer.encode('日本', add_special_tokens=False)
  assert ''.join(tasks.token_texts(tokenizer, broken + whole)) == '�日本'


# --------------------------------------------------------------------------------------------------------------- rollouts


def rollout(count: int, stop: int | None = None, tokens=None, question='1+1=') -> Example:
  rng = np.random.default_rng(count)
  reason, length = ('length', count) if stop is None else ('stopped', stop)
  names = tuple(f' w{i}' for i in range(count)) if tokens is None else tuple(tokens)
  z = rng.random(count)
  return Example(question, names, rng.random(count), z, np.full(count, 0.99), length, count, reason, False)


def drawn(example: Example, width: int = 100):
  axes = matplotlib.figure.Figure().subplots()
  legend = examples.draw(axes, example, width)
  return axes, legend


@pytest.mark.parametrize(
  ('count', 'stop'),
  [
    (1, None),
    (48, None),
    (49, 3),
    (49, None),
    (64, 64),
    (96, 10),
    (300, 299),
    (300, None),
    (1024, 500),
    (1024, 1),
    (4096, 4096),
  ],
)
def test_a_rollout_of_any_length_has_its_tokens_below_the_axis(count, stop):
  example = rollout(count, stop)
  axes, legend = drawn(example)
  labels = [label.get_text() for label in axes.get_xticklabels()]
  places = np.asarray(axes.get_xticks(), int)
  assert labels == [f'␣w{place - 1}' for place in places]
  assert len(labels) == min(count, 48) and 1 <= places[0] <= places[-1] <= count
  low, high = axes.get_xlim()
  assert low < places[0] and places[-1] < high < places[-1] + 1
  matters = stop or int(np.argmax(example.z - example.threshold)) + 1
  assert matters in places
  assert ('stopped' in legend) == (stop is not None)
  assert ('' if count <= 48 else f'tokens {places[0]} to {places[-1]} of {count}') == axes.get_xlabel()


@pytest.mark.parametrize(
  ('token', 'label'),
  [
    (' pens', '␣pens'),
    ('\n\n', '↵↵'),
    ('\t', '⇥'),
    ('', '·'),
    ('\x00\x1b', '··'),
    ('$x$', '$x$'),
    ('internationally', 'interna…'),
    ('�', '�'),
    ('笔', '笔'),
    ('\\frac', '\\frac'),
  ],
)
def test_a_label_is_what_the_token_says(token, label):
  axes, _ = drawn(rollout(3, tokens=['a', token, 'b']))
  assert [text.get_text() for text in axes.get_xticklabels()] == ['a', label, 'b']


QUESTIONS = [
  ('7+2-5=', '7+2-5='),
  ('What is $3 + 4$?\n', 'What is $3 + 4$?'),
  (
    'Mia has 3 pens and buys 4 more. She then gives two of them to her brother. How many pens has she now?',
    'Mia has 3 pens and buys … has she now?',
  ),
  ('Two\nlines of a problem', 'Two lines of a problem'),
  ('x' * 90, 'x' * 23 + ' … ' + 'x' * 14),
  ('', ''),
]


@pytest.mark.parametrize(('question', 'title'), QUESTIONS)
def test_a_title_is_one_line_of_the_question(question, title):
  axes, _ = drawn(rollout(3, question=question), width=40)
  assert texts_of(axes) == [title] and len(title) <= 40
  assert axes.get_title(loc='left') == 'Wrong, cut at the horizon'


TEMPLATES = {
  'house': benchmark_data.TEMPLATE,
  'system first': "<|start|>system\nYou help.<|end|>{{ messages[0]['content'] }}<|start|>assistant\n",
  'thinks': "{{ messages[0]['content'] }}<|end|><think>\n",
  'dated': "Today is 1 May.{{ messages[0]['content'] }}<|end|>",
}


@pytest.mark.parametrize('template', TEMPLATES)
@pytest.mark.parametrize('prompt', ['chat', 'r1', 'plain'])
def test_a_question_is_the_benchmarks_whatever_the_prompt_has_around_it(tmp_path, template, prompt):
  path = benchmark_data.tokenizer(tmp_path / 'tokenizer', TEMPLATES[template])
  data = benchmark_data.write(tmp_path / 'data.jsonl', [benchmark_data.gsm8k(i) for i in range(40)])
  task = tasks.get('math', tokenizer_path=path, benchmark='gsm8k', path=data, prompt=prompt, grade_workers=1)
  asked = {benchmark_data.gsm8k(i)['question'] for i in range(40)}
  for split in ('train', 'test'):
    problem = task.problem(split, 0)
    question = task.question(problem._replace(prompt=problem.prompt + '/no_think'))
    assert question in asked and question in problem.prompt != question


def test_a_problem_that_is_all_prompt_is_its_own_question():
  chain = tasks.get('chain')
  problem = chain.problem('test', 3)
  assert chain.question(problem) == problem.prompt


def test_a_rule_without_a_threshold_draws_none_and_keeps_its_axis(tmp_path):
  item = {'question': '1+1=', 'tokens': ['a', 'b'], 'regret': [0.1, 0.2], 'z': [0.0, 0.0], 'threshold': [3.4e38, None]}
  (tmp_path / 'x.json').write_text(json.dumps([item | {'length': 2, 'stop_reason': 'eos', 'correct': True}]))
  (example,) = examples.read_examples(tmp_path / 'x.json')
  axes, legend = drawn(example)
  assert not any('threshold' in label for label in legend)
  assert axes.get_ylim()[1] < 1


# --------------------------------------------------------------------------------------------------------------- coloured


@pytest.mark.parametrize('text', TEXTS)
def test_a_coloured_rollout_reads_as_its_text_and_wraps(tokenizers, text):
  tokens = tokenizers['bytes'].encode(text, add_special_tokens=False)
  page = coloured(rollout(len(tokens), tokens=tasks.token_texts(tokenizers['bytes'], tokens), question='How many?'))
  shown = ''.join(html.unescape(span) for span in re.findall(r'<span title="[^"]*" style="[^"]*">([^<]*)</span>', page))
  assert shown.replace('↵\n', '\n') == text
  assert shown.count('↵') == text.count('\n') + text.count('↵')
  style = re.match(r'<div style="([^"]*)">', page)[1]
  assert 'white-space: pre-wrap' in style and 'overflow-wrap: anywhere' in style  # long words break too
  assert '>How many?</span>\n<span' in page


def test_numbers_that_are_missing_colour_nothing():
  example = Example('1+1=', ('a', 'b'), np.array([np.nan, 2.0]), np.zeros(2), np.ones(2), 2, 2, 'eos', True)
  assert [float(x) for x in re.findall(r'rgba\([^)]*, ([\d.]+)\)', coloured(example))] == [0.0, 1.0]


# ----------------------------------------------------------------------------------------------------------- axes of shares

SHARES = [
  [0.0] * 6,
  [1.0] * 6,
  [0.0, 1.0] * 3,
  [0.02, 0.9, 0.03, 0.97, 0.5, 0.01],
  [0.5] * 6,
  [1e-4, 2e-4, 0.0, 1e-4, 3e-4, 0.0],
  [0.999, 1.0, 0.998, 1.0, 1.0, 0.9995],
  [0.0, 0.01, 0.02, 0.3, 0.6, 1.0],
  [np.nan, 0.0, np.nan, 1.0, 0.2, 0.1],
  [0.25],
]


def within(axes, which: str, whole: float, data) -> None:
  low, high = getattr(axes, f'get_{which}lim')()
  data = [x for x in data if np.isfinite(x)]
  assert 0 <= low <= min(data) and max(data) <= high <= whole and low < high


@pytest.mark.parametrize('shares', SHARES)
def test_an_axis_of_accuracies_and_rates_stays_within_0_and_100_percent(tmp_path, figures, shares):
  for arm in ('never', 'espo'):
    with monitor.MetricWriter(tmp_path / 'arms' / arm, 0) as writer:
      for step, share in enumerate(shares, start=1):
        line = {'accuracy': share, 'stop/rate': share, 'stop/enabled': 1, 'stop/beta': 2.0, 'rollout/length_mean': 9.0}
        writer.write(step, line | {'rollout/tokens': 100 if arm == 'never' else 100 * (1 - np.nan_to_num(share))})
  plots.plot_all(tmp_path, ['never', 'espo'], 'never')
  accuracy, saved, rate, overview, *_ = figures
  for axes in (accuracy.axes[0], rate.axes[0], overview.axes[0]):
    within(axes, 'y', 1.0, shares)
  within(saved.axes[0], 'y', 1.0, [0.0])


def test_more_tokens_than_the_baseline_are_a_share_below_0(tmp_path, figures):
  for arm, tokens in (('never', 100), ('espo', 150)):
    with monitor.MetricWriter(tmp_path / 'arms' / arm, 0) as writer:
      for step in (1, 2, 3):
        writer.write(step, {'rollout/tokens': tokens})
  plots.plot_all(tmp_path, ['never', 'espo'], 'never')
  assert figures[1].axes[0].get_ylim()[0] < -0.5


class Run:
  """One run as `plot_arms` reads it."""

  def __init__(self, shares, accuracy):
    self.metrics = [{'step': i, 'accuracy': share} for i, share in enumerate(shares)]
    self.summary = {'rollout_tokens': 100.0 + accuracy, 'accuracy': accuracy}


def test_test_accuracy_is_drawn_over_tokens_where_it_was_measured(tmp_path, figures):
  def run(pace):
    found = Run([0.5] * 6, 0.5)
    for i, row in enumerate(found.metrics):
      row |= {'rollout/decoded': pace * (i + 1.0)} | ({'eval/accuracy': 0.1 * i + 0.01 * pace} if i % 2 else {})
    return found

  plot_arms(
    tmp_path / 'x.png', {'a': [run(10), run(30)]}, 'a', ['eval/accuracy'], ('rollout_tokens', 'accuracy'), 'rollout/decoded'
  )
  panel, _ = figures[0].axes
  (line,) = panel.lines
  np.testing.assert_allclose(line.get_xdata(), [40, 80, 120])  # of the mean pace of 20
  np.testing.assert_allclose(line.get_ydata(), [0.3, 0.5, 0.7])  # not smoothed
  assert panel.get_xlabel() == 'rollout/decoded'


@pytest.mark.parametrize('shares', SHARES)
def test_the_picture_of_a_sweep_keeps_accuracies_within_0_and_100_percent(tmp_path, figures, shares):
  ends = np.nan_to_num(shares[-1])
  runs = {arm: [Run(shares, ends), Run(shares, 1 - ends)] for arm in ('a', 'b')}
  plot_arms(tmp_path / 'x.png', runs, 'a', ['accuracy'], ('rollout_tokens', 'accuracy'))
  curve, scatter = figures[0].axes
  within(curve, 'y', 1.0, shares)
  within(scatter, 'y', 1.0, [ends, 1 - ends])


# --------------------------------------------------------------------------------------------------------------- exit curve

FULL = (None, 1.0, 1.0, 0.5, 0.5)
CURVES = [
  [(0.5, 1.0, 1.0, 0.5, 0.5), FULL],
  [(0.5, 1.0, 0.9, 0.5, 0.4), FULL],
  [(0.5, 0.8, 1.0, 0.4, 0.5), FULL],
  [(0.3, 1.0, 1.0, 0.5, 0.5), (0.5, 1.0, 1.0, 0.5, 0.5), FULL],
  [(0.3, 0.2, 0.2, 0.0, 0.0), (0.9, 1.0, 1.0, 0.5, 0.5), FULL],
  [(0.9, 1.0, 1.0, 0.5, 0.5), (0.3, 1.0, 1.0, 0.5, 0.5), FULL],
  [(0.5, 1.0, 1.0, 0.0, 0.0), (None, 1.0, 1.0, 0.0, 0.0)],
  [(0.5, 1.0, 1.0, 1.0, 1.0), (None, 1.0, 1.0, 1.0, 1.0)],
  [(1e-3, 1.0, 1.0, 0.5, 0.0), FULL],
  [(0.1, 1.0, 1.0, 0.5, 0.5), (0.2, 0.5, 0.5, 0.5, 0.5), (0.3, 0.5, 0.5, 0.5, 0.5), FULL],
  [(0.4, 0.6, 0.7, 0.3, 0.2), FULL],  # no tie
  [FULL],
]


@pytest.mark.parametrize('points', CURVES)
def test_thresholds_that_tie_share_a_label(tmp_path, figures, points):
  names = ('level', 'depth', 'greedy_depth', 'accuracy', 'greedy_accuracy')
  curve = [dict(zip(names, point, strict=True)) for point in points]
  exit_plots.plot_exit_curve(curve, tmp_path / 'curve.png', 'ponder_q')
  (axes,) = figures[0].axes
  assert axes.get_title('left') == 'Exits by ponder_q'
  labels = [name for text in texts_of(axes) for name in text.split(', ')]
  wanted = {'full depth' if point['level'] is None else f'{point["level"]:g}' for point in curve}
  assert len(labels) == len(points) and set(labels) == wanted
  assert len(axes.texts) == len({(point['depth'], point['accuracy']) for point in curve})
  for which, key in (('x', 'depth'), ('y', 'accuracy')):
    within(axes, which, 100.0, [100 * point[prefix + key] for point in curve for prefix in ('', 'greedy_')])


@pytest.mark.parametrize('count', [1, 31, 32, 33, 384, 385, 4096])
def test_the_grid_of_depths_has_the_question_and_the_tokens(tmp_path, figures, count):
  question = 'Mia has 3 pens and buys 4 more. ' * 9 + 'How many has she?'
  row = {'question': question, 'outcome': 'Right', 'tokens': [' w'] * count, 'blocks': [2] * count, 'entropy': [0.5] * count}
  exit_plots.plot_depth([row], 4, tmp_path / 'x.png')
  grid = figures[0].axes[0]
  assert texts_of(grid) == ['␣w'] * min(count, 384)
  part = f', first 384 of {count} tokens' if count > 384 else ''
  assert re.fullmatch(f'Right{part}: Mia has 3 pens .* … .* How many has she\\?', grid.get_title(loc='left'))


# ----------------------------------------------------------------------------------------------------------------- frontier

RULES = ['espo', 'value_only', 'regret_only', 'random', 'risk_control']
PLACES = [(0.0, 0.0), (0.2, 0.05), (1.0, 1.0)]


def at(places) -> list[dict]:
  return [{'saved': x, 'false_positives': y, 'tokens_per_solved': 100 * (1 - x / 2)} for x, y in places]


@pytest.mark.parametrize('reference', ['random', 'value_only'])
@pytest.mark.parametrize('studied', RULES)
def test_rules_that_agree_are_all_seen_with_the_studied_one_on_top(tmp_path, figures, studied, reference):
  points = {rule: at(PLACES) for rule in RULES}
  best = {rule: its[1] for rule, its in points.items()}
  frontier.plot_frontier(points, best, reference, studied, 100.0, tmp_path / 'x.png')
  lost, cost = figures[0].axes
  for axes in (lost, cost):
    fronts = {line.get_label(): line for line in axes.lines if line.get_label() in RULES}
    assert fronts.keys() == set(RULES)
    assert max(fronts, key=lambda rule: fronts[rule].get_zorder()) == studied
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_zorder() >= 10]
    for lines in (list(fronts.values()), marks):
      lines = sorted(lines, key=lambda line: line.get_zorder())
      sizes = [line.get_markersize() for line in lines]
      assert len(lines) == len(RULES) and sizes == sorted(set(sizes), reverse=True)
      assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == len(RULES)
    assert [mark.get_markeredgecolor() for mark in sorted(marks, key=lambda line: line.get_zorder())][-1] == 'black'
  within(cost, 'x', 100.0, cost.lines[0].get_xdata())
  within(lost, 'x', 100.0, [100 * x for x, _ in PLACES])
  within(lost, 'y', 100.0, [100 * y for _, y in PLACES])
  (legend,) = figures[0].legends
  assert [text.get_text() for text in legend.get_texts()] == list(points)


def test_a_frontier_without_a_solved_problem_or_a_point_is_drawn(tmp_path, figures):
  points = {f'rule{i}': at(PLACES) for i in range(9)} | {'espo': at(PLACES), 'none': []}
  frontier.plot_frontier(points, {}, 'random', 'espo', float('inf'), tmp_path / 'x.png')
  assert len(figures[0].axes[0].lines) == 10


def test_letters_that_no_font_has_warn_of_nothing(tmp_path, recwarn):
  row = {'question': '她有几支笔', 'outcome': 'Right', 'tokens': ['笔'], 'blocks': [2], 'entropy': [0.5]}
  exit_plots.plot_depth([row], 4, tmp_path / 'deep' / 'x.png')
  assert (tmp_path / 'deep' / 'x.png').read_bytes().startswith(b'\x89PNG')
  assert not recwarn.list
