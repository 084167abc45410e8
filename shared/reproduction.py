"""Whether a job that was trained again came out the same, and what differs around it when it did not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from shared.jobs import Job

# Without op determinism two runs differ by the order of sums; over some epochs that is seen in the third digit.
TOLERANCE = 0.02
# members of ``run`` that a result may depend on
_AROUND = ("versions", "program", "machine", "options", "devices", "strategy", "replicas", "code", "data")
_NOT_CAUSES = ("devices.requested",)


def compare(old: Job, new: Job, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """A ``ReproductionView`` of two jobs that have succeeded, ``new`` being ``old`` trained again.

    ``outcome``: bit_equal (all metrics, and the weights where both are known), within_tolerance (no metric differs by
    more than ``tolerance`` times the larger of 1 and the metric), or different. ``reproduced``: what the job had
    promised: bit_equal for a deterministic one in the same surroundings, within_tolerance for all others.
    """
    before, after = _metrics(old), _metrics(new)
    metrics = {
        name: {
            "before": before.get(name),
            "after": after.get(name),
            "difference": _difference(name, before, after),
        }
        for name in sorted({*before, *after})
    }
    weights = (old.run.get("weights"), new.run.get("weights"))
    differences = list(_differences(old.run, new.run))
    exact = all(item["before"] == item["after"] for item in metrics.values()) and bool(metrics)
    if exact and (None in weights or weights[0] == weights[1]):
        outcome = "bit_equal"
    elif metrics and all(_close(item, tolerance) for item in metrics.values()):
        outcome = "within_tolerance"
    else:
        outcome = "different"
    deterministic = bool(old.spec.get("fit", {}).get("deterministic"))
    demanded = deterministic and not differences
    return {
        "job": new.id,
        "reproduces": old.id,
        "outcome": outcome,
        "reproduced": outcome == "bit_equal" or (not demanded and outcome == "within_tolerance"),
        "deterministic": deterministic,
        "tolerance": tolerance,
        "metrics": metrics,
        "weights_equal": None if None in weights else weights[0] == weights[1],
        "differences": differences,
    }


def _metrics(job: Job) -> dict[str, float | None]:
    """Final evaluation, and the last epoch's metrics."""
    found = dict(job.metrics.get("latest") or {})
    found.update((job.result or {}).get("metrics") or {})
    return {name: _finite(value) for name, value in found.items()}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, float | int) and math.isfinite(value) else None


def _difference(name: str, before: dict[str, float | None], after: dict[str, float | None]) -> float | None:
    one, two = before.get(name), after.get(name)
    return None if one is None or two is None else abs(one - two)


def _close(item: dict[str, float | None], tolerance: float) -> bool:
    one, two = item["before"], item["after"]
    if one is None or two is None:
        return one is two
    return abs(one - two) <= tolerance * max(1.0, abs(one))


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[dict[str, Any]]:
    one = dict(_flat({name: before.get(name) for name in _AROUND}))
    two = dict(_flat({name: after.get(name) for name in _AROUND}))
    for what in sorted({*one, *two}):
        if one.get(what) != two.get(what) and not what.startswith(_NOT_CAUSES):
            yield {"what": what, "before": one.get(what), "after": two.get(what)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their dotted paths; lists are leaves."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, value
