r"""Renders Markdown as plain text: removes the marks of emphasis, and text that is struck out.

The rules are CommonMark's for `*`, `_`, backticks and `~~`, and for HTML tags with the same effect. An asterisk after a number,
a variable or a closing bracket is a product or a power, and opens no emphasis. A formula without `**` stays as it is.
"""

import collections
import re
from typing import NamedTuple

_TAG = '(?:b|strong|i|em|u|ins|mark|code|kbd|span|font|big|small|s|del|strike)'
_OPENING = re.compile(  # where emphasis may begin; most texts have no such place and need no reading
  rf'(?=[*_`~<])(?:(?<![0-9)\]}}^*])\*+(?![\s*])|(?<![\w)\]}}^])_+(?![\s_])|`|~~|<{_TAG}[\s>])', re.IGNORECASE
)
_BULLET = re.compile(r'^[ \t]*[-+][ \t]+(?=[*_`~<])', re.MULTILINE)  # a minus sign would be inside of the emphasis
_TOKEN = re.compile(
  rf"""(?=[\\$`*_~<\n]) (?:  # the first characters of all tokens, for speed
    (?P<kept> \\(?:begin|end)\{{[A-Za-z]*\*?\}} | \\(?:operatorname\*|[A-Za-z]+) | \\[\s\S]
      | \$\$(?:[^$*]|\*(?!\*))+\$\$ | \$(?!\s)(?:[^$\n*]|\*(?!\*))+(?<![\s\\])\$(?!\d) | \$\$? )
    | (?P<code> (?P<ticks>`+)(?P<content>[^`\n]+)(?P=ticks)(?!`) ) | `+
    | (?P<run> \*+ | _+ | ~~+ )
    | <(?P<slash>/?)(?P<tag>{_TAG})(?:\s[^<>\n]{{0,100}})?>
    | (?P<end> \n[ \t]*\n ) )""",
  re.VERBOSE | re.IGNORECASE,
)
_CLOSED_BY = {'\\(': '\\)', '\\[': '\\]'}
_STRUCK = frozenset(('~', 's', 'del', 'strike'))
_WORD_BEFORE = re.compile(r'[A-Za-z]{3}|\Wis')  # three characters that end with a word, after which `*` is no product
_OPERAND_END = re.compile(r'[0-9A-Za-z)\]}^!]')
_OPERAND_START = re.compile(r'[0-9A-Za-z({]')


class _Opener(NamedTuple):
  """A mark that may open emphasis, its index among the pieces, and the number of its unmatched characters."""

  mark: str
  piece: int
  length: int


def plain(text: str) -> str:
  """Renders Markdown's emphasis.

  Args:
    text: Any text. The time is linear in its length.

  Returns:
    The text without marks of emphasis and without the parts that are struck out. A mark without a counterpart in the same
    paragraph is kept.
  """
  return _Reader(_BULLET.sub('', text)).read() if _OPENING.search(text) else text


class _Reader:
  """The state of one pass over a text: the pieces that are kept, and the open marks."""

  def __init__(self, text: str) -> None:
    self._text = text
    self._pieces: list[str] = []
    self._openers: list[_Opener] = []
    self._waiting: collections.Counter[str] = collections.Counter()

  def read(self) -> str:
    text, pieces, position = self._text, self._pieces, 0
    hopeless = dict.fromkeys(_CLOSED_BY.values(), -1)  # a formula that opens before this position contains `**` or has no end
    while token := _TOKEN.search(text, position):
      pieces.append(text[position : token.start()])
      position = token.end()
      if token['run']:
        self._run(token)
      elif token['tag']:
        self._tag(token)
      elif token['code']:
        pieces.append(token['content'])
      else:
        closing = _CLOSED_BY.get(token[0])
        if closing and position > hopeless[closing]:
          end = text.find(closing, position)
          if end >= 0 and text.find('**', position, end) < 0:
            position = end + 2
          else:
            hopeless[closing] = end if end >= 0 else len(text)
        pieces.append(text[token.start() : position])
        if token['end']:
          self._openers.clear()
          self._waiting.clear()
    pieces.append(text[position:])
    return ''.join(pieces)

  def _run(self, token: re.Match[str]) -> None:
    """Closes open marks with a run of marks, innermost first. The rest of the run becomes an open mark."""
    mark, length = token[0][0], len(token[0])
    opens, closes = _flanks(self._text, token)
    while closes and length and self._waiting[mark]:
      length -= self._close(mark, length)
    if length and opens:
      self._open(mark, length)
    self._pieces.append(mark * length)

  def _tag(self, token: re.Match[str]) -> None:
    tag = token['tag'].lower()
    if token['slash'] and self._waiting[tag]:
      self._close(tag, 1)
      return
    if not token['slash']:
      self._open(tag, 1)
    self._pieces.append(token[0])

  def _open(self, mark: str, length: int) -> None:
    self._openers.append(_Opener(mark, len(self._pieces), length))
    self._waiting[mark] += 1

  def _close(self, mark: str, length: int) -> int:
    """Closes the last open mark of this kind and drops the marks after it; returns how many characters were matched."""
    opener = self._openers.pop()
    self._waiting[opener.mark] -= 1
    while opener.mark != mark:
      opener = self._openers.pop()
      self._waiting[opener.mark] -= 1
    if mark in _STRUCK:
      del self._pieces[opener.piece :]
      return length
    used = min(length, opener.length)
    self._pieces[opener.piece] = mark * (opener.length - used)
    if opener.length > used:
      self._openers.append(opener._replace(length=opener.length - used))
      self._waiting[mark] += 1
    return used


def _flanks(text: str, run: re.Match[str]) -> tuple[bool, bool]:
  """Returns whether a run of marks may open emphasis, and whether it may close it."""
  before, after = text[run.start() - 1 : run.start()] or ' ', text[run.end() : run.end() + 1] or ' '
  word = run[0][0] == '*' and _WORD_BEFORE.fullmatch(text, max(0, run.start() - 3), run.start())
  opens = not after.isspace() and (
    before.isspace() or (after not in '.,;:!?)]}' and bool(word or not _OPERAND_END.match(before)))
  )
  closes = not before.isspace() and before not in '([{^' and (run[0][0] == '~' or not _OPERAND_START.match(after))
  return opens, closes
