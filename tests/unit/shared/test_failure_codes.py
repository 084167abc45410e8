"""The table of error codes: complete, documented, and what retries follow from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import failure_codes
from shared.failure_codes import CODES, RETRYABLE, may_retry, pause_before_retry
from shared.specs import TrainJob, parse_job

ROOT = Path(__file__).parents[3]
RAISERS = {"TrainingFailed", "JobError"}


def said_in_sources() -> Iterator[tuple[str, str]]:
    for path in [*(ROOT / "services" / "worker").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISERS and node.args:
                for leaf in ast.walk(node.args[0]):
                    if isinstance(leaf, ast.Constant) and re.fullmatch("[a-z_]+", str(leaf.value)):
                        yield str(leaf.value), str(path.relative_to(ROOT))


def test_every_code_that_the_sources_use_is_in_the_table() -> None:
    used = dict(said_in_sources())
    assert {"nan_loss", "oom_gpu", "oom_host", "deadline", "worker_lost"} <= set(used)
    assert {code: where for code, where in used.items() if code not in CODES} == {}


def test_the_documentation_is_the_table() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| (.+?) \| (\w+)(, later)? \|$", text, flags=re.M)
    assert {code: (meaning, retry, bool(later)) for code, meaning, retry, later in rows} == {
        code: (row.meaning, row.retry.value, row.waits) for code, row in CODES.items()
    }


@pytest.mark.parametrize("code", ["data_invalid", "shape_mismatch", "user_code", "nan_loss", "model_invalid",
                                  "deadline", "internal", "never_heard_of"])  # fmt: skip
def test_what_ends_the_same_way_again_is_never_retried(code: str) -> None:
    assert not may_retry(code, earlier=[], on=None)
    assert not may_retry(code, earlier=[], on=[code])


def test_memory_may_have_been_bad_luck_once() -> None:
    assert may_retry("oom_host", earlier=["worker_lost"], on=None)
    assert not may_retry("oom_host", earlier=["oom_host"], on=None)
    assert not may_retry("oom_host", earlier=["oom_host", "worker_lost"], on=None)


def test_machines_are_forgiven_until_attempts_run_out_and_the_owner_may_narrow() -> None:
    assert may_retry("worker_lost", earlier=["worker_lost"] * 50, on=None)
    assert may_retry("worker_lost", earlier=[], on=["worker_lost"])
    assert not may_retry("trainer_killed", earlier=[], on=["worker_lost"])
    assert not may_retry("worker_lost", earlier=[], on=[])


def test_what_must_go_away_first_is_waited_for_ever_longer() -> None:
    pauses = [pause_before_retry("disk_full", failures=number) for number in (1, 2, 3, 50)]
    assert pauses == [*failure_codes.BACKOFF_SECONDS, failure_codes.BACKOFF_SECONDS[-1]]
    assert pause_before_retry("worker_lost", failures=5) == 0


def test_a_job_may_narrow_retries_to_codes_that_can_be_retried() -> None:
    def job(retry: dict[str, object]) -> TrainJob:
        spec = parse_job({"model": {"builder": "mlp"}, "dataset": {"tfds": "mnist"}, "retry": retry})
        assert isinstance(spec, TrainJob)
        return spec

    assert job({"on": ["worker_lost"]}).retry.on == ["worker_lost"]
    assert job({"on": sorted(RETRYABLE)}).retry.on == sorted(RETRYABLE)
    with pytest.raises(ValueError, match=r"nan_loss is never retried; take some of: .*worker_lost"):
        job({"on": ["nan_loss"]})
    with pytest.raises(ValueError, match=r"no error code 'worker_losst'"):
        job({"on": ["worker_losst"]})
