"""An example of your own reward that reads text: a right response earns less for every character beyond a limit.

python -m espo_jax.train --plugins=experiments/plugins/parity.py --plugins=experiments/plugins/few_words.py \
    --config=experiments/plugins/small.py --config.task.name=parity --workdir=runs/few_words \
    --config.reward.name=few_words --config.reward.most=6
"""

import numpy as np

from espo_jax import rewards


@rewards.register('few_words')
def few_words(responses, correct, *, most=40, price=0.01):
  """Computes `correct * (1 - price * n)`, at least 0, where `n` is the number of characters beyond `most`.

  Args:
    responses: The responses as text, `P` lists of `G`.
    correct: The verdicts, `[P, G]`.
    most: The number of characters that cost nothing.
    price: The cost of each further character.
  """
  beyond = np.array([[max(len(text) - most, 0) for text in group] for group in responses])
  return np.maximum(np.asarray(correct) * (1.0 - price * beyond), 0.0)
