"""Gold answers, and the ways a model may write one: what the grader is measured on."""

import json
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
  'GSM8K test': 'gsm8k_test.jsonl',
  'GSM8K train': 'gsm8k_train.jsonl',
  'MATH-500': 'math500_test.jsonl',
  'AIME24': 'aime24_test.jsonl',
  'AMC23': 'amc23_test.jsonl',
}
OWN = 'own table'  # answers in the style of the benchmarks, for machines that have none of them


def find_data() -> Path | None:
  """The folder with the benchmarks' files, where this machine has one."""
  folders = [os.environ.get('ESPO_JAX_DATA'), HERE.parent / '../shared/data']
  return next((Path(folder) for folder in folders if folder and (Path(folder) / FILES['MATH-500']).is_file()), None)


def read_golds(folder: Path | None) -> dict[str, list[str]]:
  """The gold answers of every benchmark in `folder`, and of the own table."""
  golds = {OWN: (HERE / 'grading_answers.txt').read_text().splitlines()}
  for name, file in FILES.items() if folder else ():
    golds[name] = [_gold(json.loads(line)['answer']) for line in (folder / file).read_text().splitlines()]
  return golds


def _gold(answer: str | float) -> str:
  return answer.rpartition('####')[2].strip() if isinstance(answer, str) else f'{answer:g}'


# ------------------------------------------------------------------------------------------------------- kinds of answers

INTEGER = re.compile(r'-?[0-9]+')
DECIMAL = re.compile(r'-?[0-9]*\.[0-9]+')
FRACTION = re.compile(r'(-?)\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}')
NAME = re.compile(r'\\text\{\(?([A-Za-z]+)\)?\}')


def is_number(gold: str) -> bool:
  return bool(INTEGER.fullmatch(gold) or DECIMAL.fullmatch(gold) or FRACTION.fullmatch(gold))


def is_value(gold: str) -> bool:
  """A single quantity without a unit: what may follow `x =`."""
  return not re.search(r'[,=<>]|\\in\b|\\pm|\\(?:text|mbox|cup|circ)|\\\\|_', gold)


# ------------------------------------------------------------------------------------------- around an answer, whatever it is

AROUND: dict[str, str] = {
  'as it is': '%s',
  'boxed in a sentence': r'So the two add up, and the answer is $\boxed{%s}$.',
  'boxed with spaces': 'Hence\n\\[ \\boxed { %s } \\]\nas claimed.',
  'fbox': r'We get \fbox{%s}',
  'boxed twice': r'First \boxed{99999}, but on a second look $\boxed{\boxed{%s}}$',
  'boxed, then more text': 'It is $\\boxed{%s}$.\n\nChecking 3 + 4 = 7 confirms step 2.',
  '$...$': r'Therefore the answer is $%s$.',
  '$$...$$': 'Therefore the answer is\n$$\n%s\n$$',
  r'\[...\]': 'Adding both sides gives\n\\[\n%s\n\\]',
  r'\(...\)': r'The final answer is \( %s \)',
  'full stop': '%s.',
  'Answer:': 'We add 2 and 3.\n\nAnswer: %s',
  '**Answer:**': 'Step 1. Add 2 and 3.\n\n**Answer:** $%s$',
  'Final Answer:': 'Final Answer: The final answer is $%s$. I hope it is correct.',
  '## Final Answer': 'We add 2 and 3.\n\n## Final Answer\n\n$%s$',
  '####': 'We add 2 and 3.\n#### %s',
  '**bold**': 'The answer is **%s**.',
  'after thinking': '<think>It may be \\boxed{31337}. Answer: 31337\n#### 31337</think>\n\nThe answer is \\boxed{%s}.',
  '<answer>': '<think>31337?</think><answer>%s</answer>',
  'last line': 'We add 2 and 3, twice.\n\nHence the value is $%s$.',
  'last line in bold': 'We add 2 and 3, twice.\n\nHence the value is **%s**.',
  'stated after a box': 'So $x = \\boxed{31337}$.\n\n**Answer:** %s',
}

# --------------------------------------------------------------------------------------- inside an answer, where it applies


def inside(gold: str) -> Iterator[tuple[str, str]]:
  """Yields (style, the answer written another way)."""
  for style, change in INSIDE.items():
    written = change(gold)
    if written is not None and written != gold:
      yield style, written


def _thousands(separator: str) -> Callable[[str], str | None]:
  return lambda gold: f'{int(gold):,}'.replace(',', separator) if INTEGER.fullmatch(gold) and abs(int(gold)) > 999 else None


def _when(applies: Callable[[str], object], written: str) -> Callable[[str], str | None]:
  return lambda gold: written.replace('%s', gold) if applies(gold) else None


def _slash(gold: str) -> str | None:
  match = FRACTION.fullmatch(gold)
  return f'{match[1]}{match[2]}/{match[3]}' if match else None


def _as_decimal(gold: str) -> str | None:
  match = FRACTION.fullmatch(gold)
  value = Fraction(int(match[2]), int(match[3])) if match else Fraction(0)
  return match and match[1] + repr(float(value)) if match and Fraction(repr(float(value))) == value else None


def _as_fraction(gold: str) -> str | None:
  if not DECIMAL.fullmatch(gold):
    return None
  value = Fraction(gold)
  return rf'{"-" * (value < 0)}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}'


def _improper(gold: str) -> str | None:
  match = re.fullmatch(r'([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}', gold)
  return rf'\frac{{{int(match[1]) * int(match[3]) + int(match[2])}}}{{{match[3]}}}' if match else None


def _spaced(gold: str) -> str | None:
  plain = not re.search(r'\\left|\\!|[0-9],[0-9]{3}|\\begin|text|box', gold)
  return re.sub(r'(\\[{}]|[-+=,()\]]|(?<!\\)\[)', r' \1 ', gold) if plain else None


def _sized(gold: str) -> str | None:
  if re.search(r'\\left|text|\\[{}]', gold) or not re.fullmatch(r'[(\[].*[)\]]', gold):
    return None
  return re.sub(r'([(\[])', r'\\left\1 ', re.sub(r'([)\]])', r' \\right\1', gold))


def _by_name(change: Callable[[str], str]) -> Callable[[str], str | None]:
  def written(gold: str) -> str | None:
    match = NAME.fullmatch(gold)
    return change(match[1]) if match else None

  return written


def _listed(join: Callable[[list[str]], str]) -> Callable[[str], str | None]:
  def written(gold: str) -> str | None:
    items = re.split(', *', gold)
    return join(items) if len(items) > 1 and not re.search(r'[()\[\]{}]|\\!|[0-9],[0-9]{3}', gold) else None

  return written


INSIDE: dict[str, Callable[[str], str | None]] = {
  r'\dfrac': lambda gold: re.sub(r'\\[dt]?frac', r'\\dfrac', gold),
  r'\tfrac': lambda gold: re.sub(r'\\[dt]?frac', r'\\tfrac', gold),
  r'\frac without braces': lambda gold: re.sub(r'\\frac\{([0-9])\}\{([0-9])\}', r'\\frac\1\2', gold),
  'a/b': _slash,
  'fraction as decimal': _as_decimal,
  'decimal as fraction': _as_fraction,
  'mixed as improper': _improper,
  '1,234': _thousands(','),
  '1{,}234': _thousands('{,}'),
  r'1\,234': _thousands(r'\,'),
  '.0': _when(INTEGER.fullmatch, '%s.0'),
  '.00': _when(INTEGER.fullmatch, r'%s.00'),
  'trailing zero': _when(DECIMAL.fullmatch, '%s0'),
  'no leading zero': lambda gold: gold.replace('0.', '.') if DECIMAL.fullmatch(gold) and gold.startswith('0.') else None,
  'no zeros before': lambda gold: str(int(gold)) if INTEGER.fullmatch(gold) else None,
  r'\$': _when(is_number, r'\$%s'),
  'dollars': _when(is_number, '%s dollars'),
  'km/h': _when(is_number, '%s km/h'),
  r'\text{ cm}^2': _when(is_number, r'%s\text{ cm}^2'),
  r'\%': _when(is_number, r'%s\%'),
  r'^\circ': _when(INTEGER.fullmatch, r'%s^\circ'),
  r'no ^\circ': lambda gold: gold.replace(r'^\circ', ''),
  'degrees': lambda gold: gold.replace(r'^\circ', ' degrees') if gold.endswith('circ') else None,
  'x =': _when(is_value, 'x = %s'),
  'arithmetic =': _when(INTEGER.fullmatch, r'2 \times 3 + 4 - 10 + %s = %s'),
  'no x =': lambda gold: re.sub(r'^[a-z] ?(?:=|\\in) ?', '', gold),
  r'\left \right': _sized,
  r'no \left \right': lambda gold: re.sub(r'\\(?:left|right)', '', gold),
  'spaces': _spaced,
  'no spaces': lambda gold: None if re.search(r'text|box|\\[a-z]+ [a-z]|[0-9] [0-9]', gold) else gold.replace(' ', ''),
  'braces around exponents': lambda gold: re.sub(r'\^([0-9])', r'^{\1}', gold),
  r'\displaystyle': _when(lambda gold: '\\' in gold, r'\displaystyle %s'),
  'bmatrix': lambda gold: gold.replace('pmatrix', 'bmatrix'),
  'word': _by_name(str),
  'WORD': _by_name(lambda name: name.upper() if len(name) > 1 else f'({name})'),
  r'\text{(word)}': _by_name(lambda name: rf'\text{{({name})}}'),
  r'\textbf{word}': _by_name(lambda name: rf'\textbf{{{name}}}'),
  'list in reverse': _listed(lambda items: ', '.join(reversed(items))),
  'list with and': _listed(r' \text{ and } '.join),
  'list with or': _listed(' or '.join),
  'list as set': _listed(lambda items: rf'\{{{", ".join(items)}\}}'),
  'no base': lambda gold: re.sub(r'_(?:[0-9]|\{[0-9]+\})$', '', gold) if re.match(r'[0-9]+_', gold) else None,
  'base in braces': lambda gold: re.sub(r'_([0-9])$', r'_{\1}', gold),
  'minus sign': lambda gold: gold.replace('-', '\N{MINUS SIGN}') if INTEGER.fullmatch(gold) else None,
}


def sentence(gold: str) -> str | None:
  """A last line in words, without a mark: only a number can be told from what surrounds it."""
  return f'She had 12 apples and ate some.\nSo she has {gold} apples left in the basket.' if INTEGER.fullmatch(gold) else None


def restyled(gold: str) -> Iterator[tuple[str, str]]:
  """Yields (style, prediction) for every style that applies to a gold answer."""
  for style, template in AROUND.items():
    if NAME.fullmatch(gold) is None or not style.startswith('last line'):
      yield style, template.replace('%s', gold)
  for style, written in inside(gold):
    yield style, rf'The answer is $\boxed{{{written}}}$.'
  if sentence(gold):
    yield 'last sentence', str(sentence(gold))
