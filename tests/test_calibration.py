"""The calibration of exits: the published target and loss by numpy, a gradient, learning, and the stage in a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from tiny import first_params, named, run, tiny_experiment

from espo_jax import exits, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.configs.exits import exit_problems
from espo_jax.learner import init_state
from espo_jax.learner.calibration import sequences
from espo_jax.model import Forced, States
from espo_jax.stages import calibration
from espo_jax.stages.loop import Interrupted, Interruption


def configured(**lines):
  def configure(c):
    named(**lines)(c)
    c.model.num_layers = 3
    c.exits.every = 1
    c.stages = ('warm_start', 'calibration', 'critic_warmup', 'rl')
    c.exits.learning_rate = 1e-2
    c.calibration.update(learning_rate=1e-2, prompts=8, warmup_steps=0, uniform_patterns=2, whole_patterns=1)
    for name, value in lines.items():
      section, _, field = name.partition('__')
      c[section][field] = value

  return configure


def experiment(**lines):
  return tiny_experiment(configured(**lines))


def config_of(**lines):
  config = tiny_experiment().config.copy_and_resolve_references()
  configured(**lines)(config)
  config.rollout.horizon = 23
  return config


def sampled_by_teacher(exp, params):
  never = stops.never()
  prompts = exp.prompts(exp.problems('train', 0, 8))
  sampler = exp.with_exits(None).sampler.plain(samples=1, temperature=0.8)
  return sampler(params, never, never.init(1).adaptive, prompts, exp.key('calibration', 1))


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def test_target_hazards_are_the_published_ones(precision):
  exp = experiment(calibration__kappa=0.7)
  teacher, student = first_params(exp, 0), first_params(exp, 1)
  learner, seqs = calibration.self_distillation(exp), sequences(sampled_by_teacher(exp, teacher))

  @jax.jit
  def target(student, teacher):
    told = exp.model.states(teacher, seqs.tokens, seqs.positions, seqs.segments).policy
    return learner._target(student, teacher, told, seqs)

  found = target(student, teacher)
  # Two decoders and a sum over the vocabulary: of the learner, and of what it is compared with.
  roundings = 2 * (2 * rounding.of_decoder(exp.model.config, seqs.tokens.shape[1]) + exp.model.config.vocab_size)
  bound = rounding.of_program(target, student, teacher, roundings=roundings)

  @jax.jit
  def logits(params, depth):
    forced = Forced(jnp.full(seqs.tokens.shape, depth), seqs.tokens >= 0, jnp.float32(0.0))
    return exp.model.logits(params, exp.model.states(params, seqs.tokens, seqs.positions, seqs.segments, forced))

  def probabilities(params, depth):
    """Of the student cut off, or of the teacher at full depth."""
    return softmax(np.asarray(logits(params, depth), np.float64) / exp.config.rollout.temperature)

  p = probabilities(teacher, 3)
  for i, block in enumerate((1, 2)):
    q = probabilities(student, block)
    hazard = 2 / (1 + np.exp(0.7 * (p * np.log(p / q)).sum(-1)))
    # Only the first block's states are the same when all tokens before are cut off there too.
    if block == 1:
      rounding.assert_within(found[..., i], hazard, bound)
  assert found.shape == (*seqs.tokens.shape, 2) and (found > 0).all() and (found <= 1).all()


def test_exits_are_drawn_from_the_target():
  exp = experiment(calibration__patterns=4000)
  hazards = jnp.array([[[0.2, 0.5], [0.9, 0.1]]])
  drawn = np.asarray(calibration.self_distillation(exp)._draw(hazards, jax.random.key(0)))
  for column in range(2):
    seen = np.bincount(drawn[:, 0, column] - 1, minlength=3)
    expected = 4000 * np.asarray(exits.exit_pmf(hazards[0, column]))
    assert ((seen - expected) ** 2 / expected).sum() < 13.8  # 0.1 % of a chi-square with 2 degrees of freedom


def test_a_student_that_is_its_teacher_has_no_divergence_at_full_depth(precision):
  exp = experiment()
  params = first_params(exp, 0)
  learner, seqs = calibration.self_distillation(exp), sequences(sampled_by_teacher(exp, params))
  told = exp.model.states(params, seqs.tokens, seqs.positions, seqs.segments).policy
  logits = np.asarray(exp.model.logits(params, States(told, told)), np.float64) / exp.config.rollout.temperature
  # The same logits twice, a product over the hidden state each, and sums over the vocabulary of what is at most as large.
  roundings = 2 * exp.model.config.hidden_size + 2 * exp.model.config.vocab_size + 10
  apart = learner._divergence((params, told), (params, told))
  rounding.assert_close(apart, np.zeros(apart.shape), roundings=roundings, size=2 * np.abs(logits).max())


def cut_off_divergence(exp, teacher, params):
  """Of the student at one block from the teacher, on the teacher's responses."""
  learner, seqs = calibration.self_distillation(exp), sequences(sampled_by_teacher(exp, teacher))
  told = exp.model.states(teacher, seqs.tokens, seqs.positions, seqs.segments).policy
  forced = Forced(jnp.where(seqs.free, 1, 3), seqs.free, jnp.float32(0.0))
  said = exp.model.states(params, seqs.tokens, seqs.positions, seqs.segments, forced).policy
  divergence = learner._divergence((params, said), (teacher, told))
  return float(divergence[seqs.free & seqs.counts].mean())


@pytest.mark.parametrize('alone', [False, True])
def test_calibration_learns_to_leave_and_to_agree(alone):
  exp = experiment(exits__alone=alone)
  teacher = first_params(exp, 0)
  state = exp.on_mesh(init_state(jax.tree.map(jnp.copy, teacher), calibration.calibration_optimizer(exp), stops.never()))
  step, history = calibration.calibration_step(exp, teacher), []
  for i in range(1, 21):
    state, metrics = step(state, i)
    history.append({name: float(metrics[name]) for name in ('loss/exits', 'loss/divergence', 'exits/depth')})
  first, last = (np.mean([h['loss/exits'] for h in part]) for part in (history[:3], history[-3:]))
  assert last < first
  same = jax.tree.map(lambda a, b: bool((a == b).all()), teacher, state.params)
  assert not any(jax.tree.leaves(same['policy']['exit_heads']))
  assert all(jax.tree.leaves(same['policy']['layer_0'])) == alone
  assert all(jax.tree.leaves(same['policy']['value']))  # the critic does not decay either
  if not alone:
    assert cut_off_divergence(exp, teacher, state.params) < 0.9 * cut_off_divergence(exp, teacher, teacher)


@pytest.mark.parametrize('name', ['ppo', 'tepo'])
def test_exits_are_actions_of_any_objective(name):
  """Updates on drawn exits: the sampler's joint log-probabilities are the learner's, and heads learn from them."""
  advantage = '' if name == 'ppo' else 'group_zscore'
  exp = experiment(objective__name=name, advantage__name=advantage, reward__name='correct + exit_depth_cost')
  state, metrics = run(exp, 2)
  gap = 2 * rounding.of_scores(exp.model, first_params(exp, 0), 30, temperature=0.8)  # of a token, and of the exit before it
  for row in metrics:
    assert row['sampler_gap/max'] < gap and np.isfinite(row['loss/total'])
    assert 0 < row['exits/depth'] < 1 and row['reward/exit_depth_cost'] == pytest.approx(-0.1 * row['exits/depth'], rel=0.2)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), first_params(exp, 0), state.params)
  assert all(jax.tree.leaves(moved['policy']['exit_heads']))


def test_what_cannot_act_is_refused():
  def problems(**lines):
    with pytest.raises(ConfigError) as raised:
      validate(config_of(**lines))
    return '\n'.join(raised.value.problems)

  assert 'exits.policy' in problems(exits__policy='sampledd')
  validate(config_of())
  assert 'exits.level' in problems(exits__policy='threshold', exits__level=1.5)
  for policy in ('calm_margin', 'calm_cosine'):
    assert 'exits.horizon = 0: out of range; fix: a number above 0' in problems(exits__policy=policy, exits__horizon=0)
  assert 'reward.buffer = 0.0: out of range' in problems(reward__name='correct + overlong', reward__buffer=0.0)
  assert 'objective.tau = 0.0: out of range' in problems(objective__name='rwr', objective__tau=0.0)
  assert 'exits.bottom' in problems(exits__policy='threshold', exits__bottom=2)
  assert 'rollout.slots' in problems(exits__policy='skipdecode', exits__level=2.0, rollout__slots=4)
  assert 'eval.draft_blocks' in problems(eval__draft_blocks=2)
  validate(config_of(exits__policy='ffn_skip', exits__level=0.9))
  assert 'exits.first = 2 and exits.last = 1 leave none' in problems(exits__policy='ffn_skip', exits__level=0.9, exits__first=2)
  of_a_file = config_of(exits__policy='fixed', exits__level=20.0)
  of_a_file.model.path = 'models/r1-7b'
  assert not list(exit_problems(of_a_file))  # its number of blocks is not in the config


def test_the_curve_of_a_run(tmp_path, capsys):
  from espo_jax.stages.results import evaluated, exit_curve

  exp = experiment(eval__problems=16, eval__batch=8, calibration__levels=(0.3, 0.6))
  params, signals = first_params(exp, 0), Interruption()
  signals.requested = True
  for evaluate in (exit_curve, evaluated):
    with pytest.raises(Interrupted, match=r'evaluation of .* is to be begun anew; what was trained before it is saved'):
      evaluate(exp.with_exits(None), params, tmp_path, signals)
  assert not list(tmp_path.iterdir())
  capsys.readouterr()
  exit_curve(exp, params, tmp_path)
  curve = json.loads((tmp_path / 'curve.json').read_text())
  shown = capsys.readouterr()
  for name, point in zip(('exits at 0.3', 'exits at 0.6', 'full depth'), curve, strict=True):
    right = f'{point["correct"]:.0f} of 16 problems right sampled, {point["greedy_correct"]:.0f} greedy, in '
    assert f'evaluation of {name}: {right}' in shown.out
    assert f'evaluation of {name} 100% 32/32 ' in shown.err
  assert shown.out.count('\n') == 3
  assert [point['level'] for point in curve] == [0.3, 0.6, None]
  assert curve[0]['depth'] <= curve[1]['depth'] <= curve[2]['depth'] == 1.0
  assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
  ('policy', 'drawn_with', 'options'),
  [
    ('ponder_q', 'ponder_q', {}),
    ('dynamax', 'dynamax', {}),
    ('first_router', 'first_router', {}),
    ('sampled', 'threshold', {}),
    ('skipdecode', 'threshold', {'exits__level': 2.0}),
    ('never', 'threshold', {'eval__draft_blocks': 1}),
  ],
)
def test_a_curve_has_the_exits_of_its_config_and_no_drafts(policy, drawn_with, options, tmp_path, monkeypatch):
  from espo_jax.monitor import exit_plots
  from espo_jax.stages import results

  asked, names = [], []

  def evaluated(exp, params, name, *, exit_level, after_batch):
    asked.append((exp.model.exits, exp.config.eval.draft_blocks, exit_level))
    return {'depth': 1.0}

  monkeypatch.setattr(results, 'evaluate_params', evaluated)
  monkeypatch.setattr(exit_plots, 'plot_exit_curve', lambda curve, path, policy: names.append(policy))
  results.exit_curve(experiment(exits__policy=policy, calibration__levels=(0.3,), **options), {}, tmp_path)
  (by_level, drafts, level), whole = asked
  wanted, trial = exits.get(drawn_with)(), jnp.linspace(-2.0, 2.0, 9)
  assert (level, drafts, whole) == (0.3, 0, (None, 0, None)) and names == [drawn_with]
  assert by_level.kv_fill == wanted.kv_fill and by_level.schedule is None
  if wanted.hazard is not None:
    obs = exits.Observation(trial, jnp.linspace(0.0, 1.0, 9), trial, trial, lambda x: x, jnp.arange(9), trial)
    np.testing.assert_array_equal(by_level.hazard(obs, 0.3), wanted.hazard(obs, 0.3))
  else:
    np.testing.assert_array_equal(by_level.router(trial, 0.3), wanted.router(trial, 0.3))
