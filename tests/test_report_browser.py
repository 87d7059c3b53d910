"""The page of a run in a real browser: Chromium without a window. What is compared is content, never pixels of a picture."""

import contextlib

import numpy as np
import pytest
from drills.opened import CHROMIUM
from playwright.sync_api import Error, sync_playwright
from run_folder import HOSTILE, example, write_run

from espo_jax import report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on the PATH; on Debian: apt-get install chromium')

STOPPED = {'reason': 'stopped', 'correct': False, 'length': 3}
ROLLOUTS = (
  example('right', question='first'),
  example('wrong', question='second', correct=False),
  example('stopped', question='third', **STOPPED),
  example('cut', question='fourth', reason='length', correct=False),
  example('lost', question='fifth', reason='stopped', length=2),
)


@pytest.fixture(scope='module')
def browser():
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
  """Opens the page of runs; fails the test if the page logs an error or asks for anything but itself."""
  complaints = []

  def opened(*folders, part='', **options):
    path = report.write_page(report.read_runs(folders), tmp_path / 'page.html', **options)
    page = browser.new_page(viewport={'width': 1200, 'height': 900})
    page.on('console', lambda message: complaints.append(message.text))
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.on('request', lambda request: None if request.url.startswith(path.as_uri()) else complaints.append(request.url))
    page.goto(path.as_uri() + (f'#{part}' if part else ''))
    return page

  yield opened
  assert not complaints


def shown(page):
  return page.locator('#outcome').text_content(), page.locator('#question').text_content()


def test_tabs_show_one_part_at_a_time_and_the_address_remembers_it(open_page, tmp_path):
  page = open_page(write_run(tmp_path / 'run', examples=ROLLOUTS))
  parts = ['results', 'curves', 'rollouts', 'config']
  for part in parts:
    page.click(f'#tab-{part}')
    assert [page.locator(f'#{other}').is_visible() for other in parts] == [other == part for other in parts]
    assert page.locator(f'#tab-{part}').get_attribute('aria-selected') == 'true'
    assert page.url.endswith(f'#{part}')
  page.reload()
  assert page.locator('#config').is_visible() and 'stop.name' in page.locator('#config').text_content()


def test_curves_are_drawn_over_three_axes_and_arms_can_be_hidden(open_page, tmp_path):
  page = open_page(write_run(tmp_path / 'run'), part='curves')
  drawn = page.locator('#charts figure')
  assert drawn.count() == 9 and page.locator('#charts .js-plotly-plot').count() == 9
  length = 'document.querySelector(\'[data-metric="rollout/length_mean"] .chart\')'
  assert page.evaluate(f'{length}.data.map((trace) => [trace.name, trace.y[0], trace.visible])') == [
    ['PPO', 10, True],
    ['ESPO', 8, True],
  ]
  for title, last in (('decoded tokens', 32_000), ('seconds of training', 80), ('update', 40)):
    page.get_by_role('radio', name=title).check()
    assert page.evaluate(f'[{length}.layout.xaxis.title.text, {length}.data[1].x.at(-1)]') == [title, last]
  page.get_by_role('checkbox', name='PPO').uncheck()
  assert page.evaluate(f'{length}.data.map((trace) => trace.visible)') == [False, True]
  page.select_option('#metric', 'rollout/rows')
  assert drawn.count() == 10 and 'The rows that were begun. [rows]' in drawn.last.text_content()


def test_a_curve_tells_its_numbers_and_zooms(open_page, tmp_path):
  page = open_page(write_run(tmp_path / 'run'), part='curves')
  figure = page.locator('[data-metric="rollout/length_mean"]')
  figure.scroll_into_view_if_needed()
  box = figure.locator('.nsewdrag').bounding_box()
  at = lambda x, y: (box['x'] + x * box['width'], box['y'] + y * box['height'])
  page.mouse.move(*at(0.5, 0.5))
  page.wait_for_selector('[data-metric="rollout/length_mean"] .hoverlayer text')
  told = figure.locator('.hoverlayer').text_content()
  assert 'PPO : 10' in told and 'ESPO : 8' in told
  page.mouse.move(*at(0.25, 0.2))
  page.mouse.down()
  page.mouse.move(*at(0.75, 0.8), steps=5)
  page.mouse.up()
  ranged = 'document.querySelector(\'[data-metric="rollout/length_mean"] .chart\').layout.xaxis.range'
  page.wait_for_function(f'{ranged}[0] > 5')
  low, high = page.evaluate(ranged)
  assert 5 < low < 15 and 25 < high < 35


def test_rollouts_are_filtered_searched_and_walked_through(open_page, tmp_path):
  page = open_page(write_run(tmp_path / 'run', examples=ROLLOUTS), part='rollouts')
  count = lambda: page.locator('#count').text_content()
  assert count() == '5 of 5 rollouts' and shown(page) == ('right, ended after 5 tokens', 'first')
  outcomes = ['wrong, ended after 5 tokens', 'stopped at token 3 of 7, would have been wrong', 'wrong, cut at the horizon']
  for key, outcome in zip(('ArrowRight', 'j', 'ArrowRight'), outcomes, strict=True):
    page.keyboard.press(key)
    assert shown(page)[0] == outcome
  page.keyboard.press('k')
  page.keyboard.press('ArrowLeft')
  assert shown(page)[1] == 'second'
  page.click('#next')
  assert shown(page)[1] == 'third' and page.locator('#list [aria-current]').text_content().startswith('stopped at token 3')
  for box, left in (('ended', 3), ('cut', 2), ('wrong', 1)):
    page.get_by_label(box, exact=True).uncheck()
    assert count() == f'{left} of 5 rollouts'
  assert shown(page) == ('stopped at token 2 of 4, would have been right', 'fifth')
  for box in ('ended', 'cut', 'wrong'):
    page.get_by_label(box, exact=True).check()
  page.get_by_label('shadow rows only').check()
  assert count() == '2 of 5 rollouts'
  page.get_by_label('shadow rows only').uncheck()
  page.locator('#list button').first.focus()
  page.keyboard.press('/')
  page.keyboard.type('WRONG')
  assert count() == '1 of 5 rollouts' and shown(page)[1] == 'second'
  page.fill('#search', 'nowhere')
  assert count() == '0 of 5 rollouts' and not page.locator('#shown').is_visible()


def test_tokens_are_coloured_greyed_after_the_stop_and_tell_their_numbers(open_page, tmp_path):
  rollout = example('abcdef', question='q', **STOPPED)
  rollout |= {'regret': [0.0, 1, 2, 3, 4, 0.5], 'z': [0.0, 0.5, 1, 1.5, 2, 2.5], 'values': [1.0, 0.75, 0.5, 0.25, 0.125, 0]}
  page = open_page(write_run(tmp_path / 'run', examples=[rollout]), part='rollouts')
  assert page.locator('#tokens').text_content() == 'abc\u25a0def'
  grounds = page.evaluate("[...document.querySelectorAll('#tokens span')].map((span) => span.style.background)")
  alpha = [float(ground.rpartition(',')[2].rstrip(')')) if ground.startswith('rgba') else 1.0 for ground in grounds]
  strength = np.array([0.75] * 3 + [0.3] * 3)  # weaker after the stop
  assert alpha == pytest.approx(strength * rollout['regret'] / 4, abs=1e-2)  # two decimals are kept
  assert page.evaluate("[...document.querySelectorAll('#tokens .after')].map((span) => span.textContent)") == ['d', 'e', 'f']
  page.hover('#tokens span:nth-of-type(2)')
  told = page.locator('#readout').text_content()
  assert told.startswith('token 2 "b": regret, nats 1.00; score z 0.500; threshold 2.00; value 0.750')
  page.hover('#tokens span:nth-of-type(4)')
  assert 'token 4 (after the stop, for measurement only) "d"' in page.locator('#readout').text_content()
  page.select_option('#colour', 'values')
  strongest = page.evaluate("[...document.querySelectorAll('#tokens span')].map((span) => span.style.background)")
  assert strongest != grounds and 'strongest at the lowest: 0.00 to 1.00' in page.locator('#scale').text_content()
  box = page.locator('#strip').bounding_box()
  page.mouse.move(box['x'] + box['width'] * 5.5 / 6, box['y'] + 40)
  assert page.locator('#tokens .at').text_content() == 'f'
  below_its_caption = 'getImageData(0, 14, 600, 136)'
  pixels = page.evaluate(f"Array.from(document.getElementById('strip').getContext('2d').{below_its_caption}.data)")
  red, _, blue, alpha = np.array(pixels, int).reshape(-1, 4).T
  assert ((blue > red + 60) & (alpha > 0)).sum() > 100 < ((red > blue + 60) & (alpha > 0)).sum()  # z, and its threshold
  page.locator('#tokens').click()
  page.keyboard.press('Shift+ArrowLeft')
  assert page.locator('#tokens .at').text_content() == 'e' and page.locator('#count').text_content() == '1 of 1 rollouts'


def test_tokens_of_an_environment_are_told_apart_and_have_no_numbers(open_page, tmp_path):
  rollout = example('abcde', question='q') | {'turn': [0, 0, -1, 1, 1]}
  page = open_page(write_run(tmp_path / 'run', examples=[rollout]), part='rollouts')
  assert page.evaluate("[...document.querySelectorAll('#tokens .observed')].map((span) => span.textContent)") == ['c']
  assert page.locator('#tokens span:nth-of-type(3)').evaluate('(span) => span.style.background') == ''
  assert page.locator('#facts').text_content().endswith('turns2')
  page.hover('#tokens span:nth-of-type(3)')
  assert page.locator('#readout').text_content() == 'token 3 "c": written by the environment'
  page.hover('#tokens span:nth-of-type(4)')
  assert page.locator('#readout').text_content().startswith('token 4, turn 2 "d": regret')


def test_equal_numbers_have_no_colour_and_a_settled_row_has_its_verdict(open_page, tmp_path):
  rollout = example('abc', reason='settled', correct=True) | {'values': [0.5] * 3}
  page = open_page(write_run(tmp_path / 'run', examples=[rollout]), part='rollouts')
  assert shown(page)[0] == 'right, settled at token 3'
  page.select_option('#colour', 'values')
  assert page.evaluate("[...document.querySelectorAll('#tokens span')].map((span) => span.style.background)") == [''] * 3


@pytest.mark.parametrize(('part', 'reloads'), [('', True), ('curves', True), ('rollouts', False)])
def test_a_page_of_a_run_that_goes_on_loads_itself_again_unless_rollouts_are_read(open_page, tmp_path, part, reloads):
  run = write_run(tmp_path / 'run', updates=5, examples=ROLLOUTS)
  page = open_page(run, part=part, every=1)
  page.evaluate('window.before = true')
  again = False
  for _ in range(80 if reloads else 10):
    page.wait_for_timeout(250)
    with contextlib.suppress(Error):  # while the page is loaded anew
      again = again or page.evaluate('window.before') is None
    if again:
      break
  assert again == reloads


def test_hostile_texts_run_nothing_and_are_shown(open_page, tmp_path):
  rollouts = [example([text, 'b'], question=text, answer=text) for text in HOSTILE]
  page = open_page(write_run(tmp_path / '<img src=x onerror=pwned()>', examples=rollouts), part='rollouts')
  for text in HOSTILE:
    plain = (
      text[:60].replace('\u202e', '\\u202e').replace('\u2066', '\\u2066').replace('\x00', '\\u0000').replace('\x1b', '\\u001b')
    )
    if text != '\ud800 alone':  # the driver has no text for it
      assert page.locator('#question').text_content().startswith(plain)
      assert page.locator('#tokens span').first.text_content().startswith(plain)
    page.hover('#tokens span:nth-of-type(1)')
    page.keyboard.press('ArrowRight')
  assert '(1000000 characters)' in page.locator('#tokens span').first.text_content()
  assert page.evaluate('typeof window.pwned') == 'undefined' and page.locator('img').count() == 0
  assert page.evaluate('document.title').startswith('<img src=x')


def test_a_name_that_looks_like_markup_is_a_name_in_the_legend(open_page, tmp_path):
  names = ['<b>bold &amp;', '<br>&lt;']
  page = open_page(*(write_run(tmp_path / name, arms=('espo',), updates=40) for name in names), part='curves')
  assert page.locator('#arms label').all_text_contents() == [f'  {name}' for name in names]
  figure = page.locator('[data-metric="rollout/length_mean"]')
  figure.scroll_into_view_if_needed()
  box = figure.locator('.nsewdrag').bounding_box()
  page.mouse.move(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
  page.wait_for_selector('[data-metric="rollout/length_mean"] .hoverlayer text')
  told = figure.locator('.hoverlayer').text_content()
  assert all(f'{name} : 10' in told for name in names)


def test_a_rollout_of_ten_thousand_tokens_can_be_pointed_at(open_page, tmp_path):
  rng = np.random.default_rng(0)
  long = example(rng.choice([*'abc \n'], 10_000).tolist())
  page = open_page(write_run(tmp_path / 'run', examples=[example('a'), long]), part='rollouts')
  page.keyboard.press('ArrowRight')
  assert page.locator('#tokens span').count() == 10_000
  box = page.locator('#strip').bounding_box()
  for share in (0.1, 0.5, 0.9):
    page.mouse.move(box['x'] + box['width'] * share, box['y'] + 40)
    told = page.locator('#readout').text_content()
    assert abs(int(told.split()[1]) - share * 10_000) < 20  # a pixel is nine tokens


def test_runs_stand_beside_each_other(open_page, tmp_path):
  runs = [
    write_run(tmp_path / name, arms=(arm,), updates=5, examples=ROLLOUTS[:1]) for name, arm in (('a', 'never'), ('b', 'espo'))
  ]
  page = open_page(*runs, part='rollouts')
  assert page.locator('#count').text_content() == '2 of 2 rollouts'
  page.select_option('#arm', label='b')
  assert page.locator('#count').text_content() == '1 of 2 rollouts' and 'b' in page.locator('#facts').text_content()
  page.click('#tab-config')
  differing = page.locator('#config table').last.locator('tbody td:first-child').all_text_contents()
  assert differing == ['stop.name']
