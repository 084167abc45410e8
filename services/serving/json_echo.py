"""JSON values as they are quoted in error messages: RapidJSON's layout, cut at about 256 bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

_LIMIT = 256


def echo(value: Any) -> str:
    """``value`` as indented JSON with arrays on one line.

    No token is begun once 256 characters are written, so a long list is cut and a single long text is not.
    Iterative: the value may be nested without limit.
    """
    out = ""
    # One entry per open container: its remaining items, whether it is an object, whether it has any yet.
    stack: list[tuple[Iterator[Any], bool, bool]] = [(iter((value,)), False, False)]
    depth = 0
    while stack and len(out) < _LIMIT:
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
            out += "\n" + "    " * depth + json.dumps(key, ensure_ascii=False)
            if len(out) >= _LIMIT:
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
        else:
            out += _scalar(item)
    return out


def _scalar(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return json.dumps(value, ensure_ascii=False)


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
