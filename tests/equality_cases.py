"""Answers that are equal to a gold answer and answers that are not: small differences, and families of forms."""

from typing import NamedTuple


class Case(NamedTuple):
  """A gold answer, answers that equal it, and answers that do not."""

  gold: str
  equal: list[str]
  unequal: list[str]


# Numbers whose difference is small, alone and inside of what an answer may be.
SMALL = [
  Case(
    r'\frac{1}{2^{60}}',
    ['2^{-60}', r'\frac{1}{4^{30}}', r'\frac{2^{40}}{2^{100}}', '8.673617379884035e-19'],
    [r'\frac{1}{2^{61}}', '0', '8.6736e-18', '0.000000', r'\frac{1}{2^{60}+1}'],
  ),
  Case(
    r'\frac{3^{100}-1}{2^{100}}',
    [r'\left(\frac{3}{2}\right)^{100}-2^{-100}'],
    [r'\frac{1}{7^{99}}', r'\frac{3^{100}}{2^{100}}', r'\frac{3^{100}-2}{2^{100}}'],
  ),
  Case('1/50!', [r'\frac{1}{50!}', r'\frac{1}{50 \cdot 49!}'], ['1/49!', '0', r'\frac{1}{50!+1}']),
  Case('50', [r'\frac{50!}{49!}', '50!/49!'], [r'\frac{50!+1}{49!}', r'50 + 10^{-30}']),
  Case(
    '10^{-20}',
    ['1e-20', r'\frac{1}{10^{20}}', r'1 \times 10^{-20}', '0.00000000000000000001', '100^{-10}'],
    ['1e-21', '10^{-21}', r'2 \times 10^{-20}', '0', '0.00000000000000000002'],
  ),
  Case(
    '0', [r'\frac{0}{7}', '2^{-60} - 4^{-30}', r'\sqrt{2}\sqrt{8} - 4'], ['10^{-20}', '2^{-60}', 'e^{-100}', r'\frac{1}{30!}']
  ),
  Case(
    r'\frac{1}{1152921504606846976}', ['2^{-60}'], ['0.000000', '0.0000000', '1.234567e-20', r'\frac{1}{1152921504606846977}']
  ),
  Case(
    r'\frac{\sqrt{2}}{10^{9}}',
    [r'\sqrt{2} \cdot 10^{-9}', '1.41421356e-9', r'\frac{2}{\sqrt{2} \cdot 10^9}'],
    ['0.0000001', '0.000000', r'\frac{\sqrt{3}}{10^{9}}', r'\frac{\sqrt{2}}{10^{10}}'],
  ),
  Case('e^{-50}', [r'\frac{1}{e^{50}}', 'e^{-49} e^{-1}'], ['e^{-51}', '0', r'\frac{1}{e^{50}+1}']),
  Case(
    r'\sqrt{2}',
    [r'\frac{2}{\sqrt{2}}', '1.414214', '1.41421356'],
    [r'\sqrt{2} + 10^{-30}', '(1 + 10^{-200}) \\sqrt{2}', r'\sqrt{2 + 10^{-40}}', '1.4142'],
  ),
  Case('262537412640768744', ['262537412640768744.0'], [r'e^{\pi\sqrt{163}}', '262537412640768745']),
  Case('10^{500}', [r'\sqrt{10^{1000}}'], [r'\sqrt{10^{1000}+1}', '10^{500}+1']),
  Case(r'\left(\frac{1}{2^{60}}, 1\right)', ['(2^{-60}, 1)'], [r'\left(\frac{1}{2^{61}}, 1\right)', '(0, 1)']),
  Case(r'\left[0, \frac{1}{3^{50}}\right]', ['[0, 3^{-50}]'], [r'\left[0, \frac{1}{3^{51}}\right]']),
  Case(
    r'\left(0, \frac{1}{2^{60}}\right) \cup (2, 3)',
    [r'(0, 2^{-60}) \cup (2, 3)'],
    [r'\left(0, \frac{1}{2^{61}}\right) \cup (2, 3)'],
  ),
  Case(r'\left\{\frac{1}{5^{40}}, 2, x\right\}', [r'\{x, 2, 5^{-40}\}'], [r'\left\{\frac{1}{5^{41}}, 2, x\right\}']),
  Case(
    r'\begin{pmatrix} \frac{1}{2^{60}} \\ 1 \end{pmatrix}',
    [r'\begin{pmatrix} 2^{-60} \\ 1 \end{pmatrix}'],
    [r'\begin{pmatrix} \frac{1}{2^{61}} \\ 1 \end{pmatrix}', r'\begin{pmatrix} 0 \\ 1 \end{pmatrix}'],
  ),
  Case(
    r'x^2 + y = \frac{1}{2^{60}}',
    ['x^2 + y = 2^{-60}', '2^{60} x^2 + 2^{60} y = 1'],
    [r'x^2 + y = \frac{1}{2^{61}}', 'x^2 + y = 0'],
  ),
  Case(r'x^2 + \frac{1}{2^{60}} = 0', ['x^2 + 2^{-60} = 0'], [r'x^2 + \frac{1}{2^{61}} = 0']),
  Case(r'x < \frac{1}{2^{60}}', ['x < 2^{-60}'], [r'x < \frac{1}{2^{61}}', 'x < 0']),
  Case(r'\frac{x}{2^{60}} + 1', ['2^{-60} x + 1'], [r'\frac{x}{2^{61}} + 1', '1']),
  Case('(0.3, x)', [r'(\frac{3}{10}, x)', '(0.30, x)'], ['(0.30078125, x)', '(0.3000000001, x)', r'(\frac{1}{3}, x)']),
  Case(
    r'(0.1, 0.5) \cup (1, 2)',
    [r'(0.10, 0.50) \cup (1, 2)', r'(\frac{1}{10}, \frac{1}{2}) \cup (1, 2)'],
    [r'(0.1, 0.50000001) \cup (1, 2)'],
  ),
  Case(r'2 + \frac{i}{2^{60}}', ['2 + 2^{-60} i'], [r'2 + \frac{i}{2^{61}}']),
]

# Forms of one value that a model and a gold answer may choose differently.
FAMILIES = {
  'a root of a quotient': [
    Case(
      r'\frac{1}{\sqrt{n}}',
      [r'\sqrt{1/n}', r'\sqrt{\frac{1}{n}}', r'\frac{\sqrt{n}}{n}', 'n^{-1/2}'],
      [r'\sqrt{n}', r'\frac{1}{n}', r'\frac{1}{\sqrt{n+1}}'],
    ),
    Case(
      r'\sqrt{\frac{a}{b}}',
      [r'\frac{\sqrt{a}}{\sqrt{b}}', r'\frac{\sqrt{ab}}{b}'],
      [r'\frac{\sqrt{a}}{b}', r'\sqrt{\frac{b}{a}}'],
    ),
  ],
  'a root of a product': [
    Case(r'\sqrt{a^2b}', [r'a\sqrt{b}', r'\sqrt{b}a'], [r'b\sqrt{a}', r'\sqrt{ab}', 'ab']),
    Case(r'\sqrt{x}\sqrt{y}', [r'\sqrt{xy}'], [r'\sqrt{x+y}']),
    Case(r'\sqrt{x+y}', [r'\sqrt{y+x}'], [r'\sqrt{x}+\sqrt{y}', r'\sqrt{xy}']),
  ],
  'a size where nothing is under a root': [
    Case('|x|', ['|-x|', r'\sqrt{x^2}'], ['x', '-x']),
    Case('x', [r'\frac{2x}{2}', 'x^1'], ['|x|', r'\sqrt{x^2}', '-x']),
    Case('|xy|', [r'|x| \cdot |y|'], ['xy', '-xy']),
  ],
  'logarithms': [
    Case(r'\ln(xy)', [r'\ln x + \ln y', 'ln(x) + ln(y)'], [r'\ln x \cdot \ln y', r'\ln(x+y)', r'\log x + \log y']),
    Case(r'2\ln x', [r'\ln x^2', r'\ln(x^2)', r'-\ln\frac{1}{x^2}'], [r'(\ln x)^2', r'\ln(2x)']),
    Case(r'\log_a b', [r'\frac{\ln b}{\ln a}', r'\frac{1}{\log_b a}'], [r'\log_b a', r'\ln\frac{b}{a}']),
    Case(r'\log_2 3', [r'\frac{\ln 3}{\ln 2}', r'\log_4 9'], [r'\log_3 2', r'\ln\frac{3}{2}', '1.58']),
  ],
  'the exponential function': [
    Case(
      'e^9-1',
      ['exp(9)-1', r'\exp(9)-1', r'\mathrm{e}^9-1', r'\operatorname{exp}(9)-1', r'\text{exp}(9) - 1'],
      ['exp(8)-1', '9e-1', 'exp(9)', 'exp(9-1)'],
    ),
    Case('e^{2x}', ['(e^x)^2', 'exp(2x)', r'e^x \cdot e^x'], ['e^{x^2}', '2e^x']),
  ],
  'brackets in place of braces': [
    Case(
      r'7\sqrt{3}',
      [r'7\sqrt(3)', '7sqrt(3)', '7√(3)', r'7 \cdot \sqrt\left(3\right)'],
      [r'7\sqrt(5)', r'\sqrt(7 \cdot 3)', r'7(3)'],
    ),
    Case(r'\sqrt{(a+1)(b+2)}', [r'\sqrt((a+1)(b+2))', 'sqrt((b+2)(a+1))'], [r'\sqrt(a+1)(b+2)']),
    Case(r'\sqrt[3]{x+1}', [r'\sqrt[3](x+1)', '(x+1)^(1/3)'], [r'\sqrt(x+1)', r'\sqrt[3](x)+1']),
    Case(r'x^{\frac{a+b}{2}}', ['x^((a+b)/2)', 'x**((a+b)/2)'], ['x^(a+b)/2', 'x^((a+b)/3)']),
  ],
  'any constant': [
    Case(
      'f(x)=cx',
      [
        r'f(x)=cx \text{ for any constant } c',
        r'f(x) = cx, \text{ where } c \text{ is any real constant}',
        r'f(x)=cx, c \in \mathbb{R}',
        r'f(x) = c x \text{ for all real numbers } c',
        r'cx\text{ (}c\text{ is a constant)}',
      ],
      ['f(x)=dx+1', r'f(x)=cx+1 \text{ for any constant } c', r'f(x)=x \text{ for any constant } c', r'f(x)=dx'],
    ),
    Case(
      r'f(x)=cx \text{ for any constant } c',
      ['f(x)=cx', r'f(x)=kx \text{ for any constant } k', r'cx, \text{ where } c \in \mathbb{R}'],
      [r'f(x)=kx', r'f(x)=cx^2 \text{ for any constant } c', r'f(x)=kx \text{ for any integer } k'],
    ),
    Case(r'x = k\pi, k \in \mathbb{Z}', [r'n\pi \text{ for any integer } n', r'x = k\pi'], [r'x = 2k\pi, k \in \mathbb{Z}']),
  ],
  'functions in words': [
    Case(
      r'\arctan\frac{1}{2}',
      ['arctan(1/2)', r'\operatorname{arctan}(1/2)', r'\tan^{-1}\frac{1}{2}'],
      [r'\tan\frac{1}{2}', 'arcsin(1/2)'],
    ),
    Case(r'\frac{e^x - e^{-x}}{2}', ['sinh x', r'\sinh(x)'], ['cosh x', 'sin x']),
    Case(r'2\theta', ['2 theta', r'2\cdot\theta'], ['2 alpha', 'theta']),
  ],
  'powers': [
    Case(r'\sqrt{x}', ['x^{1/2}', 'x^(1/2)', 'x^{0.5}'], ['x^{1/3}', r'\frac{x}{2}']),
    Case('a^{m+n}', ['a^m a^n', r'a^n \cdot a^m'], ['a^{mn}', 'a^m + a^n']),
    Case('x^{2n}', ['(x^2)^n', '(x^n)^2'], ['x^{n+2}', 'x^{n^2}']),
    Case('(-1)^n', [r'\cos(n\pi)', '(-1)^{n+2}', '(-1)^{-n}'], ['-1', '1', '(-1)^{n+1}']),
  ],
  'odd roots below zero': [
    Case('-2', [r'\sqrt[3]{-8}', r'-\sqrt[3]{8}', r'\sqrt[5]{-32}'], [r'\sqrt[3]{8}', r'\sqrt[3]{-9}']),
    Case(r'-\sqrt[3]{x}', [r'\sqrt[3]{-x}'], [r'\sqrt[3]{x}']),
  ],
  'trigonometry': [
    Case(r'1-\cos^2 x', [r'\sin^2 x', r'\sin^2(x)', r'\frac{1-\cos 2x}{2}'], [r'\sin x', r'\cos^2 x']),
    Case(r'\tan x', [r'\frac{\sin x}{\cos x}', r'\frac{1}{\cot x}'], [r'\frac{\cos x}{\sin x}', r'\tan(x+1)']),
  ],
  'nested and rationalized roots': [
    Case(r'1+\sqrt{2}', [r'\sqrt{3+2\sqrt{2}}', r'\frac{1}{\sqrt{2}-1}'], [r'\sqrt{3+\sqrt{2}}', r'\frac{1}{\sqrt{2}+1}']),
    Case(r'\sqrt{12}', [r'2\sqrt{3}', r'\frac{6}{\sqrt{3}}'], [r'3\sqrt{2}', '3.46']),
  ],
  'counting': [
    Case(r'\frac{n(n-1)}{2}', [r'\binom{n}{2}', r'\frac{n!}{2(n-2)!}'], [r'\binom{n+1}{2}', r'\frac{n^2}{2}']),
    Case('n', [r'\frac{n!}{(n-1)!}', r'\sqrt{n}^2'], ['n!', r'\frac{(n+1)!}{n!}']),
    Case('6', ['2(3)', '(2)(3)', r'12(\frac{1}{2})', '3!'], ['2(2)', '3(6)']),
    Case('5', ['2(2) + 1'], ['2(3)', '(2)(3)']),
  ],
  'equations': [
    Case('x^2+y^2=1', ['x^2+y^2-1=0', '2x^2+2y^2=2', '1=x^2+y^2'], ['x^2+y^2=2', 'x^2-y^2=1']),
    Case(r'y=\sqrt{\frac{1}{n}}', [r'y=\frac{1}{\sqrt{n}}'], [r'y=\sqrt{n}']),
    Case('x^2+1=0', ['2x^2+2=0', 'x^2=-1'], ['x^2+2=0', 'x^2=1']),
  ],
  'lists of them': [
    Case(
      r'\left(\sqrt{\frac{1}{n}}, 2\right)', [r'\left(\frac{1}{\sqrt{n}}, 2\right)'], [r'\left(2, \frac{1}{\sqrt{n}}\right)']
    ),
    Case(r'\left\{\frac{1}{\sqrt{2}}, 3\right\}', [r'\left\{3, \sqrt{1/2}\right\}'], [r'\left\{3, \sqrt{2}\right\}']),
    Case(
      r'\begin{pmatrix} \ln(xy) \\ 1 \end{pmatrix}',
      [r'\begin{pmatrix} \ln x+\ln y \\ 1 \end{pmatrix}'],
      [r'\begin{pmatrix} \ln x \\ 1 \end{pmatrix}'],
    ),
  ],
}
