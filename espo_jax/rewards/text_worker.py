"""The worker process that calls rewards which read text; `text.TextScorer` runs this file.

The arguments are the seconds that a call may take and the users' files to load. The process talks in lines of JSON. When it is
ready it writes `{}` or `{"error": ...}` once. After that it reads `[name, options, arguments]` and writes `{"value": [...]}` or
`{"error": ...}`, call by call.
"""

import json
import os
import signal
import sys
import traceback
from typing import Any


def main() -> None:
  """Serve calls until the input ends."""
  seconds, *files = sys.argv[1:]
  for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles signals to the job; it may still need this process
    signal.signal(number, signal.SIG_IGN)
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what a reward prints goes to stderr, not among the replies

  def send(message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + '\n')
    replies.flush()

  try:
    from espo_jax.registry import load_plugin
    from espo_jax.rewards import REGISTRY

    for file in files:
      load_plugin(file)
  except Exception as error:
    send({'error': f'{type(error).__name__}: {error}'})
    return
  send({})
  for line in sys.stdin:
    signal.alarm(int(seconds))  # the unhandled alarm ends the process, so an orphan stops computing
    name, options, arguments = json.loads(line)
    send(_called(REGISTRY[name], options, arguments))
    signal.alarm(0)


def _called(reward: Any, options: dict[str, Any], arguments: list[Any]) -> dict[str, Any]:
  import numpy as np

  try:
    read = [np.asarray(x['array'], x['dtype']) if isinstance(x, dict) else x for x in arguments]
    return {'value': np.asarray(reward(*read, **options), np.float32).tolist()}
  except Exception as error:  # a user's code may raise anything
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return {'error': f'{frame.filename}:{frame.lineno}: {type(error).__name__}: {error}'}


if __name__ == '__main__':
  main()
