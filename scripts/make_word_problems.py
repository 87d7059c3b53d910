"""Writes word problems with solutions that check themselves more often than they need to.

  python scripts/make_word_problems.py --output=data/word_problems

OUTPUT gets train.jsonl and test.jsonl, which share no problem. Each line has the fields `problem`, `answer` and `solution`. A
solution states its answer, and checks and repeats it up to three times. A model that learns from such solutions checks too
often. `experiments/self_braking.py` then teaches it to end.
"""

import argparse
import json
import pathlib
import random
from collections.abc import Iterator

NAMES = ('Ann', 'Ben', 'Eva', 'Ivy', 'Kim', 'Leo', 'Max', 'Tom')
THINGS = ('apples', 'books', 'coins', 'pens', 'shells', 'stones')
MOST_CHECKS = 3


def solution(first: int, second: int, checks: int) -> str:
  """Returns a written solution of `first + second`.

  Args:
    first: The first number.
    second: The second number.
    checks: The checks behind the first answer.
  """
  total = first + second
  ways = f'Wait, {total} - {second} = {first}.', f'Check: {second} + {first} = {total}.'
  steps = [f'{first} + {second} = {total}.', *(ways[i % len(ways)] for i in range(checks))]
  return '\n\n'.join([*(f'{step} The answer is {total}.' for step in steps), f'\\boxed{{{total}}}'])


def records(rng: random.Random) -> Iterator[dict[str, str]]:
  """Yields problems without end, no two of which have the same text."""
  seen = set()
  while True:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    first, second = rng.randint(100, 999), rng.randint(100, 999)
    text = f'{name} has {first} {things} and gets {second} more. How many {things} are there?'
    if text not in seen:
      seen.add(text)
      written = solution(first, second, rng.randint(0, MOST_CHECKS))
      yield {'problem': text, 'answer': str(first + second), 'solution': written}


def main(argv: list[str] | None = None) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', required=True, type=pathlib.Path, help='the folder to write')
  parser.add_argument('--train', type=int, default=1024, help='training problems; by default %(default)s')
  parser.add_argument('--test', type=int, default=128, help='test problems; by default %(default)s')
  parser.add_argument('--seed', type=int, default=0, help='another one draws other problems; by default %(default)s')
  args = parser.parse_args(argv)
  drawn = records(random.Random(args.seed))
  args.output.mkdir(parents=True, exist_ok=True)
  for split, count in (('test', args.test), ('train', args.train)):
    lines = [json.dumps(next(drawn)) + '\n' for _ in range(count)]
    (args.output / f'{split}.jsonl').write_text(''.join(lines))
    print(f'wrote {args.output / split}.jsonl')


if __name__ == '__main__':
  main()
