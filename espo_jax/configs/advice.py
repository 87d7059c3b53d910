"""Says what a config can run, but what measurements speak against."""

from collections.abc import Iterator

import ml_collections


def advice(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields one line for each such choice: the fields, their values, the reason, and the fix."""
  s, low = config.stop, config.reward.get('low', 0.0)  # the default of the reward 'correct'
  stops_rows = any(name != 'never' for name in (*config.baselines, s.name))
  if 'rl' in config.stages and stops_rows and s.returns == 'fail' and config.reward.name == 'correct' and low > s.fail_reward:
    yield (
      f'stop.fail_reward = {s.fail_reward:g}, reward.low = {low:g}: a stopped row returns less than a wrong answer, so a '
      f'mistake that the rule does not see is rewarded (experiments/results/habits.md); fix: reward.low = {s.fail_reward:g}, '
      "or stop.returns = 'zero'"
    )
