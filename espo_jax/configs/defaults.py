"""Every field of an experiment: its default, what it means, and the values it may have.

A config file starts from `default_config()` and changes what it needs; `python -m espo_jax.methods config` prints this table. A
field marked `PUBLISHED` has the value of its paper: learned early exits (arXiv 2603.21376) in `exits` and `calibration`, ESPO
(arXiv 2605.29860) elsewhere. `UNPUBLISHED` marks a constant whose value the paper leaves out, `OURS` one that no paper has.
"""

import ml_collections

from espo_jax import exits, stops, tasks
from espo_jax.configs.schema import (
  ABOVE_0,
  AT_LEAST_0,
  BELOW_1,
  OURS,
  PUBLISHED,
  SHARE,
  SHARE_ABOVE_0,
  UNPUBLISHED,
  Field,
  Names,
  Section,
  build,
  fields,
  in_stage,
  open_section,
  section,
)
from espo_jax.model.config import EXIT_HEADS, PROJECTIONS, REMAT
from espo_jax.tasks.sources import ON_ERROR

STAGES = ('warm_start', 'calibration', 'critic_warmup', 'rl')
BENCHMARKS = (*tasks.BENCHMARKS, tasks.JSONL)
CRITICS = ('shared', 'separate')
DTYPES = ('float32', 'bfloat16', 'float16')
KL = ('k1', 'k2', 'k3', 'exact')
REASONING = r'(?s)^\s*+(<think>)?+\s*+(?!</think>)\S.*</think>'  # a thought that says something and is closed
STOP_RULES = Names(stops.REGISTRY, 'stop rule', training=True)


def _scales(rule: str, beta_0: float, beta_min: float, beta_max: float, mark: str) -> Section:
  """The controller's constants of a rule whose threshold has another scale than ESPO's."""
  return section(
    f"The scales of the rule '{rule}', in place of `stop.beta_0`, `stop.beta_min` and `stop.beta_max`.",
    beta_0=Field(beta_0, 'The first scale of its threshold.', None, mark),
    beta_min=Field(beta_min, 'The least scale.', None, mark),
    beta_max=Field(beta_max, 'The greatest scale.', None, mark),
  )


# In the order in which they are printed. A field is Field(default, meaning, values it may have, where the default comes from).
SCHEMA = section(
  'An experiment.',
  seed=Field(0, 'The root of every random number.', AT_LEAST_0),
  stages=Field(('warm_start', 'critic_warmup', 'rl'), 'What is run, in this order.', Names(STAGES, 'stage')),
  start_from=Field('', "The folder of another run, whose last parameters this one starts from; '' for those of `model`."),
  baselines=Field(('never',), 'Stop rules trained beside `stop.name` from the same start; () for none.', STOP_RULES),
  task=section(
    'What is asked.',
    name=Field('chain', 'The task.', Names(tasks.TASKS, 'task')),
    options=open_section("The task's keyword arguments, such as `task.options.difficulty` of the task 'chain'."),
  ),
  data=section(
    'The rows of a task that reads files.',
    benchmark=Field('', "What `data.path` holds; 'jsonl' is data of your own.", Names(BENCHMARKS, checked=False)),
    path=Field('', "A file, hf://datasets/OWNER/NAME/FILE, a directory of prepare_data, or the benchmark's name on the Hub."),
    eval_benchmark=Field('', "The benchmark of the test split; '' for that of the train split."),
    eval_path=Field('', "The place of the test split; '' holds out one row in ten of `data.path`."),
    problem_field=Field('', "The field of 'jsonl' that holds the problem; a dotted name reaches into a record."),
    answer_field=Field('', "The field of 'jsonl' that holds the final answer alone, a text or a number."),
    solution_field=Field('', "The field of 'jsonl' that holds a written solution, for a warm start."),
    today=Field('', "The day that a chat template writes, such as '2026-01-31'; '' for that of the run's first start."),
    on_error=Field('raise', "What to do with a malformed row; 'skip' leaves it out and lists it.", Names(ON_ERROR)),
  ),
  model=section(
    'The decoder.',
    path=Field('', "A Hugging Face directory, which then says all of the shape; '' for random weights of the shape below."),
    hidden_size=Field(128, 'The width of the residual stream.', ABOVE_0),
    intermediate_size=Field(256, 'The width of the feed-forward layers.', ABOVE_0),
    num_layers=Field(3, 'The number of blocks.', ABOVE_0),
    num_heads=Field(4, 'The number of query heads.', ABOVE_0),
    num_kv_heads=Field(2, 'The number of key-value heads, a divisor of `model.num_heads`.', ABOVE_0),
    head_dim=Field(32, 'The width of a head, an even number.', ABOVE_0),
    rope_theta=Field(10_000.0, 'The base of the rotary frequencies.', ABOVE_0),
    rms_norm_eps=Field(1e-6, 'The constant under the root of RMSNorm.', ABOVE_0),
    tie_word_embeddings=Field(True, 'Whether the LM head is the transposed embedding.'),
    scan_layers=Field(False, 'Whether one compiled layer is scanned; unrolled layers are faster on a CPU.'),
    remat=Field('none', "What a gradient computes anew; 'dots' is all but matrix products.", Names(REMAT, checked=False)),
    paged_kernels=Field(False, "Whether one TPU or GPU decodes by jax's paged attention kernels; no change elsewhere."),
    dtype=Field('float32', 'The type of activations and matrix products.', Names(DTYPES, 'dtype')),
    param_dtype=Field('float32', 'The type of the parameters.', Names(DTYPES, 'dtype')),
    lora=section(
      'Low-rank adapters. While there are any, the rest of the decoder is frozen.',
      rank=Field(0, 'The rank; 0 for no adapters.'),
      alpha=Field(16.0, 'The scale of an update, which is `alpha / rank * A B`.'),
      targets=Field(PROJECTIONS, 'The projections that have one.', Names(PROJECTIONS, checked=False)),
    ),
  ),
  critic=section(
    "The critic. There is one where advantages come from it, as under 'ppo'.",
    kind=Field('shared', "A value head on the policy's trunk, or a network of its own.", Names(CRITICS, 'critic')),
    learning_rate=Field(1e-5, "The critic's learning rate.", ABOVE_0, UNPUBLISHED),
    every=Field(1, "Tokens that a separate critic reads at a time; the stop rule sees its last value. 1 is ESPO's.", ABOVE_0),
  ),
  exits=open_section(
    'Learned early exits. Options of the policy stand beside these fields.',
    every=Field(0, 'Blocks between two places where a token may leave; 0 for none: every token runs through all.', AT_LEAST_0),
    kind=Field('linear', "The form of a head; 'mlp' has a layer of twice the width.", Names(EXIT_HEADS, checked=False)),
    policy=Field('sampled', "How exits are decided; 'never' is the whole model.", Names(exits.REGISTRY, checked=False)),
    alone=Field(False, 'Whether nothing but the exit heads learns, and a critic.'),
    learning_rate=Field(1e-5, 'The learning rate of the exit heads.', ABOVE_0, PUBLISHED),
  ),
  calibration=section(
    "The stage 'calibration', in which exits learn from the model at full depth.",
    steps=Field(200, 'The number of steps.', in_stage('calibration', ABOVE_0), UNPUBLISHED),
    prompts=Field(32, 'Prompts a step; one response to each is sampled.', in_stage('calibration', ABOVE_0), UNPUBLISHED),
    learning_rate=Field(1e-5, 'The learning rate of all but the heads.', in_stage('calibration', ABOVE_0), PUBLISHED),
    warmup_steps=Field(10, 'Steps in which the learning rate rises.', AT_LEAST_0, UNPUBLISHED),
    kappa=Field(1.0, 'How much a nat of divergence speaks against an exit.', in_stage('calibration', ABOVE_0), PUBLISHED),
    patterns=Field(4, "Exits drawn for each response from the target's law.", in_stage('calibration', ABOVE_0), PUBLISHED),
    uniform_patterns=Field(0, 'Exits drawn uniformly besides, for agreement alone.', AT_LEAST_0, OURS),
    whole_patterns=Field(0, 'Patterns without exits besides, so that the whole model stays what it is.', AT_LEAST_0, OURS),
    divergence_weight=Field(1.0, 'The weight of the divergence from the whole model.', AT_LEAST_0, PUBLISHED),
    exit_weight=Field(1.0, "The weight of the exits' log-probability.", AT_LEAST_0, PUBLISHED),
    levels=Field((0.1, 0.3, 0.5, 0.7, 0.9), "Thresholds of the report's curve, in (0, 1); () for no curve.", None, UNPUBLISHED),
  ),
  rollout=section(
    'How responses are sampled.',
    prompts=Field(32, 'P: prompts a rollout.', ABOVE_0),
    samples=Field(4, 'G: responses a prompt.', ABOVE_0),
    max_draws=Field(0, "Rollouts a step, to replace groups of equal scores; 0 for the objective's own number.", AT_LEAST_0),
    tags=Field((), 'Texts put behind the prompts in turn, problem by problem, such as levels of brevity.'),
    parts=Field(1, 'Parts of a rollout; one is graded while the next is decoded.', ABOVE_0),
    prompt_width=Field(32, 'L: tokens that a prompt may have.', ABOVE_0),
    horizon=Field(64, 'T: tokens that a response may have.', ABOVE_0),
    temperature=Field(1.0, 'The temperature of the sampler.', ABOVE_0, UNPUBLISHED),
    top_p=Field(1.0, 'The share of the distribution that an evaluation samples; training samples all of it.', SHARE_ABOVE_0),
    top_k=Field(0, 'The number of tokens that an evaluation samples from; 0 for all.', AT_LEAST_0),
    min_p=Field(0.0, "The least probability of a token in an evaluation, in parts of the likeliest one's.", SHARE),
    slots=Field(0, 'Rows decoded at a time, where a row that ends gives its slot to the next; 0 for all.', AT_LEAST_0),
    gather_weights=Field(False, 'Whether weights are gathered over `mesh.fsdp` once a rollout, not in each decode step.'),
    scan_length=Field(32, 'The most decode steps between two times that what was decoded is written out.', ABOVE_0),
    record=Field(0, 'Save the rollout of every n-th update for espo_jax.replay; 0 for never.', AT_LEAST_0),
    serial=section(
      "S-GRPO: answers asked for at cuts of one full response, for the reward 'serial_decay'.",
      inducer=Field('', "The text behind a cut that asks for the answer; '' for samples that are all full responses."),
      answer_tokens=Field(32, 'The most tokens that then follow.', ABOVE_0, UNPUBLISHED),
      end_of_thinking=Field('', "The token before which cuts lie, such as '</think>'; '' for anywhere in a response."),
    ),
  ),
  stop=section(
    'The stop rule under study. A rule takes those of these constants that it has.',
    name=Field('espo', "The rule; 'never' is plain PPO.", STOP_RULES),
    smoothing=Field(0.9, 'a_s: z, the smoothed regret, remembers about 1 / (1 - a_s) tokens.', BELOW_1, PUBLISHED),
    clip=Field(5.0, 'c: the bound on the normalised regret, hence on z.', ABOVE_0, UNPUBLISHED),
    delta=Field(1e-8, 'What is added to the variance of the regret.', ABOVE_0, UNPUBLISHED),
    epsilon=Field(0.2, 'The least value that the threshold scales with.', AT_LEAST_0, PUBLISHED),
    beta_0=Field(7.0, 'The first scale of the threshold.', None, PUBLISHED),
    beta_min=Field(0.0, 'The least scale.', None, UNPUBLISHED),
    beta_max=Field(100.0, 'The greatest scale.', None, UNPUBLISHED),
    eta=Field(0.1, 'The step of the controller that moves the scale.', AT_LEAST_0, PUBLISHED),
    target_rate=Field(0.25, 'tau: the share of rows to stop.', SHARE, PUBLISHED),
    momentum=Field(0.99, 'The momentum of the running moments of the regret.', SHARE, PUBLISHED),
    fail_reward=Field(-1.0, 'r_fail: the reward of a stopped row.', None, PUBLISHED),
    shadow_share=Field(0.25, 'The share of stopped rows that are decoded further, for measurement only.', SHARE, OURS),
    budget=Field(0.02, "The share of right answers that 'risk_control' may lose.", SHARE, OURS),
    memory=Field(0.9, "How much of its account of them 'risk_control' keeps from batch to batch.", SHARE, OURS),
    regret_only=_scales('regret_only', 1.4, 0.1, 100.0, UNPUBLISHED),
    value_only=_scales('value_only', -0.2, -1.0, 1.0, UNPUBLISHED),
    risk_control=_scales('risk_control', 1.4, 0.05, 5.0, OURS),
  ),
  gate=section(
    'When the critic warm-up ends and the stop rule begins.',
    loss_below=Field(0.5, "The critic's loss that is low enough.", AT_LEAST_0, PUBLISHED),
    patience=Field(3, 'Consecutive updates in which it is.', ABOVE_0, PUBLISHED),
    change_below=Field(0.1, 'The change of that loss between two updates that is small enough.', AT_LEAST_0, PUBLISHED),
    require_both=Field(False, 'Whether both tests have to pass, and not one of them.', None, UNPUBLISHED),
    min_explained_variance=Field(-float('inf'), 'The least explained variance, a test for rewards in {0, 1}.', None, OURS),
    force_at=Field(0.1, 'The share of all updates after which the warm-up ends in any case.', SHARE_ABOVE_0, PUBLISHED),
  ),
  reward=open_section(
    'The reward. Options of what it names stand beside these fields.',
    name=Field('correct', "A reward, or an expression over rewards: 'correct + 0.5 * overlong', 'hmpo & format'."),
    kl_coef=Field(0.0, "The weight of the KL to RL's first policy, taken off a token's reward.", AT_LEAST_0, UNPUBLISHED),
    kl=Field('k1', 'How that divergence is estimated.', Names(KL)),
    format=Field('', "A regular expression found in every well-formed response; '' for any that comes to its end."),
    reasoning=Field(REASONING, 'A regular expression found in every response that reasons.'),
    deadline=Field(5.0, 'Seconds that a reward which reads text has for the responses to a prompt.', ABOVE_0, OURS),
  ),
  advantage=open_section(
    'The advantage. Options of what it names stand beside this field.',
    name=Field('', "The advantage; '' for the objective's own."),
  ),
  objective=open_section(
    'The objective. Options of what it names stand beside this field.',
    name=Field('ppo', "One objective, and terms beside it: 'grpo + kl_k3 + entropy'."),
  ),
  learner=section(
    'How the policy learns from rollouts.',
    updates=Field(100, "The number of rollouts, the critic warm-up's included.", ABOVE_0),
    epochs=Field(1, 'Passes over a rollout.', ABOVE_0),
    minibatches=Field(4, 'Optimizer steps a pass.', ABOVE_0),
    micro_batches=Field(1, 'Parts of a minibatch whose gradients are added up, for memory; they change nothing else.', ABOVE_0),
    offload_optimizer=Field(False, "Whether moments lie in the host's memory between two updates, where devices can reach it."),
    pack_sizes=Field(4, 'The steps to which the number of packed sequences is rounded; 1 for a sequence a row.', ABOVE_0),
    learning_rate=Field(1e-6, "The policy's learning rate.", ABOVE_0, PUBLISHED),
    warmup_steps=Field(10, 'Optimizer steps in which the learning rate rises.', AT_LEAST_0),
    weight_decay=Field(0.0, "AdamW's weight decay.", AT_LEAST_0),
    max_grad_norm=Field(1.0, 'The norm to which a gradient is clipped.', ABOVE_0),
    b1=Field(0.9, "The decay of Adam's first moment.", BELOW_1),
    b2=Field(0.99, "The decay of Adam's second moment.", BELOW_1),
    importance_cap=Field(0.0, 'The most that a ratio of learner to sampler weighs a token; 0 for no such weights.', AT_LEAST_0),
    decision_after=Field(-1, "A token's id, such as <think>'s: what first follows it in a row learns nothing; -1 for none."),
    logit_chunk=Field(1024, 'Columns of a sequence whose logits exist at a time.', ABOVE_0),
    max_bad_steps=Field(5, 'Consecutive non-finite steps that end the run.', ABOVE_0),
  ),
  warm_start=section(
    "The stage 'warm_start': supervised learning from written solutions.",
    steps=Field(300, 'The number of steps.', in_stage('warm_start', ABOVE_0)),
    batch=Field(128, 'Rows a step.', in_stage('warm_start', ABOVE_0)),
    learning_rate=Field(1e-3, 'The learning rate.', in_stage('warm_start', ABOVE_0)),
    warmup_steps=Field(50, 'Steps in which the learning rate rises.', AT_LEAST_0),
    weight_decay=Field(0.01, "AdamW's weight decay.", AT_LEAST_0),
  ),
  eval=section(
    'How a policy is evaluated.',
    problems=Field(512, 'Problems of the test split, from the first on; limits on lengths apply to these.', ABOVE_0),
    batch=Field(256, 'Rows decoded at a time.', ABOVE_0),
    draft_blocks=Field(0, 'First blocks that draft what the whole model then verifies; 0 for no drafts.', AT_LEAST_0),
    draft_tokens=Field(4, 'Tokens drafted at a time, at most.', ABOVE_0),
  ),
  checkpoint=section(
    'What is kept on disk.',
    every=Field(20, 'Steps between two checkpoints.', ABOVE_0),
    keep_last=Field(2, 'The newest checkpoints that are kept.', ABOVE_0),
    keep_best=Field(1, 'The ones of the best accuracy that are kept besides.', AT_LEAST_0),
  ),
  mesh=section(
    'Devices along each axis. One axis may be -1, which is what is left.',
    data=Field(1, 'Devices over which rows are split; each holds all parameters.'),
    fsdp=Field(1, 'Devices over which rows and parameters are split.'),
    tensor=Field(1, 'Devices over which each layer is split.'),
  ),
)

FIELDS: dict[str, Field] = dict(fields(SCHEMA))


def default_config() -> ml_collections.ConfigDict:
  """The defaults, unlocked, so that an experiment may fill them in; `espo_jax.train` locks them."""
  return build(SCHEMA)
