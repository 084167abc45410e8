"""What an export job may ask for, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.specs import ExportJob, parse_job
from shared.specs.export import file_stem


def export_request(**changes: Any) -> dict[str, Any]:
    return {"kind": "export", "from": {"model": "digits", "version": 3}, **changes}


def test_formats_go_by_name_or_with_options_and_come_back_the_same() -> None:
    spec = parse_job(export_request(formats=["keras", {"format": "tflite", "quantization": "int8"}]))
    assert isinstance(spec, ExportJob)
    assert [item.format for item in spec.formats] == ["keras", "tflite"]
    data = spec.model_dump(mode="json")
    assert data["from"] == {"model": "digits", "version": 3}
    assert parse_job(data) == spec


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"from": {}}, ("from",), "name a job"),
        ({"from": {"job": "job_a", "model": "m", "version": 1}}, ("from",), "name a job"),
        ({"from": {"job": "../x"}}, ("from", "job"), "pattern"),
        ({"from": {"job": "job_a", "checkpoint": "../../x"}}, ("checkpoint",), "pattern"),
        ({"from": {"job": "job_a", "checkpoint": "a/../x"}}, ("checkpoint",), "pattern"),
        ({"formats": ["kers"]}, ("formats",), "keras"),
        ({"formats": ["keras", "keras"]}, ("formats",), "twice"),
        ({"formats": []}, ("formats",), "at least 1"),
        ({"signatures": ["classify", "classify"]}, ("signatures",), "twice"),
        ({"formats": ["keras"], "publish": {"model": "m"}}, (), "saved_model"),
        ({"epochs": 3}, ("epochs",), "Extra"),
    ],
)
def test_exports_that_can_not_be(change: dict[str, Any], place: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        parse_job(export_request(**change))
    error = raised.value.errors()[0]
    assert set(place) <= set(error["loc"])
    assert words in error["msg"]


def test_one_format_may_be_had_in_several_forms() -> None:
    forms = ["tflite", {"format": "tflite", "quantization": "float16"}]
    spec = parse_job(export_request(formats=forms))
    assert isinstance(spec, ExportJob)
    assert [file_stem(item) for item in spec.formats] == ["tflite", "tflite_float16"]


def test_a_kind_that_is_not_known_is_said_to_be_so() -> None:
    with pytest.raises(ValidationError) as raised:
        parse_job({"kind": "bake"})
    assert raised.value.errors()[0]["loc"] == ("kind",)
