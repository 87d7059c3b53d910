"""The process that calls rewards which read text; `text.TextScorer` runs this file.

Its arguments are the seconds after which to give up and the users' files to load. Lines of JSON: `{}` or `{"error": ...}` goes
out once, when ready; then `[name, options, arguments]` comes in and `{"value": [...]}` or `{"error": ...}` goes out.
"""

import json
import os
import signal
import sys
import traceback
from typing import Any


def main() -> None:
  """Serves until the input ends."""
  seconds, *files = sys.argv[1:]
  for number in (signal.SIGINT, signal.SIGTERM):  # what goes to the whole job is for the parent, which may still have to grade
    signal.signal(number, signal.SIG_IGN)
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever a reward prints goes elsewhere

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
    signal.alarm(int(seconds))  # unhandled, it ends the process: an orphan must not go on computing
    name, options, arguments = json.loads(line)
    send(_called(REGISTRY[name], options, arguments))
    signal.alarm(0)


def _called(reward: Any, options: dict[str, Any], arguments: list[Any]) -> dict[str, Any]:
  import numpy as np

  try:
    read = [np.asarray(x['array'], x['dtype']) if isinstance(x, dict) else x for x in arguments]
    return {'value': np.asarray(reward(*read, **options), np.float32).tolist()}
  except Exception as error:  # it is a user's code
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return {'error': f'{frame.filename}:{frame.lineno}: {type(error).__name__}: {error}'}


if __name__ == '__main__':
  main()
