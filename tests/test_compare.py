"""The table of paired differences between two runs, two arms, or the same seeds of two groups of runs."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
from run_folder import write_run

from espo_jax import monitor
from espo_jax.report import __main__ as command

pytestmark = pytest.mark.quick


def evaluate(arm, sampled, greedy, digest='same'):
  """Replaces the evaluation of an arm's folder by one with the given answers, texts of 0 and 1."""
  counts = {'correct': sampled.count('1'), 'greedy_correct': greedy.count('1'), 'problems': len(sampled), 'tokens_mean': 9.0}
  shares = {'accuracy': counts['correct'] / len(sampled), 'greedy_accuracy': counts['greedy_correct'] / len(greedy)}
  texts = {'sampled_right': sampled, 'greedy_right': greedy, 'problems_digest': digest}
  monitor.atomic_write_text(arm / 'evaluation.json', json.dumps(counts | shares | texts))


def table(capsys, *folders):
  """Returns the rows of the printed table, by name."""
  command.main(['--compare', *map(str, folders)])
  rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
  return {row[0]: row[1:] for row in rows[2:]}


def numbers(text):
  return [float(found.replace(',', '')) for found in re.findall(r'[-+]?[\d,]+\.\d', text)]


def coverage(n, first, second):
  """Returns the exact probability with which the interval covers the difference of the two shares' own pairs."""
  counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
  low, high = np.array([monitor.paired_shares(a, b, n) for a, b, _ in counts.tolist()]).T
  chance = scipy.stats.multinomial.pmf(counts, n, [first, second, 1 - first - second])
  return chance[(low <= second - first) & (second - first <= high)].sum()


def test_the_interval_of_a_paired_difference_covers_it_by_enumeration():
  many = [coverage(60, first, second) for first, second in itertools.product((0.1, 0.2, 0.3), (0.1, 0.25, 0.4))]
  assert min(many) > 0.935 and max(many) < 0.965
  assert coverage(15, 0.0, 0.0) == 1.0  # and not 0 to 0 where no pair differs
  low, high = monitor.paired_shares(0, 0, 15)
  assert low == -high < -0.05


def test_the_interval_of_a_paired_difference_is_walds_for_many_pairs():
  rng = np.random.default_rng(0)
  pairs = rng.random((100_000, 2)) < np.array([0.3, 0.35])
  low, high = monitor.paired_shares(*(int(np.sum(pairs[:, i] & ~pairs[:, 1 - i])) for i in (0, 1)), len(pairs))
  mean, half = monitor.mean_interval(pairs[:, 1].astype(float) - pairs[:, 0])
  assert [low, high] == pytest.approx([mean - half, mean + half], rel=1e-3)


@pytest.mark.parametrize(('a', 'b', 'n'), [(-1, 0, 3), (2, 2, 3)])
def test_counts_that_cannot_be_are_refused(a, b, n):
  with pytest.raises(ValueError, match=f'at most n pairs, got {a} and {b} of {n}'):
    monitor.paired_shares(a, b, n)


def test_two_arms_are_paired_by_problem(tmp_path, capsys):
  arms = write_run(tmp_path / 'run') / 'arms'
  evaluate(arms / 'never', '1100110000', '0000011111')
  evaluate(arms / 'espo', '1111100000', '0000011111')
  rows = table(capsys, arms / 'never', arms / 'espo')
  first, second, difference, interval, pairs = rows['test accuracy %']
  assert (first, second, difference, pairs) == ('40.0', '50.0', '+10.0', '10 problems')
  assert numbers(interval) == pytest.approx([100 * end for end in monitor.paired_shares(1, 2, 10)], abs=0.05)
  assert rows['greedy accuracy %'][2] == '+0.0'
  assert rows['decoded tokens (k)'][:3] == ['40.0', '32.0', '-20.0 %']  # write_run: 1000 and 800 tokens per update
  assert rows['stop rate %'][:3] == ['0.0', '20.0', '+20.0']


def test_other_problems_have_no_interval(tmp_path, capsys):
  arms = write_run(tmp_path / 'run') / 'arms'
  evaluate(arms / 'never', '1100', '1100')
  evaluate(arms / 'espo', '1110', '1100', digest='other')
  assert table(capsys, arms / 'never', arms / 'espo')['test accuracy %'] == [
    '50.0',
    '75.0',
    '+25.0',
    '-',
    'other test problems',
  ]


def test_evaluations_that_do_not_say_which_problems_they_had_have_no_interval(tmp_path, capsys):
  run = write_run(tmp_path / 'run')
  assert table(capsys, run, run)['test accuracy %'] == ['75.0', '75.0', '+0.0', '-', 'problems not recorded']


@pytest.mark.parametrize('flag', ['--output=x.html', '--live', '--rollouts=7'])
def test_a_flag_of_the_page_is_refused_beside_a_comparison(tmp_path, flag):
  run = str(write_run(tmp_path / 'run'))
  with pytest.raises(SystemExit, match='error: --compare writes no page; fix: leave out'):
    command.main(['--compare', run, run, flag])


def test_a_run_stands_for_its_main_arm_and_an_unfinished_one_is_compared_as_far_as_it_is(tmp_path, capsys):
  whole, half = write_run(tmp_path / 'a'), write_run(tmp_path / 'b', updates=20, done=False)
  rows = table(capsys, whole, half)
  assert rows['test accuracy %'][:3] == ['75.0', '-', '-']
  assert rows['decoded tokens (k)'][:3] == ['32.0', '16.0', '-50.0 %']
  command.main(['--compare', str(whole), str(half)])
  assert 'second: ' + str(half) + ' (ESPO, 1 of 1 not finished)' in capsys.readouterr().out


def test_groups_are_paired_by_seed_with_students_interval(tmp_path, capsys):
  shares = {'a': (0.3, 0.5, 0.4), 'b': (0.5, 0.6, 0.7)}
  for group, its in shares.items():
    for seed, share in enumerate(its):
      folder = write_run(tmp_path / group / f'run_{seed if group == "a" else 7 - seed}', arms=('espo',), seed=seed)
      right = '1' * round(20 * share) + '0' * round(20 - 20 * share)
      evaluate(folder / 'arms/espo', right, right, digest=str(seed))
  rows = table(capsys, tmp_path / 'a', tmp_path / 'b')
  changes = 100 * (np.array(shares['b']) - np.array(shares['a']))
  half = scipy.stats.t.ppf(0.975, 2) * np.std(changes, ddof=1) / math.sqrt(3)
  first, second, difference, interval, pairs = rows['test accuracy %']
  assert (first, second, difference, pairs) == ('40.0', '60.0', '+20.0', '3 seeds')
  assert numbers(interval) == pytest.approx([20 - half, 20 + half], abs=0.05)


def test_what_cannot_be_compared_is_named_with_its_fix(tmp_path):
  run, other = (write_run(tmp_path / 'x' / name, seed=seed) for name, seed in (('a', 1), ('b', 1)))
  for name, seed in (('c', 2), ('d', 3)):
    write_run(tmp_path / 'y' / name, seed=seed)
  for folders, told in (
    ((run, tmp_path / 'none'), f'--compare={tmp_path / "none"}: no such folder; fix: '),
    ((run / 'arms/espo', run / 'arms'), 'holds no config.json'),
    ((run, tmp_path / 'x'), f'{run} and {other} both have the seed 1; fix: a folder with one run per seed'),
    ((run, tmp_path / 'y'), 'no common seed, there are [1] and [2, 3]; fix: '),
    ((run / 'arms/gone', run), f"{run}: has no arm 'gone'; fix: one of its arms, which are: {run}/arms/never, {run}/arms/espo"),
    ((run, write_run(tmp_path / 'z', stop__name='later')), "has no arm 'later'; fix: one of its arms, which are: "),
  ):
    with pytest.raises(SystemExit, match='error: ') as error:
      command.main(['--compare', *map(str, folders)])
    assert told in str(error.value)
