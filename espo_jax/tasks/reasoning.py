"""Knows the tags that models put around their reasoning and their answers, in the spelling of each model family.

A decoded response keeps the tags that something reads, whether they are special tokens or not: the tags listed here, and
those that `reward.format`, `reward.reasoning` and `rollout.serial` name. Other special tokens are left out of the text.

A response that ends inside a thought has no answer. It does not matter whether the chat template, `rollout.tags` or the
response opened the thought.
"""

import re

THINK = '<think>'  # the spelling that the grader reads
_CLOSING = {
  THINK: '</think>',  # DeepSeek-R1, Qwen3 and most others
  '<thinking>': '</thinking>',
  '<thought>': '</thought>',
  '<seed:think>': '</seed:think>',
  '[THINK]': '[/THINK]',
  '◁think▷': '◁/think▷',
  '<|START_THINKING|>': '<|END_THINKING|>',
  '<|begin_of_thought|>': '<|end_of_thought|>',
}
TAGS = frozenset({*_CLOSING, *_CLOSING.values(), '<answer>', '</answer>'})  # all tags that grading reads
_SPELLING = {closing: _CLOSING[THINK] for closing in _CLOSING.values()} | dict.fromkeys(_CLOSING, THINK)
_THOUGHT_TAG = re.compile('|'.join(map(re.escape, _SPELLING)))
_ESCAPED = re.compile(r'\\(\W)')


def one_spelling(text: str) -> str:
  """Returns the text with every tag around a thought spelled `<think>` or `</think>`."""
  return _THOUGHT_TAG.sub(lambda match: _SPELLING[match[0]], text)


def has_thought_tag(text: str) -> bool:
  """Returns whether a thought begins or ends in the text."""
  return _THOUGHT_TAG.search(text) is not None


def open_thought(text: str) -> str:
  """Returns the tag of a thought that begins in the text and does not end there; '' if there is none."""
  *_, last = ['', *_THOUGHT_TAG.findall(text)]
  return last if last in _CLOSING else ''


def after_thought(text: str) -> str:
  """Returns what follows the last thought of a text whose tags have one spelling; '' if the text ends inside a thought."""
  opened, closed = text.rfind(THINK), text.rfind(_CLOSING[THINK])
  if opened > closed:
    return ''
  return text[closed + len(_CLOSING[THINK]) :] if closed >= 0 else text


def end_of_thought(text: str) -> int:
  """Returns where the tag begins that closes the last thought of a text; -1 if no tag closes one."""
  return max((match.start() for match in _THOUGHT_TAG.finditer(text) if match[0] not in _CLOSING), default=-1)


def has_thought(text: str) -> bool:
  """Returns whether a text closes a thought that is not empty."""
  end = end_of_thought(text)
  return end >= 0 and bool(_THOUGHT_TAG.sub('', text[:end]).strip())


def emptied_thought(text: str) -> str:
  """Returns a text that closes a thought, with nothing but two line breaks in the thought."""
  opened = _THOUGHT_TAG.search(text, 0, end_of_thought(text))
  return (text[: opened.end()] if opened else '') + '\n\n' + text[end_of_thought(text) :]


def without_thought_tags(text: str) -> str:
  """Returns a part of a thought as if it stood behind one: with a closing tag in front, and without other tags."""
  return _CLOSING[THINK] + _THOUGHT_TAG.sub('', text)


def closing_tag(opening: str) -> str:
  """Returns the tag that closes a thought opened by `opening`."""
  return _CLOSING[opening]


def named_in(patterns: tuple[str, ...], tokens: tuple[str, ...]) -> frozenset[str]:
  r"""Returns the tokens that occur in a regular expression or a text, escaped or not: `<\|plan\|>` names `<|plan|>`."""
  plain = [_ESCAPED.sub(r'\1', pattern) for pattern in patterns]
  return frozenset(token for token in tokens if any(token in text for text in plain))
