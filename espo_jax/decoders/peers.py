"""Whose summaries a path of `leap` reads: those of the paths whose summaries are least or most like its own."""

from collections.abc import Sequence

import numpy as np

ROUTINGS = ('dispersed', 'clustered', 'hybrid')


def similarity(one: Sequence[int], other: Sequence[int]) -> float:
  """Computes 1 minus the edit distance of two texts over the length of the longer one; 1 for two empty texts."""
  places = np.arange(len(other) + 1)
  distances = places
  for row, token in enumerate(one, start=1):
    replaced = distances[:-1] + (np.asarray(other) != token)
    best = np.concatenate([[row], np.minimum(replaced, distances[1:] + 1)])
    distances = np.minimum.accumulate(best - places) + places  # insertions, one after another
  return 1 - float(distances[-1]) / max(len(one), len(other), 1)


def routed(summaries: Sequence[Sequence[int]], peers: int, routing: str) -> list[list[int]]:
  """Returns the places of the paths that each path hears, in the order in which it hears them.

  A path never hears itself. Among equally similar paths the earlier one comes first.

  Args:
    summaries: The summary of each path.
    peers: The most paths that a path hears.
    routing: `dispersed` for the least similar ones, `clustered` for the most similar ones, or `hybrid` for both in equal
      parts, of which an odd one is a similar one.
  """
  count, close = len(summaries), {'dispersed': 0, 'clustered': peers, 'hybrid': -(-peers // 2)}[routing]
  alike = np.eye(count)
  for one in range(count):
    for other in range(one):
      alike[one, other] = alike[other, one] = similarity(summaries[one], summaries[other])
  found = []
  for path in range(count):
    others = [other for other in range(count) if other != path]
    far, near = (sorted(others, key=lambda other: sign * alike[path, other]) for sign in (1, -1))
    chosen = near[:close]
    found.append([*chosen, *[other for other in far if other not in chosen][: peers - close]])
  return found
