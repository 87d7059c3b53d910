"""FiRST: a router before each block reads the prompt, and decides for the whole response whether the block runs."""

from jaxtyping import Array, Bool, Float

from espo_jax.exits.policy import ExitPolicy
from espo_jax.exits.registered import register
from espo_jax.registry import source
from espo_jax.types import takes_numpy


@register('first_router')
@source('FiRST, arXiv 2410.12513')
def first_router(*, level: float = 0.5) -> ExitPolicy:
  """Runs the blocks that the prompt's routers keep, the same ones for every token of the response.

  The router of a block is its exit head. It reads the mean stream of the prompt and gives the probability that the block is
  kept. The routers read during the pass over the prompt, which runs every block. The first block and blocks without a head are
  kept. A response has no keys and values in blocks that it skips, and never needs any.

  A skipped block costs nothing where all live rows skip it: with one row, and with samples of one prompt. Rows of several
  prompts share the blocks that none of them keeps, and the others run for the whole batch.

  The stage `calibration` trains the routers with everything else frozen. Its last `calibration.repair_steps` steps, none by
  default, train the model behind fixed routes: the adapters if there are any, and otherwise the whole policy. The form of the
  router, of its penalty and of the pooling is ours.

  Args:
    level: The least probability at which a block is kept.
  """

  @takes_numpy
  def router(keep: Float[Array, '...'], level: Float[Array, '']) -> Bool[Array, '...']:
    return keep >= level

  return ExitPolicy(level, router=router, kv_fill='monotone')
