"""The learner of the warm start: next-token cross-entropy on written solutions, or on examples with a mask."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from espo_jax.learner.optimizer import guarded_step
from espo_jax.learner.packing import Packing
from espo_jax.learner.scoring import score
from espo_jax.learner.state import TrainState, jit_update
from espo_jax.model import ActorCritic, Params, join_frozen, split_frozen
from espo_jax.objectives import softmax_ce, token_mean
from espo_jax.types import Metrics, SupervisedBatch


@dataclasses.dataclass(frozen=True, eq=False)
class SupervisedLearner:
  """Makes supervised updates on response tokens. Prompt tokens and masked response tokens carry no loss.

  Attributes:
    model: Policy and critic.
    optimizer: The optimizer of the stage.
    prompt_width: The number of prompt columns of a batch.
    logit_chunk: The number of tokens whose logits are in memory at a time.
    likelihood: The function from logits to log-probabilities.
  """

  model: ActorCritic
  optimizer: optax.GradientTransformation
  prompt_width: int
  logit_chunk: int
  likelihood: Callable[[jax.Array], jax.Array] = softmax_ce

  @jit_update
  def update(self, state: TrainState, batch: SupervisedBatch, packing: Packing | None = None) -> tuple[TrainState, Metrics]:
    """Makes one optimizer step on the mean negative log-likelihood of the response tokens, including the end token.

    With weights, each token's part of the sum is multiplied by its weight, and the mean is over the tokens that have one.

    Args:
      state: The state before the step. Its buffers are donated.
      batch: The rows.
      packing: The places of the rows in sequences, a stack of one; None for one sequence per row.
    """
    tokens, prompt_lengths, response_lengths = map(jnp.asarray, batch[:3])
    prompts, responses = tokens[:, : self.prompt_width], tokens[:, self.prompt_width :]
    mask = jnp.arange(responses.shape[1]) < response_lengths[:, None]
    weights = None if batch.weights is None else jnp.asarray(batch.weights)
    if weights is not None:
      mask &= weights > 0

    places = jax.tree.map(lambda x: x[0], packing)
    trained, held = split_frozen(state.params)  # this stage trains the policy even where the later ones train exits alone

    def loss_fn(trained: Params) -> jax.Array:
      params = join_frozen(trained, held)
      scored = score(
        self.model,
        params,
        prompts,
        prompt_lengths,
        responses,
        temperature=1.0,
        chunk=self.logit_chunk,
        packing=places,
        likelihood=self.likelihood,
      )
      losses = -scored.logprobs if weights is None else -scored.logprobs * weights
      return token_mean(losses, mask).mean

    loss, grads = jax.value_and_grad(loss_fn)(trained)
    return guarded_step(state, self.optimizer, loss, grads)
