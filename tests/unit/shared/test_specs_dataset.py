"""Whatever is sent as a dataset is a spec, or an error with a field; never another exception."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.specs import parse_job
from shared.specs.dataset import file_reference

KEYS = [
    "tfds", "npz", "csv", "images", "tfrecord", "label", "features", "columns", "missing", "x", "y", "image_size",
    "color_mode", "interpolation", "class_names", "folder", "test_folder", "test_split", "validation_split", "stratify",
    "cache", "pipeline", "augment", "compression", "test", "on_broken", "task", "delimiter",
]  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(allow_nan=True)
    | st.sampled_from(
        ["", "a", "label", "../x", "/data/x", "ds_x", "image", "RandomFlip", "auto", "rgb", "int64"]
    )
    | st.text(max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "decode", "shape", "label", "name", "params", "type"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_dataset_is_taken_or_refused_with_a_field(dataset: dict[str, Any]) -> None:
    refused: list[Any] = []
    try:
        file_reference(parse_job({"model": {"builder": "mlp"}, "dataset": dataset}).dataset)  # type: ignore[union-attr]
    except ValidationError as error:
        refused = list(error.errors())
    assert all("dataset" in item["loc"] and item["msg"] for item in refused)


TFRECORD = {"tfrecord": "a", "features": {"x": {"dtype": "float32"}, "label": {"dtype": "int64"}}}
IMAGE = {"dtype": "string", "decode": "image"}


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"images": "x", "npz": "y"}, "name exactly one of"),
        ({"images": "x", "image_size": None}, "can't be null"),
        ({"images": "x", "image_size": [0, 4]}, "greater than or equal to 1"),
        ({"images": "x", "folder": "../up"}, "below the images' top folder"),
        ({"images": "x", "class_names": ["a", "a"]}, "named twice"),
        ({"images": "x", "follow_links": True}, "should be False"),
        ({"images": "x", "augment": ["RandomFlop"]}, "did you mean 'RandomFlip'"),
        ({"tfds": "a", "x": "image"}, "both x and y"),
        ({"tfds": "a b"}, "match pattern"),
        ({"csv": "x", "label": "y", "columns": {"y": {}}}, "it is for features"),
        ({"csv": "x", "label": "y", "features": ["a"], "columns": {"b": {}}}, "not among the features"),
        ({**TFRECORD, "y": "z"}, "no 'z' in features"),
        ({**TFRECORD, "x": "label"}, "the same feature"),
        ({**TFRECORD, "tfrecord": []}, "at least 1 item"),
        ({**TFRECORD, "features": {"x": {"dtype": "string"}, "label": {"dtype": "int64"}}}, "is text"),
        ({**TFRECORD, "features": {"x": IMAGE, "label": {"dtype": "int64"}}}, "need image_size"),
        ({**TFRECORD, "features": {"x": {"dtype": "int64", "decode": "image"}}}, "dtype string"),
        ({**TFRECORD, "features": {**TFRECORD["features"], "more": {"dtype": "int64"}}}, "name the feature"),  # type: ignore[dict-item]
        ({"npz": "x", "pipeline": {"parallel_reads": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(dataset: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parse_job({"model": {"builder": "mlp"}, "dataset": dataset})
