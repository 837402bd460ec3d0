"""Why llguidance cannot hold a form, in the words of whoever wrote the form: what is wrong, and what to do.

What is not in the table is told as it comes.
"""

from __future__ import annotations

import re

_LONGEST = 300  # characters
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): (?:at EOF: )?")  # line and column of a grammar
_EXCERPT = re.compile(r"\n *\d+ \| .*", re.DOTALL)  # of the grammar, with a mark below
_PART = re.compile(r"\n *while processing [^#\n]*(#\S*).*", re.DOTALL)  # of the schema

# What llguidance says, and what is said instead.
_MEANINGS = [
    (
        r"NoExtensionBias",
        r"no text can be completed: what has to come never ends, or no token of this model can write it; "
        r"give it an end, such as another way to go on",
    ),
    (r"Unimplemented keys: \[(.*)\]", r"it uses \1, which cannot be held; leave that out"),
    (r"oneOf constraints are not", r"the parts of a oneOf are not seen to exclude each other; write anyOf"),
    (r"Unknown format: (.*)", r"the format '\1' is not known; leave it out, or write a pattern"),
    (
        r"min/maxProperties only",
        r"minProperties and maxProperties are held only where all properties are required; require them, "
        r"or leave it out",
    ),
    (
        r"patternProperty regexes (/.*/) and (/.*/) are",
        r"\1 and \2 of patternProperties may both match a key; let them exclude each other",
    ),
    (r"Pointer '(.*)' does not exist", r"a $ref leads to '\1', which is not in it; correct the $ref"),
    (
        r"Resource '(.*)' is not present",
        r"a $ref leads to '\1', and nothing is fetched; copy that schema into $defs",
    ),
    (r"Unsatisfiable schema: (.*)", r"no text can have this form: \1"),
    (r"Expecting object schema|schema must be an object", r"it is no JSON object, as a schema has to be"),
    (r"Expected (?:f64|positive integer) for '(.*)', got (.*)", r"'\1' is \2; it must be a number"),
    (r"Expected (\w+) for '(.*)', got (.*)", r"'\2' is \3; it must be of type \1"),
    (r"Invalid type: (.*)", r"'type' is \1, which JSON Schema does not have"),
    (r"regex parse error:\s*(.*?)\n *\^+\nerror: (.*)", r"a regex cannot be read, \2: \1"),
    (
        r"lookarounds not supported.*in regex /(.*)/",
        r"\1 looks around, which cannot be held; write it without",
    ),
    (r"unknown special token: (.*?);.*", r"there is no special token \1"),
    (r"no start rule", r"it has no rule called start, as Lark, and no ::=, as GBNF"),
    (r"(.*) at line (\d+), '(.*)' \^ '.*'", r"line \2, after '\3': \1"),
    (
        r"(?i)too (?:big|large|many)|fuel|exceeded|; max is",
        r"it is too large to be followed; make it simpler",
    ),
]


def readable(reason: str, placed: bool = False) -> str:
    """What llguidance says, in one line; ``placed``: with line and column in a grammar of the user."""
    said = reason.partition("<state>")[0]  # then comes what it holds
    part = _PART.search(said)
    said = _EXCERPT.sub("", _PART.sub("", said)).strip()
    place = _PLACE.match(said)
    said = said[place.end() :] if place else said
    for pattern, meaning in _MEANINGS:
        match = re.search(pattern, said, re.DOTALL)
        if match:
            said = match.expand(meaning)
            break
    said = " ".join(said.split())[:_LONGEST]
    if place and placed:
        return f"line {place[1]}, column {place[2]}: {said}"
    return f"{said} (in {part[1]})" if part else said
