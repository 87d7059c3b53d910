"""Answers of a policy to test problems, for the command, for training and for pictures.

| file | what it holds |
|---|---|
| `request.py`, `evaluation.py` | what is asked for, flag by flag; the evaluation that goes on where it was interrupted |
| `policies.py` | the policy: a checkpoint of a run, or a Hugging Face directory |
| `answers.py` | answers, sampled and graded batch by batch |
| `examples.py` | a few rollouts token by token |
"""
