"""Structured output over real schemas: what is accepted, whether finished texts validate, what masks cost.

    python benchmarks/structured.py [--model FILE] [--schemas FILE] [--limit N] [--max-tokens N]

Every schema is compiled and one text made. A model that was not trained on JSON wanders, so a text that
reaches max-tokens counts as unfinished, which says nothing of the schema. The mask share is the time spent in
llguidance (masks, forced tokens, accepting) over the time of decoding. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema

import linnet
from linnet.errors import LinnetError, UnsupportedError
from linnet.run.text.structured import GrammarGuide

SCHEMAS = Path(__file__).parents[2] / "shared/data/eval/jsonschemabench/schemas_with_tests.jsonl"


class TimedGuide:
    """A guide whose calls are timed."""

    def __init__(self, guide: GrammarGuide) -> None:
        self._guide, self.seconds = guide, 0.0

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.perf_counter() - started

    @property
    def finished(self) -> bool:
        return bool(self._timed(lambda: self._guide.finished))

    def mask(self) -> int | None:
        return self._timed(self._guide.mask)

    def forced(self) -> Sequence[int]:
        return self._timed(self._guide.forced)

    def accept(self, token: int) -> None:
        self._timed(self._guide.accept, token)


def main() -> None:
    parser = argparse.ArgumentParser(description="Structured output over real schemas.")
    parser.add_argument("--model", type=Path, default=None, help="a GGUF file (default: the bundled model)")
    parser.add_argument("--schemas", type=Path, default=SCHEMAS)
    parser.add_argument("--limit", type=int, default=1200, help="schemas, evenly chosen")
    parser.add_argument("--max-tokens", type=int, default=300)
    given = parser.parse_args()
    model = linnet.load(given.model, n_ctx=given.max_tokens + 64)
    lines = given.schemas.read_text(encoding="utf-8").splitlines()
    counts, reasons = Counter[str](), Counter[str]()
    guided = decoded = compiled = slowest = 0.0
    for line in lines[:: max(1, len(lines) // given.limit)][: given.limit]:
        schema = json.loads(line)["schema"]
        started = time.perf_counter()
        try:
            guide = TimedGuide(model.constrain(json_schema=schema).guide())
        except UnsupportedError as error:
            counts["refused"] += 1
            reasons[str(error).partition("held: ")[2][:60]] += 1
            continue
        finally:
            took = time.perf_counter() - started
            compiled, slowest = compiled + took, max(slowest, took)
        counts["accepted"] += 1
        try:
            made = model.generate("JSON:\n", guide=guide, max_tokens=given.max_tokens, seed=1)
        except LinnetError as error:
            counts["stopped"] += 1
            reasons[str(error)[:60]] += 1
            continue
        guided, decoded = guided + guide.seconds, decoded + made.decode_s
        counts[_verdict(made.text, made.finish_reason, schema, line)] += 1
    result = {
        **counts,
        "reasons": dict(reasons.most_common()),
        "mask_share": guided / decoded if decoded else None,
        "compile_s": compiled,
        "slowest_compile_s": slowest,
    }
    print(json.dumps(result))


def _verdict(text: str, finish_reason: str, schema: Any, line: str) -> str:
    if finish_reason != "stop":
        return "unfinished"
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"INVALID {json.loads(line)['id']}: {str(error).splitlines()[0]} in {text[:200]}")
        return "invalid"
    except Exception as error:  # the schema is one that jsonschema cannot check
        print(f"unchecked {json.loads(line)['id']}: {type(error).__name__} {str(error)[:80]}")
        return "unchecked"
    return "valid"


if __name__ == "__main__":
    main()
