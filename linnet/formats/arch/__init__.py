"""Families: Hugging Face names <-> GGUF names <-> facts. One file each, and a row in the table below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch import (
    bert,
    bitnet,
    gemma,
    gpt2,
    gpt_neox,
    granite,
    lfm2,
    llama,
    mistral,
    mixtral,
    mobilellm,
    olmo2,
    opt,
    phi,
    qwen,
    smollm3,
    stablelm,
)
from linnet.formats.arch.family import Family
from linnet.types import ModelFacts

# Of those that share a name in GGUF, the first that fits a model is its family.
FAMILIES = (
    llama.FAMILY, mistral.FAMILY, mixtral.FAMILY, smollm3.FAMILY, mobilellm.FAMILY, granite.FAMILY,
    qwen.QWEN2, qwen.QWEN3, qwen.QWEN3_MOE, gemma.GEMMA, gemma.GEMMA2, gemma.GEMMA3, phi.PHI2, phi.PHI3,
    olmo2.FAMILY, stablelm.FAMILY, gpt2.FAMILY, gpt_neox.FAMILY, opt.FAMILY, lfm2.FAMILY, bitnet.FAMILY,
    bert.BERT, bert.ROBERTA, bert.XLM_ROBERTA, bert.CAMEMBERT, bert.DISTILBERT, *bert.RERANKERS,
)  # fmt: skip


def by_arch(name: str) -> Family:
    """A family GGUF calls ``name``; it reads the metadata of all of that name. Raises UnsupportedError."""
    for family in FAMILIES:
        if family.arch == name:
            return family
    known = ", ".join(dict.fromkeys(family.arch for family in FAMILIES))
    raise UnsupportedError(f"architecture '{name}' is not supported; known: {known}")


def by_facts(facts: ModelFacts) -> Family:
    """The family of a model. Raises UnsupportedError."""
    for family in FAMILIES:
        if family.arch == facts.arch and family.fits(facts):
            return family
    raise UnsupportedError(f"no known family of architecture '{facts.arch}' has these facts")


def by_config(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint. Raises FormatError, UnsupportedError."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FormatError("config.json names no model_type; is this the folder of a language model?")
    alike = [family for family in FAMILIES if family.model_type == model_type]
    named = config.get("architectures")
    if alike:
        return next(
            (family for family in alike if isinstance(named, list) and family.architecture in named), alike[0]
        )
    known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
    raise UnsupportedError(f"model_type '{model_type}' is not supported; known: {known}")
