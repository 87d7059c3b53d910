"""Sources: each makes of hand-written rollouts the examples that are worked out by hand."""

import math
import string

import numpy as np
import pytest
from benchmark_data import gsm8k, write
from benchmark_data import tokenizer as chat_tokenizer

from espo_jax import methods, sources, tasks
from espo_jax.configs import default_config
from espo_jax.environments import turn_writer
from espo_jax.evaluate.options import Named
from espo_jax.sources import Asked, Judge, Rollout, read_trace, redundancy, reward_weight, split_steps
from espo_jax.sources.__main__ import make_examples
from espo_jax.sources.judge import make_judge

pytestmark = pytest.mark.quick

CHARACTERS = tasks.character_tokenizer(string.printable)  # a character is a token, so that shares are counted by eye
BRAKE = '[stop]'


class Sums(tasks.Task):
  """Right is a text whose last word, behind the thought, is the answer."""

  def verify_all(self, problems, responses):
    last = [response.rpartition('</think>')[2].split()[-1:] for response in responses]
    return [tasks.Verdict(its == [problem.answer], 'ok') for problem, its in zip(problems, last, strict=True)]


JUDGE = Judge(Sums(), CHARACTERS, turn_writer(CHARACTERS, '', 'user', (CHARACTERS.eos_token_id,), 100))


def asked(*responses, answer='7', number=0, prompt='3+4?\n') -> Asked:
  """A problem whose rollouts are right where they say so by a `+` in front, and cut where they end with a bar."""
  rollouts = [
    Rollout(prompt, text.removeprefix('+').rstrip('|'), text[0] == '+', text[-1] != '|', f'samples.jsonl:{n}')
    for n, text in enumerate(responses, 1)
  ]
  return Asked(tasks.Problem(number, prompt, answer), rollouts)


def made(name, problems, seed=0, **options):
  """What a source makes: the parts of each example, those with loss as they are and the others in a tuple."""
  return [parts(example) for example in make_examples(Named(name, options), problems, JUDGE, seed)]


def parts(example):
  return [segment.text if segment.loss else (segment.text,) for segment in example.segments]


def thought(*steps, conclusion='It is 7') -> str:
  return '<think>' + ''.join(f'{step}\n\n' for step in steps) + f'</think>{conclusion}'


# --------------------------------------------------------------------------------------------------------------- the traces


def test_the_steps_and_the_conclusion_add_up_to_the_response():
  text = '<think>one\n\n\n\ntwo\n\n \n\nthree</think>\n\nfour\n\n'
  trace = read_trace(text, r'\n\n+')
  assert trace == (('<think>one\n\n\n\n', 'two\n\n \n\n', 'three'), '</think>\n\nfour\n\n')
  assert read_trace('one\n\ntwo', r'\n\n+') == (('one\n\n',), 'two') and read_trace('', r'\n\n+') == ((), '')
  assert split_steps('a+4=7b-7=0#0', '(?=[a-z#])') == ('a+4=7', 'b-7=0', '#0')  # a separator may be a place
  assert read_trace('<think>a</think>b<think>c</think>d', 'x').conclusion == '</think>d'
  with pytest.raises(ValueError, match=r'^separator=\(: no regular expression .*; fix: '):
    split_steps('a', '(')


def test_a_step_of_a_thought_is_graded_as_if_it_stood_behind_it():
  """The benchmark's own verifier takes nothing for an answer inside of a thought, as a prompt may have opened it."""
  its = asked('+<think>it is 7\n\nno, 8\n\nso 7</think>7')
  assert JUDGE.right(its, ['<think>it is 7\n\n', 'no, 8\n\n', 'so 7']) == [True, False, True]
  plain = asked('+it is 7')
  assert JUDGE.right(plain, ['</think> 7']) == [True]  # without a thought in the rollouts, a text is left as it is


@pytest.mark.parametrize('prompt', ['r1', 'chat'])
def test_the_verifier_of_a_benchmark_reads_the_steps_of_a_thought_that_the_prompt_or_the_response_opens(tmp_path, prompt):
  """No answer inside of a thought counts where the response is graded as a whole."""
  config = default_config()
  config.task.name, config.task.options.prompt, config.data.benchmark = 'math', prompt, 'gsm8k'
  config.data.path = config.data.eval_path = write(tmp_path / 'rows.jsonl', [gsm8k(i) for i in range(4)])
  config.model.path, config.stages = chat_tokenizer(tmp_path / 'model'), ()
  judge = make_judge(config)
  problem = judge.task.problem('test', 2)  # 2 and 5 pens
  assert problem.prompt.endswith('<think>\n') == (prompt == 'r1')
  steps = [
    '<think>Hm.\n\n'[7 * (prompt == 'r1') :],
    'So the answer is 8.\n\n',
    'Wait, the answer is 7.\n\n',
    'Yes: \\boxed{7}.\n\n',
  ]
  whole = ''.join(steps) + '</think>The answer is 7.'
  its = Asked(problem, [Rollout(problem.prompt, whole, True, True, 'samples.jsonl:1')])
  assert judge.right(its, [*steps, '</think>The answer is 7.']) == [False, False, True, True, True]
  assert not judge.task.verify(problem, ''.join(steps)) and judge.task.verify(problem, whole)
  (found,) = make_examples(Named('sbt_e', {'braking': BRAKE, 'threshold': 0.1}), [its], judge, 0)
  assert parts(found) == [''.join(steps) + BRAKE + '</think>The answer is 7.']  # the fourth step is the second solution
  (found,) = make_examples(Named('cut_at_k', {'k': 2}), [its], judge, 0)
  assert parts(found) == [''.join(steps[:3]) + '</think>The answer is 7.']


# ------------------------------------------------------------------------------------------------------ self-braking tuning


def test_the_score_of_redundancy_is_the_published_one():
  assert redundancy(5 / 9, 0.02) == pytest.approx(0.402, abs=1e-12)  # 0.1 * 0.02 + 0.9 * 4 / 9
  assert redundancy(1.0, 0.0) == 0.0 and redundancy(0.5, 0.25, marker_weight=0.5) == pytest.approx(0.375)


NINE = ['a', 'b', 'c', 'd', 'answer 7', 'wait. e', 'answer 7', 'One. Two! Three', 'answer 7']


def test_sbt_e_keeps_two_solutions_then_two_sentences_without_loss_the_brake_and_the_conclusion():
  given = [asked('+' + thought(*NINE), thought('answer 8'))]
  kept = '<think>' + ''.join(f'{step}\n\n' for step in NINE[:7])
  conclusion = '</think>It is 7'
  assert made('sbt_e', given, braking=BRAKE) == [[kept, ('One. Two! ',), BRAKE + conclusion]]
  assert made('sbt_e', given, braking=BRAKE, sentences=0) == [[kept + BRAKE + conclusion]]
  rest = 'One. Two! Three\n\nanswer 7\n\n'
  assert made('sbt_e', given, braking=BRAKE, sentences=9) == [[kept, (rest,), BRAKE + conclusion]]


def test_sbt_e_brakes_where_the_score_is_above_the_threshold_alone():
  """Of 9 steps the fifth is right, and 4 of the 69 characters are a word of doubt."""
  text = thought(*NINE)
  score = redundancy(5 / 9, 4 / (len(text) - len('</think>It is 7')))
  given = [asked('+' + text)]
  assert made('sbt_e', given, threshold=score - 1e-9) != [[text]] == made('sbt_e', given, threshold=score + 1e-9)
  assert made('sbt_e', given, markers='xyz', threshold=redundancy(5 / 9, 0.0)) == [[text]]


@pytest.mark.parametrize('name', ['sbt_e', 'sbt_d'])
@pytest.mark.parametrize(
  'text', [thought('a', 'b', 'wait, answer 7'), 'a\n\nb\n\nanswer 7', thought(), 'answer 7', thought('a', 'b', 'c')]
)
def test_a_rollout_whose_last_step_is_the_first_right_one_is_unchanged(name, text):
  assert made(name, [asked('+' + text)]) == [[text]]


def test_sbt_e_ends_with_the_thought_where_there_is_no_second_solution():
  text = thought('answer 7', 'b', 'c', 'd')
  close = text.index('</think>')
  assert made('sbt_e', [asked('+' + text)], braking=BRAKE) == [[text[:close] + BRAKE + text[close:]]]


def test_a_wrong_candidate_is_no_first_solution():
  """The second step states a wrong answer, so `eta` is 3 / 4 and not 2 / 4."""
  text = thought('a', 'answer 8', 'answer 7', 'b')
  assert made('sbt_e', [asked('+' + text)], threshold=0.23, markers='xyz') == [[text]]
  assert made('sbt_e', [asked('+' + text)], threshold=0.22, markers='xyz') != [[text]]


def test_sbt_d_masks_between_its_thresholds_and_cuts_behind_them():
  """With the first right answer in step 6, the scores of 7 to 10 steps are 0.9 (1 - 6 / n) = 0.129, 0.225, 0.3, 0.36."""
  steps = ['a', 'b', 'c', 'd', 'e', 'answer 7', 'f', 'g', 'h', 'i']
  given = [asked('+' + thought(*steps))]
  whole = [f'{step}\n\n' for step in steps]
  whole[0] = '<think>a\n\n'
  end = f'{BRAKE}</think>It is 7'
  found = made('sbt_d', given, braking=BRAKE, markers='xyz')
  assert found == [[''.join(whole[:7]), (whole[7],), end]]
  assert made('sbt_d', given, braking=BRAKE, markers='xyz', margin=0.1) == [[''.join(whole[:7]), (''.join(whole[7:9]),), end]]
  assert made('sbt_d', given, braking=BRAKE, markers='xyz', margin=0.0) == [[''.join(whole[:7]) + end]]
  assert made('sbt_d', given, braking=BRAKE, markers='xyz', threshold=0.3601) == [[''.join(whole) + '</think>It is 7']]
  assert made('sbt_d', given, braking=BRAKE, markers='xyz', threshold=0.3001, margin=0.9) == [
    [''.join(whole[:9]), (whole[9],), end]
  ]


def test_words_of_doubt_count_by_their_tokens():
  """All characters of the two steps are doubt, so that the weight of the markers is the score."""
  text = thought('', 'wait', conclusion=' 7').replace('<think>\n\n', '').replace('\n\n</think>', '</think>')
  assert text == 'wait</think> 7'
  given = [asked('+' + text)]
  assert made('sbt_d', given, threshold=0.1, braking=BRAKE) == [['wait</think> 7']]
  assert made('sbt_d', given, threshold=0.0999, margin=0.01, braking=BRAKE) == [[('wait',), f'{BRAKE}</think> 7']]


# ------------------------------------------------------------------------------------------------------------------ the rest


def test_step_partial_mask_masks_the_wrong_step_and_what_others_wrote_alone():
  right, wrong = 'a+4=7b-7=0c+5=5#5', 'a+4=7b-7=1c+5=6#6'
  given = [asked('+' + right, wrong), asked('b-7=1', number=1), asked('+' + right, right[:10], right, number=2)]
  options = {'separator': '(?=[a-z#])', 'reflection': '!'}
  corrected = ['a+4=7', ('b-7=1',), '!b-7=0c+5=5#5']
  assert made('step_partial_mask', given, **options) == [[right], corrected, [right]]
  observed = made('step_partial_mask', given, observation='=.', **options)
  assert observed[1] == ['a+4', ('=7b-7=1',), '!b-7', ('=0',), 'c+5', ('=5',), '#5']
  assert ''.join(''.join(part) for part in observed[0]) == right


def test_step_partial_mask_takes_the_right_rollout_that_shares_the_most_steps():
  near, far, wrong = 'a\n\nb\n\nc\n\nd', 'a\n\ne\n\nd', 'a\n\nb\n\nx'
  for rollouts in (('+' + far, '+' + near, wrong), (wrong, '+' + near, '+' + far)):
    assert ['a\n\nb\n\n', ('x',), '?c\n\nd'] in made('step_partial_mask', [asked(*rollouts)], reflection='?')


@pytest.mark.parametrize(
  ('wrong', 'corrected'),
  [
    ('a\n\nbee', None),  # the beginning of the right one, of which the last step has no blank line behind it
    ('a\n\nbe|', None),  # cut within a step that may become the right one
    ('a\n\nbe', ['a\n\n', ('be',), '!bee\n\nc']),  # not cut: the step is short of something
    ('a\n\nx|', ['a\n\n', ('x',), '!bee\n\nc']),
    ('a\n\nbee\n\nc\n\nno, 8', None),  # every step of the right one is there
  ],
)
def test_step_partial_mask_corrects_no_step_that_may_be_right(wrong, corrected):
  right = 'a\n\nbee\n\nc'
  found = made('step_partial_mask', [asked('+' + right, wrong)], reflection='!')
  assert found == [[right]] + ([corrected] if corrected else [])


def test_the_weights_of_rise_are_the_published_ones():
  found = [reward_weight(reward, 0.4) for reward in (0, 0.5, 1)]
  np.testing.assert_allclose(found, [1, 3.490343, 12.182494], rtol=1e-6)
  for tau in (0.0, -1.0, 0.01, math.nan):
    with pytest.raises(ValueError, match=rf'^tau={tau}: out of range; fix: a number above 0'):
      reward_weight(1.0, tau)


def test_rise_turns_learns_the_second_turn_alone_with_the_weight_of_its_reward():
  given = [asked('8', '+7', '9')]
  first = [[('8',), '7'], [('9',), '7']]
  both = make_examples(Named('rise_turns', {'message': ''}), given, JUDGE, 0)
  assert [parts(one) for one in both] == first and [one.weight for one in both] == [pytest.approx(math.exp(2.5))] * 2
  assert made('rise_turns', given, message=' no ') == [[('8',), (' no ',), '7'], [('9',), (' no ',), '7']]
  everyone = make_examples(Named('rise_turns', {'message': '', 'kept': 'all'}), given, JUDGE, 0)
  assert [parts(one)[1] for one in everyone] == ['7', '9', '8', '7']
  assert [round(one.weight, 3) for one in everyone] == [12.182, 1, 1, 12.182]
  assert made('rise_turns', given, message='', kept='success') == first
  none = [asked('8', '9'), asked('8', number=1)]
  assert made('rise_turns', none, message='') == [[('8',), '9'], [('9',), '8']]  # the best of wrong ones is wrong
  with pytest.raises(sources.SourceError, match='none of 3 rollouts, of which 0 are right, makes an example; fix: '):
    made('rise_turns', none, message='', kept='success')


def test_the_turns_of_rise_end_as_in_an_episode_where_the_end_token_has_no_text():
  given = [asked('8', '+7', '9')]
  found = tasks.encode_example(CHARACTERS, make_examples(Named('rise_turns', {'message': 'no'}), given, JUDGE, 0)[0], 9, 9)
  said = [CHARACTERS.encode(text) for text in ('8', 'no', '7')]
  end = [CHARACTERS.eos_token_id]
  assert found.response == said[0] + end + said[1] + said[2] + end
  assert (found.weights > 0).tolist() == [False, False, False, False, True, True]
  assert JUDGE.write('no', False).tokens == end + said[1]  # what an episode has behind a turn without an end of its own


def test_the_turns_of_rise_are_those_of_the_chat_template(tmp_path):
  """The text of prompt and response is the conversation as transformers writes it."""
  tokenizer = tasks.load_tokenizer(chat_tokenizer(tmp_path))
  judge = Judge(Sums(), tokenizer, turn_writer(tokenizer, 'chat', 'user', (tokenizer.eos_token_id,), 1000))
  write = lambda *chat: tokenizer.apply_chat_template(
    [{'role': role, 'content': text} for role, text in zip(('user', 'assistant') * 2, chat, strict=False)],
    tokenize=False,
    add_generation_prompt=True,
  )
  given = [asked('eight', '+seven', prompt=write('3+4?'))]
  (found,) = make_examples(Named('rise_turns', {'message': 'No.'}), given, judge, 0)
  assert parts(found) == [('eight' + write('3+4?', 'eight', 'No.').partition('eight')[2],), 'seven']
  whole = write('3+4?', 'eight', 'No.') + 'seven'
  encoded = tasks.encode_example(tokenizer, found, 1000, 1000)
  assert encoded.prompt + encoded.response[:-1] == tokenizer.encode(whole, add_special_tokens=False)


def modes(count):
  """Problems whose short rollouts are right ever more seldom, and one that is only answered without a thought."""
  long, short = '+<think>m</think>7', ('+</think>7', '</think>8')
  problems = [asked(long, *(short[n < i] for n in range(count)), number=i) for i in range(count)]
  return [*problems, asked('+7', number=99)]


@pytest.mark.parametrize(
  ('long', 'tagged', 'counts'), [(0.5, 0.5, (5, 5, 5, 5)), (0.25, 0.6, (3, 9, 2, 6)), (1, 0, (0, 0, 20, 0))]
)
def test_mode_mixture_has_its_shares_and_its_tags_have_no_loss(long, tagged, counts):
  problems = [one for one in modes(20)]
  found = made('mode_mixture', problems, long=float(long), tagged=float(tagged))
  kinds = [(('<long>',), '<think>m</think>7'), (('<short>',), '</think>7'), ('<think>m</think>7',), ('</think>7',)]
  assert [sum(tuple(its) == kind for its in found) for kind in kinds] == list(counts) and len(found) == 20


def test_without_a_tag_the_problems_that_short_rollouts_answer_worst_reason():
  found = made('mode_mixture', modes(10), tagged=0.0, long=0.3)
  assert [its[0].startswith('<think>') for its in found] == [False] * 7 + [True] * 3  # the last are the hardest
  by_tag = [made('mode_mixture', modes(40), seed)[:40] for seed in (0, 0, 1)]
  assert by_tag[0] == by_tag[1] != by_tag[2]


def test_a_thought_that_was_cut_is_no_answer_without_reasoning():
  cut = asked('+<think>m</think>7', '<think>long|')  # half of the rollouts are right
  brief = asked('+<think>m</think>7', '</think>8', '</think>8', '+</think>7', number=1)  # a third of the short ones
  found = made('mode_mixture', [cut, brief], tagged=0.0, long=0.5)
  assert [its[0].startswith('<think>m') for its in found] == [False, True]


@pytest.mark.parametrize(
  ('text', 'short'),
  [
    ('<think>a\n\nb</think>\n7', '<think>\n\n</think>\n7'),
    ('a\n\nb</think>7', '\n\n</think>7'),  # the prompt has opened the thought
    ('\n<thinking>a</thinking>7', '\n<thinking>\n\n</thinking>7'),
  ],
)
def test_a_short_response_is_made_by_emptying_the_thought(text, short):
  assert made('mode_mixture', [asked('+' + text)], tagged=0.0, long=0.0) == [[short]]


@pytest.mark.parametrize('k', [1, 2, 3])
def test_cut_at_k_has_k_candidates_and_ends_with_the_answer(k):
  text = thought('a', 'answer 7', 'b', 'answer 7', 'answer 7', 'c')
  ((found,),) = made('cut_at_k', [asked('+' + text)], k=k)
  assert found.count('answer 7') == k and found.endswith('answer 7\n\n</think>It is 7') and text.startswith(found[:-15])


def test_cut_at_k_leaves_out_what_would_not_follow_and_keeps_to_its_tokens():
  right, wrong = thought('answer 7', 'answer 8', 'c'), thought('answer 8', 'answer 7')
  given = [asked('+' + right, '+' + wrong, right)]
  assert made('cut_at_k', given, k=1) == [[thought('answer 7')]] and made('cut_at_k', given, k=2) == [[wrong]]
  many = [asked(*['+' + right] * 5), asked(*['+' + right] * 5, number=1)]
  length = len(thought('answer 7'))
  for tokens, count in ((length, 1), (3 * length - 1, 2), (3 * length, 3), (99 * length, 10)):
    assert len(made('cut_at_k', many, tokens=tokens)) == count


# --------------------------------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize(
  ('name', 'options', 'told'),
  [
    ('sbt_e', {'sentences': -1}, 'sentences=-1: out of range; fix: '),
    ('sbt_e', {'marker_weight': 1.5}, r'marker_weight=1.5: out of range; fix: a number in \[0, 1\]'),
    ('sbt_e', {'markers': '('}, r'markers=\(: no regular expression'),
    ('sbt_d', {'margin': -0.1}, 'margin=-0.1: out of range; fix: '),
    ('sbt_d', {'candidate': '['}, r'candidate=\[: no regular expression'),
    ('step_partial_mask', {'observation': '*'}, r'observation=\*: no regular expression'),
    ('rise_turns', {'kept': 'worst'}, 'kept=worst: unknown; fix: one of all, best, success'),
    ('rise_turns', {'tau': 0.0}, 'tau=0.0: out of range'),
    ('mode_mixture', {'long': 1.5}, r'long=1.5: out of range; fix: a share in \[0, 1\]'),
    ('cut_at_k', {'k': 0}, 'k=0: out of range; fix: a number of at least 1'),
  ],
)
def test_an_option_that_is_out_of_range_is_told(name, options, told):
  with pytest.raises(sources.SourceError, match=f'^--source={name}: {told}'):
    made(name, [asked('+' + thought(*NINE), 'x')], **options)


@pytest.mark.parametrize('name', sources.REGISTRY)
def test_a_source_that_has_nothing_to_work_on_says_so(name):
  with pytest.raises(
    sources.SourceError, match=rf'^--source={name}: none of 1 rollouts, of which 0 are right, makes an example'
  ):
    made(name, [asked('8')], **({'message': ''} if name == 'rise_turns' else {}))


def test_the_default_of_an_option_may_hold_what_separates_the_cells_of_a_table():
  (method,) = (method for method in methods.methods() if method.name == 'sbt_e')
  (row,) = (line for line in methods.section(method).splitlines() if line.startswith('| `candidate`'))
  assert row.replace(r'\|', '').count('|') == 5


# ---------------------------------------------------------------------------------------------------------------- what was cut


@pytest.mark.parametrize('name', ['step_partial_mask', 'rise_turns', 'sbt_e', 'sbt_d', 'cut_at_k', 'mode_mixture'])
def test_a_response_that_was_cut_teaches_no_end(name):
  """A right answer stands in it, and its last words are no end of a sentence."""
  cut = thought('so 7', conclusion='It is 7. Let me ch|')
  problems = [asked(f'+{cut}', 'it is 8'), asked('+it is 7 and th|', 'it is 8', number=1)]
  with pytest.raises(sources.SourceError, match='none of 4 rollouts, of which 2 are right, makes an example'):
    made(name, problems)
