"""What decoders refuse is told with the fix, before anything is sampled."""

import pytest

from espo_jax.evaluate.__main__ import main as evaluate_main


@pytest.mark.quick
@pytest.mark.parametrize(
  ('returned', 'message'),
  [
    ('7', r'--decoder=mine: it returned 7; fix: a Decoder$'),
    ('None', r'--decoder=mine: it returned None; fix: a Decoder$'),
    (
      "decoders.Decoder(len, frozenset({'entropy', 'lengths'}))",
      r"--decoder=mine: it reads 'entropy', which samples do not have; fix: one of answers, ended, .*, projections$",
    ),
    (
      "decoders.Decoder(len, ('total',))",
      r"--decoder=mine: it reads 'total', which samples do not have; fix: one of answers, ",
    ),
    (
      "decoders.Decoder(len, frozenset({'answers'}), drawing='beams')",
      r"--decoder=mine: drawing='beams': no way to draw samples; fix: one of Beams, Exchange, Revision, Speculative, or None$",
    ),
    (
      "decoders.Decoder(len, frozenset({'answers', 'logprobs'}), drawing=decoders.Beams(2, 2, 4, 'regret'))",
      r"--decoder=mine: it reads 'logprobs', which is not recorded of samples .*; fix: drawing=None, or reads among answers, ",
    ),
  ],
)
def test_a_users_function_that_makes_no_decoder_of_samples_is_told(registers, tmp_path, returned, message):
  plugin = tmp_path / 'mine.py'
  plugin.write_text(f"from espo_jax import decoders\n\n\n@decoders.register('mine')\ndef mine():\n  return {returned}\n")
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--plugins={plugin}', '--from=runs/none', '--decoder=mine'])


@pytest.mark.quick
@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--decoder=majorty'], r"--decoder = 'majorty': 'majorty' is unknown; did you mean 'majority'\? known: best_by, "),
    (
      ['--decoder=weighted'],
      r"error: an evaluation with these flags: holds no 'logprobs', which --decoder=weighted reads; fix: --record$",
    ),
    (
      ['--decoder=best_by', '--record', '--decoder=deepconf'],
      r"holds no 'confidence', which --decoder=deepconf reads; fix: --record --features=1$",
    ),
    (
      ['--record', '--features=1', '--decoder=lt_select'],
      r'--features=1: --decoder=lt_select needs projections onto at least 2 directions; fix: --features=16$',
    ),
    (['--decoder=ffs', '--options', 'most=3'], r'--decoder=ffs: most=3: no such option; fix: least$'),
    (['--decoder=first', '--options', 'most=3'], r'most=3: no such option; fix: none, because first has no options$'),
    (['--decoder=ffs', '--options', 'least=few'], r'least=few: not of type int; fix: such as least=0$'),
    (['--decoder=ffs', '--options', 'least=2.5'], r'least=2.5: not of type int; fix: such as least=0$'),
    (['--decoder=ffs', '--options', 'least={[]:1}'], r'least={\[\]:1}: not of type int; fix: such as least=0$'),
    (['--decoder=ffs', '--options', 'least=' + '-' * 20_000 + '1'], r'-1: not of type int; fix: such as least=0$'),
    (['--decoder=deepconf', '--options', 'keep=1' + '0' * 400], r'000: not of type float; fix: such as keep=0.1$'),
    (['--decoder=deepconf', '--options', 'keep=1' + '0' * 5000], r'000: not of type float; fix: such as keep=0.1$'),
    (['--decoder=ffs', '--options', 'least=1', 'least=2'], r'--decoder=ffs: least=2: an option is given twice; fix: once$'),
    (
      ['--decoder=ffs', '--options', 'least=1', '--options', 'least=1'],
      r'--decoder=ffs: least=1: an option is given twice; fix: once$',
    ),
    (['--decoder=ffs', '--options', 'least=-1'], r'--decoder=ffs: least=-1: out of range; fix: at least 0$'),
    (['--decoder=ffs', '--options', 'least'], r'--options least: no value; fix: --decoder=deepconf --options keep=0.9, say$'),
    (
      ['--options', 'least=3'],
      r'--options least=3: no processor or decoder stands before it; fix: --decoder=deepconf --options',
    ),
    (['--decoder=ffs', '--decoder=ffs'], r'--decoder=ffs: asked for twice with the same options; fix: leave one out$'),
    (['--curve'], r'--curve: no decoder to draw; fix: --decoder=majority beside it, say$'),
    (['--curve', '--decoder=ffs', '--samples=1'], r'--curve with --samples=1: .*; fix: --samples=16, say$'),
  ],
)
def test_a_decoder_that_cannot_be_asked_for_is_told_before_anything_is_sampled(flags, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main(['--checkpoint=runs/none', *flags])


@pytest.mark.quick
@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], r'--checkpoint is missing; fix: --checkpoint=\.\.\.$'),
    (['--from=runs/none'], r'--from=runs/none: no decoder to choose among its answers; fix: --decoder=majority, say$'),
    (
      ['--from=runs/none', '--decoder=ffs'],
      r'--from=runs/none: holds no settings.json; fix: the output folder of an evaluation$',
    ),
    (['--from=a', '--decoder=ffs', '--samples=8'], r'--samples=8 with --from=a: nothing is sampled; fix: leave it out$'),
    (['--from=a', '--decoder=ffs', '--record'], r'error: --record with --from=a: nothing is sampled; fix: leave it out$'),
    (
      ['--from=a', '--decoder=ffs', '--constants', 'x=1'],
      r'error: --constants with --from=a: nothing is sampled; fix: leave it out$',
    ),
  ],
)
def test_flags_that_do_not_go_with_from_are_told(flags, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main(flags)


def answer_of(length: str) -> str:
  """A line of an answer whose length has this text."""
  return f'{{"answer": "1", "stop_reason": "eos", "correct": true, "length": {length}}}\n'


@pytest.mark.quick
@pytest.mark.parametrize(
  ('file', 'content', 'message'),
  [
    ('settings.json', '{}', r'settings.json: samples = None: no number of an evaluation; fix: a copy of it$'),
    ('settings.json', '{"samples": 2, "problems": 0}', r'settings.json: problems = 0: no number of an evaluation; fix: a copy'),
    ('settings.json', '[]', r'settings.json: not a dict in JSON but list; fix: '),
    ('samples.jsonl', '{"answer": "1"}\n', r"samples.jsonl:1: has no 'stop_reason' of an answer; fix: a copy of the file$"),
    ('samples.jsonl', '7\n', r"samples.jsonl:1: has no 'answer' of an answer; fix: a copy of the file$"),
    ('samples.jsonl', '{"answer"\n', r'samples.jsonl:1: not JSON'),
    ('samples.jsonl', answer_of('1e30'), r'samples.jsonl:1: length = 1e\+30: not of an answer; fix: a copy of the file$'),
    (
      'samples.jsonl',
      answer_of('1' + '0' * 30),
      r'samples.jsonl:1: length = 10{30}: not of an answer; fix: a copy of the file$',
    ),
    ('samples.jsonl', answer_of('2147483648'), r'samples.jsonl:1: length = 2147483648: not of an answer; fix: a copy'),
    ('samples.jsonl', answer_of('-3'), r'samples.jsonl:1: length = -3: not of an answer; fix: a copy of the file$'),
    ('samples.jsonl', answer_of('0'), r'samples.jsonl:1: length = 0: not of an answer; fix: a copy of the file$'),
    ('samples.jsonl', answer_of('true'), r'samples.jsonl:1: length = True: not of an answer; fix: a copy of the file$'),
  ],
)
def test_a_folder_whose_files_hold_something_else_is_told(tmp_path, file, content, message):
  (tmp_path / 'settings.json').write_text('{"samples": 1, "problems": 1}')
  (tmp_path / 'samples.jsonl').write_text('')
  (tmp_path / file).write_text(content)
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--from={tmp_path}', '--decoder=ffs'])
