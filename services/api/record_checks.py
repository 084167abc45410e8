"""Does a TFRecord job fit the examples of its files? Asked at submission, of what is known of uploaded ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidInput
from shared.specs import TfrecordDataset

_KINDS = {"string": "bytes", "int64": "int64", "float32": "float"}


def check_features(spec: TfrecordDataset, info: Mapping[str, Any]) -> None:
    """``info`` is the description of one file.

    Raises:
        InvalidInput: a feature is not in it, or of another kind.
    """
    known = info["features"]
    for name in (spec.x_name(), spec.y):
        asked, where = spec.features[name], f"dataset.features.{name}"
        if name not in known:
            if asked.default is not None:
                continue
            raise InvalidInput(
                f"The examples have no feature {name[:80]!r}.",
                code="feature_not_found",
                field=where,
                hint=f"Their features are: {', '.join(list(known)[:20]) or 'none'}.",
            )
        found = known[name]
        if found["kind"] != _KINDS[asked.dtype]:
            raise InvalidInput(
                f"The feature {name!r} holds {found['kind']} values, not {asked.dtype}.",
                code="feature_kind",
                field=f"{where}.dtype",
                hint="bytes are string, float is float32.",
            )
        if found.get("missing") and asked.default is None:
            raise InvalidInput(
                f"The feature {name!r} is missing in {found['missing']} of the first {info['examined']} examples.",
                code="values_missing",
                field=where,
                hint="Give it a default, if it is a number." if asked.dtype != "string" else None,
            )
