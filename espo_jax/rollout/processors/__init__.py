"""Logit processors: changes of the distribution that the tokens of an answer are drawn from.

A processor runs inside the jitted decoding loop, on the model's logits. Temperature and truncation follow, as in transformers.
Log-probabilities, regret and stop rules see the distribution that comes out. Several processors act one after another. Training
has none, because the learner scores tokens under the policy itself.

| processor | what it changes until the thinking has ended |
|---|---|
| `eot_scale` | the weight of the tokens that end the thinking |
| `budget` | whether the thinking may end yet, or has to |
"""

from espo_jax.registry import import_files
from espo_jax.rollout.processors.budget import budget
from espo_jax.rollout.processors.eot_scale import eot_scale
from espo_jax.rollout.processors.processor import Processor, one_after_another, while_thinking
from espo_jax.rollout.processors.registered import READS, REGISTRY, register

import_files(__name__, __path__)

__all__ = ['READS', 'REGISTRY', 'Processor', 'budget', 'eot_scale', 'one_after_another', 'register', 'while_thinking']
