"""Plays rollouts of the package `verifiers` with a client of the package's own kind that says given texts, as a process.

The arguments are a function of verifiers_environments.py, and a list of `[row, [turn, ...]]` as JSON, where a turn is a text,
or the text before a tool call, the tool's name and its arguments. It writes `[[messages, reward], ...]`.
"""

import asyncio
import json
import pathlib
import runpy
import sys

import verifiers as vf
from verifiers.types import Response, ResponseMessage, ToolCall


class Scripted(vf.Client):
  def __init__(self, turns):
    self.turns, self._config = list(turns), None

  async def get_response(self, prompt, model, sampling_args, tools=None, **kwargs):
    turn = self.turns.pop(0)
    text, *call = turn if isinstance(turn, list) else [turn]
    calls = [ToolCall(id='call', name=call[0], arguments=json.dumps(call[1]))] if call else None
    said = ResponseMessage(content=text, finish_reason='stop', is_truncated=False, tool_calls=calls)
    return Response(id='1', created=0, model=model, usage=None, message=said)

  async def unused(self, *args):
    raise NotImplementedError

  setup_client = to_native_tool = to_native_prompt = get_native_response = unused
  raise_from_native_response = from_native_response = close = unused


Scripted.__abstractmethods__ = frozenset()
FILE = pathlib.Path(__file__).with_name('verifiers_environments.py')


def shown(message):
  of = message if isinstance(message, dict) else message.model_dump()
  return [of['role'], of['content'] or '']


async def main(function, asked):
  environment = runpy.run_path(str(FILE))[function]()
  told = []
  for row, turns in asked:
    end = await environment.run_rollout(environment.get_dataset()[row], Scripted(turns), 'stub', {})
    told.append([[shown(message) for message in [*end['prompt'], *end['completion']]], end['reward']])
  return told


if __name__ == '__main__':
  print(json.dumps(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))))
