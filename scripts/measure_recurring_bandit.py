"""Measures when a policy that is trained to exploit explores: whether it remembers, whether its arms recur, how far it looks.

  PYTHONPATH=. python scripts/measure_recurring_bandit.py --output=experiments/results/recurring_bandit

A block has `pulls` pulls of two arms. The known arm pays with a probability that never changes. The other arm's probability is
drawn from a Beta distribution whose mean is lower. A greedy policy therefore pulls the known arm for ever. The objective has no
bonus for exploration. Policies are tables of logits and the expected return of a block is exact, so that neither sampling nor a
network decides what is found. OUTPUT.json and OUTPUT.md are written in seconds.
"""

import argparse
import functools
import itertools
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench import report
from bench.measure import estimate
from jaxtyping import Array, Float, PRNGKeyArray


class Blocks(NamedTuple):
  """Blocks of pulls of a known arm and of another one.

  Attributes:
    memory: Whether the policy sees how often the other arm was pulled and won in its block. It always sees the time.
    recurs: Whether the other arm stays the same within a block. Otherwise it is drawn anew before each pull.
    pulls: The pulls of a block.
    known: The probability with which the known arm pays.
    wins: The first parameter of the Beta distribution of the other arm's probability.
    losses: The second parameter of that Beta distribution.
  """

  memory: bool = True
  recurs: bool = True
  pulls: int = 20
  known: float = 0.6
  wins: float = 1.0
  losses: float = 1.0

  @property
  def prior(self) -> float:
    """The mean of the other arm's probability."""
    return self.wins / (self.wins + self.losses)


def expected(blocks: Blocks, logits: Float[Array, 'T *seen'], farsighted: bool) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Returns the expected wins of a block, and the share of its pulls that explore.

  A pull explores if the arm has the lower expected payment, given what the policy sees.

  Args:
    blocks: The blocks.
    logits: The logits of pulling the other arm at each time, by its pulls and wins if the policy has a memory.
    farsighted: Whether the gradient knows that a pull changes what is seen later. Otherwise each pull has the gradient of its
      own payment alone.
  """
  count = blocks.pulls + 1
  pulled, won = jnp.arange(count)[:, None], jnp.arange(count)
  mean = jnp.broadcast_to(blocks.prior, (count, count))
  if blocks.recurs:
    mean = jnp.where(won <= pulled, (won + blocks.wins) / (pulled + blocks.wins + blocks.losses), 0.0)
  seen = mean if blocks.memory else blocks.prior  # without memory the mean over what may have happened is the prior's

  def pull(places: Float[Array, 'n w'], row: Float[Array, '*seen']) -> tuple[Float[Array, 'n w'], tuple[Array, Array]]:
    chance = jnp.broadcast_to(jax.nn.sigmoid(row), places.shape)
    weight = places if farsighted else jax.lax.stop_gradient(places)
    pays = (weight * (chance * mean + (1 - chance) * blocks.known)).sum()
    other = places * chance
    after = places * (1 - chance)
    after = after.at[1:, 1:].add((other * mean)[:-1, :-1]).at[1:].add((other * (1 - mean))[:-1])
    return after, (pays, (other * (seen < blocks.known)).sum())

  first = jnp.zeros((count, count)).at[0, 0].set(1.0)
  pays, explores = jax.lax.scan(pull, first, logits)[1]
  return pays.sum(), explores.mean()


@functools.partial(jax.jit, static_argnames=('blocks', 'farsighted', 'steps'))
def train(blocks: Blocks, farsighted: bool, key: PRNGKeyArray, steps: int) -> Float[Array, 'T *seen']:
  """Returns the logits after so many steps of Adam on the expected wins, from logits that are drawn by the key."""
  count = blocks.pulls + 1
  shape = (blocks.pulls, count, count) if blocks.memory else (blocks.pulls,)
  optimizer = optax.adam(0.1)

  def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
    logits, state = carry
    gradient = jax.grad(lambda logits: -expected(blocks, logits, farsighted)[0])(logits)
    change, state = optimizer.update(gradient, state)
    return (optax.apply_updates(logits, change), state), None

  logits = 0.1 * jax.random.normal(key, shape)
  return jax.lax.scan(step, (logits, optimizer.init(logits)), None, steps)[0][0]


def best(blocks: Blocks) -> float:
  """Returns the most wins of a block that any policy can expect, by backward induction over pulls and wins."""
  if not (blocks.memory and blocks.recurs):
    return blocks.pulls * max(blocks.known, blocks.prior)  # nothing is learnt
  value = np.zeros((blocks.pulls + 2, blocks.pulls + 2))
  for left in range(1, blocks.pulls + 1):
    size = blocks.pulls - left + 1
    pulled, won = np.arange(size)[:, None], np.arange(size)
    mean = np.clip((won + blocks.wins) / (pulled + blocks.wins + blocks.losses), 0, 1)
    after_win, after_loss = value[1 : size + 1, 1 : size + 1], value[1 : size + 1, :size]
    other = mean * (1 + after_win) + (1 - mean) * after_loss
    value = np.maximum(blocks.known + value[:size, :size], other)
  return float(value[0, 0])


def measure(blocks: Blocks, farsighted: bool, seeds: int, steps: int) -> dict[str, Any]:
  """Returns what policies of several seeds win and explore, beside the best and the greedy policy."""
  by_seed = {}
  for seed in range(seeds):
    logits = train(blocks, farsighted, jax.random.key(seed), steps)
    wins, explores = expected(blocks, logits, farsighted)
    by_seed[str(seed)] = {'wins': float(wins), 'explores': 100 * float(explores)}
  return {'memory': blocks.memory, 'recurs': blocks.recurs, 'farsighted': farsighted, 'best': best(blocks), 'by_seed': by_seed}


def page(results: Mapping[str, Any]) -> list[str]:
  """Returns the lines of the page."""
  of = Blocks(**results['blocks'])
  lines = [
    '# Exploration from exploitation',
    '',
    *report.header(dict(results)),
    '',
    f'A block has {of.pulls} pulls. The known arm pays with probability {of.known}, and that of the other arm is drawn from '
    f'Beta({of.wins:g}, {of.losses:g}). A figure is the mean over {results["seeds"]} seeds of the first logits with its 95 % '
    "interval (Student's t). Expectations over blocks are exact.",
    '',
    '| column | meaning |',
    '|---|---|',
    '| memory | whether the policy sees how often the other arm was pulled and won in its block |',
    '| recurs | whether the other arm stays the same within a block |',
    '| looks ahead | whether the gradient of a pull knows of the payments behind it |',
    '| wins | the expected payments of a block |',
    '| best | the most that any policy with the same memory can expect |',
    '| greedy | the expected payments of the policy that always pulls the arm with the higher mean |',
    '| explores | pulls of the arm whose mean is lower, given what the policy sees; 0 for a greedy policy |',
    '',
    '| memory | recurs | looks ahead | wins | best | greedy | explores, % |',
    '|---|---|---|---:|---:|---:|---:|',
  ]
  for case in results['cases']:
    wins, explores = ([by[name] for by in case['by_seed'].values()] for name in ('wins', 'explores'))
    words = ['yes' if case[name] else 'no' for name in ('memory', 'recurs', 'farsighted')]
    won, explored = report.number(estimate(wins), 3), report.number(estimate(explores), 2)
    figures = [won, f'{case["best"]:.3f}', f'{of.pulls * max(of.known, of.prior):.3f}', explored]
    lines.append('| ' + ' | '.join([*words, *figures]) + ' |')
  lines += [
    '',
    'The paper (arXiv 2508.01287) reports that exploration sometimes needs no long-horizon credit, because a network that '
    'samples behaves like Thompson sampling. A table of logits with exact gradients has no such effect.',
  ]
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  output = pathlib.Path('experiments/results/recurring_bandit')
  parser.add_argument('--output', type=pathlib.Path, default=output, help='the page to write, without a suffix; %(default)s')
  parser.add_argument('--seeds', type=int, default=5, help='seeds of the first logits; by default %(default)s')
  parser.add_argument('--steps', type=int, default=600, help='steps of Adam; by default %(default)s')
  args = parser.parse_args(argv)
  cases = [
    measure(Blocks(memory, recurs), farsighted, args.seeds, args.steps)
    for memory, recurs, farsighted in itertools.product((True, False), repeat=3)
  ]
  results = report.environment('PYTHONPATH=. python scripts/measure_recurring_bandit.py', argv) | {
    'blocks': Blocks()._asdict(),
    'seeds': args.seeds,
    'steps': args.steps,
    'cases': cases,
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])
