"""One module per family: Hugging Face names <-> GGUF names <-> facts.

A family is a module with these members, and a row in the two tables below.

``facts_from_config(config)``, ``config_from_facts(facts)``: the ``config.json``
``facts_from_metadata(metadata)``, ``metadata_from_facts(facts)``: the GGUF keys
``tensor_shapes(facts)``: GGUF name -> row-major shape, in the order of writing
``checkpoint_name(name)``: the name of a GGUF tensor in a checkpoint
``is_derived(name, facts)``: is a checkpoint tensor of this name redundant
``from_checkpoint(tensor, facts)``, ``to_checkpoint(tensor, facts)``: the layout, row bytes only
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch import llama

_BY_NAME = {"llama": llama}  # general.architecture of GGUF, ModelFacts.arch
_BY_MODEL_TYPE = {"llama": llama}  # model_type of config.json


def by_name(arch: str) -> ModuleType:
    """The family GGUF calls ``arch``. Raises UnsupportedError."""
    try:
        return _BY_NAME[arch]
    except KeyError:
        raise UnsupportedError(
            f"architecture '{arch}' is not supported; known: {', '.join(_BY_NAME)}"
        ) from None


def by_config(config: Mapping[str, Any]) -> ModuleType:
    """The family of a checkpoint. Raises FormatError, UnsupportedError."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FormatError("config.json names no model_type; is this the folder of a language model?")
    try:
        return _BY_MODEL_TYPE[model_type]
    except KeyError:
        known = ", ".join(_BY_MODEL_TYPE)
        raise UnsupportedError(f"model_type '{model_type}' is not supported; known: {known}") from None
