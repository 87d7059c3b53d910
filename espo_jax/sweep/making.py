"""Makes the early end or the search that a sweep names. Optuna is an optional extra, imported only if one of them needs it."""

from collections.abc import Mapping
from typing import Any

from espo_jax import registry
from espo_jax.configs import ConfigError


def make(register: registry.Register, name: str, options: Mapping[str, Any], field: str) -> Any:
  """Returns what the method of a register makes of its options.

  Args:
    register: The register.
    name: The method's name.
    options: The options, of which those that are left out have their defaults.
    field: The field of the sweep that has the options, for errors.

  Raises:
    ConfigError: The method does not exist, does not take the options, or needs Optuna, which is not installed.
  """
  try:
    method = register.find(name)
  except ValueError as error:
    raise ConfigError([str(error)]) from error
  known = registry.defaults(method)
  try:
    for option in known.keys() & options.keys():
      registry.check_type(option, options[option], known[option])
    return method(**options)
  except ConfigError:
    raise
  except (TypeError, ValueError) as error:
    raise ConfigError([f'{field} = {dict(options)}: {error}']) from error


def import_optuna(asked: str) -> Any:
  """Returns the module `optuna`, for which a sweep has `asked`, such as "early_end = 'median'".

  Raises:
    ConfigError: Optuna is not installed.
  """
  try:
    import optuna
  except ImportError as error:
    raise ConfigError([f"{asked}: Optuna is not installed; fix: pip install 'espo_jax[sweep]'"]) from error
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  return optuna
