"""Every field of an experiment with its default. A config file starts from `default_config()` and changes what it needs.

Published values of ESPO (arXiv 2605.29860) stand as they are; what the paper leaves out is marked [U] and is our choice.
"""

import ml_collections


def default_config() -> ml_collections.ConfigDict:
  """The defaults, unlocked, so that an experiment may fill them in; `espo_jax.train` locks them."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.stages = ('warm_start', 'critic_warmup', 'rl')  # in this order; leave one out to skip it
  c.baselines = ('never',)  # stop rules trained beside `stop.name` from the same start, for the table; () for none

  c.task = ml_collections.ConfigDict()
  c.task.name = 'chain'
  c.task.options = ml_collections.ConfigDict()  # keyword arguments of the task

  c.data = ml_collections.ConfigDict()  # for tasks that read files
  c.data.path = ''
  c.data.eval_path = ''

  c.model = ml_collections.ConfigDict()  # the fields of espo_jax.model.ModelConfig; the tokenizer sets the vocabulary
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
  c.model.dtype = 'float32'
  c.model.param_dtype = 'float32'

  c.critic = ml_collections.ConfigDict()
  c.critic.kind = 'shared'  # 'shared': a value head on the policy's trunk; 'separate': a network of its own
  c.critic.learning_rate = 1e-5  # [U]

  c.rollout = ml_collections.ConfigDict()
  c.rollout.prompts = 32  # P
  c.rollout.samples = 4  # G, responses a prompt
  c.rollout.prompt_width = 32  # L, tokens
  c.rollout.horizon = 64  # T, response tokens
  c.rollout.temperature = 1.0  # [U]
  c.rollout.scan_length = 16  # decode steps between two looks at whether all rows have ended

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
  for rule, (beta_0, beta_min, beta_max) in {'regret_only': (1.4, 0.1, 100.0), 'value_only': (-0.2, -1.0, 1.0)}.items():
    c.stop[rule] = ml_collections.ConfigDict({'beta_0': beta_0, 'beta_min': beta_min, 'beta_max': beta_max})  # other scales [U]

  c.gate = ml_collections.ConfigDict()  # the critic warm-up
  c.gate.loss_below = 0.5
  c.gate.patience = 3
  c.gate.change_below = 0.1
  c.gate.require_both = False  # [U]
  c.gate.min_explained_variance = -float('inf')  # ours: a test that means something with rewards in {0, 1}
  c.gate.force_at = 0.1  # of all updates

  c.reward = ml_collections.ConfigDict()
  c.reward.low = 0.0  # of a wrong answer [U]
  c.reward.high = 1.0  # of a right one [U]

  c.advantage = ml_collections.ConfigDict()
  c.advantage.gamma = 1.0  # [U]
  c.advantage.lam = 1.0  # [U]
  c.advantage.whiten = True
  c.advantage.bootstrap_truncated = False  # whether a row cut by the horizon counts on its last value

  c.objective = ml_collections.ConfigDict()
  c.objective.name = 'ppo'
  c.objective.clip_low = 0.2  # [U]
  c.objective.clip_high = 0.2  # [U]
  c.objective.value_clip = 0.2
  c.objective.value_coef = 0.5
  c.objective.entropy_coef = 0.0
  c.objective.kl_coef = 0.0  # to the policy RL started from [U]

  c.learner = ml_collections.ConfigDict()
  c.learner.updates = 100  # rollouts, the critic warm-up's included
  c.learner.epochs = 1
  c.learner.minibatches = 4
  c.learner.learning_rate = 1e-6
  c.learner.warmup_steps = 10  # optimizer steps
  c.learner.weight_decay = 0.0
  c.learner.max_grad_norm = 1.0
  c.learner.b1 = 0.9
  c.learner.b2 = 0.99
  c.learner.logit_chunk = 1024  # response tokens whose logits exist at a time
  c.learner.max_bad_steps = 5  # consecutive non-finite steps that end the run

  c.warm_start = ml_collections.ConfigDict()
  c.warm_start.steps = 300
  c.warm_start.batch = 128
  c.warm_start.learning_rate = 1e-3
  c.warm_start.warmup_steps = 50
  c.warm_start.weight_decay = 0.01

  c.eval = ml_collections.ConfigDict()
  c.eval.problems = 512  # of the test split
  c.eval.batch = 256

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 20  # steps
  c.checkpoint.keep_last = 2
  c.checkpoint.keep_best = 1

  c.mesh = ml_collections.ConfigDict()  # devices along each axis; one of them may be -1: what is left
  c.mesh.data = 1
  c.mesh.fsdp = 1
  c.mesh.tensor = 1
  return c
