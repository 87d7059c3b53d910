"""Evaluations with decoders that draw their own samples: all tokens are counted, batches do not matter, the rest is refused."""

import itertools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from run_folder import write_random_run
from test_decoding import grade_by_length
from tiny import first_params, tiny_experiment

from espo_jax import monitor
from espo_jax.configs import load_config
from espo_jax.decoders import Beams, Samples
from espo_jax.evaluate import decoding, drawing
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.asked import asked_for
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.reading import Graded
from espo_jax.experiment import make_experiment
from espo_jax.monitor import read_samples
from espo_jax.rollout import Sampler, beams

SAMPLES, PROBLEMS = 4, 6
BEAMS = ['--decoder=er_prm_beam', '--options', 'factor=2', 'prefix=2', 'step=4', 'score=logprob']
TURNS = ['--decoder=revise', '--options', 'window=2', 'message=##']
TEXTS = ['ask=#', 'peer=-', 'resume=+', 'answer=#=']
PATHS = ['--decoder=leap', '--options', 'peers=2', 'tokens=5', 'summary=3', 'answer_tokens=2', *TEXTS]
DRAFTS = ['--decoder=speculative', '--options', 'draft_blocks=1', 'most=4', 'steps=20']
DRAWERS = {'er_prm_beam': BEAMS, 'revise': TURNS, 'leap': PATHS, 'speculative': DRAFTS}
each = pytest.mark.parametrize('flags', DRAWERS.values(), ids=DRAWERS)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> pathlib.Path:
  """A run whose policy is random."""
  return write_random_run(tmp_path_factory.mktemp('drawing') / 'run')


@pytest.fixture(autouse=True)
def right_now_and_then(monkeypatch):
  grade_by_length(monkeypatch)


def evaluated(workdir, output, *flags) -> list[dict]:
  evaluate_main(
    [f'--checkpoint={workdir}', f'--output={output}', f'--samples={SAMPLES}', f'--problems={PROBLEMS}', '--batch=32', *flags]
  )
  return list(read_samples(output))


def entry(output: pathlib.Path) -> dict:
  """What decoders.json has of the only decoder."""
  (its,) = json.loads((output / 'decoders.json').read_text())['decoders']
  return its


@pytest.fixture(scope='module')
def free(workdir, tmp_path_factory) -> list[dict]:
  with pytest.MonkeyPatch.context() as patch:
    grade_by_length(patch)
    return evaluated(workdir, tmp_path_factory.mktemp('free'))


@each
def test_a_decoder_reports_all_tokens_that_it_spent_and_its_answers_do_not_depend_on_the_batch(flags, workdir, tmp_path):
  rows = evaluated(workdir, tmp_path / 'one', *flags)
  assert len(rows) == SAMPLES * PROBLEMS
  found = entry(tmp_path / 'one')
  assert found['tokens']['value'] == pytest.approx(sum(row['spent'] for row in rows) / PROBLEMS)
  right = []
  for p in range(PROBLEMS):
    its = rows[p * SAMPLES : (p + 1) * SAMPLES]
    stated = [row['answer'] for row in its if row['answer']]
    most = max(stated, key=stated.count, default='')
    right.append(next((row['correct'] for row in its if row['answer'] == most and most), False))
  assert found['accuracy']['value'] == pytest.approx(np.mean(right))
  small = evaluated(workdir, tmp_path / 'two', '--batch=4', *flags)
  assert small == rows
  evaluate_main([f'--from={tmp_path / "one"}', f'--output={tmp_path / "again"}', *flags])
  assert entry(tmp_path / 'again') == found


def test_beams_of_which_none_is_rejected_are_the_answers_of_a_plain_evaluation(workdir, tmp_path, free):
  rows = evaluated(workdir, tmp_path, '--decoder=er_prm_beam', '--options', 'factor=1', 'prefix=2', 'step=4', 'score=regret')
  assert [row | {'spent': None} for row in rows] == free
  assert [row['spent'] for row in rows] == [row['length'] for row in free]


def test_the_first_turn_is_the_first_sample_and_a_later_one_reads_the_question_and_its_window(
  workdir, tmp_path, free, monkeypatch
):
  read = []
  called = Sampler.__call__

  def spy(self, params, rule, adaptive, prompts, key):
    rows = called(self, params, rule, adaptive, prompts, key)
    read.append([np.asarray(x) for x in (prompts.tokens, prompts.lengths, rows.tokens, rows.length)])
    return rows

  monkeypatch.setattr(Sampler, '__call__', spy)
  rows = evaluated(workdir, tmp_path, *TURNS)
  first, plain = rows[::SAMPLES], free[::SAMPLES]
  assert [row | {'spent': None} for row in first] == plain
  exp = make_experiment(load_config(workdir / 'config.json'))
  (end, *_), mark = exp.end_tokens, exp.tokenizer.encode('##', add_special_tokens=False)
  for p in range(PROBLEMS):
    (question, *_), turns = ([row[p, len(row[p]) - n[p] :].tolist() for row, n, *_ in read], [])
    for (tokens, lengths, written, size), row in zip(read, rows[p * SAMPLES :], strict=False):
      context = tokens[p, tokens.shape[1] - lengths[p] :].tolist()
      assert context == [*question, *itertools.chain(*turns[-2:])]
      its = written[p, : size[p]].tolist()
      turns.append([*its, *([] if its[-1] == end else [end]), *mark])
      assert row['length'] == row['spent'] == len(its)
  assert {read[1][0].shape[1], read[2][0].shape[1], read[3][0].shape[1]} == {read[1][0].shape[1]}
  assert len({row['response'] for row in rows[:SAMPLES]}) > 1


def test_paths_without_peers_are_the_answers_of_a_plain_evaluation_and_so_are_those_that_end_before_an_exchange(
  workdir, tmp_path, free
):
  rows = evaluated(workdir, tmp_path / 'none', '--decoder=leap', '--options', 'peers=0', *TEXTS)
  assert [row | {'spent': None} for row in rows] == free
  assert [row['spent'] for row in rows] == [row['length'] for row in free]
  its = evaluated(workdir, tmp_path / 'two', *PATHS)
  early = [i for i, plain in enumerate(free) if plain['length'] <= 5 and plain['stop_reason'] == 'eos']
  assert early and all(its[i] == free[i] | {'spent': free[i]['length']} for i in early)  # they end before the first exchange
  assert any(row['spent'] > row['length'] for row in its)
  assert all(row['spent'] >= row['length'] for row in its)
  assert any(row['length'] < len(row['response']) for row in its)  # a token is a character at most, and two are inserted
  with pytest.raises(
    SystemExit, match=r"--decoder=leap: ask='\\n\\nMy progress so far, in short: ': the tokenizer has no token"
  ):
    evaluated(workdir, tmp_path / 'told', '--decoder=leap')


def test_greedy_drafts_are_the_answers_of_a_plain_evaluation(workdir, tmp_path):
  greedy = ['--temperature=0', '--samples=1']
  rows, plain = evaluated(workdir, tmp_path / 'its', *DRAFTS, *greedy), evaluated(workdir, tmp_path / 'free', *greedy)
  assert [row | {'spent': None} for row in rows] == plain
  assert all(row['spent'] >= row['length'] for row in rows) and any(row['spent'] > row['length'] for row in rows)
  with pytest.raises(
    SystemExit,
    match=r'--decoder=speculative: draft_blocks=9: none of the \d blocks of the policy is left to verify; fix: fewer$',
  ):
    evaluated(workdir, tmp_path / 'told', '--decoder=speculative', '--options', 'draft_blocks=9')


def test_the_head_reads_as_many_responses_at_a_time_as_a_batch_has_and_is_the_same(workdir, tmp_path, monkeypatch):
  read, heads = [], []
  found, fitted = Sampler.acceptances, drawing.fitted_head

  def spy(self, params, prompts, rows, key, *, mixing):
    read.append(len(rows.length))
    return found(self, params, prompts, rows, key, mixing=mixing)

  monkeypatch.setattr(Sampler, 'acceptances', spy)
  monkeypatch.setattr(drawing, 'fitted_head', lambda *given: heads.append(fitted(*given)) or heads[-1])
  evaluated(workdir, tmp_path / 'one', *DRAFTS)
  evaluated(workdir, tmp_path / 'two', '--batch=4', *DRAFTS)
  assert read == [PROBLEMS, 4, 4]
  jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), *heads)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('model.scan_layers', True, r'--decoder=speculative: the run has model.scan_layers = True, .*; fix: another decoder$'),
    ('exits.every', 1, r'--decoder=speculative: the policy has early exits, .*; fix: another decoder$'),
  ],
)
def test_a_run_whose_policy_cannot_draft_is_refused_with_a_fix_that_an_evaluation_has(workdir, tmp_path, field, value, message):
  config = load_config(workdir / 'config.json')
  config.update_from_flattened_dict({field: value, 'exits.policy': 'threshold'})
  shutil.copytree(workdir, tmp_path / 'run')
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config.to_dict()))
  with pytest.raises(SystemExit, match=message):
    evaluated(tmp_path / 'run', tmp_path / 'told', *DRAFTS)


def test_drafting_is_refused_where_there_are_other_processes(monkeypatch):
  monkeypatch.setattr(drawing.jax, 'process_count', lambda: 2)
  with pytest.raises(
    RequestError, match=r'--decoder=speculative: it drafts on one device, and there are 2 processes; fix: one'
  ):
    drawing.check_processes('speculative')


def test_turns_may_be_greedy_and_a_message_without_tokens_is_told(workdir, tmp_path):
  rows = evaluated(workdir, tmp_path / 'greedy', *TURNS, '--temperature=0')
  assert len(rows) == SAMPLES * PROBLEMS
  with pytest.raises(
    SystemExit, match=r"--decoder=revise: message='Your answer is incorrect. Try again.': the tokenizer has no token"
  ):
    evaluated(workdir, tmp_path / 'told', '--decoder=revise')
  with pytest.raises(SystemExit, match=r'--samples=4 with --temperature=0: the answers would all be the same'):
    evaluated(workdir, tmp_path / 'told', '--temperature=0', *BEAMS)


@each
def test_a_table_charges_avg_at_n_for_all_samples_where_one_of_them_cannot_be_had_alone(flags):
  (one,) = asked_for([(flags[0].removeprefix('--decoder='), [tuple(text.split('=', 1)) for text in flags[2:]])])
  its, graded = Samples(['1', '2'], np.ones(2, bool), np.array([3, 5]), spent=np.array([30, 50])), [np.array([True, False])]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(decoding, 'read_graded', lambda folder, needed: Graded({'drawn_by': one.named.label}, [its], graded))
    patch.setattr(monitor, 'atomic_write_text', lambda path, text: None)
    record = decoding.decode(pathlib.Path('its'), pathlib.Path('none'), [one], curve=False)
  (line,) = [line for line in decoding.format_decoders(record).splitlines() if line.startswith('avg@2')]
  assert line.split()[-3] == ('40' if one.named.name == 'speculative' else '80')


@each
def test_a_decoder_that_draws_takes_no_recorded_samples_and_gives_none_to_others(flags, workdir, tmp_path):
  evaluated(workdir, tmp_path / 'free')
  with pytest.raises(SystemExit, match=r'draws samples of its own, and these are drawn already; fix: --checkpoint in place of'):
    evaluate_main([f'--from={tmp_path / "free"}', *flags])
  evaluated(workdir, tmp_path / 'its', *flags)
  with pytest.raises(SystemExit, match=r"--decoder=majority takes independent samples, and '\w+.*' drew these; fix: an"):
    evaluate_main([f'--from={tmp_path / "its"}', '--decoder=majority'])
  with pytest.raises(SystemExit, match=r'not the first of them; fix: leave --curve out$'):
    evaluate_main([f'--from={tmp_path / "its"}', *flags, '--curve'])
  with pytest.raises(SystemExit, match=r'another --output'):
    evaluated(workdir, tmp_path / 'its')


@each
@pytest.mark.parametrize('beside', ['--record', '--curve', '--stop=espo', '--processor=budget', '--decoder=majority'])
def test_what_takes_independent_samples_is_refused_beside_a_decoder_that_draws(flags, beside):
  with pytest.raises(SystemExit, match=r'draws (its own|samples of its own); fix: (leave it out|an evaluation for each)$'):
    evaluate_main(['--checkpoint=runs/none', *flags, beside])


def test_a_search_is_compiled_once_for_all_batches_and_runs_all_blocks_under_a_policy_that_never_exits():
  def configure(c):
    c.exits.update(every=1, policy='never')

  exp, programs = tiny_experiment(configure), beams.search._cache_size()
  (asked,) = asked_for([('er_prm_beam', [('score', 'logprob')])])
  drawing.check_drawing(exp, asked)
  way = Beams(factor=2, prefix=2, step=4, score='logprob')
  drawn = drawing.drawn_answers(exp, first_params(exp, 0), exp.problems('test', 0, 4), 2, 2, 1.0, drawing=way)
  assert [len(batch.answers) for batch in drawn] == [4, 4]
  assert beams.search._cache_size() == programs + 1
