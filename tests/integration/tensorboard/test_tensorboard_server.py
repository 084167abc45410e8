"""TensorBoard as the platform runs it: small, quick, below its prefix, and following a run that still writes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import free_port
from tests.integration.tensorboard.conftest import Board, board_on

ROOT = Path(__file__).parents[3]
WRITER = """
import sys, time, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

writer = EventFileWriter(sys.argv[1])
for step, line in enumerate(sys.stdin):
    value = Summary.Value(tag="loss", simple_value=float(line))
    writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=[value])))
    writer.flush()
    print(step, flush=True)
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with board_on(tmp_path_factory.mktemp("runs")) as board:
        yield board


def test_it_starts_small_and_without_tensorflow(board: Board) -> None:
    process = psutil.Process(board.process.pid)
    assert process.memory_info().rss < 100e6
    assert not [item for item in process.memory_maps() if "libtensorflow" in item.path]
    assert not process.children(), "the fast loader would be a process that outlives a SIGKILL"
    used = process.cpu_times()
    # 0.6 s by the clock on a quiet machine; a busy one still needs no more of the processor
    print(
        f"start {board.seconds:.2f} s, {used.user + used.system:.2f} s of CPU, {process.memory_info().rss / 1e6:.0f} MB"
    )
    assert used.user + used.system < 5
    assert board.seconds < 60


def test_it_lives_below_its_prefix_only(board: Board) -> None:
    assert board.get("/").status_code == 200
    assert httpx.get(f"{board.url}/data/environment").status_code == 404


def test_a_run_shows_while_it_is_being_written(board: Board) -> None:
    folder = board.runs / "digits" / "20260102-job_1" / "train"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    seen: list[float] = []
    try:
        for number, value in enumerate((2.0, 1.0, 0.5)):
            writer.stdin.write(f"{value}\n")
            writer.stdin.flush()
            assert writer.stdout.readline().strip() == str(number)
            deadline = time.monotonic() + 20
            while len(seen) <= number:
                assert time.monotonic() < deadline
                seen = board.scalars("digits/20260102-job_1/train")
                time.sleep(0.1)
    finally:
        writer.stdin.close()
        writer.stdout.close()
        writer.wait(20)
    assert seen == [2.0, 1.0, 0.5]


def test_term_ends_it_in_good_order(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.tensorboard", "--logdir", str(tmp_path), "--port", str(free_port())],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert "TensorBoard" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
