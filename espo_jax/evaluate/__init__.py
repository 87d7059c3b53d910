"""Samples and grades a policy's answers to test problems, for the command, for training and for pictures.

| file | what it holds |
|---|---|
| `request.py`, `evaluation.py` | the flags of an evaluation; the evaluation, which resumes after an interruption |
| `policies.py` | the policy: a checkpoint of a run, or a Hugging Face directory |
| `answers.py` | answers, sampled and graded batch by batch |
| `recording.py`, `stopping.py` | recorded answers for espo_jax.replay; answers that a stop rule ends |
| `asked.py`, `reading.py`, `decoding.py` | decoders that are asked for; answers as their samples; accuracy over tokens |
| `drawing.py`, `drawn.py` | answers that a decoder draws itself: beams, or as the next row says |
| `revising.py`, `exchanging.py`, `accepting.py` | turns that revise others; paths that read others; drafts with a head |
| `measures/`, `estimates.py` | measures of answers; what another checkpoint would do, from recorded answers |
| `lengths.py` | how right answers are by their length |
| `examples.py` | a few rollouts token by token |
"""
