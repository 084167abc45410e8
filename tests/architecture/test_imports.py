"""Who may import whom, and who never loads TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_import_contracts_are_kept() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize(
    "module",
    [
        "services.api.app",
        "services.worker.runtime",
        "services.worker.celery_app",
        "services.serving.rest",
        "services.tensorboard.__main__",
        "modelyard.cli",
        "shared.store",
    ],
)
def test_processes_that_train_nothing_never_load_tensorflow(module: str) -> None:
    code = (
        f"import {module}, sys\n"
        "found = {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {found}' if found else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
