"""Flags that may be repeated: all of their values count, and none is given twice."""

import pytest

from espo_jax.commands import CommandParser, NamedValues

pytestmark = pytest.mark.quick


def test_the_pairs_behind_all_occurrences_of_a_flag_count_and_none_is_given_twice():
  def pair(text):
    name, _, value = text.partition('=')
    return name, value

  parser = CommandParser()
  parser.add_argument('--constants', nargs='*', action=NamedValues, type=pair, default=[('a', '0')])
  assert parser.parse_args([]).constants == [('a', '0')]
  given = parser.parse_args(['--constants', 'a=1', '--constants', 'b=2', 'c=3']).constants
  assert given == [('a', '1'), ('b', '2'), ('c', '3')]
  for words in (['--constants', 'a=1', 'a=2'], ['--constants', 'a=1', '--constants', 'a=2']):
    with pytest.raises(SystemExit, match=r'--constants a=\.\.\.: given twice; fix: once'):
      parser.parse_args(words)
