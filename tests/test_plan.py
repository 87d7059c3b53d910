"""The memory that a run plans before its first stage, and its refusal of what does not fit."""

import contextlib
import pathlib
import re

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from talking import LINES, talking
from test_machine_messages import smoke
from tiny import first_params, tiny_experiment

from espo_jax import compile_check, train
from espo_jax.compile_check import plan
from espo_jax.configs import flatten
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.learner import init_state
from espo_jax.parallel.memory import free_bytes
from espo_jax.stages import rl
from espo_jax.stages.loop import Interrupted
from espo_jax.sweep import __main__ as sweep

AMPLE = 2**40


def one_arm(c) -> None:
  c.baselines, c.model.num_layers = (), 1
  c.rollout.update(prompts=4, samples=4, horizon=24)


@pytest.fixture(scope='module')
def planned():
  """A tiny experiment of one arm, and its plan where memory is ample."""
  exp = tiny_experiment(one_arm)
  return exp, plan.make_plan(exp, AMPLE)


@pytest.fixture
def cache(tmp_path):
  """A persistent cache of compiled programs that is empty at first. Its files are named after their programs."""
  options = {'jax_compilation_cache_dir': str(tmp_path / 'cache'), 'jax_persistent_cache_min_compile_time_secs': 0.0}
  before = {name: jax.config.values[name] for name in options}
  for values in (options, before):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    if values is options:
      jax.clear_caches()
      yield tmp_path / 'cache'


def compiled(cache: pathlib.Path) -> list[str]:
  """The names of the files of the planned programs."""
  names = (path.name for path in cache.iterdir() if path.name.endswith('-cache'))
  return sorted(name for name in names if re.match(r'jit_(generate|begin|go_on|prepare|update)-', name))


def test_the_peaks_are_those_of_compile_check(planned):
  exp, found = planned
  programs = compile_check.Programs(exp.config, exp.mesh, exp)
  assert tuple(found.peaks) == programs.names
  for name, peak in found.peaks.items():
    assert peak == pytest.approx(compile_check.check(programs, name, 1.0).peak, rel=1e-3)


def test_state_and_arms_are_counted(planned):
  exp, found = planned
  state = init_state(
    first_params(exp, 0), rl.reinforcement_learner(exp, make_rule(exp.config, 'never')).optimizer, plan_rule(exp)
  )
  assert found.parameters == sum(x.nbytes for x in jax.tree.leaves(state.params))
  assert found.moments == sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
  several = tiny_experiment(lambda c: (one_arm(c), c.update(baselines=('never',))))
  programs = compile_check.Programs(several.config, several.mesh, several)
  assert plan.measure(programs, 'prepare') == found.peaks['prepare'] + found.parameters + found.moments


def plan_rule(exp):
  return make_rule(exp.config, exp.config.stop.name)


@pytest.mark.parametrize(
  ('environment', 'fsdp', 'sampling'),
  [('', 2, ['generate']), ('retry', 1, ['begin', 'go_on']), ('retry', 2, ['begin', 'go_on'])],
)
def test_training_finds_the_planned_programs_in_the_cache(cache, environment, fsdp, sampling):
  exp = tiny_experiment(talking(environment, baselines=(), mesh__fsdp=fsdp, **LINES))
  found = plan.make_plan(exp, AMPLE)
  assert ('turn' in found.peaks) == bool(environment)
  before = compiled(cache)
  assert [name.partition('-')[0] for name in before] == [f'jit_{name}' for name in (*sampling, 'prepare', 'update')]
  jax.clear_caches()
  rule = plan_rule(exp)
  learner = rl.reinforcement_learner(exp, rule)
  state = init_state(first_params(exp, 0), learner.optimizer, rule, learner.turns)
  step = rl.reinforcement_step(exp, rule, None)
  for number in (1, 2):
    state, _ = step(exp.on_mesh(state), number)
  assert compiled(cache) == before


def changed_by(fix: plan.Fix):
  """The tiny experiment under the changes of a fix."""

  def configure(c) -> None:
    one_arm(c)
    c.update_from_flattened_dict(fix.changes)

  return tiny_experiment(configure)


@pytest.mark.parametrize('name', ['rollout', 'prepare'])
def test_a_program_alone_fits_below_its_peak_under_the_changes(planned, name):
  exp, found = planned
  limit = int(found.peaks[name]) - 1
  fix = plan.find_fix(exp, found._replace(peaks={name: found.peaks[name]}, limit=limit))
  assert fix.fits and fix.name == name
  changed = changed_by(fix)
  assert plan.measure(compile_check.Programs(changed.config, changed.mesh, changed), name) == fix.peak <= limit


def test_a_refusal_names_flags_with_which_all_programs_fit(planned):
  exp, found = planned
  limit = int(found.peaks['update']) - 1
  with pytest.raises(plan.DoesNotFit) as caught:
    plan.check_memory(exp, limit)
  told, fix = str(caught.value), caught.value.fix
  size = r'[\d.]+ [KM]iB'
  (flags,) = re.fullmatch(rf'memory: update takes {size} at its peak .* fix: (.*) \(the highest .*\)', told).groups()
  assert flags.split() == [f'--config.{field}={value}' for field, value in fix.changes.items()]
  again = plan.make_plan(changed_by(fix), limit)
  assert again.fits
  assert again.peaks[again.worst] == pytest.approx(fix.peak, rel=1e-3)


def test_where_nothing_fits_the_error_says_how_close_it_came(planned):
  exp, found = planned
  fix = plan.find_fix(exp, found._replace(limit=1), tries=2)
  assert not fix.fits
  assert fix.peak < found.peaks[found.worst]
  told = str(plan.DoesNotFit(found._replace(limit=1), fix))
  pattern = (
    rf'.* there are 1 bytes per device; nothing that was tried fits: with (.*) {fix.name} still takes [\d.]+ KiB; fix: .*'
  )
  flags = re.fullmatch(pattern, told)[1]
  assert flags.split() == [f'--config.{field}={value}' for field, value in fix.changes.items()]


def test_a_program_that_the_compiler_refuses_does_not_fit(planned, monkeypatch):
  exp, _ = planned
  programs = compile_check.Programs(exp.config, exp.mesh, exp)

  def refuses(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory')

  monkeypatch.setattr(compile_check.Programs, 'compile', refuses)
  peak = plan.measure(programs, 'update')
  assert peak == float('inf')
  assert 'update takes more than the compiler accepts at its peak' in str(
    plan.DoesNotFit(plan.Plan(1, 2, {'rollout': 3, 'update': peak}, 2**30), plan.Fix({}, 'update', peak, fits=False))
  )


GIB = 2**30
PLAN = plan.Plan(int(1.9 * GIB), int(3.7 * GIB), {'rollout': 4.1 * GIB, 'prepare': 3.9 * GIB, 'update': 10.6 * GIB}, 8 * GIB)


@pytest.mark.quick
def test_the_plan_is_one_line():
  assert plan.describe(PLAN) == (
    'memory per device: parameters 1.9 GiB, moments 3.7 GiB; peak of rollout 4.1 GiB, of prepare 3.9 GiB, of update 10.6 GiB; '
    'there are 8.0 GiB'
  )


@pytest.mark.quick
def test_the_error_names_the_program_and_the_flags():
  fix = plan.Fix({'learner.micro_batches': 4, 'model.remat': 'full'}, 'update', 7.0 * GIB, fits=True)
  error = plan.DoesNotFit(PLAN, fix)
  assert str(error) == (
    'memory: update takes 10.6 GiB at its peak and there are 8.0 GiB per device; fix: --config.learner.micro_batches=4 '
    '--config.model.remat=full (the highest peak is then 7.0 GiB, of update)'
  )
  assert "fix: 'learner.micro_batches': 4, 'model.remat': 'full' (" in error.told('{!r}: {!r}', ', ')


@pytest.mark.quick
@pytest.mark.parametrize('name', ['reshard', 'rollout', 'prepare', 'update'])
def test_suggestions_change_known_fields_and_adapters_come_last(name):
  config = smoke()
  suggested = plan.suggestions(config, name)
  assert suggested.keys() <= flatten(config).keys()
  assert list(suggested)[-1] == 'model.lora.rank'
  assert all(flatten(config)[field] != value for field, value in suggested.items())
  config.model.lora.rank = 4
  assert 'model.lora.rank' not in plan.suggestions(config, name)


# -------------------------------------------------------------------------------------------------------------- the command


def begin(monkeypatch, workdir: pathlib.Path, limit: int, **options) -> None:
  """Begins a run on a device with so many bytes, up to its first stage."""

  def stop(*_):
    raise Interrupted

  monkeypatch.setattr(train, 'warm_start', stop)
  monkeypatch.setattr(train, 'free_bytes', lambda devices: limit)
  with contextlib.suppress(Interrupted):
    train.train(smoke(), workdir, **options)


def test_a_run_says_its_plan_and_is_refused_before_its_config_is_kept(monkeypatch, tmp_path, capsys):
  peaks = {'rollout': 5e6, 'prepare': 6e6, 'update': 9e6}
  monkeypatch.setattr(plan, 'measure', lambda programs, name: peaks[name] / programs.config.learner.micro_batches)
  monkeypatch.setattr(plan, 'SMALL', 0.0)
  begin(monkeypatch, tmp_path / 'ample', 10**7)
  line = capsys.readouterr().out.splitlines()[1]
  assert re.fullmatch(
    r'memory per device: parameters [\d.]+ KiB, moments [\d.]+ KiB; peak of rollout 4.8 MiB, of prepare 5.7 MiB, '
    r'of update 8.6 MiB; there are 9.5 MiB',
    line,
  )
  with pytest.raises(plan.DoesNotFit, match=r'^memory: update takes 8.6 MiB .* fix: --config.learner.micro_batches=2 \('):
    begin(monkeypatch, tmp_path / 'scarce', 8 * 10**6)
  assert not (tmp_path / 'scarce' / 'config.json').exists()  # the run may begin with another config
  begin(monkeypatch, tmp_path / 'scarce', 8 * 10**6, check_memory=False)
  assert (tmp_path / 'scarce' / 'config.json').exists()


def test_a_small_model_and_a_run_without_reinforcement_are_not_checked(monkeypatch):
  monkeypatch.setattr(plan, 'measure', lambda *_: 1e18)
  config = smoke()
  exp = make_experiment(config)
  state = sum(plan.make_plan(exp, AMPLE)[:2])
  assert plan.check_memory(exp, 101 * state) is None
  with pytest.raises(plan.DoesNotFit):
    plan.check_memory(exp, 99 * state)
  config.stages = ('warm_start',)
  assert plan.check_memory(make_experiment(config), 99 * state) is None


def test_the_flag_switches_the_check_off(monkeypatch, tmp_path):
  seen = []
  monkeypatch.setattr(train, 'train', lambda *_, check_memory, **__: seen.append(check_memory))
  for value in (True, False):
    for name, given in (('CONFIG', smoke()), ('WORKDIR', str(tmp_path)), ('CACHE', ''), ('LOG', []), ('CHANGED', [])):
      monkeypatch.setattr(train, f'_{name}', named(name, given))
    monkeypatch.setattr(train, '_CHECK_MEMORY', named('check_memory', value))
    train.main(['train'])
  assert seen == [True, False]


def named(name, value):
  return type('Flag', (), {'name': name, 'value': value})


# --------------------------------------------------------------------------------------------------------------- the memory

UNLIMITED = '9223372036854771712'


@pytest.mark.quick
@pytest.mark.parametrize(
  ('groups', 'limits', 'free'),
  [
    ('', {}, 3 * GIB),
    ('0::/job/step', {'memory.max': 'max', 'job/memory.max': str(2 * GIB), 'job/step/memory.max': 'max'}, 2 * GIB - 4096 * 100),
    ('0::/', {'memory.max': str(GIB)}, GIB - 4096 * 100),
    ('0::/', {'memory.max': str(5 * GIB)}, 3 * GIB),
    ('4:memory:/x\n1:cpu:/', {'memory/memory.limit_in_bytes': UNLIMITED, 'memory/x/memory.limit_in_bytes': '409601'}, 1),
    ('0::/', {'memory.max': '4096'}, 0),
  ],
)
def test_a_cpu_has_what_is_available_within_the_limits_of_its_groups(tmp_path, monkeypatch, groups, limits, free):
  monkeypatch.setattr('os.sysconf', {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 2**24}.get)
  files = {f'sys/fs/cgroup/{name}': text for name, text in limits.items()}
  files |= {'proc/self/cgroup': groups, 'proc/self/statm': '900 100 50 1 0 60 0'}
  files |= {'proc/meminfo': f'MemTotal: 16777216 kB\nMemAvailable:    {3 * 2**20} kB\n'}
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text + '\n' * bool(text))
  assert free_bytes(1, tmp_path) == free
  assert free_bytes(2, tmp_path) == free // 2


@pytest.mark.quick
def test_a_system_without_these_files_has_the_memory_of_the_host(tmp_path, monkeypatch):
  monkeypatch.setattr('os.sysconf', {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 2**20}.get)
  assert free_bytes(4, tmp_path) == GIB


def test_a_comparison_that_does_not_fit_names_fields_of_its_file(monkeypatch, tmp_path):
  def refused(*_):
    raise plan.DoesNotFit(PLAN, plan.Fix({'model.remat': 'full'}, 'update', 7.0 * GIB, fits=True))

  monkeypatch.setattr(sweep, 'compare_arms', refused)
  with pytest.raises(SystemExit, match=r"^error: in common of x.py: memory: update .*; fix: 'model.remat': 'full' \("):
    sweep.main(['--sweep=x.py', f'--workdir={tmp_path}', '--compilation_cache_dir='])
