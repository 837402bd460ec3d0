"""The ``linnet`` command: each verb is a row of a table, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from linnet import errors, options

VERBS = {  # verb: (options, "module:function")
    "run": (options.RunOptions, "linnet.run.terminal:run"),
    "data": (options.DataOptions, "linnet.data.corpus:data"),
    "train": (options.TrainOptions, "linnet.train.pretrain:train"),
    "convert": (options.ConvertOptions, "linnet.export.convert:convert"),
    "quantize": (options.QuantizeOptions, "linnet.quantize.quantize:quantize"),
    "evaluate": (options.EvaluateOptions, "linnet.evaluate.evaluate:evaluate"),
    "show": (options.ShowOptions, "linnet.run.show:show"),
    "bench": (options.BenchOptions, "linnet.run.bench:bench"),
}
