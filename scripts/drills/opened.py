"""Opens the page of a run with thousands of recorded rollouts in Chromium, from its file, and measures the time.

The case holds if the first rollout can be read, and the last one be found by a search, within two seconds each.
"""

import json
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from drills.record import Case
from espo_jax import monitor, report

AIM = 'the page opens in Chromium within 2 s, and finds a rollout within 2 s'
COUNT = 5000  # rollouts
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
_TOKENS = 300
_SECONDS = 2.0


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Yields the two cases.

  Args:
    folder: The folder for the run.
    count: The number of rollouts.
    seed: What their numbers are drawn from.
    figures: Gets the number of rollouts, the size of the page and the seconds.
  """
  monitor.write_run_info(folder / 'run', {'baselines': [], 'learner': {'updates': 1}, 'stop': {'name': 'espo'}}, 'cpu')
  arm = folder / 'run/arms/espo'
  monitor.atomic_write_text(arm / 'metrics.jsonl', json.dumps({'step': 1, 'accuracy': 0.5, 'rollout/decoded': 1.0}) + '\n')
  rng = np.random.default_rng(seed)
  monitor.atomic_write_text(arm / 'examples.json', monitor.to_json([_rollout(rng, i) for i in range(count)]))
  path = report.write_page(report.read_runs([folder / 'run']), folder / 'report.html', most=count)
  figures |= {'rollouts': count, 'tokens of each': _TOKENS, 'MiB': round(path.stat().st_size / 2**20, 1)}
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
    page = browser.new_page()
    start = time.monotonic()
    page.goto(path.as_uri() + '#rollouts')
    page.wait_for_function("document.querySelector('#question')?.textContent == 'problem 0'")
    opened = time.monotonic() - start
    yield Case('opening', opened < _SECONDS, f'{opened:.2f} s')
    start = time.monotonic()
    page.fill('#search', f'problem {count - 1}')
    page.wait_for_function(f"document.querySelector('#question')?.textContent == 'problem {count - 1}'")
    found = time.monotonic() - start
    yield Case('searching', found < _SECONDS, f'{found:.2f} s')
    browser.close()
  figures |= {'seconds to open': round(opened, 2), 'to search': round(found, 2)}


def _rollout(rng: np.random.Generator, number: int) -> dict[str, Any]:
  """Returns a made-up rollout, as an arm records it."""
  numbers = {
    name: rng.normal(size=_TOKENS).astype(np.float32).tolist() for name in ('regret', 'z', 'values', 'logprobs', 'entropy')
  }
  return numbers | {
    'question': f'problem {number}',
    'prompt': f'problem {number}',
    'tokens': [f' {token}' for token in rng.integers(0, 9999, _TOKENS)],
    'threshold': [2.0] * _TOKENS,
    'length': _TOKENS,
    'full_length': _TOKENS,
    'stop_reason': 'eos',
    'answer': '2',
    'correct': bool(number % 2),
  }
