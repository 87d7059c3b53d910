"""Declares the fields of stop rules, the section `stop` of a config."""

from espo_jax import stops
from espo_jax.configs.schema import (
  ABOVE_0,
  AT_LEAST_0,
  BELOW_1,
  OURS,
  PUBLISHED,
  SHARE,
  UNPUBLISHED,
  Field,
  Names,
  Section,
  section,
)
from espo_jax.rewards.placement import RETURNS

STOP_RULES = Names(stops.REGISTRY, 'stop rule', training=True)


def _scales(rule: str, beta_0: float, beta_min: float, beta_max: float, mark: str) -> Section:
  """Declares the controller's constants for a rule whose threshold has another scale than ESPO's."""
  return section(
    f"The scales of the rule '{rule}', in place of `stop.beta_0`, `stop.beta_min` and `stop.beta_max`.",
    beta_0=Field(beta_0, 'The first scale of its threshold.', None, mark),
    beta_min=Field(beta_min, 'The least scale.', None, mark),
    beta_max=Field(beta_max, 'The greatest scale.', None, mark),
  )


def _judging(rule: str, source: str, mark: str) -> Section:
  """Declares the constants of a rule that judges each row once."""
  return section(
    f"The constants of the rule '{rule}', which judges a row once{source}.",
    probe=Field(512, 'The token at which a row is judged.', ABOVE_0, mark),
    kept=Field(0.5, 'The mean probability of going on.', SHARE, UNPUBLISHED),
    balance=Field(0.5, 'How strongly survival depends on how likely a row is right; 0 for not at all.', SHARE, UNPUBLISHED),
    least_kept=Field(0.1, 'The least probability of going on.', SHARE, UNPUBLISHED),
    most_kept=Field(0.9, 'The highest probability of going on.', SHARE, UNPUBLISHED),
  )


def _probing(rule: str, what: str, most: int, mark: str, **own: Field) -> Section:
  """Declares the constants of a rule that asks for answers on the way."""
  return section(
    f"The constants of the rule '{rule}', which {what}.",
    inducer=Field((), 'The token ids that ask for the answer.', None, UNPUBLISHED),
    marker=Field((), 'The token ids before which the rule asks; () to ask every `every` tokens.', None, UNPUBLISHED),
    every=Field(64, 'The number of tokens between two places without a marker.', ABOVE_0, OURS),
    answer_tokens=Field(20, 'The most tokens of an answer.', ABOVE_0, mark),
    most=Field(most, 'The most places of a row.', ABOVE_0, mark),
    **own,
  )


STOP = section(
  'The stop rule under study. A rule reads only the constants that are options of its own.',
  name=Field('espo', "The rule; 'never' is plain PPO.", STOP_RULES),
  smoothing=Field(0.9, 'a_s: z, the smoothed regret, remembers about 1 / (1 - a_s) tokens.', BELOW_1, PUBLISHED),
  clip=Field(5.0, 'c: the bound on the normalised regret, hence on z.', ABOVE_0, UNPUBLISHED),
  delta=Field(1e-8, 'The constant added to the variance of the regret.', ABOVE_0, UNPUBLISHED),
  epsilon=Field(0.2, 'The lower bound on the value V with which the threshold scales.', AT_LEAST_0, PUBLISHED),
  beta_0=Field(7.0, 'The first scale of the threshold.', None, PUBLISHED),
  beta_min=Field(0.0, 'The least scale.', None, UNPUBLISHED),
  beta_max=Field(100.0, 'The greatest scale.', None, UNPUBLISHED),
  eta=Field(0.1, 'The step of the controller that moves the scale.', AT_LEAST_0, PUBLISHED),
  target_rate=Field(0.25, 'tau: the share of rows to stop.', SHARE, PUBLISHED),
  momentum=Field(0.99, 'The momentum of the running moments of the regret.', SHARE, PUBLISHED),
  returns=Field(
    'fail',
    "A stopped row's return: stop.fail_reward, 0, a value of critic or head, its own end; none, or its grade.",
    Names(RETURNS),
    OURS,
  ),
  fail_reward=Field(-1.0, "r_fail: what a stopped row returns under 'fail'.", None, PUBLISHED),
  shadow_share=Field(
    0.25, 'The share of stopped rows that are decoded further: to measure, to fit a head, or for roulette.', SHARE, OURS
  ),
  budget=Field(0.02, "The share of right answers that 'risk_control' may lose.", SHARE, OURS),
  memory=Field(
    0.9, "The share of sums over earlier batches that 'risk_control', 'makespan_gate' and the heads keep.", SHARE, OURS
  ),
  min_saving=Field(0.1, "The share of a fresh row's tokens that must be left where 'own_price' stops a row.", SHARE, OURS),
  least_batches=Field(
    2, "The batches that a head is fitted to before 'own_price', 'wald' and 'hazard_head' stop a row.", AT_LEAST_0, OURS
  ),
  window=Field(2048, "The last tokens of a row whose mean confidence 'deepconf' reads.", ABOVE_0, PUBLISHED),
  least_tokens=Field(16, "The tokens of a row before which 'mean_logprob' does not stop it.", ABOVE_0, OURS),
  regret_only=_scales('regret_only', 1.4, 0.1, 100.0, UNPUBLISHED),
  value_only=_scales('value_only', -0.2, -1.0, 1.0, UNPUBLISHED),
  risk_control=_scales('risk_control', 1.4, 0.05, 5.0, OURS),
  mean_logprob=_scales('mean_logprob', 0.5, 0.0, 20.0, OURS),
  deepconf=_scales('deepconf', -10.0, -100.0, 0.0, OURS),
  own_price=_scales('own_price', 0.223, 0.0, 5.0, OURS),
  wald=_scales('wald', 0.223, 0.0, 5.0, OURS),
  arrol=_judging('arrol', '', PUBLISHED),
  arrol_signed=_judging('arrol_signed', ' against its problem', OURS),
  dead_groups=section(
    "The constants of the rule 'dead_groups', which ends all rows of a prompt at once.",
    group_tokens=Field(64, 'The tokens of each row by which a group is judged.', ABOVE_0, OURS),
    doubt=Field(0.05, 'The highest probability of differing verdicts at which a group is ended.', SHARE, OURS),
  ),
  candidate_answer=section(
    "The constants of the rule 'candidate_answer', which ends rows with a candidate answer.",
    marker=Field((), 'The token ids with which a candidate answer ends.', None, UNPUBLISHED),
    allowed=Field(1, 'The number of candidates up to which a row goes on.', ABOVE_0, UNPUBLISHED),
  ),
  deer=_probing(
    'deer',
    'ends rows whose answer is confident',
    10,
    PUBLISHED,
    confidence=Field(0.95, 'The mean probability above which a row ends.', SHARE, PUBLISHED),
    geometric=Field(False, 'Whether the mean is geometric.', None, UNPUBLISHED),
  ),
  answer_convergence=_probing(
    'answer_convergence',
    'ends rows whose answer stays the same',
    32,
    UNPUBLISHED,
    agree=Field(3, 'The number of equal answers in a row.', ABOVE_0, UNPUBLISHED),
  ),
  answer_entropy=_probing(
    'answer_entropy',
    'ends rows whose answer is sure, or does not become surer',
    32,
    OURS,
    low=Field(0.05, 'The entropy in nats below which an answer is sure.', AT_LEAST_0, OURS),
    window=Field(4, 'The number of entropies whose slope is taken.', ABOVE_0, OURS),
    flat=Field(0.0, 'The fall in nats per place up to which a row does not become surer.', AT_LEAST_0, OURS),
    least_probes=Field(8, 'The first place at which the slope is looked at.', ABOVE_0, OURS),
  ),
  duet_settled=section(
    "The constants of the rule 'duet_settled', which ends rows that write their answer with confidence.",
    marker=Field((), 'The token ids with which a final answer begins.', None, UNPUBLISHED),
    look_from=Field(200, 'The first token at which the marker is looked for.', AT_LEAST_0, UNPUBLISHED),
    gap=Field(0.8, 'The difference of the two highest probabilities above which a token counts.', SHARE, UNPUBLISHED),
    streak=Field(5, 'The number of such tokens in a row.', ABOVE_0, PUBLISHED),
    forgiven=Field(0.05, 'The probability with which the last token of a streak does not count.', SHARE, PUBLISHED),
  ),
  latent_trajectory=section(
    "The constants of the rule 'latent_trajectory', which ends rows whose state does not move straight ahead.",
    segment=Field(500, 'The number of tokens of a segment, over which states are averaged.', ABOVE_0, PUBLISHED),
    net=Field(0.0, "The weight of the whole move's length over the number of segments.", None, UNPUBLISHED),
    cumulative=Field(0.0, "The weight of the sum of the moves' lengths.", None, UNPUBLISHED),
    aligned=Field(1.0, 'The weight of the mean cosine between a move and the whole move.', None, UNPUBLISHED),
    directions=Field(16, 'The number of random directions onto which states are projected.', ABOVE_0, OURS),
    beta_0=Field(-0.2, 'The first scale of its threshold.', None, OURS),
    beta_min=Field(-100.0, 'The least scale.', None, OURS),
    beta_max=Field(100.0, 'The greatest scale.', None, OURS),
  ),
  hazard_head=_scales('hazard_head', 0.693, 0.0, 20.0, OURS),
  makespan_gate=section(
    "The constants of the rule 'makespan_gate', which is armed where it saves tokens per solved problem.",
    beta_0=Field(float('inf'), 'The threshold before enough right rows are counted; infinity stops no row.', None, OURS),
    beta_min=Field(0.05, 'The lowest threshold that is tried.', ABOVE_0, OURS),
    beta_max=Field(5.0, 'The highest threshold that is tried.', ABOVE_0, OURS),
    reset_tokens=Field(0.0, 'The cost of beginning another attempt, in tokens.', AT_LEAST_0, OURS),
    least_right=Field(50.0, 'The right rows in the counts below which beta stays beta_0.', ABOVE_0, OURS),
  ),
  duet_abort=section(
    "The constants of the rule 'duet_abort', which ends rows that are much longer than most.",
    quantile=Field(0.8, 'The quantile of the lengths of rows that were not stopped.', SHARE, PUBLISHED),
    grace=Field(150, 'The number of tokens after it.', AT_LEAST_0, PUBLISHED),
    spared=Field(0.05, 'The share of rows that is never stopped.', SHARE, PUBLISHED),
  ),
)
