"""Every field of an experiment with its default. A config file starts from `default_config()` and changes what it needs.

Published values of ESPO (arXiv 2605.29860) stand as they are; what the paper leaves out is marked [U] and is our choice.
"""

import ml_collections


def default_config() -> ml_collections.ConfigDict:
  """The defaults, unlocked, so that an experiment may fill them in; `espo_jax.train` locks them."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.stages = ('warm_start', 'critic_warmup', 'rl')  # 'calibration' goes behind 'warm_start'; leave one out to skip it
  c.start_from = ''  # the folder of another run, whose last parameters this one starts from; '' for model.path's or random ones
  c.baselines = ('never',)  # stop rules trained beside `stop.name` from the same start, for the table; () for none

  c.task = ml_collections.ConfigDict()
  c.task.name = 'chain'
  c.task.options = ml_collections.ConfigDict()  # keyword arguments of the task

  c.data = ml_collections.ConfigDict()  # for tasks that read files
  c.data.benchmark = ''  # a name in espo_jax.tasks.BENCHMARKS
  c.data.path = ''  # a file, a directory that espo_jax.prepare_data wrote, or the benchmark's name on the Hugging Face Hub
  c.data.eval_benchmark = ''  # '' for that of the train split
  c.data.eval_path = ''  # '' to hold out one row in ten
  c.data.today = ''  # the day that a chat template writes, such as '2026-01-31'; '' for that of the run's first start
  c.data.on_error = 'raise'  # 'skip' to go on without malformed rows, and list them

  c.model = ml_collections.ConfigDict()
  c.model.path = ''  # a Hugging Face directory, which then says all of the shape; '' for random weights of the shape below
  c.model.hidden_size = 128
  c.model.intermediate_size = 256
  c.model.num_layers = 3
  c.model.num_heads = 4
  c.model.num_kv_heads = 2
  c.model.head_dim = 32
  c.model.rope_theta = 10_000.0
  c.model.rms_norm_eps = 1e-6
  c.model.tie_word_embeddings = True
  c.model.scan_layers = False
  c.model.remat = (
    'none'  # what a gradient computes anew, for memory: 'none', 'dots': of each layer all but its matrix products, 'full'
  )
  c.model.paged_kernels = False  # decode by jax's paged attention kernels, on one TPU or GPU; elsewhere this changes nothing
  c.model.dtype = 'float32'
  c.model.param_dtype = 'float32'
  c.model.lora = ml_collections.ConfigDict()  # adapters; the rest of the decoder is frozen beside them
  c.model.lora.rank = 0  # 0 for none
  c.model.lora.alpha = 16.0
  c.model.lora.targets = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')

  c.critic = ml_collections.ConfigDict()  # there is one where advantages come from it: under 'ppo'
  c.critic.kind = 'shared'  # 'shared': a value head on the policy's trunk; 'separate': a network of its own
  c.critic.learning_rate = 1e-5  # [U]
  c.critic.every = 1  # tokens that a separate critic reads at a time; the stop rule sees its last value. 1 is the paper's

  # Learned early exits (arXiv 2603.21376). Beside these fields the section holds options of the policy.
  c.exits = ml_collections.ConfigDict()
  c.exits.every = 0  # blocks between two places where a token may leave; 0 for none: every token runs through every block
  c.exits.kind = 'linear'  # of the exit heads; 'mlp' for one hidden layer of twice the width
  c.exits.policy = 'sampled'  # how it is decided; 'never' is the whole model
  c.exits.alone = False  # only the exit heads learn, and a critic
  c.exits.learning_rate = 1e-5  # of the heads

  c.calibration = ml_collections.ConfigDict()  # the stage: exits learn from the model at full depth
  c.calibration.steps = 200  # [U]
  c.calibration.prompts = 32  # [U] a response to each is sampled a step
  c.calibration.learning_rate = 1e-5  # of what is not a head
  c.calibration.warmup_steps = 10  # [U]
  c.calibration.kappa = 1.0  # how much a nat of divergence speaks against an exit
  c.calibration.patterns = 4  # exits drawn for each response from the target's law
  c.calibration.uniform_patterns = 0  # besides, exits drawn uniformly, for agreement alone; ours
  c.calibration.whole_patterns = 0  # besides, no exits, so that the model at full depth stays what it is; ours
  c.calibration.divergence_weight = 1.0
  c.calibration.exit_weight = 1.0
  c.calibration.levels = (0.1, 0.3, 0.5, 0.7, 0.9)  # [U] thresholds of the report's curve; () for no curve

  c.rollout = ml_collections.ConfigDict()
  c.rollout.prompts = 32  # P
  c.rollout.samples = 4  # G, responses a prompt
  c.rollout.max_draws = 0  # rollouts a step to replace groups of equal scores; 1 for no replacement, 0 for the objective's own
  c.rollout.tags = ()  # texts put behind the prompts in turn, problem by problem, such as levels of brevity
  c.rollout.parts = 1  # into which a rollout is divided: one is graded while the next is decoded
  c.rollout.prompt_width = 32  # L, tokens
  c.rollout.horizon = 64  # T, response tokens
  c.rollout.temperature = 1.0  # [U]
  c.rollout.top_p = 1.0  # this and the next two truncate in an evaluation; training samples the whole distribution
  c.rollout.top_k = 0  # 0 is all
  c.rollout.min_p = 0.0
  c.rollout.slots = 0  # rows decoded at a time, each slot taking another row as one ends; 0 for all rows at once
  c.rollout.gather_weights = False  # over mesh.fsdp, once a rollout; else every decode step gathers them, layer by layer
  c.rollout.scan_length = 32  # the most decode steps between two times that what was decoded is written out
  c.rollout.record = 0  # updates from one to the next whose rollout is written down for espo_jax.replay; 0 for none
  c.rollout.serial = ml_collections.ConfigDict()  # S-GRPO: answers asked for at cuts of one full response, for 'serial_decay'
  c.rollout.serial.inducer = ''  # the text behind a cut that asks for the answer; '' for samples that are all full responses
  c.rollout.serial.answer_tokens = 32  # the most tokens that then follow [U]
  c.rollout.serial.end_of_thinking = ''  # the token, such as '</think>', before which cuts lie; '' for anywhere in a response

  c.stop = ml_collections.ConfigDict()
  c.stop.name = 'espo'  # 'never' is plain PPO
  c.stop.smoothing = 0.9  # a_s
  c.stop.clip = 5.0  # c [U]
  c.stop.delta = 1e-8  # [U]
  c.stop.epsilon = 0.2
  c.stop.beta_0 = 7.0
  c.stop.beta_min = 0.0  # [U]
  c.stop.beta_max = 100.0  # [U]
  c.stop.eta = 0.1
  c.stop.target_rate = 0.25  # tau
  c.stop.momentum = 0.99
  c.stop.fail_reward = -1.0  # r_fail
  c.stop.shadow_share = 0.25  # of stopped rows that go on, for measurement only
  c.stop.budget = 0.02  # ours: the share of right answers that 'risk_control' may lose
  c.stop.memory = 0.9  # ours: how the account that it keeps of them fades from batch to batch
  scales = {'regret_only': (1.4, 0.1, 100.0), 'value_only': (-0.2, -1.0, 1.0), 'risk_control': (1.4, 0.05, 5.0)}
  for rule, (beta_0, beta_min, beta_max) in scales.items():
    c.stop[rule] = ml_collections.ConfigDict({'beta_0': beta_0, 'beta_min': beta_min, 'beta_max': beta_max})  # other scales [U]

  c.gate = ml_collections.ConfigDict()  # the critic warm-up
  c.gate.loss_below = 0.5
  c.gate.patience = 3
  c.gate.change_below = 0.1
  c.gate.require_both = False  # [U]
  c.gate.min_explained_variance = -float('inf')  # ours: a test that means something with rewards in {0, 1}
  c.gate.force_at = 0.1  # of all updates

  # Beside these fields the next three hold options of what they name: `python -m espo_jax.methods` lists them.
  c.reward = ml_collections.ConfigDict()
  c.reward.name = 'correct'  # or an expression over rewards: 'hmpo', 'correct + 0.5 * overlong', 'hmpo & format'
  c.reward.kl_coef = 0.0  # weight of the divergence from the policy RL started from, taken off each token's reward [U]
  c.reward.kl = 'k1'  # how it is estimated there: 'k1', 'k2', 'k3' or 'exact'
  c.reward.format = ''  # regular expression found in every well-formed response; '' for any that comes to its end
  c.reward.reasoning = r'(?s)^\s*+(<think>)?+\s*+(?!</think>)\S.*</think>'  # found in every response that reasons

  c.advantage = ml_collections.ConfigDict()
  c.advantage.name = ''  # '' for the objective's own

  c.objective = ml_collections.ConfigDict()
  c.objective.name = 'ppo'  # one objective, and terms beside it: 'grpo + kl_k3 + entropy'

  c.learner = ml_collections.ConfigDict()
  c.learner.updates = 100  # rollouts, the critic warm-up's included
  c.learner.epochs = 1
  c.learner.minibatches = 4  # optimizer steps an epoch
  c.learner.micro_batches = 1  # parts of a minibatch whose gradients are added up, for memory; they change nothing else
  c.learner.offload_optimizer = False  # moments lie in the host's memory between two updates; needs devices that can reach it
  c.learner.pack_sizes = 4  # rows share sequences, whose number is rounded up to this many steps; 1 for a sequence a row
  c.learner.learning_rate = 1e-6
  c.learner.warmup_steps = 10  # optimizer steps
  c.learner.weight_decay = 0.0
  c.learner.max_grad_norm = 1.0
  c.learner.b1 = 0.9
  c.learner.b2 = 0.99
  c.learner.importance_cap = 0.0  # on learner against sampler probabilities, which then weigh tokens; 0 for no correction
  c.learner.decision_after = (
    -1
  )  # a token's id, such as that of <think>: what first follows it in a row learns nothing; -1 for none
  c.learner.logit_chunk = 1024  # columns of a sequence whose logits exist at a time
  c.learner.max_bad_steps = 5  # consecutive non-finite steps that end the run

  c.warm_start = ml_collections.ConfigDict()
  c.warm_start.steps = 300
  c.warm_start.batch = 128
  c.warm_start.learning_rate = 1e-3
  c.warm_start.warmup_steps = 50
  c.warm_start.weight_decay = 0.01

  c.eval = ml_collections.ConfigDict()
  c.eval.problems = 512  # of the test split, from the first on; limits on lengths apply to these
  c.eval.batch = 256
  c.eval.draft_blocks = (
    0  # the first blocks draft what the whole model verifies: its answers' law is the model's; 0 for no drafts
  )
  c.eval.draft_tokens = 4  # drafted at a time, at most

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 20  # steps
  c.checkpoint.keep_last = 2
  c.checkpoint.keep_best = 1

  c.mesh = ml_collections.ConfigDict()  # devices along each axis; one of them may be -1: what is left
  c.mesh.data = 1
  c.mesh.fsdp = 1
  c.mesh.tensor = 1
  return c
