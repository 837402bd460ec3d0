"""A model taken apart: the pivot between the readers and the writers of all formats.

Tensors carry GGUF names and the GGUF layout of their architecture, whatever file they
came from, so that N readers and M writers are enough for N x M conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.formats.vocabulary import Vocabulary
from linnet.types import ModelFacts, SpecialTokens, TensorType

RawBytes = NDArray[np.uint8]

# Tensors of GGUF that are computed from the facts: divisors for the frequency of each rotated pair.
LLAMA3_DIVISORS = "rope_freqs.weight"
SHORT_DIVISORS = "rope_factors_short.weight"
LONG_DIVISORS = "rope_factors_long.weight"
DERIVED = (LLAMA3_DIVISORS, SHORT_DIVISORS, LONG_DIVISORS)


@dataclass(frozen=True)
class Tensor:
    """A named array whose bytes are fetched when asked for.

    ``shape`` is row-major: the last number counts the columns, which lie next to each
    other and along which block types run. ``load`` returns the bytes, flat. Where they
    have to be computed, ``stream`` yields them a few rows at a time, in order. What is
    used ``by_element`` is no matrix in spite of its dimensions (norms of single heads, the
    taps of convolutions), and stays plain.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    load: Callable[[], RawBytes]
    stream: Callable[[], Iterator[RawBytes]] | None = None
    by_element: bool = False

    @property
    def is_matrix(self) -> bool:
        """Is it multiplied with, so that it may be stored in blocks?"""
        return len(self.shape) > 1 and not self.by_element

    def pieces(self) -> Iterator[RawBytes]:
        """The bytes in order, no more of them at a time than need be."""
        if self.stream is not None:
            yield from self.stream()
        else:
            yield self.load()

    @property
    def n_elements(self) -> int:
        """Elements of all dimensions together."""
        return prod(self.shape)

    @property
    def n_columns(self) -> int:
        """Elements of one row."""
        return self.shape[-1]

    @property
    def n_bytes(self) -> int:
        """Bytes :attr:`load` returns."""
        return self.n_elements // self.n_columns * self.type.bytes_for(self.n_columns)


@dataclass(frozen=True)
class TokenizerParts:
    """A tokenizer as GGUF describes it, and the ``tokenizer.json`` it came with, if any."""

    vocabulary: Vocabulary
    json: bytes | None = None


@dataclass(frozen=True)
class ModelParts:
    """Everything that makes up one model, in the order in which it is written."""

    facts: ModelFacts
    special: SpecialTokens
    tokenizer: TokenizerParts
    tensors: tuple[Tensor, ...]
    name: str = ""
    chat_template: str | None = None
    # GGUF metadata that no field above covers (author, licence, padding token ...),
    # carried along from GGUF to GGUF.
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_params(self) -> int:
        """Number of weights, each shared weight counted once."""
        return sum(tensor.n_elements for tensor in self.tensors if tensor.name not in DERIVED)
