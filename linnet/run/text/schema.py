"""JSON schemas of others, rewritten: one walk over the schemas inside a schema, and what is changed by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from linnet.errors import UsageError

# Wright et al. 2022, "JSON Schema Validation", section 7.3, and the names of earlier drafts.
_DEFINED_FORMATS = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri "
    "iri-reference uuid uri-template json-pointer relative-json-pointer regex "
    "color host-name ip-address phone style utc-millisec".split()
)
_VALUES = ("const", "default", "enum", "example", "examples")  # keywords that hold no schemas
_NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def class_schema(where: str, kind: Any) -> Any:
    """What a class of pydantic says its schema is, None for what is no such class. Raises UsageError."""
    describe = getattr(kind, "model_json_schema", None)
    if not callable(describe):
        return None
    try:
        return describe()
    except Exception as error:  # of a field that JSON cannot say; pydantic explains it in several lines
        name, reason = getattr(kind, "__name__", type(kind).__name__), str(error).partition("\n")[0]
        raise UsageError(f"{where}: the class {name} has no JSON schema: {reason}") from error


def rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of ``schema`` in which every schema is what ``change`` returns for it, inner ones first.

    Values (``enum``, ``default``, ...) are no schemas, and names (of ``properties``, ...) are no keywords.
    """
    if isinstance(schema, list):
        return [rewritten(item, change) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            plain[key] = {name: rewritten(item, change) for name, item in value.items()}
        else:
            plain[key] = value if key in _VALUES else rewritten(value, change)
    return change(plain)


def without_own_formats(schema: Any) -> Any:
    """``schema`` without the formats that only its author knows (``int64``, ``password``, ``path``).

    Validators take them for annotations (section 7.2.3), so what is valid stays the same.
    """
    return rewritten(schema, _without_own_format)


def _without_own_format(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("format")
    if isinstance(name, str) and name not in _DEFINED_FORMATS:
        del schema["format"]
    return schema
