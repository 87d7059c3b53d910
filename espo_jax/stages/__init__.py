"""The stages of a run. They run in the order of `config.stages`; `rl.step` is one update of reinforcement learning.

| file | what it holds |
|---|---|
| `warm_start.py`, `calibration.py`, `critic_warmup.py`, `rl.py` | one stage per file: how it begins, its step, how it ends |
| `loop.py` | the loop of steps, which resumes from its newest checkpoint with bit-identical results |
| `rollouts.py` | a step's rollout: problems, responses, verdicts, dynamic sampling, the record for `espo_jax.replay` |
| `allocation.py`, `drafts.py` | which problems a step asks and what is remembered of them, the last responses to a pool |
| `packings.py` | how rows are packed into sequences |
| `metrics.py` | what a step measures |
| `results.py`, `headline.py` | what a run writes after its stages, and the line that it prints first |
| `optimizers.py` | the optimizer of a stage |

All arms of a run share its warm start and its critic warm-up. The `metrics.jsonl` of an arm begins with the lines of the
critic warm-up, so that it counts every token that the arm took since the warm start.
"""
