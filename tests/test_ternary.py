"""Weights of three values in checkpoints of BitNet, and what transformers makes of the same folders."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.engine.memory import Image
from linnet.engine.model import Model
from linnet.engine.repack import float_rows, with_types
from linnet.engine.session import Session, Workspace
from linnet.errors import LinnetError
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.options import ConvertOptions
from linnet.types import TensorType
from tests import parity

# Rows of whole blocks of tq2_0, and of none.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
CASE = parity.Case("BitNet", "BitNetConfig", {**parity.CASES["bitnet"].settings, "num_hidden_layers": 2})
IDS = [int(i) for i in np.random.default_rng(7).integers(3, parity.VOCAB, 40)]
SCALES = (0.0625, 0.5, 1.2265625)  # in bf16 and f16


@dataclass(frozen=True)
class Folder:
    path: Path
    values: dict[str, np.ndarray]  # of the packed tensors


@cache
def layers() -> Any:
    """The module of transformers, without the compiling of its functions, which takes a minute."""
    torch = importlib.import_module("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function: function)
        return importlib.import_module("transformers.integrations.bitnet")


def make(path: Path, settings: dict[str, Any], linear_class: str, mode: str = "offline") -> Folder:
    """A checkpoint whose ``quantization_config`` says how its weights of three values are held."""
    pytest.importorskip(
        "transformers", "5.0", reason="transformers makes the models; pip install 'linnet[test]'"
    )
    pytest.importorskip("accelerate", reason="transformers needs it for packed weights")
    bitnet, torch = layers(), importlib.import_module("torch")
    safetensors = importlib.import_module("safetensors.torch")
    case = parity.Case(CASE.family, CASE.config, {**CASE.settings, **settings})
    model = parity.make_model(case, path)
    rng, state, values = np.random.default_rng(1), model.state_dict(), {}
    for name in [name for name, w in state.items() if w.dim() == 2 and ".layers." in name]:
        if mode == "online":
            continue
        codes = rng.integers(-1, 2, state[name].shape).astype(np.float32)
        scale = float(rng.choice(SCALES)) / state[name].shape[1] ** 0.5
        scale = float(torch.tensor(1 / scale if linear_class == "bitlinear" else scale).bfloat16())
        state[name] = bitnet.pack_weights(torch.from_numpy(codes.copy()))
        state[f"{name}_scale"] = torch.tensor([scale])
        values[name] = codes / scale if linear_class == "bitlinear" else codes * scale
    safetensors.save_file({name: w.contiguous() for name, w in state.items()}, path / "model.safetensors")
    quantization = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": mode}
    change(path, quantization_config=quantization)
    return Folder(path, values)


def change(path: Path, **settings: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **settings}))


def of_transformers(path: Path, *, rounds_activations: bool) -> np.ndarray:
    """Logits by the layers of transformers, which round what they are given to 8 bits, or do not."""
    transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    bitnet = layers()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        if not rounds_activations:
            patch.setattr(bitnet.ActQuant, "apply", lambda x: x)
            patch.setattr(bitnet.BitLinear, "activation_quant", lambda self, x: (x, torch.ones(())))
        return parity.of_transformers(model.eval(), IDS)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    ("settings", "linear_class", "type"),
    [
        (WIDE, "autobitlinear", TensorType.TQ2_0),
        (WIDE, "bitlinear", TensorType.TQ2_0),
        ({}, "autobitlinear", TensorType.F32),
        ({}, "bitlinear", TensorType.F32),
    ],
)
def test_packed_weights_are_those_of_transformers(
    settings: dict[str, Any], linear_class: str, type: TensorType, tmp_path: Path
) -> None:
    folder = make(tmp_path / "source", settings, linear_class)
    tensors = {tensor.name: tensor for tensor in read_checkpoint(folder.path).tensors}
    for name, source in (("ffn_gate", "mlp.gate_proj"), ("attn_k", "self_attn.k_proj")):
        tensor = tensors[f"blk.1.{name}.weight"]
        assert tensor.type is type
        rows = np.concatenate([rows for _, rows in float_rows(tensor)])
        expected = folder.values[f"model.layers.1.{source}.weight"]
        np.testing.assert_allclose(rows, expected, rtol=3e-4 if linear_class == "bitlinear" else 1e-7)
    expected = of_transformers(folder.path, rounds_activations=False)
    tolerance = 2e-3 if linear_class == "bitlinear" else 1e-4  # 1 / scale is rounded to f16
    close(parity.of_torch(folder.path, IDS), expected, tolerance)
    floats, _ = with_types(read_checkpoint(folder.path), lambda tensor: TensorType.F32)
    workspace = Workspace(Model(Image.of_parts(floats)), n_threads=1, kv_type=TensorType.F32)
    close(Session(workspace, parity.CONTEXT).eval_all(IDS), expected, tolerance)


def test_the_core_runs_packed_weights_in_two_bits(tmp_path: Path) -> None:
    folder = make(tmp_path / "source", WIDE, "autobitlinear")
    expected = of_transformers(folder.path, rounds_activations=True)
    found = parity.of_core(folder.path, IDS)
    assert np.median(np.abs(found - expected)) < 0.02 * expected.std()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    about = convert(ConvertOptions(source=folder.path, output=tmp_path / "m.gguf", json=True))
    assert about["types"]["tq2_0"] == 2 * 7  # type: ignore[index]
    np.testing.assert_array_equal(parity.of_core(tmp_path / "m.gguf", IDS), found)


@pytest.mark.parametrize("settings", [WIDE, {}])
def test_weights_rounded_when_they_are_used(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = make(tmp_path, settings, "autobitlinear", "online")
    expected = of_transformers(folder.path, rounds_activations=False)
    close(parity.of_torch(folder.path, IDS), expected, 2e-3 if settings else 1e-4)  # d is rounded to f16
    plain = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    change(tmp_path, quantization_config={**plain, "modules_to_not_convert": ["o_proj"]})
    types = {tensor.name: tensor.type for tensor in read_checkpoint(tmp_path).tensors}
    assert types["blk.0.attn_output.weight"] is TensorType.F32
    assert types["blk.0.attn_q.weight"] is (TensorType.TQ2_0 if settings else TensorType.F32)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"quant_method": "gptq"}, "of 'gptq'"),
        ({"quant_method": "bitnet", "use_rms_norm": True}, "'use_rms_norm' to True"),
        ({"quant_method": "bitnet", "linear_class": 5}, "'linear_class' is 5"),
        ({"quant_method": "bitnet", "modules_to_not_convert": [5]}, "not a list of names"),
    ],
)
def test_other_ways_of_packing_are_one_line(table: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    parity.make_model(CASE, tmp_path)
    change(tmp_path, quantization_config=table)
    with pytest.raises(LinnetError, match=message):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["a fourth value", "no scale", "scale of zero", "too few rows"])
def test_damaged_packed_weights_are_one_line(damage: str, tmp_path: Path) -> None:
    folder = make(tmp_path, {}, "autobitlinear")
    torch, safetensors = importlib.import_module("torch"), importlib.import_module("safetensors.torch")
    state = safetensors.load_file(folder.path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    if damage == "a fourth value":
        state[name][3, 5] = 0xFF
    elif damage == "no scale":
        del state[f"{name}_scale"]
    elif damage == "scale of zero":
        state[f"{name}_scale"] = torch.zeros(1)
    else:
        state[name] = state[name][:-1].contiguous()
    safetensors.save_file(state, folder.path / "model.safetensors")
    with pytest.raises(LinnetError, match=r"none of three|_scale' is|packed like that"):
        Model.open(folder.path)
