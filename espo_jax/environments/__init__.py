"""Environments: whom the policy talks to between its turns.

An episode is a conversation. The policy writes a turn, the environment answers with an observation and a reward, and the policy
goes on behind it. An environment is an object with two methods, one object per episode:

    @environments.register('guess')
    class Guess:
      def reset(self, problem, seed): return problem.prompt
      def step(self, action, correct): return Step('Higher.', reward=0.0, done=False)

The parameters of its constructor are options of the section `environment`. Environments run in worker processes with a deadline
(`episodes.Episodes`). An environment that raises, hangs or dies ends its own episode, which counts as failed and adds to a
metric. An observation that is too long is cut, and the episode goes on. An environment has to be pure given the problem and the
seed, because an episode whose process was killed is played again from its actions. All samples of a problem have one seed, so
that a group differs by its actions alone.

| name | what it answers | an episode succeeds if |
|---|---|---|
| `calculator` | the value of the expression in a tool call | a turn without a call is right by the task's verifier |
| `retry` | that the answer is wrong | a turn is right by the task's verifier |
| `grid` | the map after the turn's move | the agent reaches the goal |
| `verifiers` | what an environment of the package `verifiers` does | by as much as the package's rubric says |

| piece | what it does |
|---|---|
| `environment` | the protocol: `Environment` and `Step` |
| `episodes.Episodes` | asks the worker processes: how each poses its problem, and what it answers to each turn |
| `worker` | the process that holds the episodes |
| `driven` | the rollouts of the package `verifiers`, one turn at a time |
| `rendering.turn_writer` | writes an observation as tokens of the chat template, without those of earlier turns |
"""

from espo_jax.environments.environment import ROLES, Environment, Step
from espo_jax.environments.episodes import Episode, Episodes, Pending, Reply
from espo_jax.environments.registered import REGISTRY, Traits, register, traits
from espo_jax.environments.rendering import TurnWriter, Written, breakable, reposed, turn_writer
from espo_jax.registry import import_files

import_files(__name__, __path__)

__all__ = [
  'REGISTRY',
  'ROLES',
  'Environment',
  'Episode',
  'Episodes',
  'Pending',
  'Reply',
  'Step',
  'Traits',
  'TurnWriter',
  'Written',
  'breakable',
  'register',
  'reposed',
  'traits',
  'turn_writer',
]
