"""Three sizes of Qwen2.5 for programs that are compiled and not run."""

_SHAPES = {  # as in their config.json on the Hugging Face Hub
  '1.5B': {'hidden_size': 1536, 'intermediate_size': 8960, 'num_hidden_layers': 28, 'num_attention_heads': 12}
  | {'num_key_value_heads': 2, 'vocab_size': 151_936, 'tie_word_embeddings': True},
  '7B': {'hidden_size': 3584, 'intermediate_size': 18_944, 'num_hidden_layers': 28, 'num_attention_heads': 28}
  | {'num_key_value_heads': 4, 'vocab_size': 152_064, 'tie_word_embeddings': False},
  '32B': {'hidden_size': 5120, 'intermediate_size': 27_648, 'num_hidden_layers': 64, 'num_attention_heads': 40}
  | {'num_key_value_heads': 8, 'vocab_size': 152_064, 'tie_word_embeddings': False},
}
CONFIGS = {name: shape | {'model_type': 'qwen2', 'architectures': ['Qwen2ForCausalLM']} for name, shape in _SHAPES.items()}
