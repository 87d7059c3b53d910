"""Replays stop rules on recorded rollouts: where each rule would have ended the rows, and what that saves and loses.

Nothing is trained.
"""

from espo_jax.replay.difficulty import THIRDS, thirds
from espo_jax.replay.flags import pasted_flags, pasted_values
from espo_jax.replay.measures import Measured, expected_tokens, measure
from espo_jax.replay.recordings import Recordings, RecordingsError, check_halves, read_recordings
from espo_jax.replay.search import REFERENCE, Point, as_record, candidates, chosen, rules, search
from espo_jax.replay.separation import Area, overall, within_problems
from espo_jax.replay.stopping import Ends, replay

__all__ = [
  'REFERENCE',
  'THIRDS',
  'Area',
  'Ends',
  'Measured',
  'Point',
  'Recordings',
  'RecordingsError',
  'as_record',
  'candidates',
  'check_halves',
  'chosen',
  'expected_tokens',
  'measure',
  'overall',
  'pasted_flags',
  'pasted_values',
  'read_recordings',
  'replay',
  'rules',
  'search',
  'thirds',
  'within_problems',
]
