"""The Python face of the C core: Model (immutable), Session (one timeline), Tokenizer, Sampler."""
