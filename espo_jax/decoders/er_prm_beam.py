"""Early rejection: a beam search that drops beams by the score of the first tokens of each step."""

from espo_jax.decoders.majority import majority
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Decoder, out_of_range
from espo_jax.decoders.scores import field_of
from espo_jax.decoders.ways import Beams
from espo_jax.registry import source


@register('er_prm_beam')
@source('Early rejection with partial rewards, arXiv 2508.01969', 'factor', 'prefix')
def er_prm_beam(*, factor: int = 4, prefix: int = 64, step: int = 256, score: str = 'value') -> Decoder:
  """Searches with as many beams as there are samples, and lets the final beams vote.

  A step of the search has four parts:

  1. Every beam writes the first `prefix` tokens of the step.
  2. Of `N` beams the `N / factor` with the highest scores are kept, and the others are rejected for good.
  3. The kept beams write the step to its end.
  4. Each is copied to the places of rejected ones, so that there are `N` beams again. The copies go on with other draws.

  The tokens are all that were drawn: those of rejected beams count, and those that copies share count once. With `factor = 1`
  the beams are independent samples. With `prefix = step` this is a beam search that scores whole steps.

  If the score at the end of a step is the sum of `step` independent gains, its correlation with the score after `prefix` tokens
  is `sqrt(prefix / step)`. So a wanted correlation `r` takes a prefix of `r^2 step` tokens.

  The paper scores with a reward model of its own, and ends a step at a line. Here the score is one that is recorded of the
  tokens so far, and a step has a fixed number of tokens [I]. A policy without a critic has the same value everywhere, so
  an evaluation of it refuses `value`. A beam that has ended keeps its place and is scored no more [I].
  If `factor` does not divide the number of beams that are left, the share is rounded up [I]. The vote at the end is ours [I].

  Args:
    factor: The number of beams per beam that is kept.
    prefix: The number of tokens of a step after which beams are scored.
    step: The number of tokens of a step, at least `prefix` [U].
    score: The score: `value` before the last token, minus the mean `regret`, or the mean `logprob` of the tokens.
  """
  field_of(score)
  for name, value in (('factor', factor), ('prefix', prefix)):
    if value < 1:
      raise out_of_range(name, value, 'at least 1')
  if step < prefix:
    raise out_of_range('step', step, f'at least prefix={prefix}')
  return majority()._replace(drawing=Beams(factor, prefix, step, score))
