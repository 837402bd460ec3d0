"""Two processes train to the same loss as one."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from linnet.data.corpus import data
from linnet.options import DataOptions

DRIVER = """
import sys
from pathlib import Path
from linnet.options import TrainOptions
from linnet.train.pretrain import train
train(TrainOptions(corpus=Path(sys.argv[1]), output=Path(sys.argv[2]), params=120_000, tokens=8192,
                   dtype="f32", shape="max_seq_len=64",
                   batch="tokens=1024,sequences=4", resume="--resume" in sys.argv))
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_processes(n: int, driver: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    launcher = ["-m", "torch.distributed.run", *meeting, "--nproc-per-node", str(n)]
    command = [sys.executable, *launcher, str(driver), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = [" ".join(chance.choices("a bird sings near the old river".split(), k=30)) for _ in range(300)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    corpus = tmp_path / "corpus"
    data(DataOptions(sources=(str(tmp_path / "text.jsonl"),), output=corpus, vocab_size=300))
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    curves = []
    for n in (1, 2):
        done = run_processes(n, driver, str(corpus), str(tmp_path / f"out{n}"))
        assert done.returncode == 0, done.stderr
        curves.append(json.loads((tmp_path / f"out{n}" / "report.json").read_text())["plots"][0]["lines"])
    for name in ("training", "validation"):
        alone, together = ([loss for _, loss in curve[name]] for curve in curves)
        assert together == pytest.approx(alone, abs=1e-5)
    assert curves[0]["training"][0][1] > curves[0]["training"][-1][1] + 0.5
