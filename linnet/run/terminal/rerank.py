"""``linnet rerank``: documents, from the best answer to a query on."""

from __future__ import annotations

import sys

from linnet.display import line_on
from linnet.errors import UsageError
from linnet.formats.inputs import read_standard_input
from linnet.options import RerankOptions
from linnet.run.meter import EnergyMeter
from linnet.run.rank import default_method, text_lengths
from linnet.run.terminal.embed import lines_of
from linnet.run.terminal.run import adapter_scales, load_model


def rerank(options: RerankOptions) -> dict[str, object]:
    """Prints the score of each document and the document, the best first.

    Returns ``ranked`` (``index`` and ``score`` of each), ``method``, ``tokens``, ``cut`` (documents) and
    ``energy``.
    """
    documents = options.documents or lines_of(read_standard_input())
    if not documents:
        raise UsageError("there is no document; give some, or one per line of standard input")
    adapters = adapter_scales(options.adapter)
    model = load_model(options)
    method = options.method or default_method(model)
    meter = EnergyMeter(options.watts)
    ranked = model.rerank(options.query, documents, method=method, cut=options.cut, adapter=adapters)
    energy = meter.read()
    lengths = text_lengths(model, options.query, documents, method)
    n_tokens = sum(min(length, model.n_ctx) for length in lengths)
    n_cut = sum(length > model.n_ctx for length in lengths)
    if n_cut:
        print(f"{n_cut} of {len(documents)} documents were cut to fit {model.n_ctx} tokens", file=sys.stderr)
    if not options.json:
        for item in ranked:
            print(f"{item.score:.7g}\t{line_on(sys.stdout, documents[item.index])}")
        print(
            f"{len(documents)} documents · {n_tokens} tokens · {energy.per_token(n_tokens)}", file=sys.stderr
        )
    return {
        "ranked": [{"index": item.index, "score": float(f"{item.score:.9g}")} for item in ranked],
        "method": method,
        "tokens": n_tokens,
        "cut": n_cut,
        "energy": energy.as_json(n_tokens),
    }
