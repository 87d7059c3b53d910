r"""The final answer that a free text states: where it is, and what of the sentence around it belongs to it.

The order, once the reasoning is cut off and Markdown is rendered: a text states its answer in a `\boxed{}`, after a `####`, or
after "answer is", "Answer:" or a heading that says so. The last of these statements wins, because a text that corrects itself
does so further on. A text that has none of them states what its last line says. Three things limit the rule:

- A statement that says nothing is none: an empty box, "the answer is reasonable", a `####` that is the heading of what follows.
- A box or a `####` gives way to a sentence only where that begins with an answer (`_settles`), because most sentences after a
  box are about it: they check it, round it, name its form. Boxes in one list are one statement.
- A box that is never closed takes the whole text with it, because the response was cut off while it stated its answer.

Only the tail of a text is looked at, and every pattern takes time linear in it, or works on one sentence, of bounded length.
"""

import collections
import re
from typing import NamedTuple

from espo_jax.tasks.grading.markup import plain

TAIL = 16_384  # characters of a response that are looked at
SENTENCE = 2_000  # characters of a statement outside of a box that are looked at
MARKERS = 16  # places that say "answer" that are looked at
SHORTEST = 5  # characters of a statement: `####5`

_BOX = re.compile(r'\\(?:boxed|fbox|framebox)')
_BOX_TOKEN = re.compile(r'[{}]|\\(?:(?:boxed|fbox|framebox)\s*(?:(?P<open>\{)|(?P<bare>[^\s{}$\\]+))|[\s\S])')
_EMPTY_BOX = re.compile(r'\\(?:boxed|fbox|framebox)\s*\{\s*\}')
_MARKER = re.compile(
  r'(?=[acrb])\b(?:answers?|(?P<choice>(?:correct|right|best) (?:choice|option)))\b'
  r'(?:(?P<between>[^.\n:=]{0,60}?)\b(?:is|are)\b|(?P<label>[\s*_]*[:=\uff1a])|(?P<heading>[ \t]*(?=\n)))[\s*_:=\uff1a]*',
  re.IGNORECASE,
)
_HEADING = re.compile(r'[#>\s]*(?:(?:the|my|our|final|correct) ){0,3}', re.IGNORECASE)  # what may precede "answer" in one
_NUMBERED = re.compile(r'\s*\(?[0-9]{1,2}[.):]\s+\S')  # the heading of a step
_COMMENT = re.compile(r'(?:in)?correct\b|right\b|wrong\b|reasonable\b|valid\b|verified\b', re.IGNORECASE)
_DISPLAYS = (('\\[', '\\]'), ('$$', '$$'))

_AROUND = ' \t\n`"“”*_\u3002\uff0c\uff1a'  # what may surround an answer and is none of it
_BEFORE = _AROUND.replace('*', '') + ',;:)'
_CUT_EQUATION = re.compile(r'[-+\u2013\u2212] [^=]*=|[*/x\u00d7÷][^=]*=')  # `* 6 = 18`, of `3 boxes * 6 = 18`
_MATH_SPAN = re.compile(r'(?<!\\)\$\$?(?!\s)[^$]+(?<![\s\\])\$\$?(?![0-9])|\\\([^\n]*?\\\)|\\\[[\s\S]*?\\\]')
_COMMAND = re.compile(r'\\(?:text|mbox|mathrm|textbf|textit|textrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+')
_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*|[\u3040-\u9fff\uac00-\ud7af]+")
_BREAK = re.compile(rf'{_WORD.pattern}|(?<!\\)[.!?:](?=\s|$)')
_ARTICLE = re.compile(r'(?:a|I)(?=\s+[A-Za-z])')
_CONTENT = re.compile(r'[0-9$\\½⅓¼π√∞]|^\(?[A-J]\)?$|^[A-Za-z](?: ?[-+*/^=] ?[A-Za-z])+$')
_SENTENCE_END = re.compile(r'(?<!\\)[.!?]\s')
_CLAUSE_END = re.compile(r'[.!?:;(\n\u2013\u2014]')
_ROUNDED = re.compile(r'≈|\\approx|\.\.|…|\\[lc]?dots')
_NAME = re.compile(r"(?:(?:the|an?|The|An?) )?[A-Za-z][A-Za-z'-]+|[A-Z][A-Za-z'-]+(?: [A-Z][A-Za-z'-]+){1,3}")
_LINK_AT_START = re.compile(r'^(?:or|and)\b[\s,]*', re.IGNORECASE)
_LINK_AT_END = re.compile(r'[\s,]*\b(?:or|and)$', re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


_DOUBT = _words('or maybe perhaps possibly alternatively')
_ALTERS_NEXT = _words('not negative minus half twice double')  # `half of 18` does not state 18
_ALTERS_LAST = _words('squared cubed factorial half halves third thirds quarter quarters fourths fifths tenths hundredths')
# Words that a mathematical expression may hold outside of a command. Any other word is prose, and an answer ends there.
_MATH_WORDS = _words(
  'and or sqrt pi sin cos tan cot sec csc arcsin arccos arctan log ln exp infinity infty inf theta alpha beta percent degrees '
  'hundred thousand million billion trillion min max gcd lcm mod base'
)
# What may stand between "the answer is" and the answer; what shows, right after a number, that it is not the answer.
_FILLERS = _words(
  'a so thus therefore then hence simply just indeed still definitely clearly exactly precisely only that given by equal '
  + 'equals to the total of value number option choice letter'
)
_COMPARES = _words(
  'times more less fewer greater larger smaller bigger higher lower than digit digits correct right wrong rounded '
  + 'approximately where if when unless'
)
# What may stand before "Answer:".
_LEADS = _words('so thus therefore then hence and finally the this my our your final correct right best short overall')
# Before "answer is", or between its words: an answer that is not the text's own, or is in another form; a reason.
_NOT_OURS = _words(
  'check checking verify verifying confirm if whether suppose assume assuming not wrong incorrect mistaken common trap why '
  + 'unless might could previous original earlier first form decimal decimals percent percentage equivalent equivalently '
  + 'rounded rounding approximate approximately or maybe perhaps possibly alternatively'
)
_REASONS = _words('since because as and but so which it this when while')
_POINTS = _words('above below box boxed see shown given same form here following')  # `Answer: see above`
_SHORT_WORDS = _words('am an as at be by do go he if in is it km me my no of on so to up us we')  # others: variables


class _Statement(NamedTuple):
  """What a text states, and where that ends."""

  text: str
  end: int


class _Stretch(NamedTuple):
  """A part of a sentence without prose, and the words since the one before it."""

  text: str
  gap: tuple[str, ...]


def final_answer(text: str) -> tuple[str, str]:
  r"""Finds the final answer of a response.

  Args:
    text: any text at all. After a `<think>` that is never closed there is no final answer, nor in a `\boxed{` never closed.

  Returns:
    The whole statement, and the answer picked out of it: `18 dollars since 9 * 2 = 18` and `18`. They are the same but for a
    sentence, and both are empty when the text states nothing.
  """
  text = _EMPTY_BOX.sub('', plain(_conclusion(text)))
  box = _boxed(text)
  if box and len(text) - box.end < SHORTEST:
    return box.text, box.text
  earlier = _after_hashes(text, box) or box
  later = _after_marker(text, earlier)
  if box and earlier is box and later is None:
    return box.text, box.text
  statement = later or (earlier.text if earlier else _last_line(text))
  if statement is None:
    return '', ''
  statement = statement.strip(_AROUND).rstrip('.,;').strip(_AROUND)
  return _SENTENCE_END.split(statement)[0], _pick(statement, last=not later and not earlier)


def _conclusion(text: str) -> str:
  """What follows the reasoning; of that what stands between answer tags, where there are any; of that the tail."""
  opened, closed = text.rfind('<think>'), text.rfind('</think>')
  if opened > closed:
    return ''
  text = text[closed + len('</think>') :] if closed >= 0 else text
  start = text.rfind('<answer>')
  if start >= 0:
    text = text[start + len('<answer>') :].partition('</answer>')[0]
  return text[-TAIL:].replace('\r', '\n')


def _boxed(text: str) -> _Statement | None:
  r"""The last box, or the run of boxes it ends: `\boxed{1} and \boxed{2}` states both. None without one.

  A broken one says nothing and has no end, so that it takes the rest of the text with it.
  """
  if not _BOX.search(text):
    return None
  boxes: list[tuple[int, int, str]] = []  # the start of each, its end, and its content
  braces: list[tuple[int, int]] = []  # of every open one, the start of its box command or -1, and the start of its content
  for token in _BOX_TOKEN.finditer(text):
    if token['open'] or token[0] == '{':
      braces.append((token.start() if token['open'] else -1, token.end()))
    elif token[0] == '}' and braces:
      start, content = braces.pop()
      if start >= 0:
        boxes.append((start, token.end(), text[content : token.start()].strip()))
    elif token['bare']:
      boxes.append((token.start(), token.end(), token['bare']))
  boxes.sort()
  if not boxes or (braces and max(start for start, _ in braces) > boxes[-1][0]):
    return _Statement('', len(text))
  run = [boxes[-1]]
  for box in reversed(boxes[:-1]):
    start = run[-1][0]
    if box[1] > start:  # it holds the later one
      continue
    if not _joins(text[box[1] : start]):
      break
    run.append(box)
  return _Statement(', '.join(dict.fromkeys(content for _, _, content in reversed(run))), max(end for _, end, _ in boxes))


def _joins(gap: str) -> bool:
  """Whether the text between two boxes makes a list of them."""
  return len(gap) <= 24 and not set(gap) & set('.\n') and re.sub(r'\\text|[^A-Za-z]', '', gap).lower() in ('', 'and', 'or')


def _after_hashes(text: str, box: _Statement | None) -> _Statement | None:
  """The rest of the line of the last `####` after the box that is not a heading."""
  start = len(text)
  for _ in range(MARKERS):
    start = text.rfind('####', box.end if box else 0, start)
    if start < 0:
      return None
    line, _, rest = text[start + 4 :].partition('\n')
    statement = line[:SENTENCE]
    heads = bool(rest.strip())
    if _MARKER.search(f'{statement}:') or (heads and _NUMBERED.match(statement)):
      continue
    if not (heads or box) or _settles(statement, name=not heads):
      return _Statement(statement, start + 4 + len(line))
  return None


def _after_marker(text: str, earlier: _Statement | None) -> str | None:
  """What follows the last "answer is", on its line or on the next one; a remark about the answer does not count.

  Where something is stated earlier, and where the marker is a weak one, what follows has to settle the matter.
  """
  found, since = None, earlier.end if earlier else 0
  for marker in collections.deque(_MARKER.finditer(text, since), maxlen=MARKERS):
    statement = _first_line(text[marker.end() : marker.end() + SENTENCE])
    if not statement or _COMMENT.match(statement):
      continue
    if earlier or marker['choice'] or marker['heading'] is not None:
      if _is_ours(marker, since) and _settles(statement, name=marker['between'] is None or statement[0].isupper()):
        found = statement
    elif found is None or _CONTENT.search(statement) or not _CONTENT.search(found):
      found = statement
  return found


def _is_ours(marker: re.Match[str], since: int) -> bool:
  """Whether a marker speaks of the answer of the text itself, in a clause that begins at `since` or later, or as a label."""
  text, start = marker.string, marker.start()
  if marker['heading'] is not None:
    return _HEADING.fullmatch(text, max(text.rfind('\n', 0, start) + 1, start - 40), start) is not None
  clause = frozenset(_WORD.findall(_CLAUSE_END.split(text[max(since, start - 80) : start])[-1].lower()))
  if marker['label']:
    return _LEADS.issuperset(clause)
  between = frozenset(_WORD.findall(marker['between'].lower()))
  return not clause & _NOT_OURS and not between & (_NOT_OURS | _REASONS)


def _settles(statement: str, name: bool) -> bool:
  """Whether a statement begins with an answer, in figures or symbols or, where a name may be one, in words."""
  sentence = _SENTENCE_END.split(statement.strip(_AROUND))[0]
  if _ROUNDED.search(sentence) or not any(map(str.isalnum, sentence)):
    return False
  sentence = sentence.rstrip('.,;').strip(_AROUND)
  stretches = _stretches(sentence)
  if stretches:
    word = _WORD.search(sentence.partition(stretches[0].text)[2])
    return _FILLERS.issuperset(stretches[0].gap) and (word is None or word[0].lower() not in _COMPARES)
  return name and _NAME.fullmatch(sentence) is not None and not _POINTS.intersection(sentence.lower().split())


def _first_line(text: str) -> str:
  """The first line that is not empty; the whole display that it opens."""
  text = text.lstrip()
  for opening, closing in _DISPLAYS:
    if text.startswith(opening) and closing in text[2:]:
      return text[: text.index(closing, 2) + 2]
  return text.partition('\n')[0]


def _last_line(text: str) -> str | None:
  """The last line that says something; the whole display or matrix that it closes."""
  text = text.rstrip(' \t\n.`*')[-SENTENCE:]
  for opening, closing in (*_DISPLAYS, ('\\begin{', '}')):
    ends = text.endswith(closing) and (closing != '}' or '\\end{' in text.rpartition('\n')[2])
    start = text.rfind(opening, 0, len(text) - len(closing)) if ends else -1
    if start >= 0 and '\n' in text[start:]:
      return text[start:]
  return next((line for line in reversed(text.split('\n')) if any(map(str.isalnum, line))), None)


def _pick(statement: str, last: bool) -> str:
  """The answer in a sentence: its first (or last) stretch without prose that says something; else the first sentence.

  Stretches joined by "or" and the like are one answer, a list: who names two candidates has not answered.
  """
  stretches = _stretches(statement)
  if not stretches:
    return _SENTENCE_END.split(statement)[0]
  first = end = len(stretches) - 1 if last else 0
  while first > 0 and _linked(stretches[first - 1], stretches[first]):
    first -= 1
  while end + 1 < len(stretches) and _linked(stretches[end], stretches[end + 1]):
    end += 1
  if first == end:
    return stretches[end].text
  return ', '.join(_LINK_AT_END.sub('', _LINK_AT_START.sub('', stretch.text)) for stretch in stretches[first : end + 1])


def _linked(before: _Stretch, after: _Stretch) -> bool:
  """Whether two stretches are candidates for one answer."""
  return bool(
    _LINK_AT_END.search(before.text)
    or _LINK_AT_START.search(after.text)
    or after.gap == ('to',)
    or _DOUBT.intersection(after.gap)
  )


def _stretches(statement: str) -> list[_Stretch]:
  """The parts of a statement that say something, between its words and sentence ends; all of it when it has no prose."""
  masked = _MATH_SPAN.sub(lambda match: match[0] if _has_prose(match[0]) else '0' * len(match[0]), statement)
  masked = _COMMAND.sub(lambda match: '0' * len(match[0]), masked)
  if not _has_prose(masked):
    return [_Stretch(statement, ())]
  breaks = [match for match in _BREAK.finditer(masked) if _breaks(match)]
  stretches: list[_Stretch] = []
  gap: list[str] = []
  position = 0
  for match in [*breaks, None]:
    text = statement[position : match.start() if match else None].lstrip(_BEFORE).rstrip(_AROUND + ',;:(')
    if _CUT_EQUATION.match(text):
      text = text.rpartition('=')[2].strip()
    altered = _ALTERS_NEXT.intersection(gap[-2:]) or (match and match[0].lower() in _ALTERS_LAST)
    if _CONTENT.search(text) and not altered:
      stretches.append(_Stretch(text, tuple(gap)))
      gap = []
    else:
      gap += _WORD.findall(text.lower())
    if match:
      gap.append(match[0].lower())
      position = match.end()
  return stretches


def _breaks(match: re.Match[str]) -> bool:
  """Whether a word or a mark ends a stretch: prose, a sentence end, `a` and `I` where they are words."""
  return not match[0][0].isalpha() or _is_prose(match[0]) or _ARTICLE.match(match.string, match.start()) is not None


def _has_prose(text: str) -> bool:
  return any(_is_prose(word) for word in _WORD.findall(_COMMAND.sub(' ', text)))


def _is_prose(word: str) -> bool:
  word = word.lower()
  return word not in _MATH_WORDS and (len(word) > 2 or word in _SHORT_WORDS or not word.isascii())
