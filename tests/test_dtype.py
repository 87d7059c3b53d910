"""The dtype 'auto' is the machine's best, a run keeps the one that it began with, and a dtype that is named stays."""

import logging
import pathlib
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from espo_jax import parallel, train
from espo_jax.compile_check import Programs
from espo_jax.configs import ConfigError, best_dtype, default_config, validate, with_dtype
from espo_jax.experiment import make_experiment
from espo_jax.monitor import write_run_info
from espo_jax.stages.changes import changes_of
from espo_jax.stages.headline import headline

pytestmark = pytest.mark.quick


def named(dtype: str):
  config = default_config()
  config.model.dtype = dtype
  return config.lock()


@pytest.mark.parametrize(('platform', 'dtype'), [('cpu', 'float32'), ('tpu', 'bfloat16'), ('gpu', 'bfloat16')])
def test_auto_is_the_best_of_the_platform_and_the_default(platform, dtype):
  config = default_config()
  assert config.model.dtype == 'auto'
  config.rollout.prompt_width = 38  # the default task's longest prompt
  validate(config, training=False)
  assert with_dtype(config, platform).model.dtype == best_dtype(platform) == dtype
  assert with_dtype(config).model.dtype == 'auto'  # before the platform is known
  for explicit in ('float32', 'bfloat16', 'float16'):
    assert with_dtype(named(explicit), platform).model.dtype == explicit


@pytest.mark.parametrize(('platform', 'dtype'), [('cpu', 'float32'), ('gpu', 'bfloat16')])
def test_an_experiment_computes_in_it_whatever_the_weights_are_in(platform, dtype, monkeypatch):
  monkeypatch.setattr(parallel, 'find_devices', lambda: [SimpleNamespace(platform=platform)])
  config = default_config()
  config.model.param_dtype = 'bfloat16'
  exp = make_experiment(config)
  assert exp.config.model.dtype == exp.model.config.dtype == dtype
  assert exp.model.config.param_dtype == 'bfloat16' and config.model.dtype == 'auto'
  states, _ = jax.eval_shape(exp.model.prefill, exp.abstract_params(), np.zeros((1, 4), np.int32), np.full(1, 4, np.int32))
  assert states.policy.dtype == dtype


@pytest.mark.parametrize(
  ('dtype', 'told'),
  [
    ('auto', 'computes in float32: a CPU converts bfloat16; seed'),
    ('bfloat16', 'computes in bfloat16, which a CPU converts: float32 is faster; seed'),
    ('float16', 'computes in float16; seed'),
  ],
)
def test_the_first_line_of_a_run_tells_the_dtype(dtype, told):
  assert told in headline(make_experiment(named(dtype)), pathlib.Path('runs/x'))


def test_a_run_keeps_its_dtype_and_tells_when_the_platform_is_another(tmp_path, caplog):
  run = tmp_path / 'run'
  begun = train.dtype_of_run(default_config(), run, 'cpu')
  write_run_info(run, begun.to_dict())
  with caplog.at_level(logging.WARNING):
    changes_of(default_config(), run)  # 'auto' again, on whatever machine
    assert train.dtype_of_run(default_config(), run, 'cpu').model.dtype == 'float32'
    assert not caplog.records
    assert train.dtype_of_run(default_config(), run, 'tpu').model.dtype == 'float32'
  assert "model.dtype = 'float32' is kept" in caplog.text and 'a new run on tpu computes in bfloat16' in caplog.text
  caplog.clear()
  assert train.dtype_of_run(named('float32'), run, 'tpu').model.dtype == 'float32'
  assert not caplog.records  # it is named
  changes_of(named('float32'), run)
  with pytest.raises(ConfigError, match=r"model.dtype = 'bfloat16' was 'float32' in .*; fix: that value"):
    changes_of(named('bfloat16'), run)


@pytest.mark.parametrize(('platform', 'dtype'), [('tpu', 'bfloat16'), ('cpu', 'float32')])
def test_a_compile_check_takes_the_platform_of_its_slice(platform, dtype):
  mesh = mock.create_autospec(jax.sharding.Mesh, instance=True)
  mesh.devices, mesh.shape = np.array([[[SimpleNamespace(platform=platform)]]]), {'data': 1, 'fsdp': 1, 'tensor': 1}
  device = jax.sharding.AbstractDevice('a chip', num_cores=1, platform=platform)
  mesh.abstract_mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
  programs = Programs(default_config(), mesh)
  assert programs.model.config.dtype == programs.config.model.dtype == dtype
