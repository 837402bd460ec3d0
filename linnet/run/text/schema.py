"""What a JSON schema says that is no constraint: formats which JSON Schema does not define."""

from __future__ import annotations

from typing import Any

# Wright et al. 2022, "JSON Schema Validation", section 7.3, and the names of earlier drafts.
_DEFINED_FORMATS = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri "
    "iri-reference uuid uri-template json-pointer relative-json-pointer regex "
    "color host-name ip-address phone style utc-millisec".split()
)
_VALUES = ("const", "default", "enum", "example", "examples")  # keywords that hold no schemas
_NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def without_own_formats(schema: Any) -> Any:
    """``schema`` without the formats that only its author knows (``int64``, ``password``, ``path``).

    Validators take them for annotations (section 7.2.3), so what is valid stays the same.
    """
    if isinstance(schema, list):
        return [without_own_formats(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _part(key, value)
        for key, value in schema.items()
        if key != "format" or not isinstance(value, str) or value in _DEFINED_FORMATS
    }


def _part(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in _NAMED and isinstance(value, dict):
        return {name: without_own_formats(item) for name, item in value.items()}
    return without_own_formats(value)
