"""What a run is warned of at its start: choices that it can run with, but that measurements speak against."""

import pytest

from espo_jax.configs import advice, default_config

pytestmark = pytest.mark.quick


def config(*, low=None, **stop):
  c = default_config()
  c.baselines, c.stages = stop.pop('baselines', ()), stop.pop('stages', c.stages)
  c.reward.name = stop.pop('reward', 'correct')
  if low is not None:
    c.reward.low = low
  c.stop.update(stop)
  return c


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({}, 'stop.fail_reward = -1, reward.low = 0: a stopped row returns less than a wrong answer'),
    ({'low': -0.5}, 'stop.fail_reward = -1, reward.low = -0.5: '),
    ({'low': 0.25, 'fail_reward': 0.0}, 'fix: reward.low = 0, or '),
    ({'name': 'never', 'baselines': ('random',)}, "or stop.returns = 'zero'"),
    ({'low': -1.0}, None),
    ({'low': -2.0}, None),
    ({'fail_reward': 0.0}, None),
    ({'returns': 'zero'}, None),
    ({'returns': 'head'}, None),
    ({'name': 'never'}, None),
    ({'stages': ('warm_start',)}, None),
    ({'name': 'never', 'baselines': ('never',)}, None),
    ({'reward': 'correct + 0.5 * overlong'}, None),  # what a wrong answer returns is not known here
  ],
)
def test_a_stop_that_returns_less_than_a_wrong_answer_is_told(fields, told):
  found = list(advice(config(**fields)))
  assert found == [] if told is None else len(found) == 1 and told in found[0]
