"""Exit policies decide how many blocks each token runs through. They know nothing of models or losses.

An exit at block `l` skips `l` and all blocks after it, in decoding, scoring and calibration alike. `ffn_skip` skips their
feed-forward networks alone, up to the last ones, and `first_router` any blocks, the same ones for a whole response. The depth
recorded with a token is that of the state that the token was drawn from, so that the exit's log-probability stands beside the
token's. The state of a row's first token comes from the prompt and always has full depth.
"""

from espo_jax.exits.confidence import calm_cosine, calm_margin, calm_threshold, confidence, stream_cosine
from espo_jax.exits.dynamax_distill import dynamax_distill
from espo_jax.exits.ffn_skip import ffn_skip
from espo_jax.exits.first_router import first_router
from espo_jax.exits.heads import dynamax, ponder_q, sampled, threshold
from espo_jax.exits.jei_gates import activation, exit_probabilities, gate_statistics, jei_gates, jei_lesson
from espo_jax.exits.lessons import LESSONS, Lesson, register_lesson
from espo_jax.exits.lgvit_distill import lgvit_distill
from espo_jax.exits.mue_similarity import mue_similarity
from espo_jax.exits.policy import ExitPolicy, Observation, exit_pmf
from espo_jax.exits.registered import REGISTRY, get, register
from espo_jax.exits.schedules import fixed, linear_decay, never, skipdecode
from espo_jax.exits.specee import candidate_features, specee, specee_lesson
from espo_jax.registry import import_files

import_files(__name__, __path__)

__all__ = [
  'LESSONS',
  'REGISTRY',
  'ExitPolicy',
  'Lesson',
  'Observation',
  'activation',
  'calm_cosine',
  'calm_margin',
  'calm_threshold',
  'candidate_features',
  'confidence',
  'dynamax',
  'dynamax_distill',
  'exit_pmf',
  'exit_probabilities',
  'ffn_skip',
  'first_router',
  'fixed',
  'gate_statistics',
  'get',
  'jei_gates',
  'jei_lesson',
  'lgvit_distill',
  'linear_decay',
  'mue_similarity',
  'never',
  'ponder_q',
  'register',
  'register_lesson',
  'sampled',
  'skipdecode',
  'specee',
  'specee_lesson',
  'stream_cosine',
  'threshold',
]
