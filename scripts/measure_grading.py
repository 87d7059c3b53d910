"""Measures the grader on gold answers in many styles, and prints tables of agreement, false positives and speed.

PYTHONPATH=.:tests python scripts/measure_grading.py --data=FOLDER [--sample=500] [--failures=FILE]

FOLDER has gsm8k_test.jsonl, gsm8k_train.jsonl, math500_test.jsonl, aime24_test.jsonl and amc23_test.jsonl. Without it only the
answers of tests/grading_answers.txt are measured. --sample limits the number of answers per file.
"""

import argparse
import collections
import pathlib
import time

from restyle import find_data, read_golds, restyled

from espo_jax.tasks import Grader


def main() -> None:
  """Prints one row per style, then the false positives among shifted pairs and the speed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', type=pathlib.Path, default=find_data())
  parser.add_argument('--sample', type=int, default=10**9)
  parser.add_argument('--failures', type=pathlib.Path, help='file for the pairs that were graded wrongly')
  args = parser.parse_args()
  golds = {name: answers[: args.sample] for name, answers in read_golds(args.data).items()}
  failures: list[str] = []
  with Grader() as grader:
    grader.grade_all([(r'\sqrt{8}', r'2\sqrt{2}')])  # starts the workers
    print('| style | of | agree | % | not ok |\n|---|---|---|---|---|')
    total: collections.Counter[str] = collections.Counter()
    cases = collections.defaultdict(list)
    for answers in golds.values():
      for gold in answers:
        for style, prediction in restyled(gold):
          cases[style].append((prediction, gold))
    for style, pairs in cases.items():
      verdicts = grader.grade_all(pairs)
      right = sum(verdict.correct for verdict in verdicts)
      troubled = sum(verdict.status != 'ok' for verdict in verdicts)
      total.update(pairs=len(pairs), right=right, troubled=troubled)
      failures += [f'{style}\t{v.status}\t{p!r}\t{g!r}' for (p, g), v in zip(pairs, verdicts, strict=True) if not v.correct]
      print(f'| {style} | {len(pairs)} | {right} | {100 * right / len(pairs):.2f} | {troubled} |')
    print(f'| all | {total["pairs"]} | {total["right"]} | {100 * total["right"] / total["pairs"]:.2f} | {total["troubled"]} |')
    print('\n| answers | shifted pairs | false | % | pairs a second | itself, pairs a second |\n|---|---|---|---|---|---|')
    for name, answers in golds.items():
      pairs = [
        (rf'The answer is $\boxed{{{a}}}$.', b) for a, b in zip(answers, [*answers[1:], answers[0]], strict=True) if a != b
      ]
      start = time.perf_counter()
      verdicts = grader.grade_all(pairs)
      middle = time.perf_counter()
      grader.grade_all([(rf'The answer is $\boxed{{{answer}}}$.', answer) for answer in answers])
      end = time.perf_counter()
      wrong = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]
      failures += [f'shifted\t{pair[0]!r}\t{pair[1]!r}' for pair in wrong]
      share = 100 * (1 - len(wrong) / len(pairs))
      speed = f'{len(pairs) / (middle - start):.0f} | {len(answers) / (end - middle):.0f}'
      print(f'| {name} | {len(pairs)} | {len(pairs) - len(wrong)} | {share:.2f} | {speed} |')
  if args.failures:
    args.failures.write_text('\n'.join(failures))


if __name__ == '__main__':
  main()
