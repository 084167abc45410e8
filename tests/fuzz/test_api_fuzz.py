"""Requests made from the API's own description, sent to the API as it runs.

There is no server error, and no answer that the description does not have. ``make fuzz`` sends 5,000; without it a
share of them is sent, which is the same at each run.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.api.app import create_app
from shared.settings import Settings
from tests.fuzz.conftest import Target

CASES = int(os.environ.get("FUZZ_CASES", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
DESCRIPTION = create_app(Settings.model_construct()).openapi()
OPERATIONS = {
    operation["operationId"]: (method.upper(), path)
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
}
SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION)
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# What stands for all answers that have no line of their own may not hide one that is given.
ALWAYS_DESCRIBED = {"405"}
REQUEST_SECONDS = 30.0
sent = 0


@pytest.mark.parametrize("operation_id", sorted(OPERATIONS))
def test_what_is_answered_is_what_is_described(operation_id: str, target: Target) -> None:
    method, path = OPERATIONS[operation_id]
    operation = SCHEMA[path][method]
    each = max(3, round(CASES / len(OPERATIONS)))
    described = set(DESCRIPTION["paths"][path][method.lower()]["responses"])

    @settings(
        max_examples=each,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @seed(SEED)
    @given(case=_cases(operation), places=st.randoms(use_true_random=False))
    def check(case: Case, places: Any) -> None:
        global sent  # noqa: PLW0603 (how many were really sent)
        sent += 1
        _lead_somewhere(case, places, target)
        answer = case.call(
            base_url=target.url,
            headers={"Authorization": f"Bearer {target.admin}"},
            timeout=REQUEST_SECONDS,
            allow_redirects=False,
        )
        assert answer.status_code < 500, (
            f"{answer.status_code} {answer.text[:2000]}\n{case.as_curl_command()}"
        )
        assert str(answer.status_code) in described | ALWAYS_DESCRIBED, (
            f"{answer.status_code} is not described: {answer.text[:1000]}\n{case.as_curl_command()}"
        )
        case.validate_response(answer, checks=CHECKS)

    check()


def _cases(operation: Any) -> st.SearchStrategy[Case]:
    """As described, or broken somewhere: three to one."""
    good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    bad = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    return st.integers(0, 3).flatmap(lambda turn: bad if turn == 0 else good)


def _lead_somewhere(case: Case, places: Any, target: Target) -> None:
    """Put values that are there into the path, more often than not: invented ones only ever meet 404."""
    for name in case.path_parameters or {}:
        if name in target.known and places.random() < 0.7:
            case.path_parameters[name] = places.choice(target.known[name])
    query = case.query or {}
    if query.get("follow") and case.path_parameters:
        query.pop("follow")  # would wait for the end of a job


def test_enough_was_sent(target: Target) -> None:
    """Runs last: as many cases as were asked for."""
    print(f"{sent} cases were sent to {len(OPERATIONS)} operations")
    assert sent >= 0.9 * CASES
    assert b"unexpected error" not in target.log.read_bytes()
