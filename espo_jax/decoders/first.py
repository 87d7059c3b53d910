"""The first sample: the baseline of all decoders."""

from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples
from espo_jax.registry import source


@register('first')
@source('ours, the baseline')
def first() -> Decoder:
  """Takes the first sample, and draws no other one."""

  def choose(samples: Samples) -> Choice:
    return Choice(0, int(samples.lengths[0]))

  return Decoder(choose, frozenset({'lengths'}))
