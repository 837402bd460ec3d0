"""``linnet data``: text to corpus.

The sources are read twice. The first reading hashes every document, which finds exact
duplicates and decides what is kept out for validation; the second one tokenizes and
writes. (When a tokenizer is trained, a bounded sample is read in between.) Memory holds
16 bytes per document, one batch of text and one batch of tokens, however large the
input is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from linnet.data.bpe import END_OF_TEXT, train_bpe
from linnet.data.sources import Piece, ReadCounts, Source, find_sources, read_pieces
from linnet.data.tokenize import TextEncoder, open_encoder
from linnet.errors import SourceError, TargetError, UsageError
from linnet.formats.atomic import atomic_folder, check_replaceable
from linnet.formats.corpus import FILES, CorpusWriter, Manifest, SourceRecord, dtype_for
from linnet.options import DataOptions

FEW_DOCUMENTS = 20  # with fewer, whole documents are too coarse to keep out: the end of the text is
SAMPLE_BYTES = 1 << 26  # text a tokenizer is trained on, at most (about)
BATCH_CHARS = 1 << 20  # text tokenized at a time
_SAMPLE_CHARS = 1 << 14  # the library holds 256 of these at a time
