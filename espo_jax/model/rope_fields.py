"""Reads and writes the RoPE entries of `config.json`. Each entry is either read or refused by name."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from espo_jax.model.config import ROPE_FIELDS, ModelConfig, RopeScaling

if TYPE_CHECKING:
  from transformers import PreTrainedConfig

_FIELDS = ('rope_scaling', 'rope_parameters')
_NEEDED: dict[str, tuple[str, ...]] = {
  'default': (),
  'linear': ('factor',),
  'llama3': ROPE_FIELDS['llama3'],
  'yarn': ('factor',),
}
_ZERO_IS_ABSENT = ('beta_fast', 'beta_slow', 'mscale', 'mscale_all_dim')  # transformers treats 0 as absent
_OF_ALL_TYPES = ('rope_type', 'type', 'rope_theta', 'partial_rotary_factor')


def check_rope(raw: Mapping[str, Any]) -> None:
  """Refuse entries that transformers would ignore or only warn about.

  Types whose rotation depends on the final length of the sequence (`dynamic`, `longrope`) are refused, because the keys cached
  in a rollout would differ from those that the learner computes.

  Args:
    raw: The entries of `config.json`.

  Raises:
    ValueError: An entry is unknown, not supported, missing or not a number; the message names it.
  """
  field, written = _written(raw)
  kind = _kind(field, written)
  for name in ('rope_theta', 'partial_rotary_factor'):
    for where, entries in ((f'{field}.', written), ('', raw)):
      value = entries.get(name)
      if name == 'rope_theta' and value is not None and not (_is_number(value) and value > 1):
        raise ValueError(f'{where}rope_theta = {value!r}: no base of frequencies; fix: a number above 1, such as 10000.0')
      if name == 'partial_rotary_factor' and value not in (None, 1):
        raise ValueError(f'{where}partial_rotary_factor is not supported; every channel of a head is rotated here')
  for name in _NEEDED[kind]:
    if written.get(name) is None and not (kind == 'yarn' and name in written):
      raise ValueError(f'rope_type = {kind!r} needs {name}, which {field} lacks; fix: the value the model was trained with')
  for name, value in written.items():
    if name not in _OF_ALL_TYPES:
      _check_entry(f'{field}.{name}', name, kind, value)


def read_rope(raw: Mapping[str, Any], hf: 'PreTrainedConfig') -> tuple[float, RopeScaling]:
  """The base of the frequencies, and the extension to longer contexts.

  Args:
    raw: The entries of `config.json`, which `check_rope` has passed.
    hf: The config that transformers parses from `raw`.

  Raises:
    ValueError: Two entries contradict each other, or one is out of range; the message names it.
  """
  hf.standardize_rope_params()  # every model of transformers calls this first
  read = dict(hf.rope_parameters)
  _check_agreement(raw, read)
  kind = read['rope_type']
  values = {name: read[name] for name in ROPE_FIELDS[kind] if read.get(name) is not None}
  values = {name: value for name, value in values.items() if value or name not in _ZERO_IS_ABSENT}
  if kind == 'yarn':
    context = values.setdefault('original_max_position_embeddings', hf.max_position_embeddings)
    values.setdefault('factor', hf.max_position_embeddings / context)
  cast = {'original_max_position_embeddings': int, 'truncate': bool}
  return float(read['rope_theta']), RopeScaling(kind, **{name: cast.get(name, float)(value) for name, value in values.items()})


def write_rope(config: ModelConfig) -> dict[str, Any]:
  """The RoPE entries of `config.json` for `config`, with the names of transformers 5 and the older names."""
  rope, plain = config.rope_scaling, RopeScaling()
  optional = ('beta_fast', 'beta_slow', 'attention_factor', 'mscale', 'mscale_all_dim', 'truncate')
  values = {name: getattr(rope, name) for name in ROPE_FIELDS[rope.rope_type]}
  values = {name: value for name, value in values.items() if name not in optional or value != getattr(plain, name)}
  stretched = {'rope_type': rope.rope_type} | values
  older = {'rope_scaling': stretched} if values else {}
  return {'rope_theta': config.rope_theta, 'rope_parameters': stretched | {'rope_theta': config.rope_theta}} | older


def _written(raw: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
  """The name and value of the entry that transformers reads: `rope_scaling` if both are there."""
  for field in _FIELDS:
    if not isinstance(raw.get(field) or {}, Mapping):
      raise ValueError(f'{field} = {raw[field]!r}: not an object; fix: {{"rope_type": ..., "factor": ...}} or null')
  field = _FIELDS[0] if raw.get(_FIELDS[0]) else _FIELDS[1]
  return field, raw.get(field) or {}


def _kind(field: str, written: Mapping[str, Any]) -> str:
  kinds = [written[name] for name in ('rope_type', 'type') if name in written] or ['default']
  if kinds[0] != kinds[-1]:
    raise ValueError(f'{field} has rope_type = {kinds[0]!r} and type = {kinds[1]!r}; fix: rope_type alone')
  if not isinstance(kinds[0], str) or kinds[0] not in ROPE_FIELDS:
    raise ValueError(f'rope_type = {kinds[0]!r} is not supported; fix: one of {", ".join(ROPE_FIELDS)}')
  return kinds[0]


def _check_entry(where: str, name: str, kind: str, value: Any) -> None:
  if name not in ROPE_FIELDS[kind]:
    if value is None:
      return
    known = ', '.join(('rope_theta', *ROPE_FIELDS[kind]))
    raise ValueError(
      f'{where} = {value!r} is no entry of rope_type = {kind!r}, which has {known}; fix: remove it, where it should not count'
    )
  if name == 'truncate':
    if not isinstance(value, bool):
      raise ValueError(f'{where} = {value!r}: not a truth value; fix: true or false')
  elif value is not None and not (_is_number(value) and (value > 0 or (value == 0 and name in _ZERO_IS_ABSENT))):
    raise ValueError(f'{where} = {value!r} must be a number above 0; fix: the value the model was trained with')
  elif name == 'original_max_position_embeddings' and value is not None and value != int(value):
    raise ValueError(f'{where} = {value!r} must be a number of tokens; fix: a whole number')


def _check_agreement(raw: Mapping[str, Any], read: Mapping[str, Any]) -> None:
  """Refuse two different values of one setting, because transformers reads one and ignores the other silently."""
  places: dict[str, Mapping[str, Any]] = {f'{field}.': raw.get(field) or {} for field in _FIELDS}
  places[''] = {name: raw.get(name) for name in ('rope_theta', 'original_max_position_embeddings') if name in read}
  for where, entries in places.items():
    for name, value in entries.items():
      known = read.get('rope_type' if name == 'type' else name)
      overridden = where == 'rope_parameters.' and value == 'default'  # rope_scaling overrides this one
      if value is not None and value != known and not overridden:
        raise ValueError(f'{where}{name} = {value!r}, though {name} = {known!r} elsewhere; fix: one value in both places')


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
