"""The tokenizer of a GGUF file: that of transformers' own classes, of its own reader of GGUF, and of SentencePiece's rule."""

import itertools
import json
import re

import pytest
import transformers
from gguf_files import make_model, write_gguf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from espo_jax import convert, tasks
from espo_jax.model import open_gguf, read_end_tokens
from espo_jax.tasks.gguf_tokenizer import gguf_end_tokens, gguf_tokenizer

pytestmark = pytest.mark.quick

LINES = [
  'the quick brown fox adds 12 and 345',
  'a lazy dog takes 6 from 78',
  "So x = 9.  It's \\boxed{9}",
  'a 12345, 12345 12345\n12345',
]
TEXTS = [
  'the fox takes 12345 from 9',
  '  two  spaces, and\nlines\n\n',
  'Été naïve ∀ ≤ 3, 日本語 🙂',
  "it's a dog , isn't IT'S ?",
  'a\r\n12 b\t3  4',
  'the quick, quick fox\'s "tail"',
]
TEMPLATE = (
  "{% for m in messages %}{{ '<|user|>' + m['content'] + '<|end|>\\n' }}{% endfor %}"
  '{% if add_generation_prompt %}<|assistant|>{% endif %}'
)
CHAT = [{'role': 'user', 'content': '1 + 1 = ?'}]
USER = '<\uff5cUser\uff5c>'  # its characters are none of the byte alphabet
SPECIAL = ['<|end|>', '<|user|>', '<|assistant|>', USER]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def trained() -> Tokenizer:
  """A byte-level vocabulary whose merges go beyond words, so that every way to split into words shows."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokenizer.train_from_iterator(
    LINES + TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
  )
  return tokenizer


def bpe_keys(pre: str, **changes) -> tuple[dict, dict, list]:
  """The keys of a byte-level tokenizer, its vocabulary and its merges."""
  learned = json.loads(trained().to_str())['model']
  tokens = [*sorted(learned['vocab'], key=learned['vocab'].get), *SPECIAL, '<think>', '[PAD0]']
  keys = {
    'model': 'gpt2',
    'pre': pre,
    'tokens': tokens,
    'token_type': [NORMAL] * len(learned['vocab']) + [CONTROL] * len(SPECIAL) + [USER_DEFINED, UNUSED],
    'merges': [' '.join(pair) for pair in learned['merges']],
    'eos_token_id': tokens.index('<|end|>'),
    'padding_token_id': tokens.index('<|user|>'),
    'bos_token_id': tokens.index('<|assistant|>'),
  }
  keys = {f'tokenizer.ggml.{name}': value for name, value in (keys | changes).items()} | {'tokenizer.chat_template': TEMPLATE}
  return keys, learned['vocab'], [tuple(pair) for pair in learned['merges']]


def converted(keys, folder):
  """The tokenizer of the directory that a file with these keys is converted to, and the file."""
  model = make_model('llama', vocab_size=len(keys['tokenizer.ggml.tokens']))
  file = write_gguf(folder / 'model.gguf', model, keys=keys)
  convert.main([f'--gguf={file}', f'--output={folder / "out"}'])
  ours = tasks.load_tokenizer(str(folder / 'out'))
  loose = transformers.AutoTokenizer.from_pretrained(folder / 'out')
  for text in TEXTS:
    assert ours(text)['input_ids'] == gguf_tokenizer(open_gguf(file).metadata, file)(text)['input_ids']
    assert ours(text)['input_ids'] == loose(text)['input_ids']
  return ours, file


def ids(tokenizer, texts=TEXTS):
  return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


# -------------------------------------------------------------------------------------------------------------- byte-level


def test_qwen2_is_split_as_by_qwen2s_own_tokenizer(tmp_path):
  keys, vocabulary, merges = bpe_keys('qwen2')
  ours, _ = converted(keys, tmp_path)
  own = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges)
  texts = [*TEXTS, 'e\u0301 and \u0041\u030a']  # composed first
  assert ids(ours, texts) == ids(own, texts)
  assert [ours.decode(line) for line in ids(ours)] == TEXTS
  assert ids(ours, ['é']) == ids(ours, ['e\u0301'])


@pytest.mark.parametrize('pre', ['qwen2', 'deepseek-r1-qwen', 'llama-bpe', 'default'])
def test_text_is_split_as_by_transformers_reader(pre, tmp_path):
  ours, file = converted(bpe_keys(pre)[0], tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
  texts = [*TEXTS, '<|user|>a dog<|end|> <think>so']
  assert ids(ours, texts) == ids(theirs, texts)
  assert [ours.decode(line) for line in ids(ours)] == TEXTS
  assert ours.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == '<|user|>1 + 1 = ?<|end|>\n<|assistant|>'
  for name in ('eos_token_id', 'pad_token_id', 'bos_token_id'):
    assert getattr(ours, name) == getattr(theirs, name) is not None
  assert read_end_tokens(tmp_path / 'out') == (ours.eos_token_id,)


def test_smollm_takes_digits_apart_and_then_splits_like_gpt2(tmp_path):
  original = trained()
  steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
  original.pre_tokenizer = pre_tokenizers.Sequence(steps)
  ours, _ = converted(bpe_keys('smollm')[0], tmp_path)
  assert ids(ours) == [original.encode(text).ids for text in TEXTS]
  assert [ours.decode(line) for line in ids(ours)] == TEXTS


def test_the_ways_to_split_differ():
  found = {pre: str(ids(gguf_tokenizer(bpe_keys(pre)[0], 'f'))) for pre in ('qwen2', 'llama-bpe', 'smollm', 'default')}
  assert len(set(found.values())) == 4


def test_a_word_of_llama_3_that_is_a_token_is_never_built_by_merges():
  keys, _, _ = bpe_keys('llama-bpe')
  tokens = keys['tokenizer.ggml.tokens'] = [*keys['tokenizer.ggml.tokens'], 'quack']  # to which no merge leads
  keys['tokenizer.ggml.token_type'] = [*keys['tokenizer.ggml.token_type'], NORMAL]
  assert ids(gguf_tokenizer(keys, 'f'), ['quack']) == [[tokens.index('quack')]]
  assert len(ids(gguf_tokenizer(keys | {'tokenizer.ggml.pre': 'qwen2'}, 'f'), ['quack'])[0]) > 1


def test_special_tokens_are_recognised_and_left_out_on_demand(tmp_path):
  keys, _, _ = bpe_keys('deepseek-r1-qwen')
  tokens = keys['tokenizer.ggml.tokens']
  ours, _ = converted(keys, tmp_path)
  text = f'{USER}a dog<think>so</think><|end|>'
  line = ours.encode(text, add_special_tokens=False)
  assert line[0] == tokens.index(USER) and line[-1] == tokens.index('<|end|>') and tokens.index('<think>') in line
  assert ours.decode(line) == text
  assert ours.decode(line, skip_special_tokens=True) == 'a dog<think>so</think>'
  assert len(ours) == len(tokens)


@pytest.mark.parametrize(
  ('pre', 'changes', 'first', 'last'),
  [
    ('qwen2', {}, False, False),
    ('qwen2', {'add_bos_token': True}, True, False),
    ('llama-bpe', {}, True, False),
    ('llama-bpe', {'add_bos_token': False}, False, False),
    ('default', {'add_bos_token': True, 'add_eos_token': True}, True, True),
  ],
)
def test_the_first_and_the_last_token_are_added_where_the_file_or_its_vocabulary_says_so(pre, changes, first, last):
  tokenizer = gguf_tokenizer(bpe_keys(pre, **changes)[0], 'f')
  bare = ids(tokenizer, ['a dog'])[0]
  assert tokenizer('a dog')['input_ids'] == [tokenizer.bos_token_id] * first + bare + [tokenizer.eos_token_id] * last


def test_turns_and_messages_end_a_response_too():
  keys = {'tokenizer.ggml.tokens': list('abcdefghij')} | {f'tokenizer.ggml.{x}_token_id': 7 for x in ('eos', 'pad')}
  assert gguf_end_tokens(keys, 'f') == (7,)
  keys |= {'tokenizer.ggml.eot_token_id': 9, 'tokenizer.ggml.eom_token_id': 8}
  assert gguf_end_tokens(keys, 'f') == (7, 8, 9)
  with pytest.raises(tasks.DataError, match=r'tokenizer\.ggml\.eot_token_id = 10, but there are 10 tokens'):
    gguf_end_tokens(keys | {'tokenizer.ggml.eot_token_id': 10}, 'f')


# ----------------------------------------------------------------------------------------------------------- SentencePiece


PIECES = [
  '▁',
  '▁a',
  '▁the',
  'th',
  'the',
  '▁d',
  'og',
  '▁dog',
  'do',
  'dog',
  '▁▁',
  'in',
  '▁th',
  'er',
  'ing',
  '12',
  '▁fox',
  'fo',
  'fox',
]
LETTERS = [*'abcdefghijklmnopqrstuvwxyz0123456789,.?É']
TOKENS = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), *PIECES, *LETTERS, '<think>']
TYPES = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(PIECES) + len(LETTERS)) + [USER_DEFINED]
SPM_TEXTS = ['the dog, the fox', 'a  dog takes 12 in', '  in front', 'Été 日本 12', 'other\nlines', 'dothedog']


def spm_keys(**changes):
  ranked = {token: -float(i) for i, token in enumerate([*PIECES, *LETTERS])}
  keys = {
    'model': 'llama',
    'pre': 'default',
    'tokens': TOKENS,
    'scores': [ranked.get(token, 0.0) for token in TOKENS],
    'token_type': TYPES,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'unknown_token_id': 0,
  }
  keys = {name: value for name, value in (keys | changes).items() if value is not None}
  return {f'tokenizer.ggml.{name}': value for name, value in keys.items()}


def merged_by_score(text: str, prefix: bool = True) -> list[int]:
  """SentencePiece's rule: the neighbours whose joint piece has the highest score are joined, until none is a piece."""
  symbols = list(('▁' if prefix else '') + text.replace(' ', '▁'))
  pieces = [*PIECES, *LETTERS]
  while True:
    joined = [(pieces.index(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in pieces]
    if not joined:
      break
    _, i = min(joined)
    symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
  found = []
  for symbol in symbols:
    found += [TOKENS.index(symbol)] if symbol in pieces else [TOKENS.index(f'<0x{byte:02X}>') for byte in symbol.encode()]
  return found


def test_pieces_are_joined_by_their_scores(tmp_path):
  ours, _ = converted(spm_keys(), tmp_path)
  assert ids(ours, SPM_TEXTS) == [merged_by_score(text) for text in SPM_TEXTS]
  assert [ours.decode(line) for line in ids(ours, SPM_TEXTS)] == SPM_TEXTS
  assert ours('a')['input_ids'] == [1, *merged_by_score('a')]


def test_pieces_are_those_of_transformers_reader_but_for_spaces_in_front(tmp_path):
  ours, file = converted(spm_keys(), tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
  texts = [text for text in SPM_TEXTS if not text.startswith(' ')]
  assert ids(ours, texts) == ids(theirs, texts)
  assert (ours.bos_token_id, ours.eos_token_id, ours.unk_token_id) == (1, 2, 0)


def test_a_space_stands_in_front_of_a_text_and_behind_a_special_token_unless_the_file_says_otherwise():
  after = gguf_tokenizer(spm_keys(), 'f')
  assert ids(after, ['<s>the dog<think>a']) == [[1, *merged_by_score('the dog'), len(TOKENS) - 1, *merged_by_score('a')]]
  without = gguf_tokenizer(spm_keys(add_space_prefix=False), 'f')
  assert ids(without, ['the dog', ' a']) == [merged_by_score('the dog', prefix=False), merged_by_score(' a', prefix=False)]
  assert without.decode(merged_by_score(' a', prefix=False)) == ' a'


def test_merges_in_the_file_take_the_place_of_scores():
  merged = gguf_tokenizer(spm_keys(scores=None, merges=['d o', 'th e']), 'f')
  assert merged.convert_ids_to_tokens(ids(merged, ['dog'])[0]) == ['▁', 'do', 'g']


# ------------------------------------------------------------------------------------------------------------------ errors


def without(name):
  return lambda keys: keys.pop(f'tokenizer.ggml.{name}')


def changed(**values):
  return lambda keys: keys.update({f'tokenizer.ggml.{name}': value for name, value in values.items()})


CASES = {
  'no kind': (without('model'), r'tokenizer\.ggml\.model = None is not supported; fix: gpt2'),
  'another kind': (changed(model='bert'), r"tokenizer\.ggml\.model = 'bert' is not supported; fix: gpt2 .* or llama"),
  'no split': (without('pre'), r'tokenizer\.ggml\.pre = None is not supported; fix: a model with one of default, deepseek'),
  'another split': (changed(pre='tekken'), r"tokenizer\.ggml\.pre = 'tekken' is not supported; fix: .*qwen2, smollm"),
  'no tokens': (without('tokens'), r'tokenizer\.ggml\.tokens is missing or no list of str; fix: a file with its vocabulary'),
  'numbers for tokens': (changed(tokens=[1, 2]), r'tokenizer\.ggml\.tokens is missing or no list of str'),
  'no types': (without('token_type'), r'tokenizer\.ggml\.token_type is missing or no list of int'),
  'few types': (changed(token_type=[1, 1]), r'tokenizer\.ggml\.token_type has 2 entries for \d+ tokens; fix: download it'),
  'no merges': (without('merges'), r'tokenizer\.ggml\.merges is missing or no list of str'),
  'no pair': (changed(merges=['t h', 'the']), r"tokenizer\.ggml\.merges has 'the', no pair of tokens; fix: download it again"),
  'text for an end': (changed(eos_token_id='</s>'), r"tokenizer\.ggml\.eos_token_id = '</s>', but there are"),
  'end beyond': (changed(eos_token_id=9999), r'tokenizer\.ggml\.eos_token_id = 9999, but there are \d+ tokens; fix: download'),
  'strange merge': (changed(merges=['a 日']), r"tokenizer\.ggml\.merges has 'a 日', no pair of tokens; fix: download it again"),
}


@pytest.mark.parametrize('case', CASES)
def test_a_tokenizer_that_cannot_be_is_a_clear_error(case):
  break_it, message = CASES[case]
  keys, _, _ = bpe_keys('qwen2')
  gguf_tokenizer(keys, 'model.gguf')
  break_it(keys)
  with pytest.raises(tasks.DataError, match=f'(?s)model\\.gguf: {message}'):
    gguf_tokenizer(keys, 'model.gguf')


def test_a_token_that_is_there_twice_is_named():
  keys, _, _ = bpe_keys('qwen2')
  tokens = keys['tokenizer.ggml.tokens']
  with pytest.raises(tasks.DataError, match=f'tokenizer.ggml.tokens has {re.escape(repr(tokens[4]))} twice'):
    gguf_tokenizer(keys | {'tokenizer.ggml.tokens': [*tokens[:-1], tokens[4]]}, 'f')


def test_pieces_without_scores_are_refused():
  with pytest.raises(tasks.DataError, match=r'tokenizer\.ggml\.scores is missing or no list of float'):
    gguf_tokenizer(spm_keys(scores=None), 'f')
