"""Every job in docs/jobs.md is one that the API takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shared.specs import parse_job

PAGE = Path(__file__).parents[2] / "docs" / "jobs.md"
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE.read_text(), flags=re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_documented_jobs_are_valid(block: str) -> None:
    parse_job(json.loads(block))


def test_there_are_some() -> None:
    assert len(BLOCKS) >= 4
