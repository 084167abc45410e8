"""Every job in the pages about jobs is one that the API takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shared.specs import parse_job

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    "checkpoints.md",
    "data.md",
    "devices.md",
    "errors.md",
    "exports.md",
    "fine-tuning.md",
    "jobs.md",
    "queues.md",
    "strategies.md",
    "tensorboard.md",
    "tuning.md",
]
BLOCKS = {
    f"{page}-{index}": block
    for page in PAGES
    for index, block in enumerate(re.findall(r"```json\n(.*?)```", (DOCS / page).read_text(), flags=re.S))
}


@pytest.mark.parametrize("name", BLOCKS)
def test_documented_jobs_are_valid(name: str) -> None:
    parse_job(json.loads(BLOCKS[name]))


@pytest.mark.parametrize("page", PAGES)
def test_there_are_some(page: str) -> None:
    assert any(name.startswith(page) for name in BLOCKS)
