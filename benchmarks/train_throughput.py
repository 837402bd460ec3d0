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
from contextlib import AbstractContextManager

import numpy as np
import torch

from linnet.formats.report import describe_machine
from linnet.train.batches import Batch, packed
from linnet.train.loop import Progress, train_steps
from linnet.train.model import Decoder, initialise
from linnet.train.optim import Optimizer
from linnet.train.step import StepFunction, loss_function
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
