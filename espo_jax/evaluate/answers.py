"""Samples and grades answers to problems of the test split, for training and for the evaluate command."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from espo_jax import monitor, parallel, stops, tasks
from espo_jax.evaluate.batches import batches
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Sampler
from espo_jax.rollout.processors import Processor
from espo_jax.stages.episodes import play
from espo_jax.stages.rollouts import recorded_rows
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import StopReason, Trajectories


class Answer(NamedTuple):
  """One answer to one problem.

  Attributes:
    problem: the problem's position in the test split.
    id: the problem's id.
    sample: the index of this answer among the answers to the problem.
    prompt: the text of the prompt, special tokens included.
    response: the text of the response up to its stop, if a rule stopped it, as `Experiment.decode` gives it.
    answer: the answer that the response states, as `Task.stated_answer` spells it; '' if a rule stopped the response without
      settling it. With an environment it is that of the last turn.
    expected: the problem's own answer.
    correct: whether the response is right; a stopped response is not, and a settled one is graded up to its stop.
    status: the status of the grading: 'ok', 'timeout' or 'error'.
    length: the number of tokens of the response, the end token included. An environment's observations do not count.
    stop_reason: 'eos', 'length' if the horizon cut the response, 'stopped' if a rule stopped it, or 'settled' if that rule
      stops responses that have their answer.
    full_length: the number of tokens with those that a stopped response was decoded on for.
    full_correct: whether the response is right with these tokens.
    depth: the share of the model's blocks that the states of the response's tokens ran through; 1 without exits.
    turns: the number of turns of the policy; 1 without an environment.
    probed: the number of tokens of probes that are no part of the response.
    spent: the number of tokens that the policy wrote in place of this answer, where a decoder draws its own samples; else None.
  """

  problem: int
  id: int
  sample: int
  prompt: str
  response: str
  answer: str
  expected: str
  correct: bool
  status: str
  length: int
  stop_reason: str
  full_length: int
  full_correct: bool
  depth: float
  turns: int = 1
  probed: int = 0
  spent: int | None = None

  @property
  def took(self) -> int:
    """The number of tokens that the policy wrote, those for comparisons included."""
    return self.full_length + self.probed if self.spent is None else self.spent


class Answered(NamedTuple):
  """The answers of a batch, the seconds that sampling them took, and the arrays of `recorded_rows` if they were asked for."""

  answers: list[Answer]
  seconds: float
  recorded: dict[str, Any] | None = None


class Acting(NamedTuple):
  """A stop rule that ends answers, and the state that it starts from."""

  rule: StopRule
  adaptive: Adaptive


def evaluate_params(
  exp: Experiment,
  params: Params,
  name: str,
  *,
  exit_level: float | None = None,
  after_batch: Callable[[], None] = lambda: None,
) -> dict[str, int | float | str]:
  """Sample one answer and decode one greedy answer to each of `eval.problems` test problems.

  It shows a progress bar and prints one line at the end. Every policy of a seed gets the same problems with the same random
  numbers, so that differences between policies are paired.

  Args:
    exp: The experiment.
    params: The policy's parameters.
    name: The title of the bar, such as `evaluation of ESPO`.
    exit_level: The level of the exit policy; its own level by default.
    after_batch: A function that is called after each batch of answers. An exception that it raises ends the evaluation.

  Returns:
    A dictionary with `accuracy`, `correct`, `problems`, `greedy_accuracy`, `greedy_correct`, `tokens_mean` and `ungraded`.
    `ungraded` is the number of sampled and greedy answers that could not be graded, which count as wrong. `accuracy_short`,
    `accuracy_middle` and `accuracy_long` are over the thirds of the problems by the length of the prompt's text. With exits it
    also has `depth` and `greedy_depth`, the shares of the model's blocks that the answers' tokens ran through. With an
    environment it also has `turns_mean`, and for each turn `k` a number `accuracy_turn_k`, the share of the problems that are
    solved within `k` turns.

    Two policies are compared problem by problem by three texts. `sampled_right` and `greedy_right` have a 1 per problem whose
    answer is right and a 0 per other problem. `problems_digest` is the same for the same prompts.
  """
  c = exp.config
  problems = exp.test_problems(c.eval.problems)
  prompts = prompts_per_batch(exp, len(problems), samples=1, rows=c.eval.batch)
  began = time.perf_counter()
  sampled: list[Answer] = []
  greedy: list[Answer] = []
  with contextlib.ExitStack() as shown:
    if parallel.is_first():
      progress = shown.enter_context(monitor.Progress(name, total=2 * len(problems), unit='answer'))
    for answers, temperature in ((sampled, c.rollout.temperature), (greedy, 0.0)):
      for batch in sample_answers(exp, params, problems, prompts, 1, temperature, exit_level=exit_level):
        answers += batch.answers
        if parallel.is_first():
          right = sum(answer.correct for answer in answers) / len(answers)
          progress.update(len(sampled) + len(greedy), {'accuracy': right})
        after_batch()
  correct, greedy_correct = (float(sum(answer.correct for answer in answers)) for answers in (sampled, greedy))
  depths: dict[str, int | float | str] = (
    {} if exp.model.exits is None else {'depth': _depth(sampled), 'greedy_depth': _depth(greedy)}
  )
  if parallel.is_first():
    print(
      f'{name}: {correct:.0f} of {len(problems)} problems right sampled, {greedy_correct:.0f} greedy, '
      f'in {time.perf_counter() - began:.0f} s',
      flush=True,
    )
  return depths | {
    'problems': len(problems),
    'accuracy': correct / len(problems),
    'correct': correct,
    'greedy_accuracy': greedy_correct / len(problems),
    'greedy_correct': greedy_correct,
    'tokens_mean': sum(answer.length for answer in sampled) / len(problems),
    'ungraded': sum(answer.status != 'ok' for answer in sampled + greedy),
    **_by_length(sampled),
    **({} if exp.sampler.turns is None else _by_turn(sampled, exp.sampler.turns.most)),
    'sampled_right': ''.join(str(int(answer.correct)) for answer in sampled),
    'greedy_right': ''.join(str(int(answer.correct)) for answer in greedy),
    'problems_digest': problems_digest(exp.tagged(problems)),
  }


def problems_digest(problems: Sequence[tasks.Problem]) -> str:
  """Returns a text that tells whether two evaluations had the same problems."""
  return hashlib.blake2b(monitor.to_json(problems).encode(), digest_size=8).hexdigest()


def _by_length(answers: Sequence[Answer]) -> dict[str, float]:
  """Returns the accuracy of each third of the answers by the length of their prompts; fewer than three answers have none."""
  if len(answers) < 3:
    return {}
  order = np.argsort([len(answer.prompt) for answer in answers], kind='stable')
  right = np.array([answer.correct for answer in answers], float)
  parts = zip(('short', 'middle', 'long'), np.array_split(right[order], 3), strict=True)
  return {f'accuracy_{third}': float(part.mean()) for third, part in parts}


def _by_turn(answers: Sequence[Answer], most: int) -> dict[str, float]:
  """Returns the mean number of turns, and the share of answers that are right within each number of turns up to `most`."""
  turns = np.array([answer.turns for answer in answers])
  solved = np.where([answer.correct for answer in answers], turns, most + 1)
  within = {f'accuracy_turn_{k}': float((solved <= k).mean()) for k in range(1, most + 1)}
  return {'turns_mean': float(turns.mean())} | within


def prompts_per_batch(exp: Experiment, problems: int, *, samples: int, rows: int) -> int:
  """Returns how many prompts to sample at a time for about `rows` rows.

  The mesh splits this number evenly, and it is at least one prompt per shard.
  """
  shards = parallel.batch_shards(exp.mesh)
  return shards * max(1, min(rows // samples // shards, -(-problems // shards)))


def sample_answers(
  exp: Experiment,
  params: Params,
  problems: Sequence[tasks.Problem],
  prompts: int,
  samples: int,
  temperature: float,
  *,
  seed: int = 0,
  start: int = 0,
  exit_level: float | None = None,
  acting: Acting | None = None,
  processor: Processor | None = None,
  record: bool = False,
  features: int = 0,
) -> Iterator[Answered]:
  """Sample and grade answers batch by batch, in the order of the problems.

  The random numbers of an answer depend on the experiment's seed, `seed`, the problem's id and the sample's index only. A
  stopped answer is decoded on to its own end, and these tokens are those that it would have had without the rule.

  Args:
    exp: The experiment.
    params: The policy's parameters.
    problems: The first problems of the test split.
    prompts: The number of problems in a batch.
    samples: The number of answers to each problem.
    temperature: The temperature of the sampler; 0 is greedy.
    seed: The seed of the answers. Training uses 0.
    start: The position of the first problem to answer, a multiple of `prompts`.
    exit_level: The level of the exit policy; its own level by default.
    acting: The stop rule; None for none.
    processor: The change of the logits of each token; None for none.
    record: Whether the arrays of the rows are returned as well. Then nothing is drafted.
    features: The number of directions onto which recorded states are projected; 0 records no features of states.
  """
  sampler = exp.sampler.plain(
    samples=samples, temperature=temperature, shadow_share=1.0, exit_level=exit_level, features=features, processor=processor
  )
  rule, adaptive = acting or Acting(stops.never(), stops.adaptive(stops.never()))
  key = exp.key('evaluation', seed)
  for batch in batches(exp, problems, prompts, samples, start):
    began = time.perf_counter()
    drafts = exp.config.eval.draft_blocks and acting is None and processor is None and not record
    rows, verdicts = _sampled(exp, sampler, params, Acting(rule, adaptive), batch.mine, key, drafts=bool(drafts))
    depth = rows.depth_share(exp.model.config.num_layers)
    read = (rows.tokens, rows.length, rows.full_length, rows.stop_reason, depth, rows.sizes, rows.turn)
    *fetched, turn_of = exp.fetch(read)
    tokens, lengths, full_lengths, reasons, depths, sizes = (x[: len(batch.each)] for x in fetched)
    turns = np.ones_like(sizes) if turn_of is None else turn_of.max(axis=1)[: len(sizes)] + 1
    seconds, turn_of = time.perf_counter() - began, None if turn_of is None else turn_of[: len(sizes)]
    texts = exp.decode(tokens, full_lengths, turn_of)
    (stopped,) = np.nonzero(reasons == StopReason.STOPPED)
    of_stopped = None if turn_of is None else turn_of[stopped]
    cut = dict(zip(stopped.tolist(), exp.decode(tokens[stopped], lengths[stopped], of_stopped), strict=True))
    graded = exp.turns(batch.tagged, texts) if turn_of is None else last_turns(exp, batch.tagged, tokens, turn_of)
    verdicts = (verdicts or verdicts_of(exp, batch.each, graded, batch.rows))[: len(texts)]
    ends, at_end = graded, verdicts
    if rule.settles and cut:
      ends = exp.turns(batch.tagged, [cut.get(i, text) for i, text in enumerate(texts)])
      at_end = regraded(exp, batch.each, ends, verdicts, list(cut), batch.rows)
    failed, settled = (set(), StopReason.SETTLED) if rule.settles else (set(cut), StopReason.STOPPED)
    answers = [
      Answer(
        **batch.about(i),
        response=cut.get(i, text),
        answer='' if i in failed else exp.task.stated_answer(ends[i]),
        correct=bool(at_end[i].correct) and i not in failed,
        status=at_end[i].status,
        length=int(size),
        stop_reason=StopReason(settled if i in cut else int(reason)).name.lower(),
        full_length=int(full_length if sampler.turns is None else size),
        full_correct=bool(verdict.correct),
        depth=float(depth),
        turns=int(count),
      )
      for i, (text, verdict, size, full_length, reason, depth, count) in enumerate(
        zip(texts, verdicts, sizes, full_lengths, reasons, depths, turns, strict=True)
      )
    ]
    yield Answered(answers, seconds, _recorded(exp, exp.fetch(rows), answers) if record else None)


def _sampled(
  exp: Experiment,
  sampler: Sampler,
  params: Params,
  acting: Acting,
  mine: Sequence[tasks.Problem],
  key: Key[Array, ''],
  *,
  drafts: bool,
) -> tuple[Trajectories, list[tasks.Verdict] | None]:
  """Returns the rows of a batch, and how they ended where an environment has judged that."""
  if sampler.turns is not None:
    return _played(exp, sampler, params, acting, mine, key)
  if drafts:
    return sampler.speculate(params, exp.prompts(mine), key)[0], None
  return sampler(params, acting.rule, exp.put(acting.adaptive), exp.prompts(mine), key), None


def last_turns(
  exp: Experiment, problems: Sequence[tasks.Problem], tokens: Int[np.ndarray, 'N T'], turn: Int[np.ndarray, 'N T']
) -> list[str]:
  """Returns the last turn of each episode as the task grades it. A prompt's tag stands before the first turn alone."""
  turns = exp.decode_turns(tokens, turn)
  behind_tags = exp.turns(problems, [first for first, *_ in turns])
  return [alone if len(its) == 1 else its[-1] for its, alone in zip(turns, behind_tags, strict=True)]


def _played(
  exp: Experiment, sampler: Sampler, params: Params, acting: Acting, mine: Sequence[tasks.Problem], key: Key[Array, '']
) -> tuple[Trajectories, list[tasks.Verdict]]:
  """Returns the rows of episodes, and how each ended. Each process has the episodes of its own problems."""
  (played,) = play(exp, sampler, params, acting.rule, exp.put(acting.adaptive), [mine], key)
  return played.rows, _shared(exp, played.graded, len(played.graded))


def _recorded(exp: Experiment, rows: Trajectories, answers: Sequence[Answer]) -> dict[str, Any]:
  """Returns the arrays of the rows that are answers. The rows behind them repeat a problem."""
  correct = np.array([answer.full_correct for answer in answers], np.float32)
  known = {
    'problem': np.array([answer.problem for answer in answers], np.int32),
    'id': np.array([answer.id for answer in answers], np.uint32),
  }
  return recorded_rows(exp, jax.tree.map(lambda x: x[: len(answers)], rows), correct) | known


def _depth(answers: Sequence[Answer]) -> float:
  """Returns the mean depth over tokens, not over answers."""
  return sum(answer.depth * answer.length for answer in answers) / sum(answer.length for answer in answers)


def verdicts_of(exp: Experiment, asked: Sequence[tasks.Problem], texts: Sequence[str], rows: int) -> list[tasks.Verdict]:
  """Grades the answers, which are the first of `rows` rows. Each process grades its own rows, and all get every verdict."""
  mine = parallel.my_rows(exp.mesh, rows)
  own = [i for i in mine if i < len(texts)]
  return _shared(exp, exp.task.verify_all([asked[i] for i in own], [texts[i] for i in own]), len(mine))[: len(texts)]


def regraded(
  exp: Experiment,
  asked: Sequence[tasks.Problem],
  texts: Sequence[str],
  verdicts: Sequence[tasks.Verdict],
  places: Sequence[int],
  rows: int,
) -> list[tasks.Verdict]:
  """Returns verdicts in which those at some places are of other texts. The others stand, so that no chance changes them."""
  again = verdicts_of(exp, [asked[i] for i in places], [texts[i] for i in places], rows)
  anew = dict(zip(places, again, strict=True))
  return [anew.get(i, verdict) for i, verdict in enumerate(verdicts)]


def _shared(exp: Experiment, own: Sequence[tasks.Verdict], rows: int) -> list[tasks.Verdict]:
  """Returns the verdicts on the rows of all processes. This process has `rows` rows, of which the first have a verdict."""
  coded = np.zeros((rows, 2), np.int32)
  for code, verdict in zip(coded, own, strict=False):
    code[:] = np.float32(verdict.correct) >= 1, tasks.STATUSES.index(verdict.status)
  return [tasks.Verdict(bool(correct), tasks.STATUSES[status]) for correct, status in exp.fetch(exp.put_rows(coded))]
