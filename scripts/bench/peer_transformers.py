"""The contender transformers: `generate` on torch, which decodes a batch until all of its rows have ended."""

import time
from typing import Any

import numpy as np
import torch
import transformers

from bench import protocol, workload


class Forced(transformers.LogitsProcessor):
  """Makes the end token certain at each row's length and impossible before."""

  def __init__(self, lengths: torch.Tensor, width: int):
    """Stores the lengths of the batch's rows and the prompts' width."""
    self._lengths, self._width = lengths, width

  def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Changes the scores of the token after `input_ids` in place, and returns them."""
    ends = input_ids.shape[1] - self._width + 1 >= self._lengths
    scores[:, workload.END] = torch.where(ends, 1e9, -1e9)
    return scores


class Transformers:
  """The contender, with the methods that the benchmark calls."""

  def __init__(self, cache: str):
    """Chooses the cache: `dynamic`, `static`, or `compiled`, which is static with a decode step by torch.compile."""
    self._cache = cache
    self._settings: dict[str, Any] = {} if cache == 'dynamic' else {'cache_implementation': 'static'}
    if cache == 'compiled':  # by default `generate` compiles its decode step on accelerators only
      self._settings['compile_config'] = transformers.CompileConfig(mode='default')
      self._settings['compile_config']._compile_all_devices = True
    torch.set_num_threads(protocol.cores())
    transformers.logging.set_verbosity_error()

  def load(self, model: str) -> dict[str, Any]:
    """Reads the weights."""
    self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    cache = 'static cache, compiled decode step' if self._cache == 'compiled' else f'{self._cache} cache'
    settings = f'float32, {cache}, {self._model.config._attn_implementation}, {torch.get_num_threads()} threads'
    return {'versions': protocol.versions('torch', 'transformers', 'numpy'), 'settings': settings}

  @torch.inference_mode()
  def logits(self, rows: str) -> dict[str, Any]:
    """Returns the logits after the first prompt."""
    prompts = torch.from_numpy(workload.load(rows).prompts[:1]).long()
    return {'logits': self._model(prompts).logits[0, -1].tolist()}

  def warm(self, rows: str) -> dict[str, Any]:
    """Compiles what `run` runs, if the kind of cache compiles anything."""
    work = workload.load(rows)
    start = time.perf_counter()
    self._decode(work.with_lengths(np.minimum(work.lengths, 3)), 0, warming=True)
    return {'seconds': time.perf_counter() - start}

  def run(self, rows: str, seed: int) -> dict[str, Any]:
    """Decodes all rows."""
    work = workload.load(rows)
    start = time.perf_counter()
    lengths, executed = self._decode(work, seed)
    return {'seconds': time.perf_counter() - start, 'executed': executed, 'lengths': lengths.tolist()}

  @torch.inference_mode()
  def _decode(self, work: workload.Workload, seed: int, warming: bool = False) -> tuple[np.ndarray, int]:
    torch.manual_seed(seed)
    lengths, executed = [], 0
    batches = list(work.batches())
    for i in sorted({0, len(batches) - 1}) if warming else range(len(batches)):
      prompts = torch.from_numpy(work.prompts[batches[i]]).long()
      width = prompts.shape[1]
      tokens = self._model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=work.horizon,
        eos_token_id=workload.END,
        pad_token_id=workload.PAD,
        logits_processor=transformers.LogitsProcessorList([Forced(torch.from_numpy(work.lengths[batches[i]]), width)]),
        **self._settings,
      )[:, width:]
      lengths.append(workload.lengths_of(tokens.numpy()))
      executed += tokens.numel()
    return np.concatenate(lengths), executed


if __name__ == '__main__':
  protocol.serve(Transformers)
