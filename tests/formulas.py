"""Every objective and term, written down from its paper in numpy float64."""

import numpy as np
from loss_cases import CURRENT, LENGTHS, MASK, N, T, loss_arrays

from espo_jax import objectives

ROWS = [n for n in range(N) if LENGTHS[n]]
REAL = LENGTHS.sum()


def aggregated(v, how='token'):
  """The mean of numbers on tokens."""
  if how == 'token':
    return v[MASK].sum() / REAL
  if how == 'sequence':
    return np.mean([v[n, : LENGTHS[n]].mean() for n in ROWS])
  return np.mean([v[n, : LENGTHS[n]].sum() / T for n in ROWS])


def surrogate(r, a, low, high, dual=0.0):
  gain = np.minimum(r * a, np.clip(r, 1 - low, 1 + high) * a)
  return -np.where((a < 0) & (dual > 0), np.maximum(gain, dual * a), gain)


def change(x):
  return np.where(MASK, x['logprobs'] - x['old_logprobs'], 0.0)


def per_row(x, reduce):
  """A list of (sum of log-ratios or their mean, advantage) over rows that have tokens."""
  c = change(x)
  return [(reduce(c[n, : LENGTHS[n]]), x['advantages'][n, : LENGTHS[n]].mean()) for n in ROWS]


def grpo(x, clip_low=0.2, clip_high=0.2, dual_clip=0.0, aggregation='sequence'):
  return aggregated(surrogate(np.exp(change(x)), x['advantages'], clip_low, clip_high, dual_clip), aggregation)


def ppo(x, clip_low=0.2, clip_high=0.2, dual_clip=0.0, value_clip=0.2, value_coef=0.5):
  moved = x['old_values'] + np.clip(x['values'] - x['old_values'], -value_clip, value_clip)
  value = 0.5 * np.maximum((x['values'] - x['returns']) ** 2, (moved - x['returns']) ** 2)
  return grpo(x, clip_low, clip_high, dual_clip, 'token') + value_coef * aggregated(value)


def gspo(x, clip_low=3e-4, clip_high=4e-4):
  return np.mean([surrogate(np.exp(c), a, clip_low, clip_high) for c, a in per_row(x, np.mean)])


def rloo(x, clip_low=0.2, clip_high=0.2):
  return np.mean([surrogate(np.exp(c), a, clip_low, clip_high) for c, a in per_row(x, np.sum)])


def gmpo(x, clip_low=0.4, clip_high=0.4):
  losses = []
  for n in ROWS:
    r, a = np.exp(change(x)[n, : LENGTHS[n]]), x['advantages'][n, 0]
    tokens = np.minimum(r, np.exp(clip_high)) if a > 0 else np.maximum(r, np.exp(-clip_low))
    losses.append(-(np.prod(np.abs(tokens * a)) ** (1 / LENGTHS[n])) * np.sign(a))  # the paper's product of |r A|
  return np.mean(losses)


def cov(x):
  a, lp = x['advantages'], x['logprobs']
  return np.where(MASK, (a - a[MASK].mean()) * (lp - lp[MASK].mean()), np.nan)


def top(values, fraction):
  """Where the highest of the values that are numbers stand."""
  count = min(max(int(fraction * REAL), 1), np.isfinite(values).sum())
  order = np.argsort(np.where(np.isfinite(values), -values, np.inf), axis=None)[:count]
  return np.isin(np.arange(N * T), order).reshape(N, T)


def clip_cov(x, clip_low=0.2, clip_high=0.2, fraction=2e-4, cov_low=1.0, cov_high=5.0):
  r, a = np.exp(change(x)), x['advantages']
  free = np.isclose(surrogate(r, a, clip_low, clip_high), -r * a)
  held = top(np.where(free & (cov(x) > cov_low) & (cov(x) < cov_high), cov(x), np.nan), fraction)
  return aggregated(np.where(held, 0.0, surrogate(r, a, clip_low, clip_high)))


def kl_cov(x, fraction=2e-3, kl_cov_coef=1.0):
  plain = -np.exp(change(x)) * x['advantages']
  return aggregated(plain + kl_cov_coef * np.where(top(cov(x), fraction), np.abs(change(x)), 0.0))


def k3(d):
  return np.exp(-d) - 1 + d


def tepo(
  x,
  clip_low=3e-4,
  clip_high=4e-4,
  likelihood='mean',
  aggregation='token',
  mask_coef=0.1,
  entropy_test='current',
  divergence='k3',
):
  c = change(x)
  reduce = np.mean if likelihood == 'mean' else np.sum
  s = np.zeros((N, T))
  for n in ROWS:
    s[n] = np.exp(np.clip(reduce(c[n, : LENGTHS[n]]), -20, 20))
  falls = x['entropy'] < x['old_entropy'] if entropy_test == 'current' else x['entropy_slope'] < 0
  reference = np.where(MASK, x['logprobs'] - x['reference_logprobs'], 0.0)
  d = {'k3': k3(c), 'abs': np.abs(c), 'reference': k3(reference), 'exact': x['reference_kl']}[divergence]
  pull = np.where((x['advantages'] > 0) & falls, d, 0.0)
  return aggregated(surrogate(s, x['advantages'], clip_low, clip_high) + mask_coef * pull, aggregation)


def rwr(x, tau=0.4):
  weights = [np.exp(x['advantages'][n, : LENGTHS[n]].mean() / tau) for n in ROWS]
  return np.mean([-w * x['logprobs'][n, : LENGTHS[n]].mean() for w, n in zip(weights, ROWS, strict=True)])


def kl(f):
  def term(x, kl_coef=0.001, aggregation='token'):
    return kl_coef * aggregated(f(x), aggregation)

  return term


def reference_gap(x):
  return np.where(MASK, x['logprobs'] - x['reference_logprobs'], 0.0)


def epo_entropy(
  x, entropy_coef=0.001, smooth_coef=1.0, band_low=0.8, band_high=1.2, schedule='release', penalty='hinge', out_of_band=0.1
):
  p = float(x['progress'])
  early, late = 1 - 0.2 * (1 - np.exp(-2 * p / 0.5)), 0.8 * np.exp(-3 * (p - 0.5) / 0.5)
  w = p if schedule == 'increasing' else early if p <= 0.5 else late
  h, past = x['entropy'], x['past_entropy']
  outside = np.maximum(band_low * past - h, 0) + np.maximum(h - band_high * past, 0)
  if penalty == 'indicator':
    outside = np.where(outside > 0, out_of_band, 0.0)
  return -entropy_coef * (aggregated(h) - w * smooth_coef * aggregated(outside))


def mode_margin(x, long_token=0, short_token=1, margin=2.0, margin_coef=1.0):
  z = x['opening_logprobs']
  gap = np.where(x['prefers_short'], z[:, short_token] - z[:, long_token], z[:, long_token] - z[:, short_token])
  return margin_coef * np.mean(np.maximum(margin - gap, 0)[ROWS])


def cispo(x, clip_low=1.0, clip_high=0.28, aggregation='token', weighed_at=None):
  """Its gradient is that at a weight that stays what it is at `weighed_at`."""
  weight = np.clip(np.exp(change(weighed_at or x)), 1 - clip_low, 1 + clip_high)
  return aggregated(-weight * x['advantages'] * np.where(MASK, x['logprobs'], 0.0), aggregation)


FORMULAS = {
  'cispo': cispo,
  'ppo': ppo,
  'grpo': grpo,
  'dapo': lambda x, clip_low=0.2, clip_high=0.28, dual_clip=0.0: grpo(x, clip_low, clip_high, dual_clip, 'token'),
  'drgrpo': lambda x, clip_low=0.2, clip_high=0.2: grpo(x, clip_low, clip_high, 0.0, 'constant'),
  'gspo': gspo,
  'gmpo': gmpo,
  'rloo': rloo,
  'clip_cov': clip_cov,
  'kl_cov': kl_cov,
  'tepo': tepo,
  'rwr': rwr,
  'entropy': lambda x, entropy_coef=0.001, aggregation='token': -entropy_coef * aggregated(x['entropy'], aggregation),
  'kl_k1': kl(reference_gap),
  'kl_k2': kl(lambda x: reference_gap(x) ** 2 / 2),
  'kl_k3': kl(lambda x: k3(reference_gap(x))),
  'kl_exact': kl(lambda x: x['reference_kl']),
  'epo_entropy': epo_entropy,
  'mode_margin': mode_margin,
}
CASES = [(name, {}) for name in FORMULAS] + [
  ('ppo', {'clip_low': 0.15, 'clip_high': 0.3, 'dual_clip': 1.4, 'value_clip': 0.25, 'value_coef': 0.7}),
  ('grpo', {'clip_high': 0.28, 'dual_clip': 1.3, 'aggregation': 'token'}),
  ('dapo', {'dual_clip': 1.3}),
  ('clip_cov', {'fraction': 0.2, 'cov_low': 0.1}),
  ('kl_cov', {'fraction': 0.2, 'kl_cov_coef': 0.3}),
  ('tepo', {'likelihood': 'product', 'aggregation': 'sequence', 'divergence': 'abs', 'clip_high': 0.3}),
  ('tepo', {'entropy_test': 'first_order', 'divergence': 'reference', 'mask_coef': 1.0, 'clip_low': 0.2}),
  ('tepo', {'divergence': 'exact', 'aggregation': 'constant'}),
  ('cispo', {'clip_low': 0.2, 'clip_high': 0.1, 'aggregation': 'sequence'}),
  ('kl_k3', {'kl_coef': 0.04, 'aggregation': 'sequence'}),
  ('epo_entropy', {'entropy_coef': 1.0, 'smooth_coef': 0.7, 'schedule': 'increasing'}),
  ('epo_entropy', {'entropy_coef': 1.0, 'penalty': 'indicator', 'out_of_band': 0.05}),
  ('mode_margin', {'long_token': 3, 'short_token': 2, 'margin': 0.4}),
]
SPREAD = {'gspo': 1e-3, 'tepo': 1e-3}  # of the log-ratios, so that some rows are inside the clip and some outside


def case(name, seed=0, dtype=np.float32):
  per_row = objectives.REGISTRY[name].advantage not in ('gae', '') and 'cov' not in name
  return loss_arrays(seed, dtype, SPREAD.get(name, 0.3), per_row)


def tepo_gradient(x, **options):
  """The surrogate's, `-s A` on every token where the clip leaves it, over what the aggregation divides by; and the pull's."""
  switches = {
    'clip_low': 3e-4,
    'clip_high': 4e-4,
    'likelihood': 'mean',
    'aggregation': 'token',
    'mask_coef': 0.1,
    'entropy_test': 'current',
    'divergence': 'k3',
  } | options
  c, a = change(x), x['advantages']
  share = np.zeros((N, T))
  s = np.zeros((N, T))
  for n in ROWS:
    length = LENGTHS[n]
    share[n, :length] = {'token': 1 / REAL, 'sequence': 1 / length / len(ROWS), 'constant': 1 / T / len(ROWS)}[
      switches['aggregation']
    ]
    row = c[n, :length]
    s[n] = np.exp(row.mean() if switches['likelihood'] == 'mean' else row.sum())
  held = ((a > 0) & (s > 1 + switches['clip_high'])) | ((a < 0) & (s < 1 - switches['clip_low']))
  falls = x['entropy'] < x['old_entropy'] if switches['entropy_test'] == 'current' else x['entropy_slope'] < 0
  pulled = np.where((a > 0) & falls & MASK, switches['mask_coef'] * share, 0.0)
  gap = np.where(MASK, x['logprobs'] - x['reference_logprobs'], 0.0)
  along = {'k3': 1 - np.exp(-c), 'abs': np.sign(c), 'reference': 1 - np.exp(-gap), 'exact': 0 * c}[switches['divergence']]
  zero = {field: np.zeros_like(x[field]) for field in CURRENT}
  exact = {'reference_kl': pulled} if switches['divergence'] == 'exact' else {}
  return zero | exact | {'logprobs': np.where(held, 0.0, -s * a * share) + pulled * along}
