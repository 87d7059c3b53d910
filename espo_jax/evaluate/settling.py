"""Ends answers that are settled by their probes, and measures what ending settled answers saves and does to their grades."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from espo_jax import replay, stops, tasks
from espo_jax.evaluate.answers import Answer, Answered, regraded, verdicts_of
from espo_jax.evaluate.batches import batches
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Probed
from espo_jax.stops import Observation, StopRule
from espo_jax.types import StopReason


class Settled(NamedTuple):
  """Responses that end with their first settled answer.

  Attributes:
    tokens: The tokens: those before the place, the inducer and the answer, or the whole response if it was not settled.
    length: The number of these tokens.
    settled: Whether the rule ended the response.
    probed: The number of tokens of the other probes that were asked for, inducers included.
  """

  tokens: Int[Array, 'N T']
  length: Int[Array, 'N']
  settled: Bool[Array, 'N']
  probed: Int[Array, 'N']


def settle(rule: StopRule, probed: Probed) -> Settled:
  """Ends each response where the rule does, which sees one probe after another.

  Args:
    rule: A rule that asks for answers.
    probed: The responses and their probes.
  """
  assert rule.probing is not None
  rows, places, answers = probed
  (count, width), horizon = places.shape, rows.tokens.shape[1]
  asked = (places < horizon).sum(axis=1, dtype=jnp.int32)
  zeros = jnp.zeros(places.shape)
  observed = Observation(zeros, zeros, zeros, answer=answers)
  ends = replay.replay(rule, stops.adaptive(rule), observed, asked, jnp.zeros(places.shape, bool))
  last = jnp.maximum(ends.length - 1, 0)[:, None]
  cut, size = jnp.take_along_axis(places, last, axis=1), jnp.take_along_axis(answers.length, last, axis=1)
  inducer = jnp.asarray(rule.probing.inducer, jnp.int32)
  answer = jnp.take_along_axis(answers.tokens, last[:, :, None], axis=1)[:, 0]
  given = jnp.concatenate([jnp.broadcast_to(inducer, (count, inducer.size)), answer], axis=1)
  room = ((0, 0), (0, given.shape[1]))
  columns = jnp.arange(horizon + given.shape[1], dtype=jnp.int32)[None]
  behind = jnp.take_along_axis(given, jnp.clip(columns - cut, 0, given.shape[1] - 1), axis=1)
  tokens = jnp.pad(rows.tokens, room)
  settled = ends.stopped
  others = jnp.arange(width, dtype=jnp.int32)[None] < jnp.where(settled, last[:, 0], asked)[:, None]
  return Settled(
    tokens=jnp.where(settled[:, None] & (columns >= cut), behind, tokens),
    length=jnp.where(settled, (cut + inducer.size + size)[:, 0], rows.length),
    settled=settled,
    probed=jnp.where(others, inducer.size + answers.length, 0).sum(axis=1, dtype=jnp.int32),
  )


_settle = jax.jit(settle, static_argnames='rule')


def settled_answers(
  exp: Experiment,
  params: Params,
  problems: Sequence[tasks.Problem],
  prompts: int,
  samples: int,
  temperature: float,
  *,
  rule: StopRule,
  seed: int = 0,
  start: int = 0,
) -> Iterator[Answered]:
  """Samples answers, ends them by their probes, and grades them batch by batch: see `sample_answers`.

  The random numbers are those of `sample_answers`, so an answer that is not settled is the same up to rounding.

  Args:
    exp: The experiment.
    params: The policy's parameters.
    problems: The first problems of the test split.
    prompts: The number of problems in a batch.
    samples: The number of answers to each problem.
    temperature: The temperature of the sampler; 0 is greedy. Probes are greedy.
    rule: A rule that asks for answers.
    seed: The seed of the answers.
    start: The position of the first problem to answer, a multiple of `prompts`.
  """
  assert rule.probing is not None
  sampler = exp.sampler.plain(samples=samples, temperature=temperature)
  key = exp.key('evaluation', seed)
  for batch in batches(exp, problems, prompts, samples, start):
    began = time.perf_counter()
    probed = sampler.probe(params, rule.probing, exp.prompts(batch.mine), key)
    rows = probed.rows
    read = (*_settle(rule, probed), rows.tokens, rows.length, rows.stop_reason)
    ended, lengths, settled, extra, tokens, whole, reasons = (x[: len(batch.each)] for x in exp.fetch(read))
    seconds = time.perf_counter() - began
    texts = exp.decode(ended, lengths)
    turns = exp.turns(batch.tagged, texts)
    uncut = verdicts_of(exp, batch.each, exp.turns(batch.tagged, exp.decode(tokens, whole)), batch.rows)
    graded = regraded(exp, batch.each, turns, uncut, np.flatnonzero(settled).tolist(), batch.rows)
    answers = [
      Answer(
        **batch.about(i),
        response=texts[i],
        answer=exp.task.stated_answer(turns[i]),
        correct=bool(graded[i].correct),
        status=graded[i].status,
        length=int(lengths[i]),
        stop_reason=StopReason(StopReason.SETTLED if settled[i] else int(reasons[i])).name.lower(),
        full_length=int(whole[i]),
        full_correct=bool(uncut[i].correct),
        depth=1.0,
        probed=int(extra[i]),
      )
      for i in range(len(batch.each))
    ]
    yield Answered(answers, seconds)


def summarise_settled(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """Measures answers that a rule ended as settled against the same answers decoded to their own end.

  Args:
    answers: The records of `samples.jsonl`.

  Returns:
    `settled`, the share of the answers that was ended; `saved`, the share of all tokens that is saved, net of those of probes;
    `probed`, the tokens of probes as a share of all tokens; `accuracy`, and `accuracy_full` if nothing is ended; `lost` and
    `gained`, the numbers of answers that are right only without the rule and only with it.
  """
  names = ('length', 'probed', 'full_length', 'correct', 'full_correct')
  rows = [[row[name] for name in (*names, 'stop_reason')] for row in answers]
  length, probed, full_length, correct, full_correct = (np.array(x) for x in list(zip(*rows, strict=True))[:-1])
  total = int(full_length.sum())
  return {
    'settled': float(np.mean([row[-1] == 'settled' for row in rows])),
    'saved': 1 - int((length + probed).sum()) / total,
    'probed': int(probed.sum()) / total,
    'accuracy': float(correct.mean()),
    'accuracy_full': float(full_correct.mean()),
    'lost': int((full_correct & ~correct).sum()),
    'gained': int((correct & ~full_correct).sum()),
  }


def format_settled(summary: Mapping[str, Any]) -> str:
  """Formats the measures, a line for each kind."""
  s = summary['stop']
  saved, probed, before, after = (f'{100 * s[name]:.1f} %' for name in ('saved', 'probed', 'accuracy_full', 'accuracy'))
  return (
    f'{summary["settings"]["stop"]} settled {100 * s["settled"]:.1f} % of the answers and saved {saved} of the tokens, '
    f'after {probed} for probes.\n'
    f'Accuracy: {before} with all tokens, {after} as settled; {s["lost"]} right answers were lost and {s["gained"]} gained.'
  )
