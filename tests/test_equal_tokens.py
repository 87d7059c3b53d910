"""How far a decoder is beyond a reference that spends as many tokens."""

import numpy as np
import pytest

from espo_jax.evaluate.equal_tokens import leads


@pytest.mark.quick
def test_a_lead_is_the_accuracy_beyond_the_reference_mixed_to_the_same_tokens():
  """The reference is right with 0.25, 0.5 and 0.75 for 10, 20 and 40 tokens. Four decoders spend 20, 30, 5 and 100 tokens."""
  reference = np.array([[0, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0]], float), np.tile([10.0, 20.0, 40.0], (4, 1))
  right, tokens = np.tile([[1.0], [1.0], [0.0], [1.0]], 4), np.tile([20.0, 30.0, 5.0, 100.0], (4, 1))
  found = leads(right, tokens, *reference)
  assert [lead['value'] for lead in found] == [0.25, 0.125, 0.5, 0.0]
  assert all(lead['interval'][0] <= lead['value'] <= lead['interval'][1] for lead in found)
  (itself,) = leads(reference[0][:, 1:2], reference[1][:, 1:2], *reference)
  assert itself == {'value': 0.0, 'interval': [0.0, 0.0]}  # paired: the problems are the same


@pytest.mark.quick
def test_the_interval_of_a_lead_counts_the_doubt_about_tokens_too():
  """Always right, for 10 or for 30 tokens; the reference is right with half of them, more often with more samples."""
  rng = np.random.default_rng(0)
  right, tokens = np.ones((200, 1)), np.where(rng.random((200, 1)) < 0.5, 10.0, 30.0)
  reference = np.stack([rng.random(200) < 0.1, rng.random(200) < 0.9], axis=1).astype(float)
  (lead,) = leads(right, tokens, reference, np.tile([10.0, 30.0], (200, 1)))
  share = (tokens[:, 0] == 30).astype(float)
  low, high = reference.mean(axis=0)
  # The delta method for 1 - low (1 - share) - high share, as a mean of one term per problem.
  terms = reference[:, 0] * (1 - share.mean()) + reference[:, 1] * share.mean() + (high - low) * share
  assert np.diff(lead['interval'])[0] == pytest.approx(2 * 1.96 * terms.std() / 200**0.5, rel=0.05)
