"""Files that strangers may have made are data: nothing unpickles them, evaluates them or runs what they hold."""

import ast
import pathlib
import pickle

import numpy as np
import pytest

from espo_jax.replay.recordings import RecordingsError, read_recordings

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(path for folder in ('espo_jax', 'experiments', 'scripts') for path in (ROOT / folder).rglob('*.py'))
UNPICKLING = {'pickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve', 'yaml'}
# A process pickles entries of a data set, and a process of the same run unpickles them. No file holds any.
OWN_PIPES = {'espo_jax/tasks/gym_worker.py', 'espo_jax/tasks/reasoning_gym.py'}
RUNS_FILES = {  # each runs a file of the package, or one that its user named in a flag
  'espo_jax/configs/reading.py',
  'espo_jax/environments/worker.py',
  'espo_jax/registry.py',
  'espo_jax/sweep/plan.py',
  'espo_jax/sweep/spec.py',
  'espo_jax/tasks/gym_worker.py',
  'espo_jax/tasks/grading/worker.py',
  'espo_jax/tasks/verifiers_rows.py',
  'espo_jax/rewards/text_worker.py',
}
FLAGS = {'trust_remote_code': True, 'allow_pickle': True, 'shell': True, 'weights_only': False}


def name_of(node: ast.expr) -> str:
  """The dotted name of what is called; '' if it has none."""
  return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ''


def found(source: str) -> set[str]:
  """What a module does that could run the data it reads."""
  acts = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      acts |= {alias.name for alias in node.names} & UNPICKLING
    elif isinstance(node, ast.ImportFrom) and node.module:
      acts |= {node.module.split('.')[0]} & UNPICKLING
    elif isinstance(node, ast.Call):
      name = name_of(node.func)
      acts |= {name} & {'eval', 'exec', '__import__', 'os.system', 'os.popen', 'torch.load'}
      acts |= {name.rpartition('.')[2]} & {'exec_module', 'run_path', 'run_module'}
      for keyword in node.keywords:
        if keyword.arg in FLAGS and not (
          isinstance(keyword.value, ast.Constant) and keyword.value.value is not FLAGS[keyword.arg]
        ):
          acts.add(f'{keyword.arg}={ast.unparse(keyword.value)}')
  return acts


@pytest.mark.parametrize(
  ('source', 'act'),
  [
    ('import pickle', 'pickle'),
    ('from dill import loads', 'dill'),
    ('import a, marshal as m', 'marshal'),
    ('eval(text)', 'eval'),
    ('def f(x):\n  exec(x)', 'exec'),
    ('np.load(path, allow_pickle=True)', 'allow_pickle=True'),
    ('AutoModel.from_pretrained(path, trust_remote_code=flag)', 'trust_remote_code=flag'),
    ('torch.load(path)', 'torch.load'),
    ('spec.loader.exec_module(module)', 'exec_module'),
    ('subprocess.run(x, shell=True)', 'shell=True'),
  ],
)
def test_the_search_finds_each_kind(source, act):
  assert found(source) == {act}
  assert found('np.load(path, allow_pickle=False); model.eval(); re.compile(x)') == set()


def test_no_module_unpickles_or_runs_data():
  acts = {str(path.relative_to(ROOT)): found(path.read_text()) for path in SOURCES}
  assert {name for name, its in acts.items() if 'pickle' in its} == OWN_PIPES
  package = {name for name, its in acts.items() if its & {'exec_module', 'run_path'} and name.startswith('espo_jax/')}
  assert package == RUNS_FILES  # outside of the package experiments run each other
  others = {name: its - {'pickle', 'exec_module', 'run_path'} for name, its in acts.items()}
  assert {name: its for name, its in others.items() if its} == {}


class Acts:
  """What it pickles to makes a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (pathlib.Path.touch, (self.path,))


def test_a_recording_that_holds_a_pickle_is_refused_and_not_unpickled(tmp_path):
  acted = tmp_path / 'acted'
  pickle.loads(pickle.dumps(Acts(acted)))
  assert acted.exists()  # it would act
  acted.unlink()
  (tmp_path / 'rollouts').mkdir()
  np.savez(tmp_path / 'rollouts/000001.npz', regret=np.array([Acts(acted)], dtype=object))
  with pytest.raises(RecordingsError, match=r'000001.npz: no NumPy archive .*allow_pickle=False'):
    read_recordings(tmp_path)
  assert not acted.exists()
