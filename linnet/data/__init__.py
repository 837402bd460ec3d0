"""Text to corpus: sources, tokenizer training, tokenizing, shards."""
