"""Jinja for templates that strangers wrote: sandboxed, and bounded in time and memory.

The sandbox of jinja2 keeps a template from reaching Python's internals, not from looping
for hours or building gigabytes. Here every step that can make something large pays for it
beforehand out of a :class:`Budget`: operators, calls, filters, tests, comparisons, printed
values and turns of a loop. What passes is computed as ``transformers`` computes it.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import ext, nodes, runtime
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from linnet.run.chat.template import MARK

MOST_WORK = 1 << 25  # characters and items that one rendering may make, intermediate ones included
MOST_SECONDS = 3.0
MOST_BITS = 100_000  # of a whole number
TURN = 8  # work of one turn of a loop or one call
ITEM = 64  # work of looking at one member of a list or dict


class BudgetError(Exception):
    """The template asks for more time or memory than a conversation needs."""


class Budget:
    """What one compilation or rendering may still cost."""

    def __init__(self) -> None:
        self._left = MOST_WORK
        self._end = time.monotonic() + MOST_SECONDS

    def spend(self, work: int) -> None:
        """Raises BudgetError when that is too much, or when time is up."""
        self._left -= work
        if self._left < 0:
            raise BudgetError("it builds too much text (a loop that grows, or a huge number in it)")
        if time.monotonic() > self._end:
            raise BudgetError(f"it takes more than {MOST_SECONDS:g} s (loops in loops, macros in themselves)")


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def budget() -> Iterator[None]:
    """Within it, templates share one budget."""
    token = _current.set(Budget())
    try:
        yield
    finally:
        _current.reset(token)


def _spend(work: int) -> None:
    current = _current.get()
    if current is not None:
        current.spend(work)


def weight(value: Any, *, numbers: bool = False) -> int:
    """Characters and items in ``value``, those of its members included, or a number beyond MOST_WORK.

    A whole number weighs its digits, or itself where it may become a width (``numbers``).
    """
    total, open_items = 0, [iter((value,))]
    while open_items:
        item = next(open_items[-1], open_items)
        if item is open_items:
            open_items.pop()
            continue
        total += ITEM
        if isinstance(item, (str, bytes)):
            total += len(item)
        elif isinstance(item, int):
            total += abs(item) if numbers else item.bit_length() // 3
        elif isinstance(item, dict):
            open_items.append(itertools.chain(item, item.values()))
        elif isinstance(item, (list, tuple, set, frozenset)):
            open_items.append(iter(item))
        if total > MOST_WORK:
            break
    return total


def _size(value: Any) -> int:
    """Characters or items of ``value`` itself."""
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict, set, range)) else 1


# ---- what each kind of step costs -----------------------------------------------------------

_WIDTH = re.compile(r"\d+")


def _widths(text: str) -> int:
    """The sum of the numbers in a format, which may be widths."""
    return sum(int(number[:9]) for number in _WIDTH.findall(text))


def _numbers(values: Any) -> int:
    return sum(abs(value) for value in values if isinstance(value, int))


def _formatted(text: Any, *values: Any, **named: Any) -> int:
    uses = str(text).count("%") + str(text).count("{") + 1
    return _widths(str(text)) + uses * (weight(values, numbers=True) + weight(named, numbers=True))


def _joined(between: Any, items: Any) -> int:
    return weight(items) + _size(between) * _size(items)


def _replaced(text: Any, old: Any = "", new: Any = "", *_: Any) -> int:
    return _size(text) + (str(text).count(str(old)) if str(old) else _size(text) + 1) * _size(new)


def _deep(*values: Any, **named: Any) -> int:
    return weight(values) + weight(named)


def _shallow(*values: Any, **named: Any) -> int:
    return sum(map(_size, values)) + _numbers(values) + _numbers(named.values())


def _per_line(text: Any, *values: Any, **named: Any) -> int:
    width = _deep(*values, **named) + _numbers(values) + _numbers(named.values())
    return _size(text) + (str(text).count("\n") + 1) * (width + 4)


def _json(value: Any, *options: Any, **named: Any) -> int:
    pieces = weight(value)
    return pieces * (2 + _numbers(options) + _numbers(named.values()) + weight(named))


_METHODS: dict[str, Callable[..., int]] = {
    "join": _joined,
    "replace": _replaced,
    "format": _formatted,
    "format_map": _formatted,
    "expandtabs": lambda text, tabsize=8: _size(text) + text.count("\t") * abs(int(tabsize)),
    "translate": lambda text, table: _size(text) * (1 + weight(table)),
    "count": _deep,
    "index": _deep,
    "remove": _deep,
}
_FILTERS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(
        ("string", "pprint", "sum", "unique", "sort", "groupby", "dictsort", "min", "max", "escape", "e",
         "forceescape", "xmlattr", "urlencode", "map", "select", "reject", "selectattr", "rejectattr"),
        _deep,
    ),
    "format": _formatted,
    "indent": _per_line,
    "join": lambda items, d="", *_, **__: _joined(d, items),
    "replace": _replaced,
    "tojson": _json,
    "wordwrap": lambda text, *options, **named: _size(text) * (1 + weight(options) + weight(named)),
}  # fmt: skip
_TESTS = dict.fromkeys(("eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">",
                        "greaterthan", "ge", ">=", "in"), _deep)  # fmt: skip


def _guarded(function: Callable[..., Any], cost: Callable[..., int]) -> Callable[..., Any]:
    """``function``, paid for before it runs; what jinja itself passes first is not weighed."""
    own = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def paid(*values: Any, **named: Any) -> Any:
        _spend(TURN + cost(*values[own:], **named))
        return function(*values, **named)

    return paid


class _Metered(NodeTransformer):
    """Lets loops, comparisons and joins of text report to the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        text = sum(len(part.data) for part in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(self._call("turn", node, nodes.Const(text))))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        text = sum(len(part.data) for part in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(self._call("turn", node, nodes.Const(text))))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("joined", node, *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides: list[Any] = [node, *node.ops]
        for side in sides:
            if not isinstance(side.expr, nodes.Const):
                side.expr = self._call("weighed", node, side.expr)
        return node

    @staticmethod
    def _call(name: str, at: nodes.Node, *values: nodes.Expr) -> nodes.Call:
        call = nodes.Call(nodes.EnvironmentAttribute(name), list(values), [], None, None)
        call.set_lineno(at.lineno)
        if at.environment is not None:
            call.set_environment(at.environment)
        return call


# ---- the environment ------------------------------------------------------------------------


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As ``transformers`` defines the filter: jinja's own would escape the signs of HTML."""
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return text.replace("\\ufdd0", MARK) if ensure_ascii else text


class _TemplateNamespace(Namespace):
    """A namespace whose attributes cannot be Python's internals."""

    def __init__(*values: Any, **named: Any) -> None:
        self, *rest = values
        attributes = dict(*rest, **named)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: names that begin with _ are Python's own")


def _template_dict(*values: Any, **named: Any) -> dict[Any, Any]:
    return dict(*values, **named)


class _GenerationBlocks(ext.Extension):
    """``{% generation %}``, which marks for training what the model has to learn, prints what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment in which chat templates run. Undefined names are empty, as in ``transformers``."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_paid_output,
            extensions=[_GenerationBlocks, ext.loopcontrols],
        )
        self.filters["tojson"] = _to_json
        del self.globals["lipsum"], self.filters["urlize"], self.filters["random"]  # of no use in a prompt
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda layout: datetime.now().strftime(layout),
            "dict": _template_dict,
            "namespace": _TemplateNamespace,
        }
        guards: tuple[tuple[dict[str, Any], dict[str, Callable[..., int]]], ...] = (
            (self.filters, _FILTERS),
            (self.tests, _TESTS),
        )
        for steps, costs in guards:
            steps.update({name: _guarded(step, costs.get(name, _shallow)) for name, step in steps.items()})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Metered().visit(super()._parse(source, name, filename))
        return tree

    def call(__self, __context: runtime.Context, __obj: Any, *values: Any, **named: Any) -> Any:
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        cost = _METHODS.get(getattr(__obj, "__name__", ""), _shallow)
        if isinstance(owner, (str, bytes, list, tuple)):
            _spend(TURN + cost(owner, *values, **named))
        else:
            _spend(TURN + (_size(owner) if isinstance(owner, dict) else 0))
        return super().call(__context, __obj, *values, **named)

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Operators whose result can be much larger than what they are given."""
        if operator == "%" and isinstance(left, (str, bytes)):
            _spend(_formatted(left, right))
        elif isinstance(left, int) and isinstance(right, int):
            bits = {"**": left.bit_length() * max(right, 0), "*": left.bit_length() + right.bit_length()}
            if bits.get(operator, 0) > MOST_BITS:
                raise BudgetError("it computes a huge number")
        elif operator == "*" and isinstance(right, int):
            _spend(_size(left) * max(right, 0))
        elif operator == "*" and isinstance(left, int):
            _spend(_size(right) * max(left, 0))
        elif operator == "+":
            _spend(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def turn(self, text: int) -> None:
        """A turn of a loop, or a call of a macro, with that many characters of text."""
        _spend(TURN + text)

    def joined(self, *values: Any) -> str:
        """What ``~`` makes."""
        _spend(weight(values))
        return "".join(map(str, values))

    def weighed(self, value: Any) -> Any:
        """One side of a comparison, which looks at everything in it."""
        if isinstance(value, (list, tuple, dict)):
            _spend(weight(value))
        return value


def _paid_output(value: Any) -> Any:
    _spend(len(value) if isinstance(value, str) else weight(value))
    return value
