"""Compares decoders with majority voting that spends as many tokens."""

from typing import Any

import numpy as np
from jaxtyping import Float

from espo_jax import monitor


def leads(
  right: Float[np.ndarray, 'P N'],
  tokens: Float[np.ndarray, 'P N'],
  reference_right: Float[np.ndarray, 'P K'],
  reference_tokens: Float[np.ndarray, 'P K'],
) -> list[dict[str, Any]]:
  """Returns how much more accurate each decoder is than the reference is for the same mean number of tokens.

  Between two numbers of samples the reference is a mixture: it draws the larger number for a part of the problems, so that its
  mean accuracy is linear in its mean tokens. Below one sample its accuracy is that of one, and above all samples that of all.

  Args:
    right: The accuracy of `N` decoders on each problem.
    tokens: The tokens that they spend on each problem.
    reference_right: The accuracy of the reference on each problem with 1 .. `K` samples.
    reference_tokens: The tokens that it spends on each problem.

  Returns:
    For each decoder `value`, a difference of shares, and `interval`, its 95 % bootstrap interval over problems. Each resample
    has problems for decoder and reference alike, so the interval knows that both answer the same problems.
  """
  number, counts = right.shape[1], reference_right.shape[1]
  columns = np.concatenate([right, tokens, reference_right, reference_tokens], axis=1)
  means = np.concatenate([columns.mean(axis=0)[None], monitor.resampled_means(columns)])
  ours, spent, theirs, budgets = np.split(means, np.cumsum([number, number, counts]), axis=1)
  mixed = np.stack([np.interp(x, at, values) for x, at, values in zip(spent, budgets, theirs, strict=True)])
  differences = ours - mixed
  ends = np.quantile(differences[1:], (0.025, 0.975), axis=0).T
  return [{'value': float(value), 'interval': pair.tolist()} for value, pair in zip(differences[0], ends, strict=True)]
