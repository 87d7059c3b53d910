"""An exported tokenizer is the one that was exported, to transformers 5 and to 4.57: ids, texts, chats, special tokens."""

import json

import jax
import pytest
import transformers
from readers import needs_transformers4, transformers4
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from espo_jax import tasks
from espo_jax.model import ModelConfig, init, save_hf
from espo_jax.tasks.pretrained import load_tokenizer
from espo_jax.tasks.tokenizer import character_tokenizer

pytestmark = pytest.mark.quick

LINES = ['the quick brown fox adds 12 and 345', 'a lazy dog takes 6 from 78', 'So x = 9.  Hence \\boxed{9}']
TEXTS = [
  'the fox takes 12345 from 9',
  '  two  spaces, and\nlines\n\n',
  'an end <eos> written out, and <think>\nso</think>',
  '<|user|>a dog<|end|>',
  'Été naïve ∀ ≤ 3',
  "it's a dog , isn't it ?",
]
CHATS = [
  [{'role': 'user', 'content': '1 + 1 = ?'}],
  [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'so?'}, {'role': 'assistant', 'content': '2'}],
]
TEMPLATE = (
  "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ['<pad>', '<eos>', '<bos>', '<unk>']
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def trained(model, trainer, pre_tokenizer, decoder, **options):
  """A small tokenizer of the library, trained on a few lines."""
  tokenizer = Tokenizer(model)
  tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
  if (normalizer := options.pop('normalizer', None)) is not None:
    tokenizer.normalizer = normalizer
  tokenizer.train_from_iterator(LINES, trainer)
  if (processor := options.pop('processor', None)) is not None:
    tokenizer.post_processor = processor(tokenizer)
  names = {'pad_token': '<pad>', 'eos_token': '<eos>', 'bos_token': '<bos>', 'chat_template': TEMPLATE}
  return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(names | options))


def bytewise(prefix=False, **options):
  trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=BYTES, show_progress=False)
  return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel(), **options)


def unigram(**options):
  trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token='<unk>', show_progress=False)
  return trained(
    models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace(), **({'unk_token': '<unk>'} | options)
  )


def begins(tokenizer):
  bos = ('<bos>', tokenizer.token_to_id('<bos>'))
  return processors.TemplateProcessing(single='<bos> $A', pair='<bos> $A <bos> $B', special_tokens=[bos])


def characters():
  return character_tokenizer([*map(chr, range(32, 127)), '\n', *'Éïé∀≤'])


def with_added():
  tokenizer = bytewise()
  tokenizer.add_tokens([AddedToken('<think>', normalized=False), AddedToken('</think>', normalized=False, lstrip=True)])
  return tokenizer


def with_extra():
  tokenizer = bytewise()
  tokenizer.add_special_tokens({'extra_special_tokens': ['<|user|>', AddedToken('<|end|>', rstrip=True, special=True)]})
  return tokenizer


def padded_by_its_end():
  tokenizer = bytewise(pad_token=None)
  tokenizer.pad_token = tokenizer.eos_token
  return tokenizer


def with_template(text):
  tokenizer = tasks.byte_bpe_tokenizer(LINES, 300)
  tokenizer.chat_template = text
  return tokenizer


def split_by_an_expression():
  trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=BYTES, show_progress=False)
  split = pre_tokenizers.Split(Regex(r'\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+'), behavior='isolated')
  both = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  return trained(models.BPE(), trainer, both, decoders.ByteLevel())


def published(**config):
  """A tokenizer as models are published, `tokenizer_config.json` as transformers 4 wrote it, read for training."""

  def read(directory):
    bytewise(processor=begins).save_pretrained(directory)
    names = {'pad_token': '<pad>', 'eos_token': '<eos>', 'bos_token': '<bos>', 'chat_template': TEMPLATE}
    (directory / 'tokenizer_config.json').write_text(json.dumps(names | config))
    (directory / 'chat_template.jinja').unlink()
    return load_tokenizer(str(directory))

  return read


CASES = {
  'characters': characters,
  'bytes, of a run': lambda: with_template(None),
  'bytes, of a run, with a template': lambda: with_template(TEMPLATE),
  'bytes': bytewise,
  'bytes, a space in front': lambda: bytewise(prefix=True),
  'bytes, a first token': lambda: bytewise(processor=begins),
  'added tokens': with_added,
  'further special tokens': with_extra,
  'padded by its end token': padded_by_its_end,
  'special tokens are text': lambda: bytewise(split_special_tokens=True),
  'padding on the left, a longest text': lambda: bytewise(padding_side='left', model_max_length=77),
  'spaces cleaned up': lambda: bytewise(clean_up_tokenization_spaces=True),
  'two templates': lambda: with_template({'default': TEMPLATE, 'tool_use': 'tools'}),
  'split by an expression': split_by_an_expression,
  'pieces of words': unigram,
  'pieces of words, spaces cleaned up': lambda: unigram(clean_up_tokenization_spaces=True),
  'pieces of words, normalised': lambda: unigram(
    normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
  ),
  'pieces of words, a first token': lambda: unigram(processor=begins),
  'published for Qwen': published(tokenizer_class='Qwen2Tokenizer', add_prefix_space=False),
  'published for Llama': published(tokenizer_class='LlamaTokenizerFast', add_bos_token=True, legacy=True),
  'published, more special tokens': published(
    tokenizer_class='PreTrainedTokenizerFast', additional_special_tokens=['<|user|>', '<|end|>']
  ),
  'published, a space that is not there': published(tokenizer_class='GPT2Tokenizer', add_prefix_space=True),
}


@pytest.fixture(scope='module')
def model():
  config = ModelConfig(
    vocab_size=512, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8
  )
  return config, init(config, jax.random.key(0))


@pytest.fixture(params=CASES)
def exported(request, model, tmp_path):
  """A tokenizer, and where it was exported to."""
  make = CASES[request.param]
  (tmp_path / 'in').mkdir()
  tokenizer = make(tmp_path / 'in') if request.param.startswith('published') else make()
  save_hf(tmp_path / 'out', *model, tokenizer=tokenizer)
  return tokenizer, tmp_path / 'out'


def texts_for(tokenizer):
  if tokenizer.unk_token is None and isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
    return [text for text in TEXTS if set(text) <= set(tokenizer.get_vocab())]
  return TEXTS


def described(tokenizer):
  """What a reader's tokenizer is asked, of one in this process."""
  ids = [tokenizer(text)['input_ids'] for text in texts_for(tokenizer)]
  chats = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats_for(tokenizer)]
  return {
    'ids': ids,
    'bare ids': [tokenizer.encode(text, add_special_tokens=False) for text in texts_for(tokenizer)],
    'texts': [tokenizer.decode(line) for line in ids],
    'plain texts': [tokenizer.decode(line, skip_special_tokens=True) for line in ids],
    'chats': chats,
    'chat ids': [tokenizer.encode(chat, add_special_tokens=False) for chat in chats],
    'special': [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side],
    'all special': sorted(set(tokenizer.all_special_tokens)),
  }


def chats_for(tokenizer):
  return CHATS if tokenizer.chat_template else []


def test_transformers_5_reads_the_tokenizer(exported):
  tokenizer, directory = exported
  expected = described(tokenizer)
  assert len(expected['ids']) >= 4
  assert described(transformers.PreTrainedTokenizerFast.from_pretrained(directory)) == expected
  assert described(transformers.AutoTokenizer.from_pretrained(directory)) == expected


@needs_transformers4
def test_transformers_4_reads_the_tokenizer(exported):
  tokenizer, directory = exported
  found = transformers4().tokenizer(directory, texts_for(tokenizer), chats_for(tokenizer))
  assert found == described(tokenizer)
