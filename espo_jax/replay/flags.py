"""Writes a rule with its constants as the config fields that select it."""

import ml_collections

from espo_jax import stops
from espo_jax.replay.search import Point

_LEAST_BUDGET = 0.01  # a smaller budget cannot be measured with 100 right answers


def pasted_values(config: ml_collections.ConfigDict, point: Point) -> dict[str, str | float]:
  """Returns the fields with which a run starts at a point and holds its stop rate, or the share of right rows that it loses.

  Args:
    config: The config of the recorded run. Its bounds of beta are kept unless the point's beta is outside of them.
    point: The rule with its constants.
  """

  def field(constant: str) -> str:
    own = config.stop.get(point.name, {})
    return f'stop.{point.name}.{constant}' if constant in own else f'stop.{constant}'

  values = {'stop.name': point.name} | {field(name): value for name, value in point.constants.items()}
  if point.name == 'wald':
    values['stop.returns'] = 'head'  # it also ends rows that are sure to be right
  beta = float(f'{point.beta:.4g}')
  values[field('beta_0')] = beta
  if 'budget' in stops.arguments(point.name):
    values['stop.budget'] = float(f'{max(point.seen.false_positives, _LEAST_BUDGET):.3g}')
  elif 'target_rate' in stops.arguments(point.name):
    values['stop.target_rate'] = float(f'{point.seen.stop_rate:.3g}')
  bounds = config.stop.get(point.name, config.stop)
  for name, outside in (('beta_min', beta < bounds.beta_min), ('beta_max', beta > bounds.beta_max)):
    if outside:
      values[field(name)] = beta
  return values


def pasted_flags(values: dict[str, str | float]) -> str:
  """Writes the fields as flags for the command line of `espo_jax.train`."""
  return ' '.join(f'--config.{field}={value}' for field, value in values.items())
