"""Says what each metric of a training means, and in what unit it is."""

from collections.abc import Mapping
from typing import NamedTuple


class Meaning(NamedTuple):
  """The meaning of a metric, and its unit: '' for a plain number."""

  text: str
  unit: str = ''


GLOSSARY: Mapping[str, Meaning] = {
  'step': Meaning('The number of the update, which counts the critic warm-up.', 'updates'),
  # the policy on the rows of the update
  'accuracy': Meaning('Rows that are right. Stopped rows count as wrong, and pruned rows do not count.', 'share'),
  'accuracy_unstopped': Meaning(
    'An unbiased estimate of the rows that would be right without stops, from shadow rows. Without these it is missing '
    'once a row is stopped.',
    'share',
  ),
  'entropy': Meaning('The entropy of the distribution that tokens are drawn from.', 'nats per token'),
  'reward/mean': Meaning(
    'The mean score of a row, before the divergence is paid. A stopped row scores what `stop.returns` says.'
  ),
  'reward/kl': Meaning('The divergence from the reference policy, which the reward pays for.', 'nats per token'),
  'reward/equal_groups': Meaning('Groups without rows whose scores differ. Without a critic they teach nothing.', 'share'),
  # the rollout
  'rollout/rows': Meaning('The rows that were begun.', 'rows'),
  'rollout/tokens': Meaning('The sampled tokens up to the stop of each row.', 'tokens'),
  'rollout/shadow_tokens': Meaning(
    'The tokens that were decoded after a stop, by shadow rows or in groups that ended as a whole.', 'tokens'
  ),
  'rollout/decoded': Meaning('All tokens that were decoded up to this update, those after stops included.', 'tokens'),
  'rollout/length_mean': Meaning('The mean length of a row, up to its stop if it has one. Pruned rows do not count.', 'tokens'),
  'rollout/truncated_rate': Meaning('Rows that the horizon cut. Pruned rows do not count.', 'share'),
  'rollout/row_steps': Meaning('Decode steps times slots: the work of the decoding loop.', 'slot steps'),
  'rollout/utilisation': Meaning('Slot steps that gave a token which counts.', 'share'),
  'rollout/prefill_pad': Meaning('Columns of the pass over the prompts that are padding.', 'share'),
  'rollout/gflops': Meaning('The operations of the tokens that count, forward.', '10^9 operations'),
  'rollout/kept': Meaning('Rows that are trained on, after a selection of rows.', 'share'),
  'rollout/draws': Meaning('Rollouts that were drawn until all groups differed (DAPO).', 'rollouts'),
  'rollout/informative_groups': Meaning('Groups whose scores differ, after all draws.', 'share'),
  'rollout/checksum': Meaning('A number that changes if any sampled token does, to compare two runs.'),
  'tokens_per_second': Meaning('Decoded tokens over the seconds of the rollout.', 'tokens/s'),
  'allocation/epochs': Meaning('How often the pool of problems has been passed through.', 'epochs'),
  'allocation/passed': Meaning('Problems whose pilots passed, so that the rest of their rows was sampled.', 'share'),
  'reuse/tokens': Meaning('The tokens of last responses that the new ones keep. They are not decoded.', 'tokens'),
  'reuse/share': Meaning('The tokens of last responses that the new ones keep, over all their tokens.', 'share'),
  'reuse/scored': Meaning('The tokens of last responses that the policy read to verify them.', 'tokens'),
  'turns/mean': Meaning('The turns of the policy in an episode.', 'turns'),
  'turns/observed': Meaning('Tokens of episodes that their environments wrote.', 'share'),
  'serial/accuracy': Meaning('Early exits of the serial rollout that are right.', 'share'),
  'serial/kept_mean': Meaning('Tokens before the answer of an early exit, inducer included.', 'tokens'),
  'serial/answer_mean': Meaning('Tokens of the answer of an early exit.', 'tokens'),
  'exits/depth': Meaning('Blocks that a token ran through.', 'share of all blocks'),
  'exits/rate': Meaning('Tokens that left before the last block.', 'share'),
  # the stop rule
  'stop/enabled': Meaning('1 once the critic warm-up is over and the rule may stop rows.'),
  'stop/rate': Meaning('Rows that the rule stopped or pruned. Settled rows do not count.', 'share'),
  'stop/beta': Meaning('The scale of the threshold, which the controller moves.'),
  'stop/mu': Meaning('The running mean of the surrogate regret.', 'nats'),
  'stop/sigma': Meaning('The running standard deviation of the surrogate regret.', 'nats'),
  'stop/shadow_rows': Meaning('Stopped rows that decoded on to their own end.', 'rows'),
  'stop/shadow_correct': Meaning('Shadow rows that were right at their own end: false positives.', 'rows'),
  'stop/settled': Meaning('Rows that the rule ended because their answer was settled.', 'rows'),
  'stop/success': Meaning('The running success rate, which is the value of every state where there is no critic.', 'share'),
  'head/expected': Meaning('The mean success that the head foretold, before it was fitted to this update.', 'share'),
  'head/right': Meaning('The success that there was, over the same tokens.', 'share'),
  'head/error': Meaning('The mean distance of the two within ten bins of the forecast (calibration error).', 'share'),
  'head/brier': Meaning('The mean squared error of the forecast success.'),
  'head/remaining': Meaning('The mean forecast of the tokens left, over the mean number there were.'),
  # the update
  'loss/total': Meaning('The whole loss.'),
  'grad_norm': Meaning('The norm of the gradient before it is clipped.'),
  'kl': Meaning(
    'An estimate of the divergence between the policy and the one that sampled. With an importance cap the second is '
    'the learner before the update.',
    'nats per token',
  ),
  'clip_fraction': Meaning('Tokens whose gradient the clip removes.', 'share'),
  'held_back': Meaning('Tokens of high covariance that are dropped (Clip-Cov) or tied to the old policy (KL-Cov).', 'share'),
  'prefers_short': Meaning('Rows whose prompt suits the short mode (`mode_margin`).', 'share'),
  'kl_mask': Meaning('Tokens that the masked divergence of TEPO pulls back.', 'share'),
  'importance/capped': Meaning('Tokens whose weight between sampler and learner was beyond the cap.', 'share'),
  'critic/loss': Meaning("The mean squared error of the critic's values.", 'reward^2'),
  'critic/explained_variance': Meaning('1 - var(return - value) / var(return); 1 is perfect, 0 no better than a constant.'),
  'critic/value_mean': Meaning("The mean of the critic's values.", 'reward'),
  'pad_fraction': Meaning('Columns of the update that are padding.', 'share'),
  'shared_fraction': Meaning('Tokens of prompts that the update does not compute, because rows share them.', 'share'),
  'sampler_gap/mean': Meaning('The mean distance of log-probabilities between learner and sampler.', 'nats'),
  'sampler_gap/p95': Meaning('The 95th percentile of that distance.', 'nats'),
  'sampler_gap/max': Meaning('The largest such distance.', 'nats'),
  'sampler_gap/outside_clip': Meaning(
    'Tokens whose ratio between learner and sampler lies outside of the clip range.', 'share'
  ),
  'gate_open': Meaning('1 once the critic is accurate enough for a stop rule, or the wait is over; always 1 in an arm.'),
  'bad_steps': Meaning('Steps in a row whose loss or gradient was not finite, so that they were skipped.', 'steps'),
  'skipped_steps': Meaning('All steps that were skipped.', 'steps'),
  'grading/timeouts': Meaning('Responses whose grader or environment ran out of time; they count as wrong.', 'rows'),
  'grading/errors': Meaning('Responses whose grader or environment failed; they count as wrong.', 'rows'),
  # the test split, every `eval.every` updates
  'eval/accuracy': Meaning('Test problems whose sampled answer is right, without stops.', 'share'),
  'eval/greedy_accuracy': Meaning('Test problems whose greedy answer is right, without stops.', 'share'),
  'eval/correct': Meaning('Right sampled answers.', 'problems'),
  'eval/greedy_correct': Meaning('Right greedy answers.', 'problems'),
  'eval/problems': Meaning('Test problems.', 'problems'),
  'eval/tokens_mean': Meaning('The mean length of a sampled answer.', 'tokens'),
  'eval/turns_mean': Meaning("The policy's turns in an episode.", 'turns'),
  'eval/ungraded': Meaning('Sampled and greedy answers that could not be graded; they count as wrong.', 'answers'),
  # the machine
  'process/compiled_programs': Meaning('Programs that were compiled or loaded since the start.', 'programs'),
  'process/compile_seconds': Meaning('Seconds that this took.', 's'),
  'process/peak_memory_gib': Meaning('The peak memory of the first accelerator; on a CPU, that of the process.', 'GiB'),
}

_FAMILIES: Mapping[str, Meaning] = {
  'eval/accuracy_': Meaning('Right sampled answers among the short, middle or long third of the test problems.', 'share'),
  'eval/accuracy_turn_': Meaning('Test problems that are solved within this many turns.', 'share'),
  'eval/depth': Meaning('Blocks that a token of the answer ran through.', 'share of all blocks'),
  'eval/greedy_depth': Meaning('Blocks that a token of the greedy answer ran through.', 'share of all blocks'),
  'loss/': Meaning('A term of the loss, before its coefficient.'),
  'reward/': Meaning('The mean of a reward that is a part of the whole one.'),
  'turns/entropy_': Meaning('The mean entropy of the tokens of this turn, the first of which is 1.', 'nats'),
  'warning/': Meaning('1 while this diagnostic warns. The list of methods explains each of them.'),
  'seconds/': Meaning('Seconds that this phase of the update took.', 's'),
}

_PAGE = """# The metrics of a training

`python -m espo_jax.methods metrics` writes this page. Each line of `arms/RULE/metrics.jsonl` has those of these metrics that
the config measures. A metric without a unit is a plain number. A name that ends in `*` stands for all names that begin so.

| metric | unit | meaning |
|---|---|---|
"""


def meaning(metric: str) -> Meaning | None:
  """Returns the meaning of a metric; None for a name that no part of the package writes, such as a plugin's."""
  family = next((name for name in _FAMILIES if metric.startswith(name)), '')
  return GLOSSARY.get(metric, _FAMILIES.get(family))


def glossary_page() -> str:
  """Returns the metrics, their units and their meanings as a page of Markdown."""
  families = {f'{name}*': entry for name, entry in _FAMILIES.items()}
  lines = [f'| `{name}` | {entry.unit} | {entry.text} |\n' for name, entry in {**GLOSSARY, **families}.items()]
  return _PAGE + ''.join(lines)
