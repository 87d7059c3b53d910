"""Malformed inputs by a seeded fuzzer: flags, config.json, data, models, tokenizers, recordings, report folders and plugins.

Each case begins with a valid file, and changes bytes of it, cuts it, or changes values of its JSON: types, huge numbers, other
alphabets, names that occur twice. A process reads it under a deadline and a limit on memory. A case holds if the file is read,
or refused by an error that names the file or a field; a crash, a hang, any other error and a file that was executed do not.
"""

import functools
import io
import json
import os
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np

from drills import small
from drills.jobs import ROOT
from drills.record import Case
from espo_jax import convert, monitor
from espo_jax.configs import default_config
from espo_jax.tasks.grading.process import WorkerProcess

AIM = 'each input is read, or refused by an error that names its file or field; no hang, no crash, nothing is executed'
COUNT = 500
DEADLINE = 120.0  # seconds for a file, most of which are for compiling on a busy machine
ACT = '__import__("pathlib").Path("executed").touch()'
VALUES: tuple[Any, ...] = (
  None, True, 0, -1, 10**400, 2**63, 1e308, 1e-320, float('inf'), float('nan'), '', 'x' * 100_000, '\u202e\ud800', '\x00', [],
  {}, [[[[]]]], {'a': {'a': {}}}, [0] * 1000, ACT, '{{ x.__class__ }}', '../../etc/passwd', '/dev/zero', -0.5, 3, '3',
)  # fmt: skip
FIELD = rf'[a-z_]+(\.\S+)+ = |\b({"|".join(default_config())}) = |--[a-z]'  # a field or a flag in an error
FLAGS = {
  '--config.seed': '1', '--config.rollout.samples': '4', '--config.learner.learning_rate': '1e-5', '--config.stop.name': 'espo',
  '--config.objective.name': 'grpo', '--config.reward.name': 'correct', '--config.stages': "('rl',)", '--config.model.dtype':
  'float32', '--config.calibration.levels': '(0.5,)', '--config.data.path': 'x.jsonl', '--config.mesh.data': '1',
}  # fmt: skip


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Reads `count` malformed inputs, of all kinds in turn.

  Args:
    folder: An empty folder.
    count: The number of inputs.
    seed: The seed of the fuzzer.
    figures: The dict that gets the numbers of inputs that were read, refused and neither.
  """
  bases = _bases(folder / 'valid')
  place = pathlib.Path(__file__)
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': f'{ROOT}:{place.parents[1]}'}
  reader = WorkerProcess(
    place.with_name('reader.py'), [], deadline=DEADLINE, recycle_after=200, fix='see its imports', environment=environment
  )
  counts = dict.fromkeys(('read', 'refused', 'crashed', 'timeout', 'error'), 0)
  try:
    for kind, path in bases.items():
      outcome, message = _ask(reader, kind, path)
      assert outcome == 'read', f'the valid {kind} is {outcome}: {message}'
    for number in range(count):
      kind = list(bases)[number % len(bases)]
      rng = random.Random(f'{seed} {number}')
      case = folder / f'{number:04d}-{kind}' / bases[kind].name
      case.parent.mkdir()
      (shutil.copytree if bases[kind].is_dir() else shutil.copy)(bases[kind], case)
      done = _change(kind, case, rng)
      outcome, message = _ask(reader, kind, case)
      counts[outcome] += 1
      wrong = _judged(outcome, message, case)
      yield Case(f'{number}: {done}: {outcome}', not wrong, wrong)
      shutil.rmtree(case.parent)
  finally:
    reader.stop()
  executed = list(folder.rglob('executed')) + [path for path in (pathlib.Path('executed'), ROOT / 'executed') if path.exists()]
  yield Case('nothing was executed', not executed, str(executed))
  figures.update(counts)


def _ask(reader: WorkerProcess, kind: str, path: pathlib.Path) -> tuple[str, str]:
  reply, status = reader.ask([kind, str(path)])
  return (status, '') if reply is None else (reply[0], reply[1])


def _judged(outcome: str, message: str, case: pathlib.Path) -> str:
  """Returns what is wrong with an outcome; '' if nothing is."""
  if outcome == 'read':
    return ''
  if outcome != 'refused':
    return message or f'the process ended: {outcome}'
  named = _named(message, case.parent)
  return '' if named and len(message) < 20_000 else f'the error names neither file nor field, or is too long: {message[:500]}'


def _named(message: str, folder: pathlib.Path) -> bool:
  """Returns whether an error names the folder of a case, a file below it, a field or a flag."""
  files = [path.name for path in folder.rglob('*') if path.is_file()]
  return any(name in message for name in (str(folder), *files)) or re.search(FIELD, message) is not None


# --------------------------------------------------------------------------------------------------------- what is valid


def _bases(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Writes a valid file or folder of each kind."""
  run = small.trained()
  folder.mkdir()
  (folder / 'flags.json').write_text(json.dumps([f'--config={ROOT}/experiments/quickstart.py']))
  rows = [{'question': f'{i} + 1?', 'answer': f'One more.\n#### {i + 1}', 'n': [i, {'deep': 1.5}]} for i in range(12)]
  (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  shutil.copytree(run, folder / 'run', ignore=shutil.ignore_patterns('checkpoints', 'tensorboard', 'plots', 'report.html'))
  shutil.copytree(run / 'arms/espo/rollouts', folder / 'recordings')
  for path in [*(folder / 'recordings').iterdir(), *(folder / 'run').rglob('*.npz')]:
    arrays = dict(np.load(path))
    arrays['correct'] = (np.arange(len(arrays['correct'])) % 2).astype(arrays['correct'].dtype)  # some are right
    monitor.atomic_write_arrays(path, arrays)
  convert.convert(run, folder / 'model')
  _write_gguf(folder / 'model.gguf')
  shutil.copy(ROOT / 'experiments/plugins/few_words.py', folder / 'plugin.py')
  names = {'flags': 'flags.json', 'config': 'run/config.json', 'rows': 'rows.jsonl', 'model': 'model', 'gguf': 'model.gguf',
           'tokenizer': 'run/tokenizer', 'recordings': 'recordings', 'report': 'run', 'plugin': 'plugin.py'}  # fmt: skip
  return {kind: folder / name for kind, name in names.items()}


def _write_gguf(path: pathlib.Path) -> None:
  rng, width, inner, words = np.random.default_rng(0), 32, 64, [*'abcdefghi', 'ab', '<s>', '</s>']
  writer = gguf.GGUFWriter(path, 'llama')
  sizes = {'block_count': 1, 'context_length': 64, 'embedding_length': width, 'feed_forward_length': inner}
  sizes |= {'attention.head_count': 2, 'attention.head_count_kv': 2, 'vocab_size': len(words), 'rope.dimension_count': 16}
  for name, value in sizes.items():
    writer.add_uint32(f'llama.{name}', value)
  writer.add_float32('llama.attention.layer_norm_rms_epsilon', 1e-5)
  writer.add_float32('llama.rope.freq_base', 1e4)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('llama-bpe')
  writer.add_token_list(words)
  writer.add_token_types([1] * 10 + [3] * 2)
  writer.add_token_merges(['a b'])
  writer.add_bos_token_id(10)
  writer.add_eos_token_id(11)
  shapes = {'token_embd': (len(words), width), 'output': (len(words), width), 'output_norm': (width,)}
  shapes |= {f'blk.0.{name}': (width,) for name in ('attn_norm', 'ffn_norm')}
  shapes |= {f'blk.0.attn_{name}': (width, width) for name in ('q', 'k', 'v', 'output')}
  shapes |= {'blk.0.ffn_gate': (inner, width), 'blk.0.ffn_up': (inner, width), 'blk.0.ffn_down': (width, inner)}
  for name, shape in shapes.items():
    writer.add_tensor(f'{name}.weight', rng.normal(size=shape).astype(np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


# -------------------------------------------------------------------------------------------------------------- the fuzzer


def _change(kind: str, case: pathlib.Path, rng: random.Random) -> str:
  """Changes one file of a case, and returns what was done."""
  if kind == 'flags':
    value = rng.choice([*map(str, VALUES), _bytes(rng.choice(list(FLAGS.values())).encode(), rng).decode(errors='replace')])
    flag = rng.choice(list(FLAGS))
    word = rng.choice([f'{flag}={value}', f'{flag}{rng.choice(["", "=", "s=1", ".x=1"])}', f'--config.{value}=1', value])
    case.write_text(json.dumps([*json.loads(case.read_text()), word.replace('\x00', '')]))
    return f'flags {word[:60]!r}'
  files = sorted(path for path in case.rglob('*') if path.is_file()) if case.is_dir() else [case]
  path = rng.choice(files)
  raw = path.read_bytes()
  how: Callable[[bytes, random.Random], bytes] = _bytes
  if path.suffix in ('.json', '.jsonl') and rng.random() < 0.7:
    how = functools.partial(_json, lines=path.suffix == '.jsonl')
  elif path.suffix == '.safetensors' and rng.random() < 0.6:
    how = _header
  elif path.suffix == '.npz' and rng.random() < 0.6:
    how = _arrays
  path.write_bytes(how(raw, rng))
  return f'{kind}, {path.relative_to(case.parent)} by {getattr(how, "__name__", "_json")}'


def _bytes(raw: bytes, rng: random.Random) -> bytes:
  """Changes bytes, mostly near the start, where lengths and names are."""
  changed = bytearray(raw)
  for _ in range(rng.choice([1, 1, 2, 8])):
    at = rng.randrange(max(1, len(changed) if rng.random() < 0.4 else min(300, len(changed))))
    match rng.randrange(6):
      case 0:
        changed[at : at + 1] = bytes([rng.randrange(256)])
      case 1:
        del changed[at:]
      case 2:
        del changed[at : at + rng.randrange(1, 50)]
      case 3:
        changed[at:at] = changed[at : at + rng.randrange(1, 200)]
      case 4:
        changed[at : at + 8] = rng.choice([b'\xff' * 8, bytes(8), b'\x80' * 8, (2**40).to_bytes(8, 'little')])
      case 5:
        changed[at:at] = rng.choice(['\u202e', '\ufeff', '🙂' * 50, '[' * 100_000, '"', '\\ud800', '\r\n', ACT]).encode()
  return bytes(changed)


def _json(raw: bytes, rng: random.Random, lines: bool = False) -> bytes:
  """Changes a value or a name somewhere in JSON."""
  rows = raw.decode().splitlines() if lines else [raw.decode()]
  chosen = rng.randrange(len(rows)) if rows else 0
  value = json.loads(rows[chosen])
  holder: Any = value
  while isinstance(holder, dict | list) and holder:
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.3:
      match rng.randrange(5):
        case 0:
          del holder[key]
        case 1 if isinstance(holder, dict):
          holder[rng.choice(['', 'x', f'{key}s', '__class__', '\u202e'])] = holder.pop(key)
        case _:
          holder[key] = rng.choice(VALUES)
      break
    holder = holder[key]
  rows[chosen] = json.dumps(value)
  if rng.random() < 0.15:
    rows[chosen] = re.sub(r'"(\w+)": ', r'"\1": 7, "\1": ', rows[chosen], count=1)  # a name twice
  return '\n'.join(rows).encode()


def _arrays(raw: bytes, rng: random.Random) -> bytes:
  """Changes one array of a NumPy archive: its shape, its type, a value, or whether it is there."""
  arrays = dict(np.load(io.BytesIO(raw)))
  name = rng.choice(list(arrays))
  array = arrays.pop(name)
  shapes = [None, array[None], array.ravel(), array[:0] if array.ndim else array, array.T]
  values = [np.full_like(array, -1), array.astype('U9'), array.astype(bool), array * np.nan, array.astype(np.int64) + 2**40]
  changed = rng.choice(shapes + values)
  out = io.BytesIO()
  np.savez(out, **(arrays if changed is None else {**arrays, name: changed}))
  return out.getvalue()


def _header(raw: bytes, rng: random.Random) -> bytes:
  """Changes the JSON header of a safetensors file, with a length that fits."""
  size = int.from_bytes(raw[:8], 'little')
  header = _json(raw[8 : 8 + size], rng)
  return len(header).to_bytes(8, 'little') + header + raw[8 + size :]
