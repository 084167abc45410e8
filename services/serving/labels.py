"""Which labels a new list of models may assign.

TensorFlow Serving assigns labels before it loads anything of the same list, so a label of a version that is not there
yet is refused with the whole list, unless a flag allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from services.serving.config import ModelConfig
from services.serving.errors import Code, ServingError
from services.serving.manager import ModelManager

CheckLabels = Callable[[Mapping[str, ModelConfig]], None]


class LabelRule(Enum):
    """For which versions that are not AVAILABLE a label may be set."""

    NONE = "none"
    UNUSED_LABELS = "unused"  # labels that don't mean another version already
    ANY = "any"


def check_labels(models: Mapping[str, ModelConfig], manager: ModelManager, rule: LabelRule) -> None:
    """Whether the labels of ``models`` may be set now.

    Raises:
        ServingError: FAILED_PRECONDITION, TensorFlow Serving's text and the flag that would allow it.
    """
    if rule is LabelRule.ANY:
        return
    for model in models.values():
        for label, version in model.labels.items():
            unused = manager.version_of(model.name, label) in (None, version)
            if rule is LabelRule.UNUSED_LABELS and unused:
                continue
            if not manager.is_available(model.name, version):
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {model.name}, which is not currently"
                    f" available for inference (--{_FLAG} allows that{'' if unused else ' for unused labels'})",
                )


_FLAG = "allow_version_labels_for_unavailable_models"
