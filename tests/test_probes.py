"""Answers that are forced on the way: what the policy says there, the rules that read it, and an evaluation by them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import EOS, HORIZON, NEVER, PAD, PROMPTS, WIDTH, G, assert_same_rows, limits_of, model_of, on_mesh, run
from run_folder import write_random_run
from tiny import tiny_experiment

from espo_jax import rollout, stops, tasks
from espo_jax.configs import ConfigError, validate
from espo_jax.evaluate import evaluation
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.evaluate.settling import settle
from espo_jax.monitor import read_samples
from espo_jax.rollout import probe_places
from espo_jax.stops import ForcedAnswer, Observation, Probing
from espo_jax.types import Prompts

INDUCER, ANSWER = (5, 6), 4
END = 99  # the end token of the answers below


def answers(tokens, logprobs=None, entropy=None) -> ForcedAnswer:
  """The answers of one row, one for each place, from lists of their tokens."""
  width = max(map(len, tokens))
  wide = lambda rows: np.array([[*row, *[0] * (width - len(row))] for row in rows])
  numbers = (wide(tokens if x is None else x).astype(np.float32) for x in (logprobs, entropy))
  length = np.array([*map(len, tokens)], np.int32)
  content = length - np.array([row[-1:] == [END] for row in tokens], np.int32)
  return ForcedAnswer(jnp.asarray(wide(tokens), jnp.int32), *map(jnp.asarray, (*numbers, length, content)))


def ended_at(rule, asked: ForcedAnswer) -> int | None:
  """The place at which a row is settled, from 0; None for never."""
  held = rule.init(1, stops.adaptive(rule))
  for place in range(len(asked.length)):
    seen = Observation(*[jnp.zeros(1)] * 3, answer=jax.tree.map(lambda x, at=place: x[at : at + 1], asked))
    held, stop, _ = rule.update(held, seen)
    if stop[0]:
      return place
  return None


# ------------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(('geometric', 'wanted'), [(False, 0.725), (True, 0.720)])
def test_a_confidence_is_that_of_the_notes(geometric, wanted):
  asked = answers([[1, 2, 3], [1]], np.log([[0.7, 0.81, 0.64], [0.9, 1, 1]]))
  np.testing.assert_allclose(stops.answer_confidence(asked, geometric=geometric), [wanted, 0], atol=1e-6)


def test_the_end_token_is_a_token_of_a_confident_answer():
  asked = answers([[1, END], [END]], np.log([[0.1, 0.9], [1, 1]]))
  np.testing.assert_allclose(stops.answer_confidence(asked), [0.9, 0], atol=1e-6)


def test_deer_ends_a_row_at_the_first_confident_answer():
  asked = answers([[1, 2], [1, 2], [3], [1, 4]], np.log([[0.1, 0.9], [0.1, 0.94], [0.99, 1], [0.1, 0.96]]))
  assert [ended_at(stops.deer(confidence=bound), asked) for bound in (0.95, 0.92, 0.99)] == [3, 1, None]


def test_equal_answers_in_a_row_end_a_row():
  asked = answers([[7, 1], [7, 2], [7, 2], [END], [END], [END], [7, 2], [7, 2], [7, 2]])
  ends = [ended_at(stops.answer_convergence(agree=agree, answer_tokens=2), asked) for agree in (1, 2, 3, 4)]
  assert ends == [0, 2, 8, None]


def test_the_entropy_of_an_answer_and_its_slope_are_those_of_the_notes():
  assert float(stops.slope(jnp.asarray([2.0, 1.5, 1.1, 0.4]))) == pytest.approx(-0.52, abs=1e-6)
  line = np.random.default_rng(0).normal(size=7)
  assert float(stops.slope(jnp.asarray(line))) == pytest.approx(np.polyfit(np.arange(7), line, 1)[0], abs=1e-5)
  asked = answers([[1, 2], [1], [1, END], [END], []], entropy=[[0.5, 1.5], [0.25, 9], [0.25, 9], [0, 9], [9, 9]])
  np.testing.assert_allclose(stops.mean_entropy(asked), [1.0, 0.25, 0.25, np.inf, np.inf])


def test_a_sure_answer_and_one_that_does_not_become_surer_end_a_row():
  told = lambda entropies, **options: ended_at(
    stops.answer_entropy(**options), answers([[1]] * len(entropies), entropy=[[x] for x in entropies])
  )
  assert told([2, 0.04, 1.5, 0.04, 0.04, 0.04]) == 4  # twice in a row
  assert ended_at(stops.answer_entropy(), answers([[END]] * 10, entropy=[[0.0]] * 10)) is None  # sure to say nothing
  falls = [2.0, 1.5, 1.1, 0.4, 0.4, 0.4, 0.4]
  assert told(falls, least_probes=4) == 6  # the first four without a slope
  assert told(falls, least_probes=4, flat=0.53) == 3 and told(falls, least_probes=8) is None


# ------------------------------------------------------------------------------------------------------------------ engine


@pytest.mark.parametrize('marker', [(), (3,), (3, 4)])
def test_places_are_those_of_a_loop_over_tokens(marker):
  rng = np.random.default_rng(1)
  tokens, length = rng.integers(3, 5, (30, 17)), rng.integers(1, 18, 30)
  found = probe_places(jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32), Probing(INDUCER, marker, 4, ANSWER, 3))
  for row, its, size in zip(tokens, found, length, strict=True):
    if marker:
      wanted = [t for t in range(1, size - len(marker) + 1) if tuple(row[t : t + len(marker)]) == marker]
    else:
      wanted = [t for t in range(1, size) if t % 4 == 0]
    assert its.tolist() == [*wanted, *[17] * 3][:3]


def probed(probing, **options):
  model, params = model_of(options.pop('variant', 'shared'))
  prompts = jax.tree.map(jnp.asarray, PROMPTS)
  usual = {'samples': G, 'horizon': HORIZON, 'end_tokens': (EOS,), 'pad_token': PAD, 'scan_length': 8, 'slots': 5}
  return rollout.generate_probed(model, params, prompts, jax.random.key(7), probing=probing, **usual | options)


@pytest.mark.parametrize('variant', ['shared', 'separate'])
def test_probes_change_no_row_and_are_greedy_answers_behind_its_beginning(variant, in_float64):
  found = jax.device_get(probed(Probing(INDUCER, (), 5, ANSWER, 3), variant=variant))
  free = run(variant=variant, rule=NEVER)
  assert_same_rows(found.rows, free, limits=limits_of(variant))
  places = [(n, e) for n, e in np.ndindex(found.places.shape) if found.places[n, e] < HORIZON]
  assert not found.answers.length[found.places == HORIZON].any() and len(places) > 10
  width = WIDTH + HORIZON + len(INDUCER)
  written = np.zeros((len(places), width), np.int32)
  lengths = []
  for row, (n, e) in zip(written, places, strict=True):
    prompt = free.prompt_tokens[n, WIDTH - free.prompt_lengths[n] :]
    text = [*prompt, *free.tokens[n, : found.places[n, e]], *INDUCER]
    row[width - len(text) :] = text
    lengths.append(len(text))
  asked = Prompts(written, np.array(lengths, np.int32), np.arange(len(places), dtype=np.uint32))
  onto = rollout.features.directions(model_of(variant)[0].config.hidden_size, 1)
  wanted = run(variant=variant, rule=NEVER, prompts=asked, samples=1, horizon=ANSWER, temperature=0.0, directions=onto)
  for row, (n, e) in enumerate(places):
    size = wanted.length[row]
    assert found.answers.length[n, e] == size
    assert found.answers.content[n, e] == size - (wanted.tokens[row, size - 1] == EOS)
    np.testing.assert_array_equal(found.answers.tokens[n, e, :size], wanted.tokens[row, :size])
    np.testing.assert_allclose(found.answers.logprobs[n, e, :size], wanted.logprobs[row, :size], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.answers.entropy[n, e, :size], wanted.features.entropy[row, :size], rtol=1e-9, atol=1e-9)
    assert not found.answers.tokens[n, e, size:].any()
  assert (found.answers.length < ANSWER).any()


def shapes(program) -> set[tuple[int, ...]]:
  """The shapes of all that a traced program computes, its inner programs included."""
  found = {tuple(var.aval.shape) for equation in program.eqns for var in equation.outvars}
  for equation in program.eqns:
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'jaxpr') or hasattr(x, 'eqns')):
      if hasattr(inner := getattr(inner, 'jaxpr', inner), 'eqns'):
        found |= shapes(inner)
  return found


def test_probes_take_no_more_memory_than_their_answers():
  model_of('shared')  # which is kept, and must not be made while the program is traced
  traced = jax.make_jaxpr(lambda: probed(Probing(INDUCER, (), 2, ANSWER, 7), slots=0))()
  assert 'top_k' not in str(traced)  # nothing reads a confidence of theirs
  rows = len(PROMPTS.lengths) * G
  wide = {shape[1:] for shape in shapes(traced.jaxpr) if shape[:1] == (7 * rows,)}
  assert (ANSWER,) in wide and max(max(shape, default=1) for shape in wide) <= max(ANSWER, WIDTH)
  assert max(ANSWER, WIDTH) < HORIZON


def test_probes_do_not_depend_on_the_mesh(in_float64):
  probing = Probing(INDUCER, (), 5, ANSWER, 3)
  engine = lambda model, params, rule, state, prompts, key, **options: rollout.generate_probed(
    model, params, prompts, key, probing=probing, **options
  )
  spread = on_mesh(engine, (2, 2, 2), NEVER)
  alone = jax.device_get(probed(probing))
  count = len(alone.places)
  np.testing.assert_array_equal(spread.rows.tokens[:count], alone.rows.tokens)
  np.testing.assert_array_equal(spread.places[:count], alone.places)
  for name in ('tokens', 'length', 'content'):
    np.testing.assert_array_equal(getattr(spread.answers, name)[:count], getattr(alone.answers, name))
  for name in ('logprobs', 'entropy'):
    found, wanted = getattr(spread.answers, name)[:count], getattr(alone.answers, name)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_row_ends_with_its_first_settled_answer_and_its_probes_are_counted():
  rule = stops.deer(inducer=INDUCER, every=5, answer_tokens=ANSWER, most=3, confidence=0.3)
  found = jax.device_get(probed(rule.probing))
  its = jax.device_get(settle(rule, found))
  for n, row in enumerate(found.rows.tokens):
    asked = [e for e in range(3) if found.places[n, e] < HORIZON]
    cost = [len(INDUCER) + int(found.answers.length[n, e]) for e in range(3)]
    sure = [
      e
      for e in asked
      if found.answers.length[n, e] > 1 and np.exp(found.answers.logprobs[n, e, 1 : found.answers.length[n, e]]).mean() > 0.3
    ]
    cut = found.places[n, sure[0]] if sure else found.rows.length[n]
    size = found.answers.length[n, sure[0]] if sure else 0
    wanted = [*row[:cut], *(INDUCER if sure else ()), *(found.answers.tokens[n, sure[0], :size] if sure else ())]
    assert its.settled[n] == bool(sure) and its.length[n] == len(wanted)
    np.testing.assert_array_equal(its.tokens[n, : len(wanted)], wanted)
    assert its.probed[n] == sum(cost[e] for e in (range(sure[0]) if sure else asked))
  assert 0 < its.settled.sum() < its.settled.size
  never = jax.device_get(settle(stops.deer(**rule.probing._asdict(), confidence=1.0), found))
  np.testing.assert_array_equal(never.tokens[:, :HORIZON], found.rows.tokens)
  np.testing.assert_array_equal(never.length, found.rows.length)


def test_what_cannot_be_probed_is_refused():
  with pytest.raises(ValueError, match='it needs an inducer'):
    probed(Probing((), (), 5, ANSWER, 3))
  with pytest.raises(ValueError, match='the stop rule asks for answers, for which rows do not wait'):
    run(rule=stops.deer(inducer=INDUCER))
  with pytest.raises(ValueError, match='window = 1: a slope needs two entropies; fix: at least 2'):
    stops.answer_entropy(window=1)
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.stop.name = 'deer'
  with pytest.raises(ConfigError, match=r"the rule 'deer' asks the policy for answers on the way.*--stop=deer for this one"):
    validate(config)


# -------------------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return write_random_run(tmp_path_factory.mktemp('probes') / 'run')


def test_an_evaluation_counts_the_tokens_of_probes(workdir, tmp_path, monkeypatch, capsys):
  graded = lambda _, problems, responses: [tasks.Verdict(len(text) % 2 == 0, 'ok') for text in responses]
  monkeypatch.setattr(tasks.Task, 'verify_all', graded)
  given = [f'--checkpoint={workdir}', '--samples=2', '--problems=9', '--batch=8']
  evaluate_main([*given, f'--output={tmp_path / "free"}'])
  constants = ['inducer=5,6', 'every=3', 'answer_tokens=4', 'most=3', 'agree=2']
  flags = ['--stop=answer_convergence', '--constants', *constants]
  evaluate_main([*given, f'--output={tmp_path / "its"}', *flags])
  free, its = (list(read_samples(tmp_path / name)) for name in ('free', 'its'))
  for one, whole in zip(its, free, strict=True):
    assert (one['full_length'], one['full_correct']) == (whole['length'], whole['correct'])
    assert one['correct'] == (len(one['response']) % 2 == 0)
    if one['stop_reason'] == 'settled':
      assert one['probed'] > 0
    else:
      assert (one['response'], one['length']) == (whole['response'], whole['length'])
      assert (one['probed'] > 0) == (one['length'] > 3)
  found = json.loads((tmp_path / 'its/summary.json').read_text())['stop']
  total = sum(row['length'] for row in free)
  assert found['saved'] == pytest.approx(1 - sum(row['length'] + row['probed'] for row in its) / total)
  summary = json.loads((tmp_path / 'its/summary.json').read_text())
  assert summary['session']['tokens'] == sum(row['full_length'] + row['probed'] for row in its)
  for name, right in (('right', True), ('wrong', False)):
    mean = np.mean([row['length'] + row['probed'] for row in its if row['correct'] == right])
    assert summary['lengths'][name]['mean'] == pytest.approx(mean)
  with pytest.raises(SystemExit, match=r'--from=.*: its answers took probes, which no decoder counts; fix: answers without'):
    evaluate_main([f'--from={tmp_path / "its"}', '--decoder=majority'])
  assert found['settled'] > 0 and 'answer_convergence settled' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--constants', 'agree=2'], r'inducer = \(\): it asks for the answer'),
    (['--constants', 'inducer=5,6', '--record'], r'--record with --stop=answer_convergence: it would act on probes too'),
    (
      ['--decoder=first'],
      r'--decoder=first with --stop=answer_convergence: no decoder counts the tokens of probes; fix: leave',
    ),
  ],
)
def test_flags_that_do_not_fit_probes_are_refused(workdir, tmp_path, flags, message):
  with pytest.raises(SystemExit, match=message):
    evaluate_main([f'--checkpoint={workdir}', f'--output={tmp_path}', '--stop=answer_convergence', *flags])


def test_an_evaluation_out_of_memory_lowers_the_answers_and_not_the_probes(workdir, tmp_path, monkeypatch):
  def fails(*_, **__):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 byte')

  monkeypatch.setattr(evaluation, 'settled_answers', fails)
  flags = ['--stop=deer', '--constants', 'inducer=5', '--batch=8', '--slots=8', '--samples=2', '--problems=9']
  with pytest.raises(SystemExit, match=r'out of memory during sampling answers: .*; fix: --batch=4, ') as caught:
    evaluate_main([f'--checkpoint={workdir}', f'--output={tmp_path / "none"}', *flags])
  assert '--slots' not in str(caught.value)
