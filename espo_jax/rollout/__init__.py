"""Samples trajectories inside one jitted program. This package does not depend on rewards and losses.

One program decodes all rows. There are `S` slots, each with its part of the cache. A slot takes a row, decodes it token by
token, and takes the next waiting row when it ends. The whole rollout is one `while_loop` over chunks, without host callbacks.

| piece | what it does | who uses it |
|---|---|---|
| `sampler.Sampler` | holds the config's arguments, and calls an engine with them | code with an `Experiment`; compile_check |
| `setup.Setup` | holds what stays constant: model, parameters, options, where each row starts | all pieces read it |
| `progress` | holds what is known of unfinished rows: progress, recorded tokens, kept drafts | the engine, `verify` |
| `engine.generate` | prefills each prompt once, sets where each row starts, and calls `decode_rows` | `Sampler` |
| `reuse.verify` | keeps a part of each sample's last response, behind which its row starts | `generate`, with drafts |
| `engine.decode_rows` | runs chunks until no row is alive and none waits | `generate`, `generate_serial` |
| `engine.chunk` | refills, decodes until a slot is free for a row or `pending` is full, writes out | `decode_rows` |
| `slots.refill` | gives waiting rows to free slots and copies their prompts' columns | `chunk` |
| `engine.decode_token` | draws a token per slot, applies the stop rule, runs the policy on the token | `chunk`, by groups |
| `endings.judge` | applies end tokens, the stop rule and the horizon to a token | `decode_token`, `verify` |
| `engine.critic_reads` | runs a separate critic on a group of tokens | `chunk`, by groups |
| `slots.write_out` | copies the tokens of a chunk to their rows and columns | `chunk` |
| `sampling` | a token's key, the truncated distribution, the draw | the three engines |
| `processors` | what changes the logits before they become that distribution | `decode_token`, in evaluation |
| `serial.generate_serial` | decodes full responses, then early exits from their caches (S-GRPO) | `Sampler` |
| `probes.generate_probed` | decodes full responses, then the answers to be had on the way | `Sampler`, in evaluation |
| `beams.search` | decodes beams, of which those with low scores give their places to copies | `Sampler`, in evaluation |
| `turns.begin`, `turns.go_on` | decode the first turn of each row; a later one behind an observation | `Sampler`, by turns |
| `speculative.speculate` | decodes speculatively: the first blocks draft and the others verify | `Sampler`, in evaluation |
| `accept_head` | when a row stops drafting, and the fit of the head that says so | `speculate`, in evaluation |
"""

from espo_jax.rollout.engine import generate
from espo_jax.rollout.probes import Probed, generate_probed, probe_places
from espo_jax.rollout.reuse import Reuse
from espo_jax.rollout.sampler import Sampler
from espo_jax.rollout.sampling import Sampling, sampled_logits
from espo_jax.rollout.serial import Serial, generate_serial, row_steps
from espo_jax.rollout.speculative import Speculation, speculate
from espo_jax.rollout.turns import Observations, Paused, Turns, turns_of

__all__ = [
  'Observations',
  'Paused',
  'Probed',
  'Reuse',
  'Sampler',
  'Sampling',
  'Serial',
  'Speculation',
  'Turns',
  'generate',
  'generate_probed',
  'generate_serial',
  'probe_places',
  'row_steps',
  'sampled_logits',
  'speculate',
  'turns_of',
]
