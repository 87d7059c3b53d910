"""LeaP: paths that read summaries of each other on the way."""

from espo_jax.decoders.majority import majority
from espo_jax.decoders.peers import ROUTINGS
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Decoder, out_of_range
from espo_jax.decoders.ways import Exchange
from espo_jax.registry import source


@register('leap')
@source('LeaP, arXiv 2505.07787', 'peers', 'tokens', 'summary', 'routing')
def leap(
  *,
  peers: int = 2,
  tokens: int = 2048,
  summary: int = 256,
  routing: str = 'dispersed',
  answer_tokens: int = 256,
  ask: str = '\n\nMy progress so far, in short: ',
  peer: str = '\n\nWhat another one has so far: ',
  resume: str = '\n\nWith this in mind, I go on. ',
  answer: str = '\n\nFinal answer: ',
) -> Decoder:
  """Writes the samples of a problem side by side, which summarise themselves to each other, and lets them vote.

  1. Every path writes `tokens` tokens.
  2. Every path that has not ended is asked for a summary of at most `summary` tokens.
  3. Every such path reads the summaries of `peers` others, and goes on with step 1.

  Paths that have ended leave the exchange. A path that is left alone goes on undisturbed [I]. The `horizon` of the evaluation
  bounds the tokens of step 1 in a path: the paper's five turns are 10240. A path that reaches it is asked for its answer.

  | `routing` | a path hears the peers whose summaries are |
  |---|---|
  | `dispersed` | least like its own |
  | `clustered` | most like its own |
  | `hybrid` | half most, half least like its own |

  Likeness is one minus the edit distance in tokens over the length of the longer summary [I]. The texts that are inserted are
  ours. The policy does not draw them: they have no log-probability, no mask, and cost nothing. Summaries and answers that are
  asked for do. An answer is stated by the tokens of step 1 and by the answer asked for, not by summaries. With `peers = 0`
  nothing is inserted at all, and paths are independent samples. The vote at the end is ours [I].

  Args:
    peers: The number of summaries that a path reads at a time.
    tokens: The number of tokens of a path between two exchanges.
    summary: The most tokens of a summary.
    routing: The choice of peers: `dispersed`, `clustered` or `hybrid`.
    answer_tokens: The most tokens of an answer that is asked for [U].
    ask: The text that asks for a summary [U].
    peer: The text before the summary of a peer [U].
    resume: The text behind the summaries of all peers [U].
    answer: The text that asks for the answer [U].
  """
  for name, value in (('tokens', tokens), ('summary', summary), ('answer_tokens', answer_tokens)):
    if value < 1:
      raise out_of_range(name, value, 'at least 1')
  if peers < 0:
    raise out_of_range('peers', peers, 'at least 0')
  if routing not in ROUTINGS:
    raise ValueError(f'routing={routing}: unknown; fix: one of {", ".join(ROUTINGS)}')
  return majority()._replace(drawing=Exchange(peers, tokens, summary, routing, answer_tokens, ask, peer, resume, answer))
