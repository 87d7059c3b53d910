"""Holds what all commands share: flags whose misspellings are recognised, and errors about the machine with their fixes."""

from espo_jax.commands.errors import lower_fields, lower_flags, machine_errors
from espo_jax.commands.parser import CommandParser, NamedValues

__all__ = ['CommandParser', 'NamedValues', 'lower_fields', 'lower_flags', 'machine_errors']
