"""Exports and fine-tuning through a real worker and model server, from the store's rows to served answers."""

from __future__ import annotations

import base64
import io
import json
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.jobs import JobState
from tests.integration.worker.conftest import Stack

pytestmark = [pytest.mark.tf, pytest.mark.slow]


def ask(stack: Stack, model: str, version: int, verb: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{stack.settings.serving_url}/v1/models/{model}/versions/{version}:{verb}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_version_is_exported_published_anew_and_trained_on_when_its_run_is_gone(
    stack: Stack, digits: Path, digits_job: Callable[..., dict[str, Any]]
) -> None:
    stack.serving()
    stack.worker()
    trained = stack.succeeded(stack.submit(**digits_job(publish="digits")))
    assert trained.result is not None
    assert trained.run_dir is not None
    shutil.rmtree(stack.settings.paths.runs / trained.run_dir)

    source = {"model": "digits", "version": 1}
    formats = ["saved_model", "keras", "onnx"]
    exported = stack.submit(kind="export", formats=formats, publish={"model": "full"}, **{"from": source})
    tuned = stack.submit(
        **digits_job(epochs=1, model={"from_version": source, "keep_optimizer": True}, publish="digits")
    )
    job = stack.succeeded(exported)
    assert job.result is not None
    assert (job.result["model"], job.result["version"]) == ("full", 1)
    assert job.result["metrics"] == trained.result["metrics"]
    assert all(proof["difference"] < 1e-5 for proof in job.run["export"].values())
    record = stack.store.models.version("full", 1)
    assert record.lineage["source"] == {"model": "digits", "version": 1, "job_id": trained.id}
    assert set(record.signatures) == {"serving_default", "pixels", "image_bytes", "class_names", "classify"}

    with np.load(digits) as data:
        row = data["x_test"][:1]
    answers = [
        ask(stack, "full", 1, "predict", {"instances": row.tolist(), "signature_name": name})["predictions"][
            0
        ]
        for name in ("serving_default", "pixels", "class_names")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    assert answers[2]["class"] == str(int(np.argmax(answers[0])))
    buffer = io.BytesIO()
    Image.fromarray(row[0, :, :, 0]).save(buffer, "PNG")
    example = {"image/encoded": {"b64": base64.b64encode(buffer.getvalue()).decode()}}
    body = {"signature_name": "classify", "examples": [example]}
    (scored,) = ask(stack, "full", 1, "classify", body)["results"]
    assert [name for name, _ in scored] == [str(digit) for digit in range(10)]
    np.testing.assert_allclose([score for _, score in scored], answers[0], atol=1e-5)

    job = stack.succeeded(tuned)
    assert job.result is not None
    assert job.result["version"] == 2
    record = stack.store.models.version("digits", 2)
    assert record.lineage["source"]["version"] == 1
    assert record.lineage["dataset"]["npz"] == str(digits)

    gone = stack.until_ended(stack.submit(kind="export", **{"from": {"job": trained.id}}))
    assert gone.state is JobState.FAILED
    assert gone.error is not None
    assert gone.error["code"] == "source_files_missing"
