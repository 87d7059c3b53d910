r"""Writes answers in a canonical spelling: `\dfrac12`, `\tfrac{1}{2}` and `½` all become `\frac{1}{2}`.

The inputs are answers of bounded length (`grader.MAX_ANSWER`), and nothing in them is evaluated.
"""

import re
import unicodedata

_CHARACTERS = {
  '\N{MINUS SIGN}': '-', '\N{EN DASH}': '-', '\N{MULTIPLICATION SIGN}': r'\times ', '÷': r'\div ', '±': r'\pm ',
  '\N{MIDDLE DOT}': r'\cdot ', '\N{BULLET OPERATOR}': r'\cdot ', '\N{DOT OPERATOR}': r'\cdot ', '\N{FRACTION SLASH}': '/',
  '≤': r'\le ', '≥': r'\ge ', '≠': r'\ne ', '≈': r'\approx ', '\N{UNION}': r'\cup ', '∩': r'\cap ', '∈': r'\in ',
  'π': r'\pi ', 'θ': r'\theta ', '∞': r'\infty ', '√': ' sqrt ', '∅': r'\emptyset ', '°': ' ',
  '½': r'\frac{1}{2}', '⅓': r'\frac{1}{3}', '⅔': r'\frac{2}{3}', '¼': r'\frac{1}{4}', '¾': r'\frac{3}{4}',
  '$': '', '€': '', '£': '', '¥': '', '`': '', '“': '', '”': '', '"': '', '\N{RIGHT SINGLE QUOTATION MARK}': "'", '\0': ' ',
  **{character: f'^{{{digit}}}' for digit, character in enumerate('⁰¹²³⁴⁵⁶⁷⁸⁹')},
}  # fmt: skip
_SYMBOLS = ('So', 'Cc', 'Cf', 'Co', 'Cs')  # Unicode categories of pictures, control characters and lone surrogates
_TABLE = str.maketrans(_CHARACTERS)
_END = '(?![A-Za-z])'  # the end of a command's name
_START = r'(?<![\\A-Za-z])'  # the start of a word that is no command
_WRAPPER = re.compile(r'\\(?:text|mbox|mathrm|textbf|mathbf|textit|textrm|textnormal|boldsymbol|emph)\s*\{([^{}]*)\}')


def _rules(*rules: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
  return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_WORDS = _rules(
  (r'(?<=[)\]]) ?U ?(?=[(\[])', r' \\cup '),
  (r'<=', r'\\le '),
  (r'>=', r'\\ge '),
  (r'\*\*', '^'),
  (r'(?<=[0-9])\s*\{\s*,\s*\}\s*(?=[0-9])', ','),
  (rf'{_START}sqrt\s*([0-9]+)', r'\\sqrt{\1}'),
  (r'(?<=[0-9] )([AaPp])\.\s?([Mm])(?![A-Za-z])\.?', r'\1\2'),
  (rf'{_START}(sqrt|pi|theta|alpha|beta|exp|log|ln|(?:arc)?(?:sin|cos|tan|cot|sec|csc)|(?:sin|cos|tan)h){_END}', r'\\\1 '),
  (rf'{_START}(?:infinity|infty|inf){_END}', r'\\infty '),
  (rf'\s*{_START}percent(?:age)?{_END}', '%'),
)
_COMMANDS = _rules(
  (r'\\(?:begin|end)\s*\{(?:align|aligned|equation|gather|gathered|split|displaymath)\*?\}|&(?= ?=)', ' '),
  (r'\\\\(?:\[[^\]]{0,10}\])?', r'\\\\ '),  # a new row of a matrix, with optional spacing
  (r'\\!\s*', ''),
  (rf'(?<!\\)\\(?:[,;:> ]|q?quad{_END})|~', ' '),
  (r'(?<!\\)\\[()\[\]]', ''),
  (rf'\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits){_END}', ''),
  (rf'\\[dtc]frac{_END}', r'\\frac'),
  (rf'\s*\^\s*(?:\\circ|\{{\s*\\circ\s*\}})|\\degrees?{_END}', ' '),
  (rf'\\langle{_END}', '('),
  (rf'\\rangle{_END}', ')'),
  (rf'\\lbrace{_END}', r'\\{'),
  (rf'\\rbrace{_END}', r'\\}'),
  (rf'\\(?:leq|leqslant){_END}', r'\\le '),
  (rf'\\(?:geq|geqslant){_END}', r'\\ge '),
  (r'\\%', '%'),
  (r'\\frac\s*([0-9])\s*([0-9])', r'\\frac{\1}{\2}'),
  (r'\\frac\s*([0-9])\s*\{', r'\\frac{\1}{'),
  (r'\\frac\s*(\{[^{}]*\})\s*([0-9A-Za-z])', r'\\frac\1{\2}'),
  (r'\\operatorname\*?\s*\{\s*(\\[a-z]+)\s*\}', r'\1 '),  # a function that has its own command
  (rf'\\sqrt\s*([0-9])|\\sqrt\s+([A-Za-z]){_END}', r'\\sqrt{\1\2}'),
  (r'\\sqrt\s*(\\(?:pi|theta|alpha|beta)(?![A-Za-z]))', r'\\sqrt{\1}'),
)
_ARGUMENT = re.compile(r'(?:\\sqrt\s*(?:\[[^][(){}]*\])?|\^)\s*(\()')
_BRACKETS = re.compile(r'[()]')


def spell(answer: str) -> str:
  r"""Writes an answer in canonical spelling.

  Args:
    answer: A formula, a number or words, with or without delimiters and `\text{}`.

  Returns:
    The answer without delimiters, currency and degree signs, spacing and sizing commands, text wrappers and final punctuation.
  """
  if not answer.isascii():
    answer = unicodedata.normalize('NFKC', answer.translate(_TABLE))
    answer = ''.join(character for character in answer if unicodedata.category(character) not in _SYMBOLS)
  answer = answer.replace('\\$', '').translate(_TABLE)
  if any(map(str.isalpha, answer)) or '{' in answer or '*' in answer or '=' in answer:
    answer = _apply(_WORDS, answer)
  if '\\' in answer:
    answer = _apply(_COMMANDS, _WRAPPER.sub(r' \1 ', _WRAPPER.sub(r' \1 ', answer)))
  if '(' in answer:
    answer = _braced(answer)
  return _unbraced(' '.join(answer.split()).rstrip('.,;: '))


def squeeze(answer: str) -> str:
  """Returns the answer in lower case and without spaces, except those between digits."""
  return re.sub(r'(?<![0-9]) | (?![0-9])', '', answer).casefold()


def _unbraced(answer: str) -> str:
  """Removes braces around a whole formula, and writes a list in plain braces as a set."""
  if not re.fullmatch(r'\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}', answer):
    return answer
  return rf'\{answer[:-1]}\}}' if ',' in answer else answer[1:-1].strip()


def _braced(answer: str) -> str:
  r"""Replaces the brackets around the argument of a root or a power by braces, as in `\sqrt(3)` and `2^(1/2)`."""
  position = 0
  while match := _ARGUMENT.search(answer, position):
    start, position, depth = match.start(1), match.end(), 0
    for bracket in _BRACKETS.finditer(answer, start):
      depth += 1 if bracket[0] == '(' else -1
      if depth == 0:
        head = answer[:start].rstrip()
        answer = f'{head}{{{answer[position : bracket.start()]}}}{answer[bracket.end() :]}'
        position = len(head) + 1
        break
  return answer


def _apply(rules: tuple[tuple[re.Pattern[str], str], ...], text: str) -> str:
  for pattern, replacement in rules:
    text = pattern.sub(replacement, text)
  return text
