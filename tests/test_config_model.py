"""A config is checked against the tokenizer: the decoder embeds each of its tokens, and a field names one of them."""

import pytest

from espo_jax.configs import ConfigError, check_tokens, default_config
from espo_jax.model import ModelConfig

pytestmark = pytest.mark.quick

SHAPE = ModelConfig(vocab_size=20)


def test_a_tokenizer_may_have_fewer_tokens_than_the_embedding_and_not_more():
  config = default_config()
  config.model.path = 'models/mine'
  check_tokens(config, 20, SHAPE)
  check_tokens(config, 18, SHAPE)
  with pytest.raises(ConfigError, match=r"model\.path = 'models/mine': its tokenizer has 21 tokens, its embedding 20; fix: "):
    check_tokens(config, 21, SHAPE)


@pytest.mark.parametrize('token', [-1, 0, 17])
def test_the_decision_is_made_after_a_token_of_the_tokenizer(token):
  config = default_config()
  config.learner.decision_after = token
  check_tokens(config, 18, SHAPE)


@pytest.mark.parametrize('token', [-2, 18, 19])  # 19 has an embedding, but stands for no token
def test_a_decision_after_another_number_is_refused(token):
  config = default_config()
  config.learner.decision_after = token
  with pytest.raises(ConfigError, match=rf'learner\.decision_after = {token}: no token of 18; fix: a token id, or -1 for none'):
    check_tokens(config, 18, SHAPE)


@pytest.mark.parametrize(
  ('field', 'changes'),
  [
    ('stop.candidate_answer.marker', {'stop': {'name': 'candidate_answer'}}),
    ('objective.short_token', {'objective': {'name': 'grpo + mode_margin', 'short_token': 18}}),
  ],
)
def test_a_token_that_a_method_waits_for_is_one_of_the_tokenizer(field, changes):
  config = default_config()
  for section, values in changes.items():
    config[section].update(values)
  config.stop.candidate_answer.marker = (3, 18)
  check_tokens(config, 19, ModelConfig(vocab_size=20))
  with pytest.raises(ConfigError, match=rf'{field} has 18: no token of 18; fix: ids from 0 to 17'):
    check_tokens(config, 18, SHAPE)
