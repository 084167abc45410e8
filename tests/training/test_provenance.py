"""What a job records about itself, and that it comes out the same when it is trained again."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.training.conftest import DIGITS_JOB, Supervisor, changed

ROOT = Path(__file__).parents[2]


def test_a_deterministic_job_trained_again_has_the_same_weights_and_says_where_it_ran(
    supervisor: Supervisor, digits: Path
) -> None:
    spec = changed(DIGITS_JOB, fit={"deterministic": True, "seed": 7})
    first = supervisor.run(spec, data=digits, run="first")
    noted = first.noted()
    assert set(noted["versions"]) == {"python", "tensorflow", "keras", "numpy", "tensorboard", "modelyard"}
    assert noted["options"]["seed"] == 7
    assert noted["options"]["deterministic"] is True
    assert noted["machine"]["cores"] >= 1
    assert len(noted["program"]["sha256"]) == 64
    if (ROOT / ".git").exists():
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert noted["program"]["commit"] == head.stdout.strip()

    fingerprint = noted["data"]["fingerprint"]
    second = supervisor.run(spec, data=digits, run="second", expected_data=fingerprint)
    assert second.noted()["weights"] == noted["weights"]
    assert second.last["metrics"] == first.last["metrics"]
    other = supervisor.run(changed(spec, fit={"seed": 8}), data=digits, run="other")
    assert other.noted()["weights"] != noted["weights"]


def test_other_data_than_the_reproduced_job_had_end_it_before_training(
    supervisor: Supervisor, digits: Path
) -> None:
    failed = supervisor.fail(DIGITS_JOB, data=digits, expected_data="sha256:0")
    assert failed["code"] == "data_changed"
    assert "sha256:0" in failed["message"]
