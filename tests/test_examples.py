"""Examples with a mask: which tokens have loss, what the warm start makes of them, and what is told of a file."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import first_params, named, tiny_experiment
from tokenizers import processors

from espo_jax import tasks
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import init_state
from espo_jax.learner.scoring import score
from espo_jax.stages import warm_start as stage
from espo_jax.stages.packings import pack_batch
from espo_jax.stages.warm_start import example_batches, supervised_learner, supervised_step
from espo_jax.tasks import DataError, Example, Segment

CHARACTERS = tasks.character_tokenizer('ab cd.')


def example(*parts, prompt='a', weight=1.0) -> Example:
  """An example whose parts are texts, with loss where they are written in upper case."""
  return Example(prompt, tuple(Segment(part.lower(), part != part.lower()) for part in parts), weight, 'mine.jsonl:7')


# --------------------------------------------------------------------------------------------------------------- the tokens


@pytest.mark.quick
def test_a_token_has_loss_where_its_segment_has_and_the_end_token_that_of_the_last():
  found = tasks.encode_example(CHARACTERS, example('AB', 'c', 'D', weight=2.5), 3, 5)
  assert found.prompt == CHARACTERS.encode('a') and found.response == [*CHARACTERS.encode('abcd'), CHARACTERS.eos_token_id]
  assert found.weights.tolist() == [2.5, 2.5, 0, 2.5, 2.5]
  assert tasks.encode_example(CHARACTERS, example('AB', 'c'), 3, 4).weights.tolist() == [1, 1, 0, 0]


@pytest.mark.quick
def test_the_end_token_stands_behind_each_segment_that_ends_a_turn_with_its_loss():
  end = CHARACTERS.eos_token_id
  parts = Segment('ab', True, True), Segment('c', False), Segment('d', False, True), Segment('.', True, True)
  found = tasks.encode_example(CHARACTERS, Example('a', parts, 2.0), 3, 8)
  assert found.response == [*CHARACTERS.encode('ab'), end, *CHARACTERS.encode('cd'), end, *CHARACTERS.encode('.'), end]
  assert found.weights.tolist() == [2, 2, 2, 0, 0, 0, 2, 2]


@pytest.mark.quick
def test_nothing_is_merged_over_the_end_of_a_turn():
  tokenizer = tasks.byte_bpe_tokenizer(['it is six'] * 50, 300)
  whole, end = tokenizer.encode('it is six'), tokenizer.eos_token_id
  found = tasks.encode_example(tokenizer, Example('?', (Segment('it i', True, True), Segment('s six', True))), 3, 99)
  assert found.response == [*tokenizer.encode('it i'), end, *tokenizer.encode('s six'), end]
  assert [token for token in found.response if token != end] != whole


@pytest.mark.quick
@pytest.mark.parametrize('cuts', [(4, 9), (1, 2), (7, 20), (5, 6)])
def test_segments_change_no_token_and_a_token_over_a_border_has_no_loss(cuts):
  """Byte-level BPE merges over borders. The last text has letters of several bytes, which share one offset."""
  text = 'the answer is five. the answer is sïx — the answer is 七.'
  tokenizer = tasks.byte_bpe_tokenizer([text.encode('ascii', 'ignore').decode()] * 9, 300)
  low, high = cuts
  parts = Segment(text[:low], True), Segment(text[low:high], False), Segment(text[high:], True)
  found = tasks.encode_example(tokenizer, Example('?', parts), 9, 200)
  whole = tokenizer.encode(text, add_special_tokens=False)
  assert found.response == [*whole, tokenizer.eos_token_id] and len(whole) < len(text.encode())
  inside = 0
  for n, weight in enumerate(found.weights[:-1]):  # the characters that are complete only with the token, or begin in it
    start = len(tokenizer.decode(whole[:n]).rstrip('\ufffd'))
    stop = len(tokenizer.decode(whole[: n + 1]))
    masked = start < high and stop > low
    assert weight == (not masked), (n, text[start:stop])
    inside += masked
  assert inside and found.weights[-1] == 1


@pytest.mark.quick
def test_a_batch_is_padded_like_one_of_written_solutions():
  given = [example('AB', 'c'), example('D', prompt='ab')]
  found = tasks.batch_examples(CHARACTERS, [tasks.encode_example(CHARACTERS, one, 3, 4) for one in given], 3, 4)
  plain = tasks.encode_supervised(CHARACTERS, [('a', 'abc'), ('ab', 'd')], 3, 4)
  for mine, wanted in zip(found[:3], plain[:3], strict=True):
    np.testing.assert_array_equal(mine, wanted)
  assert found.weights.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]] and plain.weights is None


@pytest.mark.quick
@pytest.mark.parametrize(
  ('one', 'told'),
  [
    (example('ABCD'), r'^mine.jsonl:7: a response of 5 tokens, more than rollout.horizon = 4; fix: --config.rollout.horizon=5'),
    (example('A', prompt='abcd'), r'^mine.jsonl:7: a prompt of 4 tokens, more than rollout.prompt_width = 3; fix: '),
    (example('AX'), r"^mine.jsonl:7: the tokenizer has no token for a part of 'aax'; fix: "),
  ],
)
def test_an_example_that_cannot_be_encoded_is_named(one, told):
  with pytest.raises(DataError, match=told):
    tasks.encode_example(CHARACTERS, one, 3, 4)


# ----------------------------------------------------------------------------------------------------------------- the loss


@pytest.fixture(scope='module')
def exp():
  return tiny_experiment(named(warm_start__batch=4))


def loss_of(exp, params, batch):
  """The loss of one update."""
  learner = supervised_learner(exp)
  state = init_state(params, learner.optimizer, make_rule(exp.config, 'never'))
  _, metrics = learner.update(jax.tree.map(jnp.copy, state), batch)
  return float(metrics['loss/total'])


def losses(exp, params, batch):
  """The negative log-likelihood of each response token, in float64."""
  tokens, width = jnp.asarray(batch.tokens), exp.config.rollout.prompt_width
  scored = jax.jit(
    lambda params: (
      score(
        exp.model, params, tokens[:, :width], jnp.asarray(batch.prompt_lengths), tokens[:, width:], temperature=1.0, chunk=1000
      ).logprobs
    )
  )(params)
  return -np.asarray(scored, np.float64)


def masked_batch(exp, weights):
  rng, c = np.random.default_rng(0), exp.config.rollout
  tokens = rng.integers(2, 10, size=(4, c.prompt_width + c.horizon)).astype(np.int32)
  lengths = np.array([3, 16, 1, 7], np.int32)
  counted = np.zeros((4, c.horizon), np.float32)
  for row, (length, its) in enumerate(zip(lengths, weights, strict=True)):
    counted[row, :length] = np.resize(its, length)
  return tasks.encode_supervised(exp.tokenizer, [], c.prompt_width, c.horizon)._replace(
    tokens=tokens, prompt_lengths=np.full(4, c.prompt_width, np.int32), response_lengths=lengths, weights=counted
  )


def test_the_loss_is_the_weighted_mean_over_the_tokens_that_have_loss(exp):
  batch, params = masked_batch(exp, [(0.5, 0), (0, 2, 2), (3,), (1, 1, 0, 0)]), first_params(exp, 0)
  found, each = loss_of(exp, params, batch), losses(exp, params, batch)
  wanted = (batch.weights * each).sum() / (batch.weights > 0).sum()
  assert found == pytest.approx(wanted, rel=1e-5)


def test_weights_of_one_are_no_weights_and_equal_weights_scale_the_loss(exp):
  batch, params = masked_batch(exp, [(1,)] * 4), first_params(exp, 0)
  plain = loss_of(exp, params, batch._replace(weights=None))
  assert loss_of(exp, params, batch) == pytest.approx(plain, rel=1e-6)
  assert loss_of(exp, params, batch._replace(weights=3 * batch.weights)) == pytest.approx(3 * plain, rel=1e-5)


def step_of(exp, batch):
  """The change of the parameters by one step of plain gradient descent, which is minus the gradient."""
  learner = dataclasses.replace(supervised_learner(exp), optimizer=optax.sgd(1.0))
  before = first_params(exp, 0)
  state = init_state(jax.tree.map(jnp.copy, before), learner.optimizer, make_rule(exp.config, 'never'))
  return jax.tree.map(lambda a, b: np.asarray(a - b), learner.update(state, batch)[0].params, before)


def test_the_tokens_of_a_masked_segment_at_the_end_may_as_well_be_absent(exp):
  """The gradient of rows whose last tokens are masked is that of the rows without them."""
  width = exp.config.rollout.prompt_width
  masked = masked_batch(exp, [(1, 1, 0), (1, *[0] * 15), (1,), (1, 1, 1, 1, 0, 0, 0)])
  lengths = np.array([2, 1, 1, 4], np.int32)
  cut = masked.tokens.copy()
  for row, length in enumerate(lengths):
    cut[row, width + length :] = exp.tokenizer.pad_token_id
  short = masked._replace(tokens=cut, response_lengths=lengths, weights=None)
  found, wanted, unmasked = (step_of(exp, batch) for batch in (masked, short, masked._replace(weights=None)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)
  assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (unmasked, wanted)), strict=True)) > 1e-2


# --------------------------------------------------------------------------------------------------------------- sequences


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 2}])
def test_a_step_on_packed_rows_is_one_on_padded_rows(mesh):
  """Eight rows of 9 to 20 tokens are in fewer sequences than rows, and make the same step."""
  weights = [(1, 0.5, 0), (1,), (2,), (1, 0)] * 2
  found = {}
  for sizes in (1, 4):
    exp = tiny_experiment(named(learner__pack_sizes=sizes, learner__pack_widths=4), **mesh)
    four = masked_batch(exp, weights[:4])
    batch = jax.tree.map(lambda x: np.concatenate([x, np.roll(x, 1, axis=0)]), four)
    learner = dataclasses.replace(supervised_learner(exp), optimizer=optax.sgd(1.0))
    before = first_params(exp, 0)
    state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, before), learner.optimizer, make_rule(exp.config, 'never')))
    packing = pack_batch(exp, placed := exp.put_rows(batch))
    assert (packing is None) == (sizes == 1)
    if packing is not None:
      columns = packing.real.size
      assert packing.real.sum() == (batch.prompt_lengths + batch.response_lengths).sum() and columns < batch.tokens.size
    state, metrics = learner.update(state, placed, packing)
    found[sizes] = float(metrics['loss/total']), jax.tree.map(lambda a, b: np.asarray(a - b), state.params, before)
  assert found[4][0] == pytest.approx(found[1][0], rel=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found[4][1], found[1][1])


def test_the_stage_packs_its_rows(monkeypatch):
  """A run whose rows are packed ends with the parameters of one whose rows are padded, up to rounding."""
  ended, packings = [], []
  monkeypatch.setattr(stage, 'pack_batch', lambda *given: packings.append(pack_batch(*given)) or packings[-1])
  for sizes in (1, 4):
    changes = {'rollout__horizon': 32, 'warm_start__batch': 8, 'learner__pack_sizes': sizes, 'learner__pack_widths': 4}
    exp = tiny_experiment(named(**changes))
    step, state = supervised_step(exp), exp.on_mesh(_started(exp))
    for number in (1, 2):
      state, metrics = step(state, number)
    ended.append((float(metrics['loss/total']), state.params))
  assert packings[:2] == [None, None] and all(its.row.size < 8 * (exp.config.rollout.prompt_width + 32) for its in packings[2:])
  assert ended[0][0] == pytest.approx(ended[1][0], rel=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ended[0][1], ended[1][1])


def _started(exp):
  return init_state(first_params(exp, 0), supervised_learner(exp).optimizer, make_rule(exp.config, 'never'))


# ---------------------------------------------------------------------------------------------------------------- the stage


def test_a_warm_start_on_examples_is_one_on_the_same_solutions(tmp_path, caplog):
  """With as many examples as rows, each step has all of them, and the order of rows changes no loss."""
  exp = tiny_experiment(named(warm_start__batch=4))
  problems = exp.problems('train', 0, 4)
  pairs = [(problem.prompt, exp.task.solution(problem, np.random.default_rng(1))[:6]) for problem in problems]
  path = tmp_path / 'mine.jsonl'
  lines = [tasks.record_of(Example(prompt, (Segment(text, True),))) for prompt, text in pairs]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  given = tiny_experiment(named(warm_start__batch=4, warm_start__data=str(path)))
  learner, rule, c = supervised_learner(exp), make_rule(exp.config, 'never'), exp.config.rollout
  start = lambda: exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule))
  batch = tasks.encode_supervised(exp.tokenizer, pairs, c.prompt_width, c.horizon)
  wanted, metrics = learner.update(start(), exp.put_rows(batch))
  found, its = supervised_step(given)(start(), 1)
  assert float(its['loss/total']) == pytest.approx(float(metrics['loss/total']), rel=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found.params, wanted.params)
  assert 'test problems' not in caplog.text


def test_examples_of_test_problems_are_warned_of(tmp_path, caplog):
  exp = tiny_experiment(named())
  path = tmp_path / 'mine.jsonl'
  prompts = [exp.problems('test', 3, 1)[0].prompt, exp.problems('train', 0, 1)[0].prompt]
  lines = [tasks.record_of(Example(prompt, (Segment('a', True),))) for prompt in prompts]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  example_batches(tiny_experiment(named(warm_start__data=str(path))))
  assert f"warm_start.data = '{path}': 1 of 2 examples ask one of the 512 test problems" in caplog.text


# ----------------------------------------------------------------------------------------------------------------- the file


GOOD = {'prompt': 'a', 'segments': [{'text': 'b', 'loss': 1}]}


@pytest.mark.quick
def test_what_is_written_is_what_is_read(tmp_path):
  made = Example('a\n"ü"', (Segment(' b\n', False, True), Segment('c ', True)), 2.5, 'samples.jsonl:3')
  path = tmp_path / 'mine.jsonl'
  path.write_text(json.dumps(tasks.record_of(made)) + '\n' + json.dumps(GOOD) + '\n')
  assert tasks.read_examples(str(path), 'warm_start.data') == [
    made._replace(place=f'{path}:1'),
    Example('a', (Segment('b', True),), 1.0, f'{path}:2'),
  ]


@pytest.mark.quick
@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'prompt': None}, "field 'prompt': None; fix: a text"),
    ({'prompt': ''}, "field 'prompt': ''; fix: a text"),
    ({'segments': []}, r"field 'segments': \[\]; fix: a list such as"),
    ({'segments': 'b'}, "field 'segments': 'b'; fix: a list"),
    ({'segments': ['b']}, "field 'segments.0': 'b'; fix: an object"),
    ({'segments': [*GOOD['segments'], {'loss': 1}]}, "field 'segments.1.text': missing; fix: a text"),
    ({'segments': [{'text': '', 'loss': 1}]}, "field 'segments.0.text': ''; fix: a text"),
    ({'segments': [{'text': 'b', 'loss': 0.5}]}, "field 'segments.0.loss': 0.5; fix: 1 for a part that is learnt, or 0"),
    ({'segments': [{'text': 'b'}]}, "field 'segments.0.loss': missing; fix: 1"),
    ({'segments': [{'text': 'b', 'loss': 1, 'end': 2}]}, "field 'segments.0.end': 2; fix: 1 for a part that ends a turn, or 0"),
    ({'segments': [{'text': 'b', 'loss': 0}]}, "field 'segments': no segment has loss; fix: "),
    ({'weight': 0}, "field 'weight': 0; fix: a number from 1e-30 to"),
    ({'weight': 10**400}, "field 'weight': 1000.*; fix: a number from"),  # which is no float
    ({'weight': 1e39}, r"field 'weight': 1e\+39; fix: a number from"),  # which single precision does not hold
    ({'weight': float('nan')}, 'not JSON'),
    ({'weight': True}, "field 'weight': True; fix: "),
  ],
)
def test_a_line_that_is_no_example_is_told_with_its_field_and_the_fix(tmp_path, change, told):
  path = tmp_path / 'mine.jsonl'
  path.write_text(json.dumps(GOOD) + '\n\n' + json.dumps(GOOD | change) + '\n')
  with pytest.raises(DataError, match=rf'^{path}:3: {told}'):
    tasks.read_examples(str(path), 'warm_start.data')


@pytest.mark.quick
def test_a_file_that_is_not_there_or_of_another_kind_is_told_before_a_device_is_touched(tmp_path):
  config = default_config()
  config.rollout.update(prompt_width=38, horizon=128)
  config.warm_start.data = str(tmp_path / 'mine.jsonl')
  with pytest.raises(ConfigError, match=r"warm_start.data = '.*mine.jsonl': no such file; fix: .* espo_jax.sources writes"):
    validate(config)
  (tmp_path / 'mine.jsonl').write_bytes(b'PK\x03\x04')
  with pytest.raises(ConfigError, match=r"warm_start.data = '.*': a ZIP archive or a spreadsheet; fix: "):
    validate(config)
  (tmp_path / 'mine.jsonl').write_text(json.dumps(GOOD) + '\n')
  validate(config)
  config.stages, config.warm_start.data = ('rl',), 'absent'
  validate(config)
  with pytest.raises(DataError, match=r"warm_start.data = '.*empty.jsonl': no examples; fix: "):
    (tmp_path / 'empty.jsonl').write_text('\n')
    tasks.read_examples(str(tmp_path / 'empty.jsonl'), 'warm_start.data')


@pytest.mark.quick
@pytest.mark.parametrize('trim', [False, True])
def test_a_blank_that_offsets_leave_out_belongs_to_its_token(trim):
  tokenizer = tasks.byte_bpe_tokenizer(['it is six'] * 50, 300)
  tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
  text = tokenizer('it is six', return_offsets_mapping=True)
  assert tokenizer.decode(text['input_ids'][-1]) == ' six' and text['offset_mapping'][-1] == ((6, 9) if trim else (5, 9))
  masked = Example('?', (Segment('it is ', False), Segment('six', True)))
  assert tasks.encode_example(tokenizer, masked, 8, 8).weights.tolist() == [*[0] * (len(text['input_ids'])), 1]
  whole = Example('?', (Segment('it', False), Segment(' is six', True)))
  assert tasks.encode_example(tokenizer, whole, 8, 8).weights.tolist()[-2:] == [1, 1]
