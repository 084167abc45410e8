"""JSON values as they are quoted in error messages: RapidJSON's layout, cut at about 256 bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

_LIMIT = 256


def echo(value: Any) -> str:
    """``value`` as indented JSON with arrays on one line.

    No token is begun once 256 bytes are written, so a long list is cut and a single long text is not.
    Iterative: the value may be nested without limit.
    """
    out = ""
    # One entry per open container: its remaining items, whether it is an object, whether it has any yet.
    stack: list[tuple[Iterator[Any], bool, bool]] = [(iter((value,)), False, False)]
    depth = 0
    while stack and _size(out) < _LIMIT:
        items, is_object, begun = stack.pop()
        try:
            item = next(items)
        except StopIteration:
            if not stack:
                break
            depth -= 1
            if is_object:
                out += ("\n" + "    " * depth if begun else "") + "}"
            else:
                out += "]"
            continue
        if begun:
            out += "," if is_object else ", "
        stack.append((items, is_object, True))
        if is_object:
            key, item = item
            out += "\n" + "    " * depth + quote(key)
            if _size(out) >= _LIMIT:
                break
            out += ": "
        if isinstance(item, dict):
            out += "{"
            stack.append((iter(item.items()), True, False))
            depth += 1
        elif isinstance(item, list):
            out += "["
            stack.append((iter(item), False, False))
            depth += 1
        elif isinstance(item, float) and not math.isfinite(item):
            break  # RapidJSON's writer gives up at what is no JSON number
        else:
            out += _scalar(item)
    return out


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return "null" if value is None else "true" if value else "false"


def _number(value: float) -> str:
    """The shortest digits, as RapidJSON lays them out: 1e16 is ``10000000000000000.0``, 1e21 is ``1e21``."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    digits, _, exponent = f"{abs(Decimal(repr(value))):E}".partition("E")
    digits = digits.replace(".", "").rstrip("0") or "0"
    point = int(exponent) + 1  # where the decimal point stands, counted from the first digit
    if digits == "0":
        return sign + "0.0"
    if len(digits) <= point <= 21:
        return f"{sign}{digits.ljust(point, '0')}.0"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1}"


_TO_ESCAPE = re.compile(r'["\\\x00-\x1f]')
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quote(text: str) -> str:
    """``text`` as a JSON string, escaping only what must be."""
    return f'"{_TO_ESCAPE.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return _ESCAPED.get(char) or f"\\u{ord(char):04X}"


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type."""
    if value is None:
        return "Null"
    if value is True:
        return "True"
    if value is False:
        return "False"
    if isinstance(value, str):
        return "String"
    if isinstance(value, dict):
        return "Object"
    return "Array" if isinstance(value, list) else "Number"
