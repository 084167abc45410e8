"""Which labels may be set before their version can answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from services.serving.config import ModelConfig
from services.serving.errors import Code, ServingError
from services.serving.labels import LabelRule, check_labels
from services.serving.manager import ModelManager

Eventually = Callable[[Callable[[], bool]], None]


def refused(manager: ModelManager, rule: LabelRule, **labels: int) -> bool:
    try:
        check_labels({"m": ModelConfig("m", "/m", labels=labels)}, manager, rule)
    except ServingError as error:
        text = "which is not currently available for inference"
        return error.code is Code.FAILED_PRECONDITION and text in error.message
    return False


@pytest.mark.parametrize(
    ("rule", "fresh", "moved"),
    [(LabelRule.NONE, True, True), (LabelRule.UNUSED_LABELS, False, True), (LabelRule.ANY, False, False)],
)
def test_rules(
    manager: ModelManager,
    version_folder: Callable[[str, int], Path],
    eventually: Eventually,
    rule: LabelRule,
    fresh: bool,
    moved: bool,
) -> None:
    manager.want("m", {1: str(version_folder("m", 1))}, {"stable": 1})
    eventually(lambda: manager.available("m"))
    assert not refused(manager, rule, stable=1)
    assert refused(manager, rule, canary=2) is fresh
    assert refused(manager, rule, stable=2) is moved


def test_a_label_outlives_its_version_as_an_unknown_version(
    manager: ModelManager, version_folder: Callable[[str, int], Path], eventually: Eventually
) -> None:
    manager.want("m", {1: str(version_folder("m", 1))}, {"stable": 1})
    eventually(lambda: manager.available("m"))
    manager.want("m", {2: str(version_folder("m", 2))}, {"stable": 1})
    eventually(lambda: manager.is_available("m", 2) and not manager.is_available("m", 1))
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 1\)"):
        manager.acquire("m", None, "stable")
