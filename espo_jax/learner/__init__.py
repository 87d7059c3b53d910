"""The train state, update steps, the optimizer and checkpoints. This package does not depend on tasks."""

from espo_jax.learner.batch import Batch
from espo_jax.learner.calibration import Calibration
from espo_jax.learner.checkpoint import CheckpointError, Checkpoints, restore
from espo_jax.learner.kept import row_sizes
from espo_jax.learner.lessons import LessonLearner
from espo_jax.learner.optimizer import make_optimizer
from espo_jax.learner.packing import Groups, Packing, in_parts, minibatches, pack, packing_shardings, put_packing
from espo_jax.learner.policy import Reinforcement
from espo_jax.learner.routing import RouterTraining
from espo_jax.learner.scoring import Scored, score
from espo_jax.learner.state import TrainState, init_state
from espo_jax.learner.supervised import SupervisedLearner

__all__ = [
  'Batch',
  'Calibration',
  'CheckpointError',
  'Checkpoints',
  'Groups',
  'LessonLearner',
  'Packing',
  'Reinforcement',
  'RouterTraining',
  'Scored',
  'SupervisedLearner',
  'TrainState',
  'in_parts',
  'init_state',
  'make_optimizer',
  'minibatches',
  'pack',
  'packing_shardings',
  'put_packing',
  'restore',
  'row_sizes',
  'score',
]
