"""Values no model has, in every setting: one line says so, or the model loads; nothing else happens."""

from __future__ import annotations

import json
import mmap
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.engine.memory import Image
from linnet.engine.model import Model
from linnet.errors import FormatError, LinnetError, UnsupportedError
from linnet.formats import arch
from linnet.formats.arch.metadata import NEUTRAL
from linnet.formats.checkpoint import read_checkpoint, write_checkpoint
from linnet.formats.gguf import gguf_metadata, model_in, parse_gguf, read_gguf, write_gguf
from linnet.formats.parts import ModelParts
from tests.tiny_families import FAMILIES, write_family

ROOT = Path(__file__).resolve().parent.parent
# Scales beside the weights are the core's alone.
KINDS = [name for name, family in FAMILIES.items() if family.type == "F32" and name != "bitnet_scaled"]
SAMPLE = 16  # changes per family in the fast tests

# Of JSON, and of GGUF, which has neither null nor tables.
ODD: tuple[Any, ...] = (
    5, 0, "x", [], [None], [5], {}, {"x": 5}, 1e308, 1e-310, -1, 2**31, 10**400, True, None, float("nan"),
)  # fmt: skip
ODD_METADATA: tuple[Any, ...] = (
    5, 0, "x", [], ["x"], np.array([5], "<i4"), np.array([-1, 0], "<i8"), np.array([1e38], "<f4"),
    np.array([True]), 1e308, 1e-310, -1, 2**31, 2**63, True, float("nan"), float("inf"),
)  # fmt: skip
# What configs hold that linnet does not write.
READ_ONLY: dict[str, Any] = {
    "_sliding_window_pattern": 6, "attn_logit_softcapping": None, "block_ff_dim": 96,
    "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 32, "full_attn_idxs": [2], "layer_types": None,
    "n_inner": 96, "num_local_experts": 4, "original_max_position_embeddings": 64, "pad_token_id": None,
    "quantization_config": None, "rope_scaling": None, "rotary_pct": 0.5, "text_config": None,
    "tie_embedding": True, "use_bidirectional_attention": False, "use_sliding_window": False,
    "word_embed_proj_dim": 64, "_name_or_path": "x", "torch_dtype": "float32",
}  # fmt: skip
SCALED: dict[str, dict[str, Any]] = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2},
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
}


@pytest.fixture(scope="module", params=KINDS)
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelParts:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    name = str(request.param)
    path = tmp_path_factory.mktemp("odd") / f"{name}.gguf"
    parts = read_gguf(write_family(FAMILIES[name], path))
    return replace(parts, name=name)


def changes(table: Mapping[str, Any], odd: tuple[Any, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key, and every key of the tables in it, with every odd value."""
    for key, value in table.items():
        yield from (((key,), changed) for changed in odd)
        if isinstance(value, dict):
            yield from (((key, *rest), changed) for rest, changed in changes(value, odd))


def changed(table: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """``table`` with another value under ``path``."""
    key, *rest = path
    return {**table, key: changed(table[key], tuple(rest), value) if rest else value}


def check_line(error: LinnetError) -> None:
    assert 10 < len(str(error)) < 600
    assert "\n" not in str(error)


# ---- config.json --------------------------------------------------------------------


def odd_configs(parts: ModelParts, folder: Path) -> Iterator[dict[str, Any]]:
    """Writes the folder of a model; yields its ``config.json`` with each value changed."""
    if parts.facts.rope_scaling is not None and parts.facts.rope_scaling.kind == "llama3":
        pytest.skip("its divisors are drawn at random, which no config.json describes")
    write_checkpoint(replace(parts, tensors=parts.tensors[:1]), folder)
    config = json.loads((folder / "config.json").read_text())
    original = config.get("max_position_embeddings", 256) // 4
    tables = [
        {**config["rope_parameters"], **more, "rope_type": kind, "original_max_position_embeddings": original}
        for kind, more in SCALED.items()
        if "rope_parameters" in config
    ]
    for path, value in changes({**READ_ONLY, **config}, ODD):
        yield changed({**READ_ONLY, **config}, path, value)
    for table in tables:
        for path, value in changes(table, ODD):
            yield {**config, "rope_parameters": changed(table, path, value)}


def load_config(config: Mapping[str, Any], folder: Path) -> None:
    """Reads a folder without weights: what is wrong is found before, or the first one is missing."""
    (folder / "config.json").write_text(json.dumps(config))
    try:
        family = arch.by_config(config)
        facts = family.facts_from_config(config)
        family.metadata_from_facts(facts)
        list(zip(range(99), family.tensors(facts), strict=False))
    except LinnetError as error:
        check_line(error)
    with pytest.raises(LinnetError) as caught:
        read_checkpoint(folder)
    check_line(caught.value)


def test_odd_settings_of_a_checkpoint_are_one_line(parts: ModelParts, tmp_path: Path) -> None:
    configs = list(odd_configs(parts, tmp_path))
    assert len(configs) > 10 * SAMPLE
    for config in random.Random(parts.name).sample(configs, SAMPLE):
        load_config(config, tmp_path)


@pytest.mark.slow
def test_all_odd_settings_of_a_checkpoint_are_one_line(parts: ModelParts, tmp_path: Path) -> None:
    for config in odd_configs(parts, tmp_path):
        load_config(config, tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gemma2", {"layer_types": 5}, "'layer_types' is 5, which is not a list"),
        ("gemma3", {"rope_parameters": 5}, "'rope_parameters' is 5, which is not a table"),
        ("smollm3", {"no_rope_layers": 5}, "'no_rope_layers' is 5, which is not a list"),
        ("lfm2", {"block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1e308}, "block_ffn_dim"),
        ("lfm2", {"block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1e30}, "not a possible size"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 4.0}}, "must be above"),
        ("llama", {"rope_scaling": {"rope_type": ["llama3"]}}, "'rope_type' is .* which is not text"),
        ("llama", {"head_dim": 1 << 30}, "heads of 1073741824 elements are no model's"),
    ],
)  # fmt: skip
def test_what_is_odd_is_named(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    parts = read_gguf(write_family(FAMILIES[name], tmp_path / "model.gguf"))
    config = arch.by_facts(parts.facts).config_from_facts(parts.facts)
    with pytest.raises(FormatError, match=message):
        arch.by_config(config).facts_from_config({**config, **change})


# ---- GGUF -----------------------------------------------------------------------------


def odd_files(parts: ModelParts) -> Iterator[ModelParts]:
    """A model with each value of its metadata changed, and with each that it could hold."""
    keys = {**dict.fromkeys(_known_keys(parts.facts.arch)), **gguf_metadata(parts)}
    for key in keys:
        if key.startswith("tokenizer.") and parts.name != "llama":  # they are the same in all
            continue
        for value in ODD_METADATA:
            yield replace(parts, extra={**parts.extra, key: value})


def _known_keys(name: str) -> list[str]:
    """Every key after the architecture's name that the core asks for."""
    source = (ROOT / "core" / "facts.c").read_text(encoding="utf-8")
    return [f"{name}.{key}" for key in sorted(set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', source)))]


def open_both(parts: ModelParts) -> None:
    """Both readers of a file: each takes it, or says in one line why not."""
    file = BytesIO()
    write_gguf(parts, file)
    data = file.getvalue()
    pages = mmap.mmap(-1, len(data))
    pages[:] = data
    for read in (
        lambda: model_in(parse_gguf(np.frombuffer(data, np.uint8)), Path("m.gguf")),
        lambda: Model(Image(pages)),
    ):
        try:
            read()
        except LinnetError as error:
            check_line(error)


def test_odd_metadata_is_one_line(parts: ModelParts) -> None:
    for file in random.Random(parts.name).sample(list(odd_files(parts)), SAMPLE):
        open_both(file)


@pytest.mark.slow
def test_all_odd_metadata_is_one_line(parts: ModelParts) -> None:
    for file in odd_files(parts):
        open_both(file)


def test_both_readers_refuse_the_same_keys() -> None:
    source = (ROOT / "core" / "facts.c").read_text(encoding="utf-8")
    table = source[source.index("} neutral[] = {") : source.index("static ln_status check_neutral")]
    rows = re.findall(r'\{"([a-z_.]+)", (\d+), (\d+)\}', table)
    assert {key: {int(value), int(too)} for key, value, too in rows} == {
        key: set(values) for key, values in NEUTRAL.items()
    }


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_key_that_would_change_the_arithmetic_is_refused_by_both(key: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["llama"]
    for value in NEUTRAL[key]:
        path = write_family(replace(family, keys={**family.keys, key: int(value)}), tmp_path / "good.gguf")
        assert read_gguf(path).facts.arch == Model.open(path).arch
    path = write_family(replace(family, keys={**family.keys, key: 2}), tmp_path / "bad.gguf")
    for read in (read_gguf, Model.open):
        with pytest.raises(UnsupportedError, match=re.escape(key)):
            read(path)
