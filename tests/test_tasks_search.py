"""Searches that are written out: Sudoku, and Countdown depth first. Traces are replayed, and grids checked by their rules."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_jax import tasks
from espo_jax.tasks.sudoku import candidates, read_grid, solutions

pytestmark = pytest.mark.quick

SUDOKU = [{}, {'search': True}, {'box': 3, 'blanks': 30}, {'box': 3, 'blanks': 30, 'search': True}]
DFS = [{'difficulty': difficulty} for difficulty in ('easy', 'medium', 'hard')]
ALL = [('sudoku', options) for options in SUDOKU] + [('countdown_dfs', options) for options in DFS]


@pytest.mark.parametrize(('name', 'options'), ALL, ids=str)
def test_solutions_verify_fit_and_survive_the_arrays(name, options):
  task, rng, count = tasks.get(name, **options), np.random.default_rng(0), 6
  problems = [task.problem(split, i) for split in ('train', 'test') for i in range(count)]
  assert not {p.prompt for p in problems[:count]} & {p.prompt for p in problems[count:]}
  responses = [task.solution(p, rng) for p in problems]
  width, horizon, tokenizer = task.max_prompt_tokens, task.max_response_tokens, task.tokenizer()
  pairs = [(p.prompt, r) for p, r in zip(problems, responses, strict=True)]
  batch = tasks.encode_supervised(tokenizer, pairs, width, horizon)
  decoded = tasks.decode_responses(tokenizer, batch.tokens[:, width:], batch.response_lengths)
  assert decoded == responses
  assert all(task.verify(p, r) is True for p, r in zip(problems, decoded, strict=True))
  others = problems[1:] + problems[:1]
  assert not any(task.verify(p, r) for p, r in zip(others, responses, strict=True))
  assert task.problem('train', 3) == problems[3] and tasks.get(name, **options, seed=1).problem('train', 3) != problems[3]


# ------------------------------------------------------------------------------------------------------------------ Sudoku


def complete(grid) -> bool:
  """Whether all rows, columns and boxes have each digit once, by their definition."""
  side = len(grid)
  box, digits = round(side**0.5), set(range(1, side + 1))
  boxes = [grid[i : i + box, j : j + box].ravel() for i in range(0, side, box) for j in range(0, side, box)]
  return all(set(group.tolist()) == digits for group in [*grid, *grid.T, *boxes])


def test_there_are_288_grids_of_4_by_4():
  grids = list(solutions(np.zeros((4, 4), int)))
  assert len({grid.tobytes() for grid in grids}) == len(grids) == 288 and all(map(complete, grids))


@pytest.mark.parametrize('options', [{}, {'box': 3, 'blanks': 30}], ids=str)
def test_a_sudoku_has_the_blanks_asked_for_and_one_solution(options):
  task = tasks.get('sudoku', **options)
  for index in range(5):
    problem = task.problem('train', index)
    grid, whole = read_grid(problem.prompt), read_grid(problem.answer)
    assert (grid == 0).sum() == task.count and complete(whole)
    assert (whole[grid > 0] == grid[grid > 0]).all()
    assert len(list(solutions(grid))) == 1


def test_a_small_sudoku_with_two_solutions_is_told_by_trying_all_fillings():
  """All fillings of the blanks, by brute force, against the solver."""
  whole = read_grid('1234/3412/2143/4321')
  for blanks in ([0, 1, 4, 5], [0, 2, 8, 10], [3, 6, 9]):
    grid = whole.copy()
    grid.flat[blanks] = 0
    brute = []
    for digits in itertools.product(range(1, 5), repeat=len(blanks)):
      filled = grid.copy()
      filled.flat[blanks] = digits
      brute += [filled.tobytes()] if complete(filled) else []
    assert sorted(found.tobytes() for found in solutions(grid)) == sorted(brute)


@pytest.mark.parametrize('options', [option for option in SUDOKU if option.get('search')], ids=str)
def test_the_trace_of_a_sudoku_is_a_search_with_dead_ends(options):
  task, rng, dead = tasks.get('sudoku', **options), np.random.default_rng(3), []
  for index in range(20):
    problem = task.problem('train', index)
    trace, _, answer = task.solution(problem, rng).partition('#')
    grid, tried, ends = read_grid(problem.prompt), [], 0
    blanks = [tuple(place) for place in np.argwhere(grid == 0).tolist()]
    letters = tasks.sudoku._LABELS
    parts = re.findall(r';|[^;]\d', trace)
    assert ''.join(parts) == trace
    for part in parts:
      if part == ';':
        grid[tried.pop()] = 0
        continue
      place = blanks[letters.index(part[0])]
      assert place == blanks[len(tried)] and int(part[1]) in candidates(grid, place)
      grid[place] = int(part[1])
      tried.append(place)
      ends += len(tried) < len(blanks) and not candidates(grid, blanks[len(tried)])
    assert tasks.sudoku.write_grid(grid) == answer and len(tried) == task.count
    dead.append(ends)
  assert max(dead) > 1 and max(dead) <= task.dead_ends


def test_a_direct_solution_is_the_grid_alone():
  task = tasks.get('sudoku')
  problem = task.problem('test', 0)
  assert task.solution(problem, np.random.default_rng(0)) == '#' + problem.answer
  assert task.verify(problem, 'a1;#nonsense#' + problem.answer) and not task.verify(problem, problem.answer)
  assert not task.verify(problem, '#' + problem.answer[::-1]) and not task.verify(problem, '#' + problem.prompt)


@pytest.mark.parametrize(
  ('name', 'options', 'told'),
  [
    ('sudoku', {'box': 4}, 'box = 4; fix: 2 for grids of 4 by 4, or 3 for 9 by 9'),
    ('sudoku', {'blanks': 13}, 'blanks = 13; fix: from 1 to 11'),
    ('sudoku', {'dead_ends': -1}, 'dead_ends = -1; fix: 0'),
    ('countdown_dfs', {'noise': 0.1}, 'noise = 0.1: a search has no slips; fix: noise = 0.0, or the task countdown'),
  ],
)
def test_wrong_settings_are_refused(name, options, told):
  with pytest.raises(ValueError, match=re.escape(told)):
    tasks.get(name, **options)


# --------------------------------------------------------------------------------------------------------------- Countdown


def test_the_problems_are_those_of_countdown():
  plain, searched = tasks.get('countdown', seed=4), tasks.get('countdown_dfs', seed=4)
  assert [searched.problem('train', i) for i in range(20)] == [plain.problem('train', i) for i in range(20)]


@pytest.mark.parametrize('options', DFS, ids=str)
def test_the_trace_of_countdown_is_a_depth_first_search(options):
  task, rng, dead = tasks.get('countdown_dfs', **options), np.random.default_rng(2), []
  for index in range(60):
    problem = task.problem('train', index)
    text = task.solution(problem, rng)
    head, target = problem.prompt.rstrip(':').split('=')
    states, tried, ends = [sorted(map(int, head.split()))], [set()], 0
    parts = re.findall(r'[^,;!]+|[,;!]', text)
    for part in parts[:-1]:
      if part == ';':
        ends += len(states[-1]) == 1
        states.pop()
        tried.pop()
      elif part != ',':
        assert part not in tried[-1]  # no step is tried twice from the same place
        tried[-1].add(part)
        left, operator, right, result = re.fullmatch(r'(\d+)([-+*/])(\d+)=(\d+)', part).groups()
        state = states[-1].copy()
        state.remove(int(left))
        state.remove(int(right))
        assert eval(f'{left}{operator}{right}') == int(result)
        states.append(sorted([*state, int(result)]))
        tried.append(set())
    assert parts[-1] == '!' and states[-1] == [int(target)]
    dead.append(ends)
  assert 0 in dead and 1 < max(dead) < task.settings.max_attempts


def test_the_direct_solution_of_countdown_has_no_dead_end():
  plain, searched = (tasks.get(name, max_attempts=1) for name in ('countdown', 'countdown_dfs'))
  for index in range(10):
    problem = plain.problem('train', index)
    for task in (plain, searched):
      assert re.fullmatch(r'[^;!]*!', task.solution(problem, np.random.default_rng(index)))
  assert plain.max_response_tokens == searched.max_response_tokens


VERIFIED = [
  ('3+2=5,7*5=35;7-5=2;;7*2=14,14+3=17!', True),
  ('7*2=14,14+3=17!', True),
  ('3+2=5;7*2=14,3+14=17!', True),  # operands in either order, an inner step that is taken back early
  ('3+2=5,7*5=35;;7*2=14,14+3=17!', True),
  ('3+9=5,7*5=1;;7*2=14,14+3=17!', True),  # what was taken back is not checked
  ('7*2=14,14+3=17', False),
  ('7*2=14,14+3=17!!', False),
  ('7*2=14,14+3=17!;', False),
  ('7*2=14,;14+3=17!', False),
  (';7*2=14,14+3=17!', False),
  ('7*2=14;;14+3=17!', False),
  ('7*2=14;14+3=17!', False),
  ('7*2=14,14+3=18!', False),
  ('7*2=14,7+3=10!', False),
  ('3+2=5,7*5=35;7*2=14,14+3=17!', False),  # 3 + 2 was not taken back
  ('7*2=14,14+3=17,17+0=17!', False),
]


@pytest.mark.parametrize(('text', 'right'), VERIFIED)
def test_a_search_is_right_if_the_steps_that_are_left_are(text, right):
  assert tasks.get('countdown_dfs').verify(tasks.Problem(0, '3 7 2=17:', '17'), text) is right


@pytest.mark.parametrize('name', ['sudoku', 'countdown_dfs'])
@given(response=st.text() | st.text('0123456789+-*/=#,;!ab', max_size=60))
@settings(max_examples=100, deadline=None)
def test_hostile_text_is_wrong_and_harmless(name, response):
  task = tasks.get(name)
  assert task.verify(task.problem('test', 5), response) is False


@pytest.mark.parametrize(
  'text', ['1+1=2;' * 100_000, '1+1=2,' * 100_000, ';' * 100_000, '9' * 100_000, '1+1=2' + ';' * 100_000]
)
def test_long_text_is_refused_in_time(text):
  task = tasks.get('countdown_dfs')
  assert task.verify(task.problem('train', 0), text) is False
