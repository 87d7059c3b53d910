"""The optimizer of a stage, built from the config."""

from typing import Any

import ml_collections
import optax

from espo_jax.learner import make_optimizer


def stage_optimizer(
  c: ml_collections.ConfigDict, learning_rate: float, critic_learning_rate: float, warmup_steps: int, **others: Any
) -> optax.GradientTransformation:
  """Returns the optimizer of a stage.

  Args:
    c: The config of the experiment.
    learning_rate: The learning rate of the policy.
    critic_learning_rate: The learning rate of the critic.
    warmup_steps: The number of optimizer steps over which the learning rates rise.
    **others: Further arguments of `make_optimizer`; they replace the ones that stages share.
  """
  common = {
    'exit_learning_rate': c.exits.learning_rate,
    'exits_alone': c.exits.alone,
    'weight_decay': c.learner.weight_decay,
    'max_grad_norm': c.learner.max_grad_norm,
    'b1': c.learner.b1,
    'b2': c.learner.b2,
  }
  return make_optimizer(learning_rate, critic_learning_rate, warmup_steps=warmup_steps, **common | others)
