"""The page about security names tests that there are, and settings and roles as they are."""

from __future__ import annotations

import re
from pathlib import Path

from services.api.access.rules import TABLE
from shared.keys import Role
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_threat_names_a_test_that_there_is() -> None:
    threats = PAGE.split("## Threats")[1]
    rows = [line for line in threats.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        assert set(named) <= there, set(named) - there


def test_settings_that_it_names_are_there_with_these_defaults() -> None:
    for name in set(re.findall(r"MODELYARD_([A-Z_]+)", PAGE)) - {
        "API_KEY",
        "API_KEY_FILE",
        "URL",
        "ADMIN_KEY_FILE",
    }:
        assert name.lower() in Settings.model_fields, name
    limits = " ".join(f"{role}={rate}" for role, rate in Settings.model_fields["rate_limits"].default.items())
    assert f"`{limits}`" in PAGE


def test_roles_and_public_routes_are_named() -> None:
    for role in Role:
        assert f"| `{role}` |" in PAGE
    for line, rule in TABLE.items():
        if rule.public and line.startswith("GET"):
            assert f"`{line.split()[1]}`" in PAGE
