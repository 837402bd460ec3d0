"""Training: the shape of a model, its recipe, and what is refused before anything is computed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from linnet.errors import UsageError
from linnet.train.model import Decoder
from linnet.train.output import exclusive
from linnet.train.shape import derive_batch, derive_hyper, derive_shape

SMALL = derive_shape(120_000, 300, {"max_seq_len": 64})


# ---- shape ---------------------------------------------------------------------------


def test_the_reference_size_gives_the_reference_shape() -> None:
    facts = derive_shape(3_200_000, 4096)
    assert (facts.dim, facts.n_layers, facts.n_heads, facts.n_kv_heads, facts.ffn_dim) == (192, 6, 6, 2, 512)


@pytest.mark.parametrize(
    ("params", "vocab"), [(300_000, 512), (3_000_000, 4096), (15_000_000, 8192), (125_000_000, 32000)]
)
def test_shapes_fit_blocks_and_come_near_the_wanted_size(params: int, vocab: int) -> None:
    facts = derive_shape(params, vocab)
    assert abs(math.log(facts.n_params / params)) < 0.15
    assert facts.dim % 32 == 0 and facts.ffn_dim % 32 == 0 and facts.head_dim in (32, 48, 64)
    assert facts.n_heads % facts.n_kv_heads == 0
    assert sum(w.numel() for w in Decoder(facts).parameters()) == facts.n_params


def test_parts_of_the_shape_can_be_set_and_mistakes_are_named() -> None:
    assert derive_shape(3_000_000, 4096, {"n_layers": 3}).n_layers == 3
    with pytest.raises(UsageError, match="n_layer"):
        derive_shape(3_000_000, 4096, {"n_layer": 3})
    with pytest.raises(UsageError, match="too few for a vocabulary"):
        derive_shape(100_000, 50_000)
    for wrong in ({"n_heads": 0}, {"n_kv_heads": 0}, {"dim": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            derive_shape(3_000_000, 4096, wrong)
    with pytest.raises(UsageError, match="too few for a vocabulary"):
        derive_shape(1000, 300, {"dim": 256})
    with pytest.raises(UsageError, match="multiple of n_kv_heads"):
        derive_shape(3_000_000, 4096, {"dim": 192, "n_kv_heads": 4})
    with pytest.raises(UsageError, match="fewer than one micro-batch"):
        derive_batch(SMALL, {"tokens": 32}, "cpu", 1)


@pytest.mark.parametrize("name", ["dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim", "max_seq_len"])
def test_a_part_of_the_shape_has_an_upper_limit(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at most"):
        derive_shape(3_000_000, 4096, {name: 1_000_000_000})


def test_a_shape_no_width_fits_is_blamed_on_the_shape() -> None:
    with pytest.raises(UsageError, match=r"no width .* --shape n_heads=7: "):
        derive_shape(110_000, 300, {"n_heads": 7})
    assert derive_shape(3_000_000, 4096, {"n_heads": 7}).n_heads == 7
    with pytest.raises(UsageError, match="more than 10,000,000,000"):
        derive_shape(3_000_000, 4096, {"dim": 16384, "n_layers": 1024})
    with pytest.raises(UsageError, match=r"--params (\d+)") as caught:
        derive_shape(100_000, 50_000)
    enough = int(str(caught.value).split("--params ")[1].split()[0])
    assert derive_shape(enough, 50_000).n_params == pytest.approx(enough, rel=0.1)


@pytest.mark.parametrize("given", [{"learning_rate": 1e30}, {"weight_decay": 1e30}])
def test_a_recipe_that_cannot_learn_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        derive_hyper(SMALL, given)


# ---- before a run ---------------------------------------------------------------------


def test_budget_and_output_are_checked_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    program = (
        "import sys; from pathlib import Path; from linnet.errors import LinnetError\n"
        "from linnet.options import TrainOptions; from linnet.train.pretrain import train\n"
        "for output, tokens in (('out', 0), ('file', 4096)):\n"
        "    try: train(TrainOptions(corpus=Path('none'), output=Path(output), tokens=tokens))\n"
        "    except LinnetError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    first, second, imported = done.stdout.splitlines()
    assert "above 0" in first and "a file of that name" in second and imported == "False"


def test_the_lock_of_a_killed_run_does_not_stay(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from linnet.train.output import exclusive\n"
        f"with exclusive(Path({str(tmp_path / 'out')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", program], env=environment)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "out" / "state" / "lock").exists()
    with exclusive(tmp_path / "out"):
        assert (tmp_path / "out" / "state" / "lock").exists()
