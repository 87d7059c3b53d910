r"""Finds the final answer that a free text states.

First the reasoning is removed and Markdown is rendered. Then a statement of an answer is a `\boxed{}`, the text after `####`,
or the text after "answer is", "Answer:" or a heading such as "Final answer". The last statement counts, because a text may
correct itself. If there is none, the last line is the statement. The answer is the part of the statement that is not prose.

| exception | rule |
|---|---|
| an empty box, "the answer is reasonable", a `####` that is a heading | It is no statement. |
| a sentence after a box or `####` | It counts only if it begins with an answer (`_settles`). Others describe the answer. |
| several boxes in a list | They are one statement. |
| a last box that is never closed | The text has no answer, because it was cut off in its answer. |

Only the tail of a text is read. Every pattern takes time linear in the tail, or works on one sentence of bounded length.
"""

import collections
import re
from typing import NamedTuple

from espo_jax.tasks.grading.markup import plain
from espo_jax.tasks.reasoning import after_thought

TAIL = 16_384  # the number of last characters of a response that are read
SENTENCE = 2_000  # the most characters of a statement outside of a box that are read
MARKERS = 16  # the number of last places with the word "answer" that are read
SHORTEST = 5  # the fewest characters of a statement, such as `####5`

_BOX = re.compile(r'\\(?:boxed|fbox|framebox)')
_BOX_TOKEN = re.compile(r'[{}]|\\(?:(?:boxed|fbox|framebox)\s*(?:(?P<open>\{)|(?P<bare>[^\s{}$\\]+))|[\s\S])')
_EMPTY_BOX = re.compile(r'\\(?:boxed|fbox|framebox)\s*\{\s*\}')
_MARKER = re.compile(
  r'(?=[acrb])\b(?:answers?|(?P<choice>(?:correct|right|best) (?:choice|option)))\b'
  r'(?:(?P<between>[^.\n:=]{0,60}?)\b(?:is|are)\b|(?P<label>[\s*_]*[:=\uff1a])|(?P<heading>[ \t]*(?=\n)))[\s*_:=\uff1a]*',
  re.IGNORECASE,
)
_HEADING = re.compile(r'[#>\s]*(?:(?:the|my|our|final|correct) ){0,3}', re.IGNORECASE)  # what may precede "answer" in a heading
_NUMBERED = re.compile(r'\s*\(?[0-9]{1,2}[.):]\s+\S')  # the heading of a step
_COMMENT = re.compile(r'(?:in)?correct\b|right\b|wrong\b|reasonable\b|valid\b|verified\b', re.IGNORECASE)
_DISPLAYS = (('\\[', '\\]'), ('$$', '$$'))

_AROUND = ' \t\n`"“”*_\u3002\uff0c\uff1a'  # characters around an answer that are no part of it
_BEFORE = _AROUND.replace('*', '') + ',;:)'
_CUT_EQUATION = re.compile(r'[-+\u2013\u2212] [^=]*=|[*/x\u00d7÷][^=]*=')  # `* 6 = 18` in `3 boxes * 6 = 18`
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
# Words that an expression may have outside of LaTeX commands. Any other word is prose, at which an answer ends.
_MATH_WORDS = _words(
  'and or sqrt pi sin cos tan cot sec csc arcsin arccos arctan log ln exp infinity infty inf theta alpha beta percent degrees '
  'hundred thousand million billion trillion min max gcd lcm mod base'
)
# Words that may be between "the answer is" and the answer.
_FILLERS = _words(
  'a so thus therefore then hence simply just indeed still definitely clearly exactly precisely only that given by equal '
  + 'equals to the total of value number option choice letter'
)
# Words that show, right after a number, that the number is not the answer.
_COMPARES = _words(
  'times more less fewer greater larger smaller bigger higher lower than digit digits correct right wrong rounded '
  + 'approximately where if when unless'
)
# Words that may be before "Answer:".
_LEADS = _words('so thus therefore then hence and finally the this my our your final correct right best short overall')
# Words before "answer is", or between the two, by which the sentence is not about the text's own answer.
_NOT_OURS = _words(
  'check checking verify verifying confirm if whether suppose assume assuming not wrong incorrect mistaken common trap why '
  + 'unless might could previous original earlier first form decimal decimals percent percentage equivalent equivalently '
  + 'rounded rounding approximate approximately or maybe perhaps possibly alternatively'
)
# Words between "answer" and "is" that begin another clause.
_REASONS = _words('since because as and but so which it this when while')
_POINTS = _words('above below box boxed see shown given same form here following')  # `Answer: see above`
# Short words that are prose. Other short words may be variables.
_SHORT_WORDS = _words('am an as at be by do go he if in is it km me my no of on so to up us we')


class _Statement(NamedTuple):
  """A statement of an answer, and the position where it ends."""

  text: str
  end: int


class _Stretch(NamedTuple):
  """A part of a sentence without prose, and the words between the previous such part and this one."""

  text: str
  gap: tuple[str, ...]


def final_answer(text: str) -> tuple[str, str]:
  r"""Finds the final answer of a response.

  Args:
    text: Any text. It has no final answer if a `<think>` or a `\boxed{` is never closed.

  Returns:
    The whole statement and the answer in it, such as `18 dollars since 9 * 2 = 18` and `18`. They differ only if the statement
    is a sentence. Both are empty if the text states nothing.
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
  """Returns the tail of the text after the reasoning, and of that the text in answer tags, if there are any."""
  text = after_thought(text)
  start = text.rfind('<answer>')
  if start >= 0:
    text = text[start + len('<answer>') :].partition('</answer>')[0]
  return text[-TAIL:].replace('\r', '\n')


def _boxed(text: str) -> _Statement | None:
  r"""Returns the content of the last box, or of the list that it ends, as in `\boxed{1} and \boxed{2}`; None without a box.

  An unclosed last box gives an empty statement that ends with the text.
  """
  if not _BOX.search(text):
    return None
  boxes: list[tuple[int, int, str]] = []  # start, end and content of each box
  braces: list[tuple[int, int]] = []  # of each open brace: the start of its box or -1, the start of its content
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
    if box[1] > start:  # it contains the later one
      continue
    if not _joins(text[box[1] : start]):
      break
    run.append(box)
  return _Statement(', '.join(dict.fromkeys(content for _, _, content in reversed(run))), max(end for _, end, _ in boxes))


def _joins(gap: str) -> bool:
  """Returns whether the text between two boxes makes a list of them."""
  return len(gap) <= 24 and not set(gap) & set('.\n') and re.sub(r'\\text|[^A-Za-z]', '', gap).lower() in ('', 'and', 'or')


def _after_hashes(text: str, box: _Statement | None) -> _Statement | None:
  """Returns the rest of the line of the last `####` after the box that is not a heading."""
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
  """Returns what follows the last "answer is" on its line or on the next one, unless it is a remark about the answer.

  If there is an earlier statement, or the marker is a heading or has the word "choice" or "option", it must be about the text's
  own answer, and what follows must begin with an answer.
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
  """Returns whether a marker is about the text's own answer, in a clause that begins at `since` or later, or as a label."""
  text, start = marker.string, marker.start()
  if marker['heading'] is not None:
    return _HEADING.fullmatch(text, max(text.rfind('\n', 0, start) + 1, start - 40), start) is not None
  clause = frozenset(_WORD.findall(_CLAUSE_END.split(text[max(since, start - 80) : start])[-1].lower()))
  if marker['label']:
    return _LEADS.issuperset(clause)
  between = frozenset(_WORD.findall(marker['between'].lower()))
  return not clause & _NOT_OURS and not between & (_NOT_OURS | _REASONS)


def _settles(statement: str, name: bool) -> bool:
  """Returns whether a statement begins with an answer: digits, symbols or, if `name`, words."""
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
  """Returns the first line that is not empty, or the whole display formula that it opens."""
  text = text.lstrip()
  for opening, closing in _DISPLAYS:
    if text.startswith(opening) and closing in text[2:]:
      return text[: text.index(closing, 2) + 2]
  return text.partition('\n')[0]


def _last_line(text: str) -> str | None:
  """Returns the last line with a letter or digit, or the whole display formula or matrix that it closes."""
  text = text.rstrip(' \t\n.`*')[-SENTENCE:]
  for opening, closing in (*_DISPLAYS, ('\\begin{', '}')):
    ends = text.endswith(closing) and (closing != '}' or '\\end{' in text.rpartition('\n')[2])
    start = text.rfind(opening, 0, len(text) - len(closing)) if ends else -1
    if start >= 0 and '\n' in text[start:]:
      return text[start:]
  return next((line for line in reversed(text.split('\n')) if any(map(str.isalnum, line))), None)


def _pick(statement: str, last: bool) -> str:
  """Returns the answer in a statement: its first (or last) stretch, or its first sentence if it has no stretch.

  Stretches that are joined by "or" and the like are one answer, a list, because two candidates are not the answer.
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
  """Returns whether two stretches are candidates for one answer."""
  return bool(
    _LINK_AT_END.search(before.text)
    or _LINK_AT_START.search(after.text)
    or after.gap == ('to',)
    or _DOUBT.intersection(after.gap)
  )


def _stretches(statement: str) -> list[_Stretch]:
  """Returns the parts of a statement with a value, between prose and sentence ends; without prose, the whole statement."""
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
  """Returns whether a word or a mark ends a stretch: prose, a sentence end, or `a` and `I` as words."""
  return not match[0][0].isalpha() or _is_prose(match[0]) or _ARTICLE.match(match.string, match.start()) is not None


def _has_prose(text: str) -> bool:
  return any(_is_prose(word) for word in _WORD.findall(_COMMAND.sub(' ', text)))


def _is_prose(word: str) -> bool:
  word = word.lower()
  return word not in _MATH_WORDS and (len(word) > 2 or word in _SHORT_WORDS or not word.isascii())
