"""Attention kernels for devices that are not here."""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import jax

from espo_jax.model import fused, splash


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
  """Every form is computed here: splash is interpreted, and the arguments of cuDNN are computed by XLA."""
  by_name = jax.nn.dot_product_attention
  with (
    mock.patch.object(fused, 'refusal', lambda *_: ''),
    mock.patch.object(splash, 'make_splash_mha', functools.partial(splash.make_splash_mha, interpret=True)),
    mock.patch.object(jax.nn, 'dot_product_attention', lambda *xs, implementation, **named: by_name(*xs, **named)),
  ):
    yield
