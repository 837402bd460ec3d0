"""Training speed against transformers, both timed in turn in one process.

    python benchmarks/train_throughput.py [--dtype f32|bf16] [--rounds 12] [--threads 2] [--no-compile]

The model is 3.2M parameters: 192 wide, 6 layers, 6 heads, 2 key heads, feed-forward 512, vocabulary
4096, tied; a step is 16 x 256 tokens: loss, backward, clipping, update. Ours goes through
``linnet.train.loop.train_steps``. The peer is LlamaForCausalLM under torch.compile with torch's fused
AdamW. Rows are single documents, so neither has to mask. Prints medians of tokens per second, and the share
of this machine's matrix-product rate that the arithmetic of the model takes. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from linnet.formats.report import describe_machine
from linnet.train.batches import Batch, packed
from linnet.train.loop import Progress, train_steps
from linnet.train.model import Decoder, initialise
from linnet.train.optim import Optimizer
from linnet.train.step import pretraining_loss
from linnet.types import ModelFacts

ROWS, LENGTH = 16, 256
FACTS = ModelFacts("llama", dim=192, n_layers=6, n_heads=6, n_kv_heads=2, head_dim=32, ffn_dim=512,
                   vocab_size=4096, max_seq_len=512)  # fmt: skip


class OneBatch:
    """The same batch at every step."""

    micro_steps = 1

    def __init__(self, ids: np.ndarray) -> None:
        self.batch = packed(ids, 0, 0)

    def read(self, step: int, micro_step: int) -> Batch:
        return self.batch

    def supervised(self, step: int) -> int:
        return self.batch.targets.numel()


def ours(ids: np.ndarray, dtype: str, compiled: bool, kind: str) -> Callable[[], None]:
    """One step of ours per call."""
    model = Decoder(FACTS)
    initialise(model, 0)
    batches, optimizer = OneBatch(ids), Optimizer(model, kind, learning_rate=1e-3, weight_decay=0.1)
    loss_of = pretraining_loss(model, dtype, compiled)

    def step() -> None:
        train_steps(model, loss_of, batches, optimizer, lambda _: 1.0, Progress(n_steps=1))

    return step


def peer(ids: np.ndarray, dtype: str, compiled: bool) -> Callable[[], None]:
    """One step of transformers per call."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=FACTS.vocab_size, hidden_size=FACTS.dim, intermediate_size=FACTS.ffn_dim,
        num_hidden_layers=FACTS.n_layers, num_attention_heads=FACTS.n_heads,
        num_key_value_heads=FACTS.n_kv_heads,
        max_position_embeddings=FACTS.max_seq_len, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model
    tokens = torch.from_numpy(ids[:, :-1]).contiguous()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def flop_per_token() -> int:
    """Operations of forward and backward: 6 per weight of a matrix, and causal attention."""
    matrices = FACTS.n_params - FACTS.dim * (2 * FACTS.n_layers + 1)
    attention = FACTS.n_layers * 3 * 4 * (LENGTH // 2) * FACTS.n_heads * FACTS.head_dim
    return 6 * matrices + attention


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP per second of a large product in torch here, the best of several."""
    a, b = torch.randn(2, 1024, 1024).to(dtype)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 1024**3 / min(times)


def main() -> None:
    """Times all variants in turn and prints what came out."""
    parser = argparse.ArgumentParser(description="training speed against transformers")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    about = "cpu: processor time, which a busy machine disturbs less; use with --threads 1"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=about)
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    ids = np.random.default_rng(0).integers(1, FACTS.vocab_size, (ROWS, LENGTH + 1))
    compiled = not given.no_compile
    steps = {
        "transformers": peer(ids, given.dtype, compiled),
        "linnet_adamw": ours(ids, given.dtype, compiled, "adamw"),
        "linnet_muon": ours(ids, given.dtype, compiled, "muon"),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.rounds + 2):
        for name, step in steps.items():
            started = clock()
            step()
            if turn >= 2:
                times[name].append(clock() - started)
    speed = {name: ROWS * LENGTH / statistics.median(values) for name, values in times.items()}
    rates = {"f32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)}
    result = {
        "benchmark": "train_throughput",
        "dtype": given.dtype, "threads": given.threads, "clock": given.clock, "compiled": compiled,
        "rounds": given.rounds,
        "tok_s": speed,
        "best_tok_s": {name: ROWS * LENGTH / min(values) for name, values in times.items()},
        "ratio": speed["linnet_adamw"] / speed["transformers"],
        "ratio_muon": speed["linnet_muon"] / speed["transformers"],
        "flop_per_token": flop_per_token(),
        "matmul_flop_s": rates,
        "share_of_ceiling": {
            name: speed["linnet_adamw"] * flop_per_token() / rate for name, rate in rates.items()
        },
        "torch": torch.__version__,
        "machine": describe_machine(),
    }  # fmt: skip
    for name, value in speed.items():
        print(f"{name:14} {value:9,.0f} tok/s (median of {given.rounds})")
    print(f"linnet / transformers: {result['ratio']:.2f} with AdamW, {result['ratio_muon']:.2f} with Muon")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
