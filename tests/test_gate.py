"""The gate of the critic warm-up: when it opens, and that it stays open."""

import jax.numpy as jnp
import pytest

from espo_jax import stops

pytestmark = pytest.mark.usefixtures('no_rank_promotion', 'no_dtype_promotion')
NAN = float('nan')


def opened_at(losses, variances=None, **constants) -> int | None:
  """The update after which the gate is open, counted from 1; it must stay open."""
  state, opened = stops.init_gate(), []
  for loss, variance in zip(losses, variances or [0.9] * len(losses), strict=True):
    state = stops.update_gate(state, jnp.float32(loss), jnp.float32(variance), **({'force_after': 100} | constants))
    opened.append(bool(state.open))
  assert opened == sorted(opened)
  assert int(state.updates) == len(losses)
  return opened.index(True) + 1 if any(opened) else None


@pytest.mark.parametrize(
  ('losses', 'constants', 'wanted'),
  [
    # three consecutive losses below 0.5, each too far from the one before to count as steady
    ([3.0, 0.45, 0.3, 0.1], {}, 4),
    ([0.49, 0.38, 0.2], {}, 3),
    ([0.4, 0.2, 0.6, 0.4, 0.2, 0.05], {}, 6),  # the streak starts again
    ([0.4, 0.2, 0.5, 0.2, 0.4, 0.2], {}, 6),  # 0.5 is not below 0.5
    ([0.49], {'patience': 1}, 1),
    ([0.5], {'patience': 1}, None),
    ([2.0, 1.5, 1.2, 1.0], {'loss_below': 1.6}, 4),
    # the change between updates below 0.1
    ([9.0, 8.95], {}, 2),
    ([9.0, 8.0, 7.0, 7.05], {}, 4),
    ([9.0], {}, None),  # the first loss has nothing to differ from
    ([9.0, 8.5], {'change_below': 0.6}, 2),
    ([9.0, 8.9, 0.4, 0.2], {'change_below': 0.0}, None),
    # both
    ([3.0, 0.45, 0.3, 0.1, 0.05], {'require_both': True}, 5),
    ([9.0, 8.95, 8.9, 8.85], {'require_both': True}, None),
    ([0.45, 0.44, 0.43], {'require_both': True}, 3),
    # forced
    ([9.0, 5.0, 1.0, 4.0], {'force_after': 3}, 3),
    ([9.0], {'force_after': 0}, 1),
    ([NAN, NAN, NAN], {'force_after': 2}, 2),
    ([9.0, 8.0, 7.0], {'force_after': 2, 'require_both': True}, 2),
    # nan: no evidence, and the streak starts again
    ([NAN, NAN, NAN, NAN, NAN], {}, None),
    ([0.4, 0.2, NAN, 0.4, 0.2, 0.05], {}, 6),
    ([9.0, NAN, 9.0, 9.0], {}, 4),
    # an open gate stays open
    ([9.0, 9.0, 50.0, NAN, 1.0], {}, 2),
  ],
)
def test_gate_opens(losses, constants, wanted):
  assert opened_at(losses, **constants) == wanted


@pytest.mark.parametrize(
  ('variances', 'constants', 'wanted'),
  [
    ([-1.0, 0.0, 0.29, 0.3, 0.9], {'min_explained_variance': 0.3}, 4),
    ([0.9, 0.2, 0.2, 0.2, 0.2], {'min_explained_variance': 0.3}, None),
    ([0.2, 0.2, 0.2, 0.2, 0.2], {'min_explained_variance': 0.3, 'force_after': 4}, 4),  # the floor does not hold it for ever
    ([0.2, NAN, NAN, 0.5, 0.5], {'min_explained_variance': 0.3}, 4),
    ([-9.0, -9.0, -9.0, -9.0, -9.0], {}, 2),  # without a floor the published tests stand alone
    ([0.9, 0.2, 0.2, 0.4, 0.2], {'min_explained_variance': 0.3, 'require_both': True}, 4),
  ],
)
def test_gate_has_a_floor_on_the_explained_variance(variances, constants, wanted):
  assert opened_at([0.3] * 5, variances, **constants) == wanted
