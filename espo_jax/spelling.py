"""What a misspelt or abbreviated name was meant to be."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
  """The known name that `name` misspells or abbreviates; None where none is near.

  Abbreviations are initials (`lr`), a beginning (`temp`) and a name that has some of the words (`grad_norm`).

  Args:
    name: What was written.
    known: The names that there are.
    likeness: The least ratio, as difflib counts it, of a misspelling.
  """
  names = {_plain(other): other for other in sorted(known, reverse=True)}
  wanted = _plain(name)
  if wanted in names:
    return names[wanted]
  initials = {''.join(word[0] for word in other.split('_') if word): other for other in names}
  if len(wanted) > 1 and wanted in initials:
    return names[initials[wanted]]
  if len(wanted) > 2 and (longer := [other for other in names if other.startswith(wanted)]):
    return names[min(longer, key=lambda other: (len(other), other))]
  if close := difflib.get_close_matches(wanted, names, n=1, cutoff=likeness):
    return names[close[0]]
  words = set(wanted.split('_'))
  part = [other for other in names if words <= set(other.split('_')) or set(other.split('_')) <= words]
  return names[min(part, key=lambda other: (len(other), other))] if part else None


def _plain(name: str) -> str:
  return name.lower().replace('-', '_').strip('_')
