"""The process that compares answers by computer algebra.

`process.WorkerProcess` runs this file. It imports nothing of the package, which would import JAX. Its arguments are the memory
limit in bytes and the seconds after which to give up. Lines of JSON: `{}` or `{"error": ...}` goes out once, when ready; then
`[prediction, answer]` comes in and `[correct, status]` goes out.
"""

import contextlib
import json
import logging
import math
import os
import resource
import signal
import sys
import typing

MAX_DIGITS = 100_000


def main() -> None:
  """Serves until the input ends."""
  memory, seconds = map(int, sys.argv[1:])
  for number in (signal.SIGINT, signal.SIGTERM):  # what goes to the whole job is for the parent, which may still have to grade
    signal.signal(number, signal.SIG_IGN)
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever a library prints goes elsewhere
  with contextlib.suppress(ValueError, OSError):  # not every system limits the address space; the deadline holds everywhere
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  logging.disable(logging.CRITICAL)
  try:
    equal = _load()
    equal('\\frac{1}{2}', '\\sqrt{2}')  # the first parse is slow: it unpacks the grammar
    _send(replies, {})
  except Exception as error:
    _send(replies, {'error': f'{type(error).__name__}: {error}'})
    return
  for line in sys.stdin:
    signal.alarm(seconds)  # unhandled, it ends the process: an orphan must not go on computing
    _send(replies, equal(*json.loads(line)))
    signal.alarm(0)


def _send(replies: typing.TextIO, message: object) -> None:
  replies.write(json.dumps(message) + '\n')
  replies.flush()


def _digits(value: typing.Any) -> float:
  """About how many digits it would take to write a value out, found without computing it: 9**9**9**9 must not be tried."""
  if hasattr(value, 'flat'):
    return sum(map(_digits, value.flat()))  # a matrix
  if value.is_Rational:
    return math.log10(abs(value.p) * value.q + 1) + 1
  inner = [_digits(part) for part in value.args]
  if value.is_Pow:
    return max(inner[0], 1) * (abs(int(value.exp)) if value.exp.is_Integer else 10 ** min(inner[1], 9))
  if value.func.__name__ == 'factorial':
    return inner[0] * 10 ** min(inner[0], 9)
  return sum(inner)


def _load() -> typing.Callable[[str, str], tuple[bool, str]]:
  """Imports the algebra and returns the comparison."""
  from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
  from math_verify import verify
  from math_verify.grader import should_treat_as_complex

  # Units are gone already; math-verify's own list of them takes the variables of `5t` and `3m` for units.
  config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed='none')

  def equal(prediction: str, answer: str) -> tuple[bool, str]:
    real = not (should_treat_as_complex(prediction) or should_treat_as_complex(answer))  # one kind of symbol on both sides

    def parse(text: str) -> typing.Any:
      return latex2sympy(normalize_latex(text, config), is_real=real, normalization_config=None)

    # Memory that runs out ends the process, and the parent starts another: what the libraries have cached would stay.
    try:
      try:
        gold = parse(answer)
        digits = _digits(gold)
      except (MemoryError, RecursionError):
        raise
      except Exception:
        return False, 'error'  # the gold answer is no formula: nobody can be right
      stated = parse(prediction)
      if max(digits, _digits(stated)) > MAX_DIGITS:
        return False, 'ok'  # nobody can write that number out; where both are written alike, nobody asks
      return verify(gold, stated, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True), 'ok'
    except MemoryError:
      raise
    except RecursionError:
      return False, 'error'
    except Exception:
      return False, 'ok'  # the prediction is no formula, or none that compares with the answer

  return equal


if __name__ == '__main__':
  main()
