"""Events, failures in words, the stop signal and the lifeline, without TensorFlow."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from services.worker.protocol import MAX_EVENT_BYTES, Failed, Finished, Noted, Progress, StageEntered
from services.worker.training import lifeline
from services.worker.training.emitter import Emitter, encode
from services.worker.training.failures import TrainingFailed, explain
from services.worker.training.stopping import StopRequested, StopSignal


def test_events_arrive_in_order_as_lines() -> None:
    reader, writer = os.pipe()
    emit = Emitter(writer)
    for index in range(500):
        emit(StageEntered(stage=f"s{index}"))
    received = b""
    while received.count(b"\n") < 500:
        received += os.read(reader, 65536)
    assert [json.loads(line)["stage"] for line in received.splitlines()] == [f"s{i}" for i in range(500)]
    assert emit.flush(1)


def test_a_reader_that_does_not_read_never_blocks_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.training.emitter.MAX_QUEUED", 100)
    reader, writer = os.pipe()
    emit = Emitter(writer)
    big = Progress(epoch=1, epochs=1, step=1, steps=1, metrics={f"metric_{i}": 0.5 for i in range(1000)})
    started = time.monotonic()
    for _ in range(1000):
        emit(big)
    emit(StageEntered(stage="evaluating"))
    assert time.monotonic() - started < 5
    assert not emit.flush(0.01)
    received = b""
    while b"evaluating" not in received:
        received = received[-100:] + os.read(reader, 65536)


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    emit = Emitter(writer)
    emit(StageEntered(stage="training"))
    assert emit.flush(2)
    emit(StageEntered(stage="evaluating"))


def test_events_with_text_that_is_no_utf8_are_escaped_not_lost() -> None:
    failed = json.loads(encode(Failed(code="user_code", message="a \ud800 b", detail="\udcff")))
    assert (failed["message"], failed["detail"]) == ("a \\ud800 b", "\\udcff")
    finished = json.loads(encode(Noted(data={"classes": ["cat", "d\udce9g"]})))
    assert finished["data"] == {"classes": ["cat", "d\\udce9g"]}


def test_events_over_the_limit_are_cut_not_lost() -> None:
    failed = encode(Failed(code="internal", message="m" * 200_000, detail="d" * 200_000))
    finished = encode(
        Finished(metrics={"a": 1.0}, classes=[f"class number {i}" for i in range(50_000)], epochs=1, steps=1)
    )
    for line in (failed, finished):
        assert len(line) <= MAX_EVENT_BYTES
        assert line.endswith(b"\n")
    assert json.loads(failed)["message"].startswith("mmm")
    assert json.loads(finished)["classes"] is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (RuntimeError("UNKNOWN: /x: No space left on device [Op:WriteSummary]"), "disk_full"),
        (MemoryError(), "oom_host"),
        (
            RuntimeError("OOM when allocating tensor with shape[1] on /device:CPU:0 by allocator cpu"),
            "oom_host",
        ),
        (RuntimeError("OOM when allocating tensor with shape[1] on /device:GPU:0"), "oom_gpu"),
        (ValueError("Incompatible shapes: [2] vs [3]"), "shape_mismatch"),
        (KeyError("x"), "internal"),
        (TrainingFailed("nan_loss", "m"), "nan_loss"),
    ],
)
def test_errors_become_codes(error: Exception, code: str) -> None:
    failure = explain(error)
    assert failure.code == code
    assert failure.message


def test_a_stop_raises_at_once_unless_deferred() -> None:
    stop = StopSignal()
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.install()
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
        with pytest.raises(StopRequested):
            stop.check()
        with pytest.raises(StopRequested):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_request_is_one_line() -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"job_id": ')
    threading.Timer(0.05, os.write, (writer, b'"x"}\nmore')).start()
    assert lifeline.read_line(reader) == b'{"job_id": "x"}'


def test_a_lifeline_that_closes_before_the_request() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(EOFError):
        lifeline.read_line(reader)


def test_the_end_of_the_lifeline_ends_the_process_and_what_it_started() -> None:
    code = (
        "import subprocess, sys, time\n"
        "from services.worker.training import lifeline\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "lifeline.watch(0)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        process.stdin.close()
        assert process.wait(5) == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while _runs(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
