"""Declares every field of an experiment: its default, its meaning, and the values that it may have.

A config file starts from `default_config()` and changes what it needs. `python -m espo_jax.methods config` prints this table.
The paper of a field is learned early exits (arXiv 2603.21376) in `exits` and `calibration`, and ESPO (arXiv 2605.29860)
elsewhere.

| mark of a field | where its default comes from |
|---|---|
| `PUBLISHED` | the value that the paper publishes |
| `UNPUBLISHED` | our choice for a constant of the paper whose value the paper leaves out |
| `OURS` | our choice for a constant that no paper has |
"""

import ml_collections

from espo_jax import environments, exits, stops, tasks
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
  build,
  fields,
  in_stage,
  open_section,
  section,
)
from espo_jax.configs.stop_fields import STOP, STOP_RULES
from espo_jax.model.config import ATTENTION, EXIT_HEADS, PROJECTIONS, REMAT, TRANSLATORS
from espo_jax.objectives import GRADIENTS, LIKELIHOODS
from espo_jax.objectives.importance import LEVELS
from espo_jax.tasks.sources import ON_ERROR

STAGES = ('warm_start', 'calibration', 'critic_warmup', 'rl')
BENCHMARKS = (*tasks.BENCHMARKS, tasks.JSONL)
CRITICS = ('shared', 'separate')
AUTO = 'auto'  # what suits the machine: a dtype, or a form of attention
DTYPES = ('float32', 'bfloat16', 'float16')
REUSE = ('none', 'exact', 'coupled', 'published')
BASELINES = ('kept', 'all')
KL = ('k1', 'k2', 'k3', 'exact')
REASONING = r'(?s)^\s*+(<think>)?+\s*+(?!</think>)\S.*</think>'  # a thought that is not empty and is closed

# The fields stand in the order in which they are printed. Each is Field(default, meaning, allowed values, mark).
SCHEMA = section(
  'An experiment.',
  seed=Field(0, 'The root of every random number.', AT_LEAST_0),
  stages=Field(('warm_start', 'critic_warmup', 'rl'), 'What is run, in this order.', Names(STAGES, 'stage')),
  start_from=Field('', "The folder of a run, arm or stage whose last parameters this run starts from; '' for `model`'s."),
  baselines=Field(('never',), 'Stop rules trained beside `stop.name` from the same start; () for none.', STOP_RULES),
  task=section(
    'The task that is trained.',
    name=Field('chain', 'The task.', Names(tasks.TASKS, 'task')),
    options=open_section("The task's keyword arguments, such as `task.options.difficulty` of the task 'chain'."),
  ),
  data=section(
    'The data of a task that reads files.',
    benchmark=Field('', "What `data.path` holds; 'jsonl' is data of your own.", Names(BENCHMARKS, checked=False)),
    path=Field('', "A file, hf://datasets/OWNER/NAME/FILE, a directory of prepare_data, or the benchmark's name on the Hub."),
    eval_benchmark=Field('', "The benchmark of the test split; '' for the benchmark of the train split."),
    eval_path=Field('', "The place of the test split; '' holds out one row in ten of `data.path`."),
    problem_field=Field('', "The field of 'jsonl' that holds the problem; a dotted name reaches into a record."),
    answer_field=Field('', "The field of 'jsonl' that holds the final answer alone, a text or a number."),
    solution_field=Field('', "The field of 'jsonl' that holds a written solution, for a warm start."),
    today=Field('', "The date that a chat template writes, such as '2026-01-31'; '' for the day of the run's first start."),
    on_error=Field('raise', "What to do with a malformed row; 'skip' leaves it out and lists it.", Names(ON_ERROR)),
  ),
  model=section(
    'The decoder.',
    path=Field('', "A Hugging Face directory, which then sets the whole shape; '' for random weights of the shape below."),
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
    remat=Field('none', "What the backward pass recomputes; 'dots' is all but matrix products.", Names(REMAT, checked=False)),
    attention=Field(
      AUTO,
      "The form of attention over whole sequences; 'auto' is splash on a TPU and chunked elsewhere.",
      Names(ATTENTION, checked=False),
    ),
    paged_kernels=Field(False, "Whether a single TPU or GPU decodes with jax's paged attention kernels; no effect elsewhere."),
    dtype=Field(
      AUTO,
      "The type of activations and matrix products; 'auto' is float32 on a CPU and bfloat16 elsewhere.",
      Names((AUTO, *DTYPES), 'dtype'),
    ),
    param_dtype=Field('float32', 'The type of the parameters.', Names(DTYPES, 'dtype')),
    lora=section(
      'Low-rank adapters. With adapters, the rest of the decoder is frozen.',
      rank=Field(0, 'The rank; 0 for no adapters.'),
      alpha=Field(16.0, 'The scale of an update, which is `alpha / rank * A B`.'),
      targets=Field(PROJECTIONS, 'The projections that have an adapter.', Names(PROJECTIONS, checked=False)),
    ),
  ),
  critic=section(
    "The critic. It exists if the advantages are computed from it, as with the objective 'ppo'.",
    kind=Field('shared', "A value head on the policy's trunk, or a network of its own.", Names(CRITICS, 'critic')),
    learning_rate=Field(1e-5, "The critic's learning rate.", ABOVE_0, UNPUBLISHED),
    every=Field(1, 'Tokens that a separate critic reads at a time; the stop rule sees its last value. ESPO has 1.', ABOVE_0),
  ),
  exits=open_section(
    'Learned early exits. The options of the exit policy stand beside these fields.',
    every=Field(0, 'Blocks between two exits; 0 for no exits, so that every token runs through all blocks.', AT_LEAST_0),
    first_block=Field(0, 'The first block that may have an exit.', AT_LEAST_0),
    kind=Field(
      'linear',
      "What scores an exit: 'linear', 'mlp' or 'recurrence' of streams, 'statistics' or 'candidates' of logits.",
      Names(EXIT_HEADS, checked=False),
    ),
    translator=Field(
      'none',
      "What corrects the stream of a token that exits: 'token' is low-rank; 'local_global' reads earlier tokens too.",
      Names(TRANSLATORS, checked=False),
    ),
    width=Field(64, "The rank of a translator, a recurrence's channels, a predictor's hidden layer.", ABOVE_0, OURS),
    candidates=Field(4, "Tokens whose logits gates of the kind 'candidates' read.", ABOVE_0, UNPUBLISHED),
    policy=Field('sampled', "The exit policy; 'never' runs the whole model.", Names(exits.REGISTRY, checked=False)),
    alone=Field(False, 'Whether only the exit heads are trained, and the critic if there is one.'),
    learning_rate=Field(1e-5, 'The learning rate of the exit heads.', ABOVE_0, PUBLISHED),
  ),
  calibration=section(
    "The stage 'calibration', in which exits learn from the model at full depth.",
    steps=Field(200, 'The number of steps.', in_stage('calibration', ABOVE_0), UNPUBLISHED),
    prompts=Field(32, 'Prompts per step; one response to each is sampled.', in_stage('calibration', ABOVE_0), UNPUBLISHED),
    learning_rate=Field(
      1e-5, 'The learning rate of all parameters but the exit heads.', in_stage('calibration', ABOVE_0), PUBLISHED
    ),
    warmup_steps=Field(10, 'Steps in which the learning rate rises.', AT_LEAST_0, UNPUBLISHED),
    kappa=Field(
      1.0,
      'How strongly a nat of divergence lowers the target probability of an exit.',
      in_stage('calibration', ABOVE_0),
      PUBLISHED,
    ),
    patterns=Field(
      4, 'Exit patterns per response that are drawn from the target distribution.', in_stage('calibration', ABOVE_0), PUBLISHED
    ),
    uniform_patterns=Field(
      0, 'Further exit patterns per response, drawn uniformly, which train agreement alone.', AT_LEAST_0, OURS
    ),
    whole_patterns=Field(
      0, 'Further patterns per response without exits, which keep the whole model as it is.', AT_LEAST_0, OURS
    ),
    divergence_weight=Field(1.0, 'The weight of the divergence from the whole model.', AT_LEAST_0, PUBLISHED),
    exit_weight=Field(1.0, "The weight of the exits' log-probability.", AT_LEAST_0, PUBLISHED),
    skip_weight=Field(0.01, 'The weight of the mean probability with which routers keep blocks.', AT_LEAST_0, UNPUBLISHED),
    bimodal_weight=Field(0.01, 'The weight of the penalty on routers that are undecided.', AT_LEAST_0, UNPUBLISHED),
    repair_steps=Field(0, 'The last steps, in which routers are frozen and the model learns their routes.', AT_LEAST_0, OURS),
    levels=Field((0.1, 0.3, 0.5, 0.7, 0.9), "Thresholds of the report's curve, in (0, 1); () for no curve.", None, UNPUBLISHED),
  ),
  lesson=open_section(
    'What exits learn in the calibration of a frozen model. The options of the lesson stand beside its name.',
    name=Field('', "The lesson; '' for self-distillation, which can train the model too.", Names(('', *exits.LESSONS))),
  ),
  rollout=section(
    'How responses are sampled.',
    prompts=Field(32, 'P: prompts per rollout.', ABOVE_0),
    samples=Field(4, 'G: responses per prompt.', ABOVE_0),
    max_draws=Field(
      0, "The most rollouts per step, to replace groups of equal scores; 0 for the objective's own number.", AT_LEAST_0
    ),
    tags=Field((), 'Texts appended to the prompts in turn, problem by problem, such as levels of brevity.'),
    parts=Field(1, 'Parts of a rollout; one is graded, or its environments step, while the next is decoded.', ABOVE_0),
    prompt_width=Field(32, 'L: tokens that a prompt may have.', ABOVE_0),
    horizon=Field(64, 'T: tokens that a response may have.', ABOVE_0),
    temperature=Field(1.0, 'The temperature of the sampler.', ABOVE_0, UNPUBLISHED),
    top_p=Field(1.0, 'The share of the distribution that an evaluation samples; training samples all of it.', SHARE_ABOVE_0),
    top_k=Field(0, 'The number of tokens that an evaluation samples from; 0 for all.', AT_LEAST_0),
    min_p=Field(0.0, "The least probability of a token in an evaluation, as a share of the likeliest token's.", SHARE),
    slots=Field(0, 'Rows decoded at a time; a row that ends gives its slot to the next one. 0 for all.', AT_LEAST_0),
    gather_weights=Field(False, 'Whether weights are gathered over `mesh.fsdp` once per rollout, not in each decode step.'),
    scan_length=Field(32, 'The most decode steps before the decoded tokens are written out.', ABOVE_0),
    record=Field(0, 'Save the rollout of every n-th update for espo_jax.replay; 0 for never.', AT_LEAST_0),
    reuse=section(
      'SPEC-RL: the last response to a problem of a pool is a draft, which the policy verifies and goes on behind.',
      form=Field('none', "How; 'exact' and 'coupled' sample the policy, 'published' is biased.", Names(REUSE, 'form of reuse')),
      lenience=Field(0.5, "What 'published' adds to the log-ratio by which a token is kept.", AT_LEAST_0, PUBLISHED),
      candidates=Field(64, "The likeliest tokens that 'exact' keeps of each distribution.", ABOVE_0, OURS),
    ),
    serial=section(
      "S-GRPO: one full response is cut, and an answer is asked for at each cut (reward 'serial_decay').",
      inducer=Field('', "The text appended at a cut to ask for the answer; '' if all samples are full responses."),
      answer_tokens=Field(32, 'The most tokens of an answer behind the inducer.', ABOVE_0, UNPUBLISHED),
      end_of_thinking=Field('', "The token before which cuts lie, such as '</think>'; '' for anywhere in a response."),
    ),
  ),
  environment=open_section(
    'Whom the policy talks to between turns. The options of the environment stand beside these fields.',
    name=Field('', "The environment; '' if a response is one turn.", Names(environments.REGISTRY, checked=False)),
    max_turns=Field(4, 'The most turns of an episode.', ABOVE_0),
    turn_horizon=Field(
      0, 'Tokens that a turn may have; 0 for as many as `rollout.horizon`, which is for the episode.', AT_LEAST_0
    ),
    observation_horizon=Field(32, 'Tokens between two turns, at most; a longer observation is cut.', ABOVE_0),
    reset_rule=Field(False, 'Whether the stop rule begins anew with each turn.'),
    expert_budget=Field(
      0.0,
      "The most turns of an episode of training, as a multiple of its expert's where there is one; 0: no such bound.",
      AT_LEAST_0,
    ),
    repeats=Field(0, 'Equal turns in a row that end an episode; 0 for no limit.', AT_LEAST_0),
    role=Field('', "Who speaks in a chat, 'user' or 'tool'; '' for the environment's own choice."),
    deadline=Field(5.0, 'Seconds that an environment has for each step.', ABOVE_0),
    workers=Field(2, 'Processes in which environments run.', ABOVE_0),
  ),
  stop=STOP,
  gate=section(
    'When the critic warm-up ends and the stop rule begins.',
    loss_below=Field(0.5, "The critic's loss that is low enough.", AT_LEAST_0, PUBLISHED),
    patience=Field(3, 'Consecutive updates in which it is.', ABOVE_0, PUBLISHED),
    change_below=Field(0.1, 'The change of that loss between two updates that is small enough.', AT_LEAST_0, PUBLISHED),
    require_both=Field(False, 'Whether both tests have to pass, instead of either one.', None, UNPUBLISHED),
    min_explained_variance=Field(-float('inf'), 'The least explained variance, a test for rewards in {0, 1}.', None, OURS),
    force_at=Field(0.1, 'The share of all updates after which the warm-up ends in any case.', SHARE_ABOVE_0, PUBLISHED),
  ),
  reward=open_section(
    'The reward. The options of the rewards that it names stand beside these fields.',
    name=Field('correct', "A reward, or an expression over rewards: 'correct + 0.5 * overlong', 'hmpo & format'."),
    kl_coef=Field(
      0.0,
      "The weight of the KL from the policy that RL started from; each token's reward is lowered by it.",
      AT_LEAST_0,
      UNPUBLISHED,
    ),
    kl=Field('k1', 'How that divergence is estimated.', Names(KL)),
    format=Field('', "A regular expression found in every well-formed response; '' accepts any response that ends."),
    reasoning=Field(REASONING, 'A regular expression found in every response that reasons.'),
    deadline=Field(
      5.0, 'The most seconds that a reward which reads text may take for the responses to one prompt.', ABOVE_0, OURS
    ),
  ),
  allocation=open_section(
    'Which problems a rollout has, and how many rows each. The options of the allocator stand beside these fields.',
    name=Field('uniform', 'The allocator of a pool.', Names(tasks.ALLOCATORS, checked=False)),
    pool=Field(0, 'Problems that training repeats, each epoch in another order; 0 for new ones without end.', AT_LEAST_0),
  ),
  advantage=open_section(
    'The advantage. The options of the advantage that it names stand beside this field.',
    name=Field('', "The advantage; '' for the objective's own."),
    rows=Field(0, 'The most rows of a prompt that are trained on, those whose scores vary most (PODS); 0 for all.', AT_LEAST_0),
    baseline=Field(
      'kept', "The rows behind a group's mean and deviation: those trained on, or all; a pruned row scores 0.", Names(BASELINES)
    ),
  ),
  objective=open_section(
    'The objective. The options of the objective that it names stand beside this field.',
    name=Field('ppo', "One objective, and terms beside it: 'grpo + kl_k3 + entropy'."),
  ),
  learner=section(
    'How the policy learns from rollouts.',
    updates=Field(100, "The number of rollouts, the critic warm-up's included.", ABOVE_0),
    tokens=Field(
      0, 'Decoded tokens at which an arm ends before its last update, shadow rows included; 0 for none.', AT_LEAST_0
    ),
    epochs=Field(1, 'Passes over a rollout.', ABOVE_0),
    minibatches=Field(4, 'Optimizer steps per pass.', ABOVE_0),
    whole_groups=Field(
      False,
      'Whether all rows of a prompt are in the same minibatch, so that shared prompts save most.',
    ),
    micro_batches=Field(
      1, 'Parts of a minibatch whose gradients are summed, to save memory; metrics such as kl are means over them.', ABOVE_0
    ),
    offload_optimizer=Field(
      False, "Whether Adam's moments are kept in the host's memory between updates, if devices can reach it."
    ),
    pack_sizes=Field(
      4, 'How finely the number of packed sequences is rounded, each size a program; 1 for one per row.', ABOVE_0
    ),
    pack_widths=Field(
      13, 'Widths of packed sequences that are tried; more leave less padding and compile more programs.', ABOVE_0
    ),
    share_prompts=Field(True, 'Whether the rows of a prompt share it in a packed sequence, except under splash attention.'),
    learning_rate=Field(1e-6, "The policy's learning rate.", ABOVE_0, PUBLISHED),
    warmup_steps=Field(10, 'Optimizer steps in which the learning rate rises.', AT_LEAST_0),
    weight_decay=Field(0.0, "AdamW's weight decay.", AT_LEAST_0),
    max_grad_norm=Field(1.0, 'The norm to which a gradient is clipped.', ABOVE_0),
    b1=Field(0.9, "The decay of Adam's first moment.", BELOW_1),
    b2=Field(0.99, "The decay of Adam's second moment.", BELOW_1),
    importance=Field('token', 'What has an importance weight: a token, or its row, cut at the cap or masked.', Names(LEVELS)),
    importance_cap=Field(0.0, 'The bound on the weight, the ratio of learner to sampler probability; 0 for none.', AT_LEAST_0),
    decision_after=Field(-1, 'A token id, such as that of <think>; the first token after it learns nothing; -1 for none.'),
    logit_chunk=Field(
      0, 'Tokens per device whose logits are in memory at a time; 0 for as many as have 256 MiB of logits.', AT_LEAST_0
    ),
    max_bad_steps=Field(5, 'Consecutive non-finite steps that end the run.', ABOVE_0),
  ),
  warm_start=section(
    "The stage 'warm_start': supervised learning from written solutions, conversations of an expert, or examples.",
    data=Field('', "A file of examples, such as espo_jax.sources writes; '' for written solutions or conversations."),
    steps=Field(300, 'The number of steps.', in_stage('warm_start', ABOVE_0)),
    batch=Field(128, 'Rows per step.', in_stage('warm_start', ABOVE_0)),
    learning_rate=Field(1e-3, 'The learning rate.', in_stage('warm_start', ABOVE_0)),
    warmup_steps=Field(50, 'Steps in which the learning rate rises.', AT_LEAST_0),
    weight_decay=Field(0.01, "AdamW's weight decay.", AT_LEAST_0),
    loss=Field('softmax_ce', 'The probabilities whose cross-entropy is minimised.', Names(LIKELIHOODS, 'likelihood')),
    gradients=Field('none', 'A transformation of gradients before the optimizer.', Names(('none', *GRADIENTS))),
  ),
  eval=section(
    'How a policy is evaluated.',
    problems=Field(512, 'Problems of the test split, from the first on; limits on lengths apply to these.', ABOVE_0),
    batch=Field(256, 'Rows decoded at a time.', ABOVE_0),
    every=Field(0, 'Updates of an arm between two evaluations while it trains; 0 for none.', AT_LEAST_0),
    draft_blocks=Field(
      0, 'First blocks of the model that draft tokens for the whole model to verify; 0 for no drafts.', AT_LEAST_0
    ),
    draft_tokens=Field(4, 'Tokens drafted at a time, at most.', ABOVE_0),
  ),
  checkpoint=section(
    'What is kept on disk.',
    every=Field(20, 'Steps between two checkpoints.', ABOVE_0),
    keep_last=Field(2, 'How many of the newest checkpoints are kept.', ABOVE_0),
    keep_best=Field(1, 'How many checkpoints of the best accuracy are kept besides.', AT_LEAST_0),
  ),
  mesh=section(
    'Devices along each axis. One axis may be -1, which takes all devices that are left.',
    data=Field(1, 'Devices over which rows are split; each holds all parameters.'),
    fsdp=Field(1, 'Devices over which rows and parameters are split.'),
    tensor=Field(1, 'Devices over which each layer is split.'),
  ),
)

FIELDS: dict[str, Field] = dict(fields(SCHEMA))


def default_config() -> ml_collections.ConfigDict:
  """Returns the defaults as an unlocked config, so that an experiment can fill them in. `espo_jax.train` locks the config."""
  config = build(SCHEMA)
  for rule in stops.REGISTRY:
    if stops.is_users(rule):
      config.stop[rule] = ml_collections.ConfigDict()  # room for its options
  return config
