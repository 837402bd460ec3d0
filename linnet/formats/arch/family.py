"""What a family is: a table of tensors, and how its facts are told in ``config.json`` and in GGUF."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.layouts import AS_IS, Layout
from linnet.formats.arch.metadata import TOKEN_TYPES_KEY, base_metadata, facts_in, told_metadata
from linnet.formats.arch.rope import derived_divisors
from linnet.formats.arch.ternary import read_ternary
from linnet.formats.arch.values import listed
from linnet.formats.gguf_keys import POOLING_KEY, POOLING_RANK
from linnet.formats.parts import Tensor
from linnet.types import ModelFacts, TensorType

Shape = tuple[int, ...]
Condition = Callable[[ModelFacts, int], bool]  # of a layer
Stored = TypeVar("Stored")

_DIMENSIONS: dict[str, Callable[[ModelFacts], int]] = {
    "one": lambda f: 1,
    "dim": lambda f: f.dim,
    "3 dim": lambda f: 3 * f.dim,
    "ffn": lambda f: f.ffn_dim,
    "2 ffn": lambda f: 2 * f.ffn_dim,
    "query": lambda f: f.query_dim,
    "key": lambda f: f.kv_dim,
    "qkv": lambda f: f.query_dim + 2 * f.kv_dim,
    "head": lambda f: f.head_dim,
    "heads": lambda f: f.n_heads,
    "kv heads": lambda f: f.n_kv_heads,
    "vocab": lambda f: f.vocab_size,
    "positions": lambda f: f.max_seq_len,
    "token types": lambda f: f.n_token_types,
    "experts": lambda f: f.n_experts,
    "expert ffn": lambda f: f.expert_ffn_dim,
    "conv": lambda f: f.conv_len,
}


def always(facts: ModelFacts, layer: int) -> bool:
    """Every layer has it."""
    return True


def with_attention(facts: ModelFacts, layer: int) -> bool:
    """Layers that attend."""
    return layer not in facts.conv_layers


@dataclass(frozen=True)
class Rule:
    """A tensor: what GGUF calls it (in a layer: after ``blk.N.``), and the tensors of a checkpoint.

    ``source`` is a Hugging Face name with ``{i}`` for the layer; where it holds ``{n}`` there is one
    tensor for each of the first dimension. ``shape`` is that of GGUF, in the words of ``_DIMENSIONS``;
    ``by_element`` is that of ``parts.Tensor``.
    """

    name: str
    source: str
    shape: tuple[str, ...]
    layout: Layout | Callable[[ModelFacts], Layout] = AS_IS
    when: Condition = always
    by_element: bool = False

    def dimensions(self, facts: ModelFacts) -> Shape:
        """The shape in numbers."""
        return tuple(_DIMENSIONS[word](facts) for word in self.shape)


def linear(
    name: str,
    source: str,
    shape: tuple[str, str],
    *,
    bias: Condition | bool = False,
    layout: Layout | Callable[[ModelFacts], Layout] = AS_IS,
    bias_layout: Layout | Callable[[ModelFacts], Layout] | None = None,
    when: Condition = always,
) -> tuple[Rule, ...]:
    """The rules of a matrix, and of its bias if ``bias`` says so."""
    weight = Rule(f"{name}.weight", f"{source}.weight", shape, layout, when)
    if bias is False:
        return (weight,)

    def has_bias(facts: ModelFacts, layer: int) -> bool:
        return when(facts, layer) and (bias is True or bias(facts, layer))

    return (
        weight,
        Rule(f"{name}.bias", f"{source}.bias", shape[:1], bias_layout or layout, has_bias),
    )


def norm(
    name: str, source: str, size: str = "dim", *, layout: Layout = AS_IS, when: Condition = always
) -> tuple[Rule, ...]:
    """The rules of a norm; a layer norm has a bias."""

    def has_bias(facts: ModelFacts, layer: int) -> bool:
        return facts.norm == "layer" and when(facts, layer)

    return (
        Rule(f"{name}.weight", f"{source}.weight", (size,), layout, when),
        Rule(f"{name}.bias", f"{source}.bias", (size,), layout, has_bias),
    )


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of one model: its name and shape in GGUF, its sources in a checkpoint and their shape.

    Without sources it is computed from the facts.
    """

    name: str
    shape: Shape
    sources: tuple[str, ...]
    source_shape: Shape
    layout: Layout
    derived: NDArray[np.float32] | None = None
    by_element: bool = False

    def gather(self, sources: Sequence[Tensor]) -> Tensor:
        """The tensor of GGUF, from those of a checkpoint."""
        if self.derived is not None:
            raw = np.ascontiguousarray(self.derived).reshape(-1).view(np.uint8)
            return Tensor(self.name, TensorType.F32, self.shape, lambda: raw)
        tensor = self.layout.gather(self.name, self.shape, sources)
        return replace(tensor, by_element=self.by_element)

    def scatter(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of a checkpoint, from that of GGUF."""
        return self.layout.scatter(tensor, self.sources) if self.sources else []


@dataclass(frozen=True)
class Family:
    """Architectures whose checkpoints have the same names.

    ``arch`` is what GGUF calls it, ``model_type`` what ``config.json`` does; several families may
    share an ``arch`` and then ``fits`` tells whose a model is. Of those of one ``model_type`` it is the
    one whose ``architecture`` the folder names, else the first. ``defaults`` are those of ``config.json``
    in transformers, for settings written as what differs from them. ``style`` holds the facts that GGUF
    readers know from the name alone, ``implied`` the names of others that are not written and that
    ``complete`` finds out, given the names of all tensors. ``read`` makes facts of a
    ``config.json``, ``write`` the other way round. ``prefix`` begins names in a checkpoint that was
    saved with a head; without one it is missing. ``unused`` begins those of parts that such models are
    trained with and run without, ``older`` has ends of names that were once others.
    """

    arch: str
    model_type: str
    architecture: str  # the class in transformers
    outside: tuple[Rule, ...]
    layer: tuple[Rule, ...]
    read: Callable[[Mapping[str, Any]], ModelFacts]
    write: Callable[[ModelFacts], dict[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    style: Mapping[str, Any] = field(default_factory=dict)
    implied: Collection[str] = ()
    complete: Callable[[ModelFacts, Collection[str]], ModelFacts] = lambda facts, names: facts
    fits: Callable[[ModelFacts], bool] = lambda facts: True
    prefix: str = ""
    unused: tuple[str, ...] = ()
    older: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = (".rotary_emb.inv_freq",)  # ends of names of what is no weight

    # ---- facts -------------------------------------------------------------------------

    def facts_from_config(self, config: Mapping[str, Any]) -> ModelFacts:
        """The facts of a Hugging Face ``config.json``.

        Raises FormatError for a missing or impossible value and UnsupportedError for a
        setting that would change the computation in a way the core does not know.
        """
        read_ternary(config)  # raises for weights that are stored in another way
        return checked(self.read(config))

    def config_from_facts(self, facts: ModelFacts) -> dict[str, Any]:
        """The ``config.json`` of a model, without token ids and dtype."""
        return {"architectures": [self.architecture], "model_type": self.model_type, **self.write(facts)}

    def facts_from_metadata(
        self, metadata: Mapping[str, Any], names: Collection[str], divisors: Mapping[str, NDArray[np.float32]]
    ) -> ModelFacts:
        """The facts in the metadata of a GGUF file with tensors of these ``names``.

        ``divisors`` holds those of ``parts.DERIVED`` it has.

        Raises FormatError, UnsupportedError.
        """
        keys = {key.removeprefix(f"{self.arch}."): value for key, value in metadata.items()}
        n_tokens = len(listed(metadata, "tokenizer.ggml.tokens") or ())
        facts = facts_in(self.arch, keys, self.style, n_tokens, divisors)
        attending = next((i for i in range(facts.n_layers) if i not in facts.conv_layers), 0)
        told: dict[str, Any] = {
            fact: any(f"blk.{attending}.{name}" in names for name in tensors)
            for fact, tensors in _BIASES.items()
        }
        facts = replace(
            facts,
            tied_embeddings="output.weight" not in names,
            head_bias="output.bias" in names,
            **told,
        )
        return checked(self.complete(facts, names))

    def metadata_from_facts(self, facts: ModelFacts) -> dict[str, Any]:
        """The GGUF metadata of a model's shape."""
        keys = {**base_metadata(facts), **told_metadata(facts, self.style, self.implied)}
        keys |= {POOLING_KEY: POOLING_RANK} if facts.rank_head else {}
        types = {} if facts.causal else {TOKEN_TYPES_KEY: max(1, facts.n_token_types)}
        return {**{f"{self.arch}.{key}": value for key, value in keys.items()}, **types}

    # ---- tensors -----------------------------------------------------------------------

    def as_run(self, stored: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[str]]:
        """The tensors of a checkpoint by the names they have today, and the names of unused parts."""
        kept: dict[str, Stored] = {}
        unused: dict[str, None] = {}
        for name, tensor in stored.items():
            if name.removeprefix(self.prefix).startswith(self.unused):
                unused[name.removeprefix(self.prefix).split(".")[0]] = None
                continue
            end = next((end for end in self.older if name.endswith(end)), "")
            kept[name.removesuffix(end) + self.older.get(end, "")] = tensor
        return kept, list(unused)

    def tensors(self, facts: ModelFacts) -> Iterator[PlannedTensor]:
        """Every tensor of a model in the order of writing."""
        last = [rule for rule in self.outside if rule.name.startswith("output")]
        for rule in self.outside:
            if rule not in last and rule.when(facts, 0):
                yield self._planned(rule, facts, "", 0)
        for name, values in derived_divisors(facts).items():
            yield PlannedTensor(name, values.shape, (), values.shape, AS_IS, values)
        for index in range(facts.n_layers):
            for rule in self.layer:
                if rule.when(facts, index):
                    yield self._planned(rule, facts, f"blk.{index}.", index)
        for rule in last:
            if rule.when(facts, 0):
                yield self._planned(rule, facts, "", 0)

    def _planned(self, rule: Rule, facts: ModelFacts, prefix: str, index: int) -> PlannedTensor:
        shape = rule.dimensions(facts)
        layout = rule.layout(facts) if callable(rule.layout) else rule.layout
        n = shape[0] if "{n}" in rule.source else 1
        sources = tuple(rule.source.format(i=index, n=part) for part in range(n))
        source_shape = layout.source_shape(shape)
        return PlannedTensor(
            prefix + rule.name, shape, sources, source_shape, layout, by_element=rule.by_element
        )

    def tensor_shapes(self, facts: ModelFacts) -> Iterator[tuple[str, Shape]]:
        """GGUF name and row-major shape of every tensor, in the order of writing."""
        return ((planned.name, planned.shape) for planned in self.tensors(facts))

    def checkpoint_shapes(self, facts: ModelFacts) -> Iterator[tuple[str, Shape]]:
        """Hugging Face name and shape of every tensor."""
        for planned in self.tensors(facts):
            for source in planned.sources:
                yield source, planned.source_shape

    def is_derived(self, name: str, facts: ModelFacts) -> bool:
        """Is the checkpoint tensor ``name`` computed from others, so that it need not be kept?"""
        heads = ("lm_head.weight", "embed_out.weight")
        return name.endswith(self.buffers) or (facts.tied_embeddings and name in heads)


# The fact that says whether a bias is there, and the tensors of which a layer that attends then has one.
_BIASES = {
    "attention_bias": ("attn_q.bias", "attn_qkv.bias"),
    "output_bias": ("attn_output.bias",),
    "ffn_bias": ("ffn_down.bias",),
}


_MOST_EXPERTS = 65536
_MOST_HEADS, _LARGEST_HEAD = 65536, 65536
_MOST_REPEATS = 64


def checked(facts: ModelFacts) -> ModelFacts:
    """``facts``, if a model of that shape can exist. Raises FormatError, UnsupportedError."""
    if not (0 < facts.head_dim <= _LARGEST_HEAD and facts.n_heads <= _MOST_HEADS):
        raise FormatError(f"{facts.n_heads} heads of {facts.head_dim} elements are no model's")
    if facts.n_heads % facts.n_kv_heads:
        raise FormatError(f"{facts.n_heads} heads cannot share {facts.n_kv_heads} key/value heads evenly")
    if facts.rotated % 2:
        raise FormatError(f"the size of a head ({facts.head_dim}) is odd; rotary positions need pairs")
    if facts.n_experts > _MOST_EXPERTS:
        raise FormatError(f"{facts.n_experts} experts are no model's; at most {_MOST_EXPERTS} are read")
    if facts.n_experts_used > facts.n_experts or (facts.n_experts and not facts.n_experts_used):
        raise FormatError(f"{facts.n_experts_used} of {facts.n_experts} experts cannot be used")
    if not facts.causal and facts.sliding_window:
        raise UnsupportedError("a model that looks both ways through a sliding window is not supported")
    if not 0 < facts.block_repeat <= _MOST_REPEATS:
        raise FormatError(f"layers used {facts.block_repeat} times in succession are no model's")
    if facts.conv_layers and not facts.conv_len:
        raise FormatError("the model has short convolutions, and does not say how long they are")
    if len(facts.conv_layers) == facts.n_layers:
        raise UnsupportedError("every layer has a convolution; models of which some attend are supported")
    return facts
