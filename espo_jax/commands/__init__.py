"""What all commands have in common: flags read with an eye for slips, and errors of the machine that say what to do."""

from espo_jax.commands.errors import lower_fields, lower_flags, machine_errors
from espo_jax.commands.parser import CommandParser

__all__ = ['CommandParser', 'lower_fields', 'lower_flags', 'machine_errors']
