r"""Removes remarks about letters from the end of an answer: `cx \text{ for any constant } c`, `cx, c \in \mathbb{R}`."""

import re
from typing import NamedTuple

MOST = 3  # the most remarks that are removed, from the last one on

_LETTER = r'[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]{1,4}\}))?'
_LETTERS = rf'(?P<letters>{_LETTER}(?:(?: ?, ?(?:and )?| and ){_LETTER})*)'
_QUALITY = '(?:real|rational|complex|integral|natural|whole|positive|negative|non-?zero|non-?negative|arbitrary|fixed|constant)'
_NOUN = '(?:constant|number|integer|real|rational|scalar|parameter|value|coefficient)s?'
_KIND = rf'(?P<kind>(?:(?:an?|any|all|every|each|some) )?(?:{_QUALITY} )*(?:{_NOUN}|{_QUALITY}))'
_SET = r'(?: ?\\in ?(?P<set>\\mathbb ?\{? ?[RZNQC] ?\}?(?:\^[+*]|_\+)?|[RZNQC]))'
_GAP = r'(?: |, ?|; ?| ?\( ?)'
_BEFORE = rf'(?:{_GAP}(?:and |where |with |given |for |here )?)'
_REMARK = re.compile(
  rf'{_GAP}(?:for|\\forall) ?(?:(?P<first>(?:(?:an?|any|all|every|each|some) )?(?:{_QUALITY} )*(?:{_NOUN} )?))'
  rf'{_LETTERS}{_SET}? ?\)?$'
)
_STATEMENT = re.compile(rf'{_BEFORE}{_LETTERS}(?:{_SET}|(?: (?:is|are|being))? {_KIND}) ?\)?$')
_NARROW = re.compile('integ|natural|whole|rational|complex|positive|negative|zero|non|[ZNQC+*]')
_COMMAND = re.compile(r'\\[A-Za-z]+')


class Quantified(NamedTuple):
  """An answer without remarks, the letters of the remarks, and the words that restrict the values of these letters."""

  answer: str
  letters: tuple[str, ...]
  narrowed: frozenset[str]


def without_quantifiers(answer: str) -> Quantified:
  """Removes the remarks at the end of an answer in canonical spelling, if the rest of the answer has their letters."""
  letters: tuple[str, ...] = ()
  narrowed: frozenset[str] = frozenset()
  for _ in range(MOST if ' ' in answer or '\\in' in answer else 0):
    match = _REMARK.search(answer) or _STATEMENT.search(answer)
    if match is None:
      break
    rest = answer[: match.start()].strip(' ,;')
    said = re.findall(_LETTER, re.sub('and', ',', match['letters']))
    if not rest or not all(letter in _COMMAND.sub(' ', rest) for letter in said):
      break
    words = ' '.join(filter(None, (match.groupdict().get(name) for name in ('first', 'kind', 'set'))))
    narrowed |= {'integ' if word in 'Z' else word for word in _NARROW.findall(re.sub(r'\\mathbb|integral', ' ', words))}
    answer, letters = rest, (*letters, *said)
  return Quantified(answer, letters, narrowed)


def same_letter(stated: Quantified, gold: Quantified) -> str | None:
  """Renames the letter of the stated answer to that of the gold answer, if both have remarks about exactly one letter.

  Returns:
    The renamed or unchanged answer; None if the remarks allow different numbers.
  """
  if not stated.letters or not gold.letters:
    return stated.answer
  if stated.narrowed != gold.narrowed:
    return None
  old, new = stated.letters[0], gold.letters[0]
  if old == new or len(stated.letters) > 1 or len(gold.letters) > 1 or new in _COMMAND.sub(' ', stated.answer):
    return stated.answer
  return re.sub(rf'\\[A-Za-z]+|{re.escape(old)}', lambda match: new if match[0] == old else match[0], stated.answer)
