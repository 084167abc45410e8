"""What a log line is about."""

from __future__ import annotations

import json
import logging
import sys

from shared import logs


def test_json_lines_say_what_they_are_about() -> None:
    formatter = logs._json({"part": "worker"})

    def written(**about: object) -> dict[str, object]:
        with logs.bound(**about):
            try:
                raise ValueError("no way")
            except ValueError:
                record = logging.LogRecord(
                    "some.part", logging.INFO, __file__, 1, "%s of %d\nü", ("one", 2), sys.exc_info()
                )
            found: dict[str, object] = json.loads(formatter.format(record))
        return found

    found = written(job_id="job_1", request_id=None)
    assert found["message"] == "one of 2\nü"
    assert (found["level"], found["logger"], found["part"]) == ("INFO", "some.part", "worker")
    assert found["job_id"] == "job_1"
    assert "request_id" not in found
    assert "ValueError: no way" in str(found["exception"])
    assert str(found["time"]).startswith("20")
    assert "job_id" not in written()
    with logs.bound(a=1), logs.bound(b=2):
        assert dict(logs.bound_now()) == {"a": 1, "b": 2}
