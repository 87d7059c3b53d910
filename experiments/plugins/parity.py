"""An example of your own task: the running parity of some bits, then the parity of all. It trains in half a minute on 2 cores.

python -m espo_jax.train --plugins=experiments/plugins/parity.py --config=experiments/plugins/small.py --workdir=runs/parity \
    --config.task.name=parity
"""

import dataclasses

from espo_jax import tasks


@tasks.register('parity')
@dataclasses.dataclass(frozen=True)
class Parity(tasks.Task):
  """The prompt `0110=` asks for `0100#0`. The fields are options: `--config.task.options.bits=6`."""

  seed: int = 0
  bits: int = 8
  name = 'parity'
  max_prompt_tokens = property(lambda self: self.bits + 1)
  max_response_tokens = property(lambda self: self.bits + 3)  # with the end token
  size = lambda self, split: None  # endless
  tokenizer = lambda self: tasks.character_tokenizer('01=#')
  stated_answer = lambda self, response: response.rpartition('#')[2]

  def problem(self, split, index):
    rng = tasks.problem_rng(self.seed, split, index)
    while True:  # until the hash of the prompt falls in the split, so that the splits share no prompt
      bits = ''.join(rng.choice(['0', '1'], self.bits))
      if tasks.in_test(bits) == (split == 'test'):
        return tasks.Problem(tasks.problem_id(split, index), bits + '=', str(bits.count('1') % 2))

  def solution(self, problem, rng):
    return ''.join(str(problem.prompt[: i + 1].count('1') % 2) for i in range(self.bits)) + '#' + problem.answer

  def verify(self, problem, response):
    return response.endswith('#' + problem.answer)
