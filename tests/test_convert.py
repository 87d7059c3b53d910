"""A trained policy leaves as a Hugging Face directory, and says the same there."""

import pathlib

import jax
import numpy as np
import pytest
import torch
import transformers
from run_folder import write_random_run

from espo_jax import convert, stops
from espo_jax.configs import validate
from espo_jax.evaluate.policies import open_policy
from espo_jax.experiment import make_experiment


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """A run of the quickstart's smallest form with a random policy, its experiment and parameters, and what was written of it."""
  workdir = write_random_run(tmp_path_factory.mktemp('convert') / 'run')
  convert.main([f'--checkpoint={workdir}', f'--output={workdir}-hf'])
  policy = open_policy(workdir)
  validate(policy.config, training=False)
  exp = make_experiment(policy.config)
  return exp, policy.load(exp), pathlib.Path(f'{workdir}-hf')


def test_greedy_text_is_that_of_transformers_generate(exported):
  exp, params, directory = exported
  tokenizer = transformers.AutoTokenizer.from_pretrained(directory, padding_side='left')
  model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
  problems = exp.problems('test', 0, 16)
  never = stops.never()
  greedy = exp.sampler.plain(samples=1, temperature=0.0)
  rows = greedy(params, never, never.init(1).adaptive, exp.prompts(problems), exp.key('test', 0))
  ours = [
    tokenizer.decode(row[:length], skip_special_tokens=True)
    for row, length in zip(*jax.device_get((rows.tokens, rows.length)), strict=True)
  ]
  batch = tokenizer([problem.prompt for problem in problems], return_tensors='pt', padding=True, add_special_tokens=False)
  with torch.no_grad():
    out = model.generate(
      input_ids=batch['input_ids'],
      attention_mask=batch['attention_mask'],
      max_new_tokens=exp.config.rollout.horizon,
      do_sample=False,
    )
  theirs = tokenizer.batch_decode(out[:, batch['input_ids'].shape[1] :], skip_special_tokens=True)
  assert theirs == ours
  assert len(set(ours)) > 1 and any(np.asarray(rows.stop_reason) == 1)  # there are several answers, and some end


def test_what_cannot_be_converted_is_said(exported):
  _, _, directory = exported
  with pytest.raises(SystemExit, match=r'exists already, and is not overwritten'):
    convert.main([f'--checkpoint={str(directory).removesuffix("-hf")}', f'--output={directory}'])
  with pytest.raises(SystemExit, match=r'is a Hugging Face directory already; fix: the folder of a run'):
    convert.main([f'--checkpoint={directory}', f'--output={directory}-again'])
