"""Texts that try to hang, crash, bloat or trick a grader."""

import random


def hostile_texts() -> list[str]:
  """Two hundred and forty of them, the same ones every time."""
  texts = [*_TEXTS, *_towers(), *_deep(), *_long()]
  rng = random.Random(0)
  alphabet = '0123456789+-*/^_!(){}[]\\$%.,=<>|&~\'"`#@ \n\0abcxπ√²½𝟙٣\ud800\u202e'
  pieces = ['\\frac', '\\boxed{', '\\sqrt', '{', '}', '^', '9', '!', '\\left(', 'answer is', '####', '\\text{', '$', '\\int']
  while len(texts) < 240:
    source = alphabet if len(texts) % 2 else pieces
    texts.append(r'\boxed{' + ''.join(rng.choice(source) for _ in range(rng.randrange(5, 200))) + '}')
  return texts


_TEXTS = [
  '', ' ', '\n\n\n', '\x00', '\x00' * 100, '18\x00', '\ud800', '\udfff\ud800 18', '\ufeff18', '\u202e81', '\uff11\uff18',
  '\u0661\u0668', '🙂' * 1000, 'à' * 3000, 'ﷺ' * 900, '\r\r\r', '\\', '\\\\', '$', '$$', r'\boxed', r'\boxed{', r'\boxed}',
  '####', '<think>', '</think>', '<answer>', '</answer>', '{"correct": true}', '[true, "ok"]', '[true, "ok"]\n[true, "ok"]\n',
  'true', 'None', 'nan', "__import__('os').system('touch hacked')", r'\boxed{__import__("os").system("touch hacked")}',
  'exec("import os")', 'eval(input())', r'\boxed{().__class__.__bases__[0].__subclasses__()}', 'open("/etc/passwd").read()',
  '; rm -rf x', '$(touch hacked)', '`touch hacked`', r'\boxed{\operatorname{eval}(18)}', r'\boxed{\input{/etc/passwd}}',
  r'\boxed{\write18{touch hacked}}', r'\boxed{\def\x{\x}\x}', 'import sys; sys.exit(0)', 'raise SystemExit',
  r'\boxed{lambda: 18}', r'\boxed{18 if True else 19}', r'\boxed{x.func}', 'DROP TABLE answers',
  r'\boxed{\lim_{x \to \infty} x^x}', r'\boxed{\int_0^1 x^{x^{x^x}} dx}', r'\boxed{\int e^{\sin(\cos(\tan(x^7)))} dx}',
  r'\boxed{\sum_{n=1}^{10^{12}} \frac{1}{n}}', r'\boxed{\prod_{n=1}^{10^9} n}',
  r'\boxed{\sum_{n=1}^{\infty} \frac{\sin(n^n)}{n!}}', r'\boxed{\binom{10^{10}}{10^9}}',
  r'\boxed{\binom{1000000000}{500000000}}', r'\boxed{\gcd(10^{10^{10}}, 3)}', r'\boxed{\operatorname{eye}(100000)}',
  r'\boxed{\operatorname{zeros}(99999,99999)}', r'\boxed{\operatorname{ones}(30000,30000)}', r'\boxed{x^{10^9} - 1}',
  r'\boxed{(x+1)^{100000}}', r'\boxed{(x+y+z+w)^{200} - (x+y+z+w)^{199}}', r'\boxed{\sqrt[1000000007]{2}}',
  r'\boxed{\frac{1}{0}}', r'\boxed{0^0}', r'\boxed{0^{-1}}', r'\boxed{\infty - \infty}', r'\boxed{\log_{1}(5)}',
  r'\boxed{\tan(\frac{\pi}{2})}', r'\boxed{1e999999999}', r'\boxed{1e-999999999}', '1e999', '10^{999999999}',
  r'\boxed{10^{-999999999}}', r'\boxed{1.5 \times 10^{999}}', '9' * 300,
  r'\boxed{' + '9' * 900 + '}', '0.' + '0' * 900 + '1',
  r'\boxed{\det\begin{pmatrix} x & 1 \\ 1 & x^{10^8} \end{pmatrix}}', r'\boxed{x = x = x = x = x}', r'\boxed{(1, 2}',
  r'\boxed{]1, 2[}', r'\boxed{\{\{\{\{1\}\}\}\}}', r'\boxed{|||||x|||||}', r'\boxed{\lfloor 10^{10^{10}} \rfloor}',
  r'\boxed{2^{1/10^{10}}}', r'\boxed{\pi^{\pi^{\pi^{\pi^\pi}}}}',
]  # fmt: skip


def _towers() -> list[str]:
  """Numbers too large to be written, and their factorials."""
  towers = [
    '9**9**9**9', '9^9^9^9', '9^{9^{9^9}}', '9^{9^{9^{9^{9^9}}}}', '2^{2^{2^{2^{2^2}}}}', '(9^9)^{(9^9)^9}', '10^{10^{10}}',
    '99999999!', '9!!!!', '(9!)!', '((9!)!)!', '9' * 40 + '!', r'\frac{99999999!}{99999998!}', '(10^{10})!', '1, 9^{9^9}',
    r'\frac{9^{9^9}}{9^{9^9}}', '9^{9^9} - 9^{9^9} + 18', r'\sqrt{9^{9^9}}', r'\sin(9^{9^9})', '9^{9^9} = 18',
    r'9^{9^9} \pmod{7}',
  ]  # fmt: skip
  return [template % tower for tower in towers for template in ('%s', r'The answer is $\boxed{%s}$.')]


def _deep() -> list[str]:
  """Ten thousand levels, and as many as an answer may be long."""
  deep = []
  for depth in (10_000, 120):
    deep += [
      r'\boxed{' + r'\frac{1}{' * depth + '1' + '}' * depth + '}',
      r'\boxed{' + r'\sqrt{' * depth + '2' + '}' * depth + '}',
      r'\boxed{' + '(' * depth + '18' + ')' * depth + '}',
      r'\boxed{' * depth + '18' + '}' * depth,
      r'\boxed{' + '{' * depth + '18' + '}' * depth + '}',
      r'\boxed{' + '-' * depth + '18}',
      r'\boxed{' + '2^' * depth + '2}',
      r'\boxed{' + r'\left(' * depth + '18}',
      r'\boxed{' + '|' * depth + '18' + '|' * depth + '}',
    ]
  return deep


def _long() -> list[str]:
  """A megabyte, and runs on which a careless pattern takes quadratic or exponential time."""
  size = 1_000_000
  units = [
    '{', '}', '{}', '\\', '$', '\\(', '\\[', '#', '*', '**a', 'answer:', '\\boxed', '\\boxed{', '\\boxed{1}', '9', '9,',
    '9,999', '9.', '1/', 'a', "a'", 'a-', '\\text{', '\\frac', '\\frac{', '\\frac1', '-', '=9', '<think>', '</think>',
    '<answer>', '²', '9^', '9!', ':', '\\!', '\\left.', '_{', 'sqrt(', '[', '(a', ' ', '\n', '\ud800', '\0', 'answer is ',
    'answer: ', '\\boxed ', ' 9', 'a ', 'or ', '9 or ', '9 a ', '= ', '. ', '\\ ', '_', '**_', ' **a', '*a*_b_', '`', '`a',
    '~~a', '<b>', '<del>a</del>', '\\(a*', '\\(**', '$a*', '- *a\n', 'answer\n', '#### ', 'answer is 9. ', 'right choice ',
  ]  # fmt: skip
  return [(unit * (size // len(unit)))[: 40_000 if i % 3 else size] + ('' if i % 2 else ' 18') for i, unit in enumerate(units)]
