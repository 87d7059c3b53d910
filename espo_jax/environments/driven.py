"""Runs rollouts of the package `verifiers` one turn at a time.

An environment of the package drives the conversation itself: it asks an OpenAI client for each turn of the model. The client
here sends nothing over a network. Its transport hands the request to the caller, and waits for the caller's answer. All
rollouts of a process are tasks of one event loop, which only runs while the caller waits. So there is no thread, and a rollout
that is given up is a task that is cancelled.
"""

import asyncio
import contextvars
import json
import weakref
from typing import Any, NamedTuple

from espo_jax.tasks.verifiers_rows import Message, spoken, tool_shown


class Asked(NamedTuple):
  """What a rollout asks of the model: the conversation up to the model's turn, and the tools that it may call."""

  messages: list[Message]
  tools: list[dict[str, Any]]


class Ended(NamedTuple):
  """How a rollout ended: the reward of the rubric, and the package's error, '' if there was none."""

  reward: float
  error: str


class _Line(NamedTuple):
  """The two ways between a rollout and its caller."""

  heard: asyncio.Queue[Asked | Ended | BaseException]
  told: asyncio.Queue[dict[str, Any]]


_LINE: contextvars.ContextVar[_Line] = contextvars.ContextVar('line')  # of the rollout in whose task a request is sent


class Driver:
  """The rollouts of one environment, in this process."""

  def __init__(self, environment: Any) -> None:
    """Makes the client.

    Args:
      environment: An environment of the package.
    """
    import httpx
    import openai
    import verifiers

    class Transport(httpx.AsyncBaseTransport):
      async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=await _answered(json.loads(request.content)))

    web = httpx.AsyncClient(transport=Transport(), trust_env=False)
    client = openai.AsyncOpenAI(api_key='none', base_url='http://policy.invalid', max_retries=0, timeout=None, http_client=web)
    self.environment, self._client = environment, verifiers.OpenAIChatCompletionsClient(client)
    self.loop = asyncio.new_event_loop()

  async def play(self, row: dict[str, Any], line: _Line) -> None:
    """Plays the rollout of a row, and tells how it ends."""
    _LINE.set(line)
    try:
      end = await self.environment.run_rollout(row, self._client, 'policy', {})
      line.heard.put_nowait(Ended(float(end['reward'] or 0.0), str(end.get('error') or '')))
    except (Exception, asyncio.CancelledError) as error:
      line.heard.put_nowait(error)


class Rollout:
  """One rollout. It is given up when nothing refers to this object any more."""

  def __init__(self, driver: Driver, row: dict[str, Any]) -> None:
    """Begins a rollout.

    Args:
      driver: The environment.
      row: The row of the environment's data that the rollout is about.
    """
    self._loop, self._line = driver.loop, _Line(asyncio.Queue(), asyncio.Queue())
    task = self._loop.create_task(driver.play(row, self._line))
    weakref.finalize(self, task.cancel)

  def hear(self, answer: dict[str, Any] | None = None) -> Asked | Ended:
    """Runs the rollout until it asks for a turn or ends. An error of the environment is raised here.

    Args:
      answer: The message of the model that answers the last request; None at first.
    """
    if answer is not None:
      self._line.told.put_nowait(answer)
    heard = self._loop.run_until_complete(self._line.heard.get())
    if isinstance(heard, BaseException):
      raise heard
    return heard


async def _answered(body: dict[str, Any]) -> dict[str, Any]:
  """Returns the completion of a request, once the caller has given the message."""
  line = _LINE.get()
  try:
    line.heard.put_nowait(
      Asked(
        [spoken(message) for message in body['messages']], [tool_shown(tool['function']) for tool in body.get('tools') or ()]
      )
    )
  except Exception as error:  # the package would hide it behind an error of its own
    line.heard.put_nowait(error)
  message = await line.told.get()
  choice = {'index': 0, 'message': message, 'finish_reason': 'tool_calls' if message.get('tool_calls') else 'stop'}
  return {'id': 'turn', 'object': 'chat.completion', 'created': 0, 'model': 'policy', 'choices': [choice]}
