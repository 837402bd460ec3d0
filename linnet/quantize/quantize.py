"""``linnet quantize``: a GGUF file whose weights take fewer bits."""

from __future__ import annotations

from linnet.engine.precision import parse_type, type_choice
from linnet.engine.repack import with_types
from linnet.engine.rewrite import check_distinct, describe, is_gguf_name, report, rewrite
from linnet.errors import SourceError, UsageError
from linnet.formats.source import read_model, source_kind
from linnet.options import QuantizeOptions


def quantize(options: QuantizeOptions) -> dict[str, object]:
    """Stores the model at ``options.source`` as ``options.type``; returns what ``--json`` prints.

    The result is reloaded and compared with the source (see ``engine.verify``). Raises
    SourceError, UnsupportedError, TargetError, UsageError or VerificationError; the
    source is untouched and no half-written target remains.
    """
    wanted = parse_type(options.type)
    if not is_gguf_name(options.output):
        raise UsageError(
            f"the output '{options.output}' must end in .gguf; linnet convert writes checkpoints"
        )
    check_distinct(options.source, options.output)
    kind = source_kind(options.source)
    if kind == "llama2.c":
        raise SourceError(f"{options.source} is a llama2.c file; convert it first: linnet convert")
    source = read_model(options.source)
    target, fallbacks = with_types(source, type_choice(source, wanted))
    comparison = rewrite(source, target, options.output)
    if not options.json:
        report(target, options.output, comparison, fallbacks)
    about = describe(target, options.output, comparison, fallbacks)
    return {"source": str(options.source), "source_format": kind, **about}
