"""Random models of transformers."""

import torch
import transformers


def random_model(family: str, **config):
  """A model of a family, such as 'Qwen2'; norms and biases are random too, so that none is idle."""
  torch.manual_seed(0)
  model = getattr(transformers, f'{family}ForCausalLM')(
    getattr(transformers, f'{family}Config')(eos_token_id=2, **config)
  ).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      x.normal_(1.0 if 'norm' in name else 0.0, 0.2)
  return model
