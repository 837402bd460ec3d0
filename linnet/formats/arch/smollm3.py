"""SmolLM3: Llama of which every fourth layer does not rotate (Yang et al. 2025, "RNoPE")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.errors import UnsupportedError
from linnet.formats.arch import llama
from linnet.formats.arch.blocks import read_common, window_of, write_common
from linnet.formats.arch.family import Family
from linnet.formats.arch.values import count, flag, listed
from linnet.types import ModelFacts


def _read(config: Mapping[str, Any]) -> ModelFacts:
    interval = count(config, "no_rope_layer_interval", 4)
    rotating = listed(config, "no_rope_layers")
    if rotating is not None and rotating != _rotating(len(rotating), interval):
        raise UnsupportedError(f"'no_rope_layers' is not one layer in {interval}, which is not supported")
    bias = flag(config, "attention_bias")
    return read_common(
        config,
        "smollm3",
        rope_interval=interval,
        sliding_window=window_of(config),
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=flag(config, "mlp_bias"),
    )


def _rotating(n_layers: int, interval: int) -> list[int]:
    return [int((i + 1) % interval != 0) for i in range(n_layers)]


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "attention_bias": facts.attention_bias,
        "mlp_bias": facts.ffn_bias,
        "no_rope_layer_interval": facts.rope_interval,
        "no_rope_layers": _rotating(facts.n_layers, facts.rope_interval),
        "sliding_window": facts.sliding_window or None,
        "use_sliding_window": facts.sliding_window > 0,
    }


FAMILY = Family(
    arch="smollm3",
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    outside=llama.FAMILY.outside,
    layer=llama.FAMILY.layer,
    read=_read,
    write=_write,
    style={"rope_interval": 4},
)
