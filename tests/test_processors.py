"""Logit processors against closed forms, a loop over tokens in numpy, and the rollout without them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rollouts import EOS, HORIZON, NEVER, PROMPTS, STATE, WIDTH, assert_same_rows, in_precision, model_of, run
from run_folder import write_random_run
from small import VOCAB, actor_critic, forward, left_padded

from espo_jax import rollout
from espo_jax.evaluate import processing
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.options import Named, read_named
from espo_jax.rollout import processors

MARK = 5  # ends the thinking
THINKING = (MARK,)


def wishes(name: str, thinking_end=THINKING, **options) -> processors.Processor:
  ends = {'eot_scale': (thinking_end,), 'budget': (thinking_end, (EOS,))}
  return processors.REGISTRY[name](*ends[name], **options)


@pytest.mark.parametrize(('options', 'odds'), [({'bias': 1.5}, np.exp(1.5) / 11), ({'tau': 2.0}, 12**0.5 / 11), ({}, 1 / 11)])
def test_the_length_of_thinking_without_opinion_is_geometric_with_the_odds_of_its_end(options, odds):
  """A model whose parameters are 0 gives each of 12 tokens the same chance, so the odds of the end are 1 to 11 at first."""
  model, params = actor_critic()
  rows = rollout.generate(
    model,
    jax.tree.map(jnp.zeros_like, params),
    NEVER,
    in_precision(STATE),
    jax.tree.map(jnp.asarray, PROMPTS),
    jax.random.key(0),
    samples=400,
    horizon=160,
    end_tokens=(EOS,),
    processor=wishes('eot_scale', (EOS,), **options),
  )
  share = odds / (1 + odds)
  lengths = np.asarray(rows.length)
  deviation = np.sqrt(1 - share) / share / np.sqrt(len(lengths))
  assert abs(lengths.mean() - 1 / share) < 4 * deviation


def by_hand(logits, tokens, length, *, bias, least, most):
  """The log-probabilities of a row's tokens under both processors, one token at a time."""
  found, thinking = [], True
  for column in range(length):
    row = logits[column].copy()
    if thinking:
      row[MARK] += bias
      if column < least:
        row[[MARK, EOS]] = -np.inf
      if most and column >= most:
        row = np.where(np.arange(VOCAB) == MARK, 0.0, -np.inf)
    top = row.max()
    found.append(row[tokens[column]] - top - np.log(np.exp(row - top).sum()))
    thinking &= tokens[column] != MARK
  return found


@pytest.fixture(scope='module')
def processed():
  """Rows with both processors, computed in float64."""
  with rounding.computed_in('float64'):
    both = processors.one_after_another((wishes('eot_scale', bias=0.7), wishes('budget', least=3, most=6)))
    rows = run(rule=NEVER, samples=12, processor=both)
  return rows, both


def test_tokens_are_drawn_from_the_distribution_that_the_processors_make(processed, in_float64):
  rows, _ = processed
  model, params = model_of('shared')
  whole = np.concatenate([rows.prompt_tokens, rows.tokens], axis=1)
  logits = np.asarray(forward(model, params, whole, *left_padded(whole.shape[1], rows.prompt_lengths + HORIZON))[0])
  bounds = rounding.of_decoder(model.config, whole.shape[1]) * np.finfo(np.float64).eps * np.abs(logits).max() * VOCAB
  for row, length in enumerate(rows.length):
    wanted = by_hand(logits[row, WIDTH - 1 :], rows.tokens[row], length, bias=0.7, least=3, most=6)
    np.testing.assert_allclose(rows.logprobs[row, :length], wanted, atol=bounds)


def test_a_budget_ends_the_thinking_neither_before_its_least_nor_after_its_most_token(processed):
  rows, _ = processed
  place = np.array([list(row).index(MARK) if MARK in row else -1 for row in rows.tokens[:, : HORIZON // 2]])
  assert set(place) <= {3, 4, 5, 6, -1} and (place == 6).any() and (place == 3).any()
  ended = place < 0  # an end token ended these while they thought
  assert ((rows.length[ended] > 3) & (rows.length[ended] <= 7)).all()
  forced = rows.tokens[:, 6] == MARK
  assert (rows.logprobs[forced & (place == 6), 6] == 0).all() and (rows.regret[forced & (place == 6), 6] == 0).all()
  behind = rows.length > place + 1
  assert (behind & (place >= 0)).any()  # the response goes on after its thinking


@pytest.mark.parametrize('slots', [1, 5])
def test_rows_with_processors_do_not_depend_on_slots(processed, slots, in_float64):
  rows, both = processed
  assert_same_rows(run(rule=NEVER, samples=12, processor=both, slots=slots), rows)


def test_processors_that_change_nothing_change_no_row():
  nothing = processors.one_after_another((wishes('eot_scale'), wishes('budget')))
  assert_same_rows(run(processor=nothing), run())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return write_random_run(tmp_path_factory.mktemp('processors') / 'run')


def answers(workdir, output, *flags):
  evaluate_main([f'--checkpoint={workdir}', f'--output={output}', '--samples=4', '--problems=4', *flags])
  return [json.loads(line) for line in (output / 'samples.jsonl').read_text().splitlines()]


def test_an_evaluation_with_a_budget_has_answers_within_it_and_names_it(workdir, tmp_path):
  flags = ['--processor=budget', '--options', 'least=2', 'most=3']
  lengths = [answer['length'] for answer in answers(workdir, tmp_path, *flags)]
  assert set(lengths) == {3, 4}  # the end token counts
  settings = json.loads((tmp_path / 'settings.json').read_text())
  assert settings['processors'] == ['budget least=2 most=3'] and settings['end_of_thinking'] == ''
  with pytest.raises(
    SystemExit, match=r"processors = \['budget most=3'\] was \['budget least=2 most=3'\]; fix: another --output"
  ):
    answers(workdir, tmp_path, '--processor=budget', '--options', 'most=3')


REFUSED = {
  '--processor=budgets': "--processor = 'budgets': 'budgets' is unknown; did you mean 'budget'?",
  '--processor=budget --options least=-1': 'least=-1: out of range; fix: at least 0',
  '--processor=budget --options least=5 most=4': 'most=4: out of range; fix: at least least=5, or 0 for no bound',
  '--processor=budget --options most=1.5': 'most=1.5: not of type int; fix: such as most=0',
  '--processor=eot_scale --options tau=0': 'tau=0.0: out of range; fix: a finite number above 0',
  '--processor=eot_scale --options tau=1e999': 'tau=inf: out of range; fix: a finite number above 0',
  '--processor=eot_scale --options bias=1e999': 'bias=inf: out of range; fix: a finite number',
  '--options least=1': 'no processor or decoder stands before it',
}


@pytest.mark.quick
def test_no_processor_is_made_before_the_processes_of_a_job_know_each_other(monkeypatch):
  made = []
  monkeypatch.setattr(processing, '_make', lambda *given: made.append(given))
  asked = list(read_named('--processor', processors.REGISTRY, [('budget', [('most', '3')])]))
  assert not made and asked == [Named('budget', {'most': 3})]
  processing.check_processors(asked)
  assert made


@pytest.mark.quick
@pytest.mark.parametrize('flags', REFUSED)
def test_a_processor_that_cannot_be_made_is_refused(flags, capsys):
  with pytest.raises(SystemExit) as told:
    evaluate_main(['--checkpoint=runs/absent', *flags.split()])
  assert REFUSED[flags] in f'{told.value} {capsys.readouterr().err}'


def test_the_end_of_thinking_is_one_token_that_a_processor_reads(workdir, tmp_path):
  with pytest.raises(SystemExit, match=r'--end_of_thinking=12: 2 tokens of this tokenizer; fix: a text that is one token'):
    answers(workdir, tmp_path, '--processor=budget', '--end_of_thinking=12')
  with pytest.raises(SystemExit, match=r'--end_of_thinking=1: no processor reads it; fix: --processor=budget beside it'):
    answers(workdir, tmp_path, '--end_of_thinking=1')
  with pytest.raises(SystemExit, match=r'--processor=budget with --from=.*: nothing is sampled; fix: leave it out'):
    evaluate_main([f'--from={tmp_path}', '--decoder=first', '--processor=budget'])
