"""Draws the samples of decoders that draw their own, and grades them as answers."""

import time
from collections.abc import Iterator, Sequence

import jax
from jaxtyping import Array, Key

from espo_jax import parallel, tasks
from espo_jax.decoders import Beams, Drawing, Exchange, Revision, Speculative
from espo_jax.evaluate.accepting import fitted_head, speculated
from espo_jax.evaluate.answers import Answer, Answered, verdicts_of
from espo_jax.evaluate.asked import Asked
from espo_jax.evaluate.batches import batches
from espo_jax.evaluate.drawn import Drawn
from espo_jax.evaluate.exchanging import exchanged, inserted
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.revising import messages, revised
from espo_jax.experiment import Experiment
from espo_jax.model import Params
from espo_jax.rollout import Sampler
from espo_jax.rollout.accept_head import AcceptHead
from espo_jax.types import StopReason


def drawn_answers(
  exp: Experiment,
  params: Params,
  problems: Sequence[tasks.Problem],
  prompts: int,
  samples: int,
  temperature: float,
  *,
  drawing: Drawing,
  seed: int = 0,
  start: int = 0,
) -> Iterator[Answered]:
  """Draws answers as a decoder wants them, and grades them batch by batch: see `sample_answers`.

  Args:
    exp: The experiment.
    params: The policy's parameters.
    problems: The first problems of the test split.
    prompts: The number of problems in a batch.
    samples: The number of answers to each problem.
    temperature: The temperature of the sampler; 0 is greedy.
    drawing: How the decoder draws its samples.
    seed: The seed of the answers.
    start: The position of the first problem to answer, a multiple of `prompts`.
  """
  exp = exp.with_exits(None)  # all blocks run, as under the policy 'never'
  sampler = exp.sampler.plain(samples=samples, temperature=temperature)
  head = None
  if isinstance(drawing, Speculative):
    head = fitted_head(exp, sampler, params, drawing, problems, prompts * samples, seed)
  key = exp.key('evaluation', seed)
  for batch in batches(exp, problems, prompts, samples, start):
    began = time.perf_counter()
    drawn = Drawn(*(x[: len(batch.each)] for x in _drawn(exp, sampler, params, drawing, head, batch.mine, key)))
    seconds = time.perf_counter() - began
    texts = exp.decode(drawn.tokens, drawn.length)
    graded = exp.turns(batch.tagged, texts)
    if isinstance(drawing, Revision):  # a prompt's tag stands before the first turn alone
      graded = [text if i % samples else graded[i] for i, text in enumerate(texts)]
    verdicts = verdicts_of(exp, batch.each, graded, batch.rows)
    answers = [
      Answer(
        **batch.about(i),
        response=texts[i],
        answer=exp.task.stated_answer(graded[i]),
        correct=bool(verdicts[i].correct),
        status=verdicts[i].status,
        length=int(drawn.written[i]),
        stop_reason=StopReason(int(drawn.reason[i])).name.lower(),
        full_length=int(drawn.written[i]),
        full_correct=bool(verdicts[i].correct),
        depth=1.0,
        spent=int(drawn.spent[i]),
      )
      for i in range(len(batch.each))
    ]
    yield Answered(answers, seconds)


def _drawn(
  exp: Experiment,
  sampler: Sampler,
  params: Params,
  drawing: Drawing,
  head: AcceptHead | None,
  mine: Sequence[tasks.Problem],
  key: Key[Array, ''],
) -> Drawn:
  """Returns the samples of a batch, of which this process has the problems `mine`."""
  match drawing:
    case Beams():
      rows, spent = sampler.search(params, drawing, exp.prompts(mine), key)
      return Drawn(*exp.fetch((rows.tokens, rows.length, rows.length, rows.stop_reason, spent)))
    case Revision():
      return revised(exp, sampler, params, drawing, mine, key)
    case Exchange():
      return exchanged(exp, sampler, params, drawing, mine, key)
    case Speculative():
      assert head is not None  # it was fitted before
      return speculated(exp, sampler, params, drawing, head, mine, key)


def check_processes(name: str) -> None:
  """Raises RequestError if there are other processes than the one whose device drafts for the decoder `name`."""
  parallel.find_devices()
  if (count := jax.process_count()) > 1:
    raise RequestError(f'--decoder={name}: it drafts on one device, and there are {count} processes; fix: one process')


def check_drawing(exp: Experiment, asked: Asked) -> None:
  """Raises RequestError if the policy cannot draw samples as a decoder wants them, or cannot read a text of it."""
  flag, model = f'--decoder={asked.named.name}', exp.model
  if model.exits is not None and exp.config.exits.policy != 'never':
    raise RequestError(f'{flag}: the policy has early exits, and such a decoder runs all blocks; fix: another decoder')
  match asked.decoder.drawing:
    case Beams(score='value') if model.critic_free:
      told = 'the policy has no critic, so its value is the same everywhere'
      raise RequestError(f'{flag}: score=value: {told}; fix: score=regret or score=logprob')
    case Revision() as drawing:
      messages(exp, drawing)
    case Exchange() as drawing:
      inserted(exp, drawing)
    case Speculative(draft_blocks=blocks):
      if blocks >= (most := model.config.num_layers):
        raise RequestError(
          f'{flag}: draft_blocks={blocks}: none of the {most} blocks of the policy is left to verify; fix: fewer'
        )
      if field := next((name for name in ('scan_layers', 'paged_kernels') if getattr(model.config, name)), ''):
        told = f'the run has model.{field} = True, with which the blocks of the policy run only together'
        raise RequestError(f'{flag}: {told}; fix: another decoder')
