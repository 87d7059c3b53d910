"""Writes the pages of the benchmarks with commit and hardware."""

import os
import pathlib
import platform
import shlex
from typing import Any

from bench import protocol
from espo_jax import monitor

_NAMES = {
  'espo_jax': 'espo_jax',
  'masked_scan': 'masked scan to the horizon',
  'transformers_dynamic': 'transformers `generate`, dynamic cache',
  'transformers_static': 'transformers `generate`, static cache',
  'transformers_compiled': 'transformers `generate`, static cache, compiled decode step',
  'tunix': "tunix's sampler",
}
_HEADS = {'skewed': 'Log-normal lengths', 'equal': 'Equal lengths: the best case of a sampler that waits for the longest row'}


def environment(command: str, argv: list[str]) -> dict[str, Any]:
  """Returns the command, the commit, the package versions and the hardware."""
  known = monitor.describe()
  cpu = next((v.strip() for k, _, v in (x.partition(':') for x in _lines('/proc/cpuinfo')) if k.strip() == 'model name'), None)
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
  return {
    'command': ' '.join([command, *map(shlex.quote, argv)]),
    'git': known['git'],
    'versions': known['versions'],
    'hardware': {'cpu': cpu or platform.processor(), 'cores': protocol.cores(), 'memory_gib': round(memory, 1)},
  }


def header(about: dict[str, Any]) -> list[str]:
  """Returns the lines of a page that give command, commit and hardware."""
  git, hardware = about['git'] or {}, about['hardware']
  commit = git.get('commit', 'unknown')[:12] + (' with changes' if git.get('dirty') else '')
  machine = f'{hardware["cores"]} cores of {hardware["cpu"]}, {hardware["memory_gib"]} GiB'
  return [f'    {about["command"]}', '', f'Commit {commit}; {machine}, no accelerator.']


def write(path: pathlib.Path, results: dict[str, Any], lines: list[str]) -> None:
  """Writes the results to PATH.json, and the page to PATH.md. The path's name may have dots."""
  monitor.atomic_write_text(monitor.ending(path, '.json'), monitor.to_json(results, indent=1) + '\n')
  monitor.atomic_write_text(monitor.ending(path, '.md'), '\n'.join(lines) + '\n')


def number(estimate: dict[str, Any], digits: int = 1) -> str:
  """Formats an estimate as `mean ± half width`, or as the mean alone if there is a single value."""
  half = estimate['half_width']
  return f'{estimate["mean"]:.{digits}f}' + (f' ± {half:.{digits}f}' if half != float('inf') else '')


def rollout(results: dict[str, Any]) -> list[str]:
  """Returns the page of the rollout's benchmark."""
  model, seeds = results['model'], results['seeds']
  lines = ['# The rollout against others', '', *header(results)]
  lines += [
    f'Model: Qwen2-shaped, {model["parameters"] / 1e6:.1f} million random float32 parameters, {_shape(model)}.',
    f'Seeds: weights {seeds["model"]}, lengths and prompts {seeds["workload"]}, sampling {seeds["sampling"]} plus the repeat.',
    '',
    f'± is half the 95 % interval over {results["repeats"]} repeats (Student t). The contenders take turns, each in its own',
    'process, after a warm-up that compiles. Every response has exactly the length that its prompt encodes: the end token is',
    'certain there and impossible before. All other tokens are sampled at temperature 1. Tokens/s counts the tokens of the',
    'responses. Utilisation is their share of the executed row-steps. Ratios are taken within a repeat.',
  ]
  entries = [
    entry
    for case in results['cases'].values()
    for entry in [case, *case.get('contenders', {}).values(), *case.get('levels', {}).values()]
  ]
  foreign = max((cores for entry in entries for cores in entry.get('foreign_cores', [])), default=0.0)
  lines += ['', f'In every run, other processes including the system took at most {foreign:.2f} cores on average.']
  for case in _HEADS:
    if case in results['cases']:
      lines += ['', f'## {_HEADS[case]}', '', *_comparison(results['cases'][case])]
  if 'rule' in results['cases']:
    lines += ['', '## What the stop rule costs', '', *_rule(results['cases']['rule'])]
  if 'stopped' in results['cases']:
    lines += ['', '## What stops save', '', *_stopped(results['cases']['stopped'])]
  return lines


def _shape(model: dict[str, Any]) -> str:
  return (
    f'vocabulary {model["vocab_size"]}, hidden {model["hidden_size"]}, intermediate {model["intermediate_size"]}, '
    f'{model["num_layers"]} layers, {model["num_heads"]} heads over {model["num_kv_heads"]} of {model["head_dim"]}'
  )


def _rows(work: dict[str, Any]) -> str:
  return (
    f'{work["rows"]} rows, {work["samples"]} per prompt, on {work["slots"]} slots, prompts of {work["prompt_tokens"]} tokens, '
    f'horizon {work["horizon"]}, mean length {work["mean_length"]:.1f}'
  )


def _comparison(case: dict[str, Any]) -> list[str]:
  work, contenders = case['workload'], case['contenders']
  lines = [
    f'{_rows(work)}. Greedy list scheduling fills a slot the moment it is free. Its utilisation would be '
    f'{work["list_scheduling_utilisation"]:.3f}.',
    '',
    '| | tokens/s | espo_jax is faster by | utilisation | row-steps / list scheduling | ms per step | peak memory, MiB |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, its in contenders.items():
    cells = [
      _NAMES[name] + (' (the fastest)' if name == case['transformers'] else ''),
      number(its['tokens_per_second'], 0),
      number(its['ours_is_faster_by'], 2) if name != 'espo_jax' and 'ours_is_faster_by' in its else '',
      f'{its["utilisation"]:.3f}',
      f'{its["executed_over_list_scheduling"]:.3f}',
      number(its['milliseconds_per_step']),
      f'{its["peak_rss_mib"]:.0f}',
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  lines += ['', f'A step is {work["slots"]} row-steps. Its time includes the prefill.']
  lines += [f'{_NAMES[name]} is left out: {reason}.' for name, reason in case['left_out'].items()]
  lines += ['', "| | settings | versions | largest difference of the first prompt's logits to ours |", '|---|---|---|---|']
  for name, its in contenders.items():
    versions = ', '.join(f'{package} {version}' for package, version in its['versions'].items())
    gap = f'{its["largest_logit_gap_to_ours"]:.1e}' if 'largest_logit_gap_to_ours' in its else ''
    lines.append(f'| {_NAMES[name]} | {its["settings"]} | {versions} | {gap} |')
  return lines


def _rule(case: dict[str, Any]) -> list[str]:
  return [
    f"{_rows(case['workload'])}. The cost of ESPO's rule with a threshold that is never reached, against no rule:",
    f'{number(case["cost_percent"], 2)} % of the time, {number(case["cost_microseconds_per_step"])} microseconds per step',
    f'({len(case["cost_percent"]["values"])} pairs, {number(case["seconds_without"], 2)} s without, '
    f'{number(case["seconds_with"], 2)} s with).',
  ]


def _stopped(case: dict[str, Any]) -> list[str]:
  lines = [
    f'{_rows(case["workload"])}. A rule stops some rows partway. The same compiled program runs for all stop rates.',
    '',
    '| rows stopped % | tokens ended % | row-steps ended % | time ended % | seconds |',
    '|---|---|---|---|---|',
  ]
  for its in case['levels'].values():
    shares = [f'{its[f"{what}_percent"]:.1f}' for what in ('rows_stopped', 'tokens_ended', 'row_steps_ended')]
    lines.append('| ' + ' | '.join([*shares, number(its['time_ended_percent']), number(its['seconds'], 2)]) + ' |')
  return lines


def _lines(path: str) -> list[str]:
  file = pathlib.Path(path)
  return file.read_text().splitlines() if file.exists() else []
