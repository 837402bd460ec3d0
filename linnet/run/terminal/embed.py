"""``linnet embed``: a vector for each text."""

from __future__ import annotations

import io
import sys

from linnet.errors import UsageError
from linnet.formats.inputs import read_standard_input
from linnet.options import EmbedOptions
from linnet.run.embed import default_pooling, embed_texts
from linnet.run.meter import EnergyMeter
from linnet.run.terminal.run import adapter_scales, load_model


def embed(options: EmbedOptions) -> dict[str, object]:
    """Prints a vector per text.

    Returns ``embeddings`` [n][dim], ``dim``, ``tokens``, ``cut`` (texts), ``pooling`` and ``energy``.
    """
    texts = options.texts or lines_of(read_standard_input())
    if not texts:
        raise UsageError("there is no text; give some, or one per line of standard input")
    adapters = adapter_scales(options.adapter)
    model = load_model(options)
    pooling = options.pooling or default_pooling(model)
    meter = EnergyMeter(options.watts)
    vectors = embed_texts(
        model, texts, pooling=pooling, normalize=options.normalize, cut=options.cut, adapter=adapters
    )
    energy = meter.read()
    lengths = [len(model.tokenizer.encode(text, framed=True)) for text in texts]
    n_tokens = sum(min(length, model.n_ctx) for length in lengths)
    n_cut = sum(length > model.n_ctx for length in lengths)
    if n_cut:
        print(f"{n_cut} of {len(texts)} texts were cut to {model.n_ctx} tokens", file=sys.stderr)
    if not options.json:
        for vector in vectors:
            print(" ".join(f"{value:.7g}" for value in vector))
        print(f"{len(texts)} texts · {n_tokens} tokens · {energy.per_token(n_tokens)}", file=sys.stderr)
    return {
        "embeddings": [[float(f"{value:.9g}") for value in vector] for vector in vectors],
        "dim": model.model.dim,
        "tokens": n_tokens,
        "cut": n_cut,
        "pooling": pooling,
        "energy": energy.as_json(n_tokens),
    }


def lines_of(text: str) -> list[str]:
    """As files have them: a form feed or one of the separators of Unicode ends none."""
    lines = io.StringIO(text, newline=None)
    return [line.removesuffix("\n") for line in lines]
