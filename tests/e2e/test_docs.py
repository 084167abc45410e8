"""Runs every snippet of the README and of docs/*.md against a real platform.

A page's ``bash`` blocks run as one script, in order, and then its ``python`` blocks as one program, in a folder that
holds some data and images. The address http://127.0.0.1:8000 becomes that of the test's platform. In the lines before a
block,

    <!-- not run: why -->             leaves it out
    <!-- in the test: OLD is NEW -->  changes it; $DIGITS stands for the path of digits.npz, $BLACK for one image
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Platform, clean_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?P<notes>(?:^<!-- .*? -->\n)*)^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_CHANGE = re.compile(r"in the test: (?P<old>.+) is (?P<new>.+)")
_SHELL = {"bash", "sh", "console", "shell"}


@dataclass(frozen=True)
class Snippet:
    kind: str
    code: str


def snippets(page: Path) -> list[Snippet]:
    """The blocks of a page that are to be run, changed as their notes say."""
    found = []
    for block in _BLOCK.finditer(page.read_text()):
        kind, code = block["kind"], block["code"]
        notes = re.findall(r"<!-- (.*?) -->", block["notes"])
        if left_out := [note for note in notes if note.startswith("not run:")]:
            assert len(left_out[0]) > len("not run: ....."), f"{page.name}: say why"
            continue
        for change in filter(None, map(_CHANGE.fullmatch, notes)):
            assert change["old"] in code, f"{page.name}: {change['old']!r} is not in the block"
            code = code.replace(change["old"], change["new"])
        if kind in _SHELL or kind == "python":
            found.append(Snippet("bash" if kind in _SHELL else kind, code))
    return found


def script(page: Path, kind: str) -> str:
    return "\n".join(snippet.code for snippet in snippets(page) if snippet.kind == kind)


CASES = [
    pytest.param(page, kind, id=f"{page.name}-{kind}")
    for page in PAGES
    for kind in ("bash", "python")
    if script(page, kind).strip()
]


def test_there_is_something_to_run() -> None:
    assert {case.id for case in CASES} >= {"README.md-bash", "cli.md-bash", "client.md-python"}


@pytest.fixture
def folder(tmp_path: Path, platform: Platform) -> Path:
    for name, source in (
        ("digits.npz", "digits.npz"),
        ("digits.csv", "digits.csv"),
        ("plants.csv", "digits.csv"),
    ):
        (tmp_path / name).symlink_to(platform.data / source)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with np.load(platform.data / "digits.npz") as data:
        for name in ("image.png", "shoe.png", "bag.png"):
            Image.fromarray(data["x_test"][0].squeeze()).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("page", "kind"), CASES)
def test_snippets_run(page: Path, kind: str, folder: Path, platform: Platform) -> None:
    code = script(page, kind).replace("$DIGITS", str(platform.data / "digits.npz"))
    code = code.replace("$BLACK", json.dumps(np.zeros((8, 8, 1), int).tolist()))
    code = code.replace("http://127.0.0.1:8000", platform.url)
    env = {
        **clean_environment(),
        "MODELYARD_URL": platform.url,
        "MODELYARD_HOME": str(platform.home.root),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # curl exits 0 on an error's answer; -f is for the reader to leave out and for us to add
    code = code.replace("curl -s", "curl -fs") if kind == "bash" else code
    command = ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
