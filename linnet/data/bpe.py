"""Training a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in GPT-2).

Digits stand alone and words are found by the GPT-2 expression: the pre-tokenizer of
SmolLM2, which llama.cpp knows as ``smollm``. Id 0 is ``<|endoftext|>``, both BOS and
EOS. The same text and size give the same tokenizer, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from linnet.errors import MissingExtraError, SourceError, UsageError

END_OF_TEXT = "<|endoftext|>"
MIN_VOCAB_SIZE = 257  # every byte and END_OF_TEXT


def library() -> Any:
    """The ``tokenizers`` package. Raises MissingExtraError."""
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers", "train") from None
    return tokenizers


def train_bpe(texts: Iterable[str], vocab_size: int) -> bytes:
    """The tokenizer.json of a BPE trained on ``texts``.

    It has ``vocab_size`` tokens, or fewer where the texts give no more merges. Raises
    UsageError for a size that cannot hold the bytes, SourceError for texts without a word.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UsageError(f"--vocab-size {vocab_size} is too small; a byte-level BPE needs {MIN_VOCAB_SIZE}")
    tokenizers = library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < MIN_VOCAB_SIZE:
        raise SourceError("there is no text to train a tokenizer on")
    # BOS in front, as AutoTokenizer and the core do; EOS is for the writer of a corpus to add.
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    return str(tokenizer.to_str(pretty=False)).encode("utf-8")
