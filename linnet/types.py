"""Words shared by every room: tensor types and the facts of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any

from linnet.errors import UnsupportedError


class TensorType(IntEnum):
    """How the elements of a tensor are stored. Values are the GGUF type numbers."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    IQ4_XS = 23
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39

    @property
    def block_elements(self) -> int:
        """Elements that share one block; a row is a whole number of blocks."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return _BLOCKS[self][1]

    @property
    def bits(self) -> float:
        """Bits per element, scales included."""
        return 8 * self.block_bytes / self.block_elements

    @property
    def label(self) -> str:
        """The name people type: ``q8_0``."""
        return self.name.lower()

    def bytes_for(self, elements: int) -> int:
        """Bytes that ``elements`` elements take; a multiple of ``block_elements``."""
        blocks, rest = divmod(elements, self.block_elements)
        if rest:
            raise UnsupportedError(
                f"{elements} elements are not a whole number of {self.label} blocks of {self.block_elements}"
            )
        return blocks * self.block_bytes

    @classmethod
    def parse(cls, label: str) -> TensorType:
        """The type called ``label``, in any case. Raises UnsupportedError."""
        try:
            return cls[str(label).upper()]
        except KeyError:
            known = ", ".join(t.label for t in cls)
            raise UnsupportedError(f"unknown type '{label}'; choose from {known}") from None


# Elements and bytes of one block.
_BLOCKS = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.Q4_0: (32, 18),
    TensorType.Q4_1: (32, 20),
    TensorType.Q5_0: (32, 22),
    TensorType.Q5_1: (32, 24),
    TensorType.Q8_0: (32, 34),
    TensorType.Q2_K: (256, 84),
    TensorType.Q3_K: (256, 110),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
    TensorType.IQ4_NL: (32, 18),
    TensorType.IQ4_XS: (256, 136),
    TensorType.BF16: (1, 2),
    TensorType.TQ1_0: (256, 54),
    TensorType.TQ2_0: (256, 66),
    TensorType.MXFP4: (32, 17),
}


_N_SHAPE = 12  # the first facts, which every model is described by


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions reach beyond the length a model was first trained with.

    ``kind`` is ``linear`` (Chen et al. 2023), ``llama3`` (Dubey et al. 2024), ``yarn`` (Peng et al.
    2023) or ``longrope`` (Ding et al. 2024), whose factors are one per rotated pair.
    ``attention_factor`` multiplies the cosines and sines; None = as the method has it.
    """

    kind: str
    factor: float = 1.0
    original_len: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What has to be known about an architecture to run it; the shape of one model.

    The names are those of the core. Hugging Face names and GGUF keys appear only in
    ``formats/arch``. What has a default is what tells architectures apart; the defaults are
    Llama's.
    """

    arch: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    max_seq_len: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tied_embeddings: bool = True

    norm: str = "rms"  # or "layer"
    pre_norm: bool = True  # a norm before each part of a layer
    post_norm: bool = False  # a norm of what each part adds to the stream
    qk_norm: str = ""  # of queries and keys: "head" (each head), "all" (all together), "heads" (each its own)
    sum_norm: bool = False  # of the stream after each part is added (BERT); then none after the last layer
    embedding_norm: bool = False  # of what the layers read
    sub_norm: bool = False  # norms inside each part, before its last matrix (BitNet)
    activation: str = "silu"  # or gelu (erf), gelu_tanh, relu, relu2
    gated: bool = True
    parallel_residual: bool = False  # attention and feed-forward read the same stream
    one_norm: bool = False  # the norm before attention is that before the feed-forward part too
    attention_bias: bool = False  # of queries, keys and values
    output_bias: bool = False  # of what attention adds to the stream
    ffn_bias: bool = False
    head_bias: bool = False
    causal: bool = True  # a token attends to those before it; else to all of its text, and has no logits
    n_token_types: int = 0  # kinds of text, such as query and document, with a row for each; 0 = none
    rank_head: str = ""  # scores a text by its first token: what it does inside, "tanh" or "relu"; "" = none
    learned_positions: bool = False  # instead of rotary ones
    rope_dims: int = 0  # leading elements of a head that are rotated; 0 = all
    rope_interval: int = 0  # every n-th layer does not rotate
    rope_theta_local: float = 0.0  # of layers with a window, which then know no scaling; 0 = as the others
    rope_scaling: RopeScaling | None = None
    sliding_window: int = 0  # a token attends to so many, itself among them; 0 = to all before it
    global_interval: int = 0  # every n-th layer has no window; 0 = all have
    attention_scale: float = 0.0  # of scores; 0 = 1 / sqrt(head_dim)
    attention_cap: float = 0.0  # scores become cap * tanh(score / cap); 0 = they stay
    logit_cap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    n_experts: int = 0
    n_experts_used: int = 0
    expert_ffn_dim: int = 0
    expert_norm: bool = True  # the weights of the chosen experts sum up to 1
    block_repeat: int = 1  # each layer's weights are used so many times in succession
    conv_len: int = 0  # taps of a short convolution
    conv_layers: tuple[int, ...] = ()  # the layers that have it instead of attention

    def described(self) -> dict[str, Any]:
        """The facts by name: the shape, and what is not as in Llama."""
        usual = {field.name: field.default for field in fields(self)[_N_SHAPE:]}
        return {name: value for name, value in asdict(self).items() if usual.get(name, ...) != value}

    @property
    def kv_dim(self) -> int:
        """Elements of the keys (and of the values) of one token in one layer."""
        return self.n_kv_heads * self.head_dim

    @property
    def n_kv_layers(self) -> int:
        """Layers whose keys and values are kept beside each other; an encoder's use one place in turn."""
        return self.n_layers if self.causal else 1

    @property
    def query_dim(self) -> int:
        """Elements of the queries of one token in one layer."""
        return self.n_heads * self.head_dim

    @property
    def rotated(self) -> int:
        """Elements of a head that are rotated; 0 where positions are learned."""
        return 0 if self.learned_positions else self.rope_dims or self.head_dim

    @property
    def n_params(self) -> int:
        """Number of weights of a model of the Llama family, each shared weight counted once."""
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        embeddings = self.vocab_size * self.dim * (1 if self.tied_embeddings else 2)
        return embeddings + self.n_layers * layer + self.dim


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that begin and end a document, and which of them are put around every text.

    They may be one and the same token.
    """

    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = True
    add_eos: bool = False
    add_sep: bool = False  # between two texts that are read as one the end of the first stands twice
