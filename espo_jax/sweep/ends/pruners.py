"""Makes early ends of Optuna's pruners."""

from collections.abc import Callable
from typing import Any

from espo_jax.sweep.ends.trial import EarlyEnd, Judge, Trials
from espo_jax.sweep.making import import_optuna


def pruned_by(name: str, make: Callable[[Any, Trials], Any]) -> EarlyEnd:
  """Returns the early end that asks a pruner of Optuna after each update.

  The study is rebuilt from the earlier runs. Its name follows from the seed, because Hyperband draws the bracket of a run from
  the name of the study. A study without a name has another one each time, and would decide otherwise after an interruption.

  Args:
    name: The early end's name.
    make: The function that makes the pruner from the module `optuna.pruners` and from what is known.
  """
  optuna = import_optuna(f'early_end = {name!r}')

  def begin(trials: Trials) -> Judge:
    study = optuna.create_study(study_name=f'seed {trials.seed}', direction='maximize', pruner=make(optuna.pruners, trials))
    state = optuna.trial.TrialState
    for earlier in trials.earlier:
      trial = study.ask()
      for update, accuracy in zip(earlier.updates.tolist(), earlier.accuracy.tolist(), strict=True):
        trial.report(accuracy, update)
        trial.should_prune()  # successive halving notes the rungs that a run has passed
      if earlier.whole and earlier.accuracy.size:
        study.tell(trial, float(earlier.accuracy[-1]), state.COMPLETE)
      else:
        study.tell(trial, state=state.PRUNED)  # which Optuna refuses with a value
    mine = study.ask()

    def judge(update: int, accuracy: float) -> str:
      mine.report(accuracy, update)
      return f'{name} ends it' if mine.should_prune() else ''

    return judge

  return begin
