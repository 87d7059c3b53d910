"""The decoders that a command asks for, and whether what they read is recorded."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

from espo_jax import decoders
from espo_jax.decoders import Decoder, Samples
from espo_jax.evaluate.options import Named, Texts, read_named
from espo_jax.evaluate.policies import RequestError

RECORDED = ('tokens', 'logprobs', 'regret', 'values')  # the fields of `Samples` that --record adds to those of every evaluation
OF_FEATURES = ('confidence', 'projections')  # --features adds these to them


class Asked(NamedTuple):
  """A decoder that a command asks for: how it was named, and the decoder with its options."""

  named: Named
  decoder: Decoder


def asked_for(flags: Iterable[tuple[str, Texts]]) -> list[Asked]:
  """Makes the decoders that flags name.

  Args:
    flags: The name of each decoder with its options as texts.

  Raises:
    RequestError: A decoder or an option is unknown, a value does not fit, an option or a decoder is given twice, or what was
      registered makes no decoder.
  """
  found: list[Asked] = []
  for named in read_named('--decoder', decoders.REGISTRY, flags):
    try:
      decoder = _checked(decoders.REGISTRY[named.name](**named.options))
    except ValueError as error:
      raise RequestError(f'--decoder={named.name}: {error}') from error
    if named in [one.named for one in found]:
      raise RequestError(f'--decoder={named.name}: asked for twice with the same options; fix: leave one out')
    found.append(Asked(named, decoder))
  return found


def check_recorded(asked: Iterable[Asked], record: bool, features: int) -> None:
  """Raises RequestError if a decoder reads what an evaluation with these flags would not record."""
  asked = list(asked)
  have = {*decoders.ALWAYS, *(RECORDED if record else ()), *(OF_FEATURES if features else ())}
  check_reads(asked, have, 'an evaluation with these flags')
  check_directions(asked, features, f'--features={features}')


def check_directions(asked: Iterable[Asked], directions: int, where: str) -> None:
  """Raises RequestError if a decoder needs projections onto more directions than there are.

  Args:
    asked: The decoders.
    directions: The number of directions onto which states were projected.
    where: The place that has the projections, for the message.
  """
  for one in asked:
    if 0 < directions < (least := one.decoder.least_directions):
      flag = f'--decoder={one.named.name}'
      raise RequestError(f'{where}: {flag} needs projections onto at least {least} directions; fix: --features=16')


def check_reads(asked: Iterable[Asked], have: Iterable[str], where: str) -> None:
  """Raises RequestError if a decoder reads a field that is not there.

  Args:
    asked: The decoders.
    have: The fields of `Samples` that are there.
    where: The place that has the fields, for the message.
  """
  for one in asked:
    for field in sorted(one.decoder.reads.difference(have)):
      fix = '--record' + {'confidence': ' --features=1', 'projections': ' --features=16'}.get(field, '')
      raise RequestError(f'{where}: holds no {field!r}, which --decoder={one.named.name} reads; fix: {fix}')


def check_drawn(asked: Sequence[Asked], drawer: str, curve: bool, where: str) -> None:
  """Raises RequestError if samples were not drawn as a decoder needs them.

  Args:
    asked: The decoders.
    drawer: The decoder that drew the samples itself, with its options; '' for independent samples.
    curve: Whether the decoders also choose among the first 1, 2 and so on samples.
    where: The place that has the samples, for the message.
  """
  for one in asked:
    flag = f'{where}: --decoder={one.named.name}'
    if one.decoder.drawing is None and drawer:
      raise RequestError(f'{flag} takes independent samples, and {drawer!r} drew these; fix: an evaluation without it')
    if one.decoder.drawing is not None and one.named.label != drawer:
      raise RequestError(f'{flag} draws samples of its own, and these are drawn already; fix: --checkpoint in place of --from')
    if drawer and curve:
      raise RequestError(f'{flag} draws as many samples as there are, not the first of them; fix: leave --curve out')


def drawn_by(asked: Sequence[Asked]) -> Asked | None:
  """Returns the decoder that draws the samples of an evaluation itself; None for none.

  Raises:
    RequestError: There are more decoders beside it.
  """
  drawer = next((one for one in asked if one.decoder.drawing is not None), None)
  if drawer is not None and len(asked) > 1:
    other = next(one.named.label for one in asked if one is not drawer)
    told = f'--decoder={other} with --decoder={drawer.named.name}'
    raise RequestError(f'{told}: that one draws samples of its own; fix: an evaluation for each')
  return drawer


def _checked(made: Any) -> Decoder:
  """Returns what a registered function made if it is a decoder of `Samples`. A function of a user's may return anything."""
  if not isinstance(made, Decoder):
    raise ValueError(f'it returned {made!r}; fix: a Decoder')
  reads = frozenset(made.reads)
  known = [field for field in Samples._fields if field != 'spent']  # which `total` reads where there is any
  if strange := sorted(reads.difference(known)):
    raise ValueError(f'it reads {strange[0]!r}, which samples do not have; fix: one of {", ".join(known)}')
  if made.drawing is not None and not isinstance(made.drawing, decoders.Drawing):
    ways = ', '.join(sorted(way.__name__ for way in get_args(decoders.Drawing)))
    raise ValueError(f'drawing={made.drawing!r}: no way to draw samples; fix: one of {ways}, or None')
  if made.drawing is not None and (beyond := sorted(reads.difference(decoders.ALWAYS))):
    told = f'it reads {beyond[0]!r}, which is not recorded of samples that a decoder draws itself'
    raise ValueError(f'{told}; fix: drawing=None, or reads among {", ".join(decoders.ALWAYS)}')
  return made._replace(reads=reads)
