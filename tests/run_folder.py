"""Writes folders as `espo_jax.train` leaves them, without a training."""

import json
import pathlib
import runpy

import numpy as np
from small import randomised

from espo_jax import monitor, tasks
from espo_jax.experiment import make_experiment, make_rule
from espo_jax.learner import Checkpoints, init_state
from espo_jax.stages.warm_start import supervised_learner
from espo_jax.types import StopReason

ROOT = pathlib.Path(__file__).parents[1]

HOSTILE = (
  '<script>window.pwned = 1</script>',
  '</script></title><img src=x onerror="window.pwned = 1">',
  '<!-- ]]> <!--<script>',
  '\u202ereversed\u2066 and \x00\x1b[31m',
  '\ud800 alone',
  '@DATA@ @PLOTLY@ &lt;b&gt;',
  'x' * 1_000_000,
)


def example(tokens, *, question='1+1?', reason='eos', correct=True, length=None, seed=0, **changes):
  """A rollout as `examples.json` has it."""
  rng, count = np.random.default_rng(seed), len(tokens)
  names = ('regret', 'z', 'values', 'logprobs', 'entropy')
  return {
    'question': question,
    'prompt': question,
    'tokens': list(tokens),
    **{name: rng.normal(0, 1, count).tolist() for name in names},
    'threshold': [2.0] * count,
    'length': count if length is None else length,
    'full_length': count,
    'stop_reason': reason,
    'answer': '2',
    'correct': correct,
  } | changes


def write_run(folder: pathlib.Path, arms=('never', 'espo'), updates=40, examples=(), done=True, **config) -> pathlib.Path:
  """Writes a run with made-up metrics.

  Args:
    folder: Its folder.
    arms: Its arms.
    updates: The updates of each arm.
    examples: The rollouts after training of the last arm.
    done: Whether the run is finished.
    **config: Fields of the config, with two underscores for a dot.
  """
  fields = {'baselines': list(arms[:-1]), 'learner': {'updates': updates}, 'stop': {'name': arms[-1]}}
  for name, value in config.items():
    section, dot, field = name.partition('__')
    (fields.setdefault(section, {}) if dot else fields)[field or name] = value
  monitor.write_run_info(folder, fields, 'cpu')
  result = {'accuracy': 0.75, 'correct': 48, 'problems': 64, 'greedy_accuracy': 0.5, 'greedy_correct': 32, 'tokens_mean': 9.0}
  monitor.atomic_write_text(folder / 'warm_start/evaluation.json', json.dumps(result))
  for place, arm in enumerate(arms):
    rng, lines, decoded = np.random.default_rng(place), [], 0
    for step in range(1, updates + 1):
      decoded += 1000 - 200 * place
      line = {
        'step': step,
        'accuracy': float(np.tanh(step / 20)),
        'accuracy_unstopped': None if step == 3 else float(rng.random()),
        'rollout/tokens': 1000.0 - 200 * place,
        'rollout/rows': 100.0,
        'rollout/decoded': decoded,
        'rollout/length_mean': 10.0 - 2 * place,
        'seconds/rollout': 0.5,
        'seconds/update': 1.5,
        'stop/enabled': 1.0,
        'stop/rate': 0.2 * place,
        'stop/beta': 2.0,
        'stop/shadow_rows': 10.0 * place,
        'stop/shadow_correct': 1.0 * place,
        'entropy': 0.1,
      }
      if step % 10 == 0:
        line |= {'eval/accuracy': step / 100, 'eval/greedy_accuracy': step / 80}
      lines.append(json.dumps(line) + '\n')
    monitor.atomic_write_text(folder / 'arms' / arm / 'metrics.jsonl', ''.join(lines))
    if done:
      monitor.atomic_write_text(folder / 'arms' / arm / 'evaluation.json', json.dumps(result))
  if examples:
    monitor.atomic_write_text(folder / 'arms' / arms[-1] / 'examples.json', json.dumps(list(examples)))
  if done:
    monitor.atomic_write_text(folder / 'summary.json', '{}')
  return folder


def write_random_run(folder: pathlib.Path) -> pathlib.Path:
  """Writes a run with a checkpoint of the arm `espo`, whose policy is random."""
  config = runpy.run_path(str(ROOT / 'experiments' / 'quickstart.py'))['get_config']('smoke')
  config.mesh.data = -1
  monitor.write_run_info(folder, config.to_dict())
  exp = make_experiment(config)
  params = exp.put(randomised(exp.abstract_params(), seed=3))
  with Checkpoints(folder / 'arms/espo/checkpoints') as checkpoints:
    checkpoints.save(1, init_state(params, supervised_learner(exp).optimizer, make_rule(config, 'never')), done=True)
  return folder


def write_recording(folder: pathlib.Path, arm: str, update: int, texts, prompts, **changes) -> None:
  """Writes a rollout of training as `rollout.record` does, of the characters of chain arithmetic."""
  tokenizer = tasks.get('chain').tokenizer()
  if not (folder / 'tokenizer').exists():
    tokenizer.save_pretrained(folder / 'tokenizer')
  rows, asked = ([tokenizer.encode(text, add_special_tokens=False) for text in many] for many in (texts, prompts))
  width, room = max(map(len, rows)), max(map(len, asked)) + 2
  count, lengths = len(rows), np.array([len(row) for row in rows], np.int32)
  rng = np.random.default_rng(update)
  arrays = {
    'tokens': np.array([row + [0] * (width - len(row)) for row in rows], np.int32),
    'prompt': np.array([[0] * (room - len(row)) + row for row in asked], np.int32),
    'prompt_length': np.array([len(row) for row in asked], np.int32),
    **{name: rng.normal(0, 1, (count, width)).astype(np.float32) for name in ('regret', 'logprobs', 'values', 'z')},
    'threshold': np.full((count, width), 2, np.float32),
    'length': lengths,
    'full_length': lengths,
    'ended': np.ones(count, bool),
    'correct': np.ones(count, np.float32),
    'stopped': np.zeros(count, bool),
    'stop_reason': np.full(count, StopReason.EOS, np.int32),
    'shadow': np.zeros(count, bool),
    'mu': np.float32(0),
    'var': np.float32(1),
    'samples': np.int32(1),
    'shadow_share': np.float32(0.25),
  } | changes
  monitor.atomic_write_arrays(folder / 'arms' / arm / 'rollouts' / f'{update:06d}.npz', arrays)
