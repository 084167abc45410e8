"""How a cluster is seen to. Its programs are small scripts that speak the protocol; real ones are tried in
tests/integration/worker/test_clusters.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.worker import cluster as module
from services.worker.cluster import Cluster
from services.worker.members import seats
from services.worker.preloader import Trainer
from services.worker.protocol import (
    Failed,
    Finished,
    Noted,
    Stopped,
    TrainingEvent,
    TrainingRequest,
    Warned,
)
from services.worker.supervision import Ending, StopReason, watch
from shared.specs import MultiWorkerMirroredStrategy, ParameterServerStrategy

PRELUDE = """
import json, os, signal, sys, time
events = int(sys.argv[1])
def say(**event): os.write(events, json.dumps(event).encode() + b"\\n")
def live():
    while True: say(event="alive"); time.sleep(0.05)
say(event="alive")
"""
FINISH = 'say(event="finished", metrics={}, epochs=1, steps=2)\n'
LIVE = "live()"
DIE = "time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)"


class Scripts:
    """Starts what a member's name stands for: one script, or one after the other each time it is started."""

    def __init__(self, **scripts: str | list[str]) -> None:
        self.scripts = {name.replace("_", "-"): script for name, script in scripts.items()}
        self.started: list[tuple[str, str]] = []  # name, its address
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, request: TrainingRequest, log_file: Path) -> Trainer:
        task = request.cluster
        assert task is not None
        name = f"{task.task_type}-{task.task_index}"
        self.started.append((name, task.addresses[task.task_type][task.task_index]))
        script = self.scripts[name]
        if isinstance(script, list):
            script = script.pop(0) if len(script) > 1 else script[0]
        lifeline_out, lifeline_in = os.pipe()
        events_out, events_in = os.pipe()
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", PRELUDE + script, str(events_in)],
                stdin=lifeline_out, stdout=log, stderr=log, pass_fds=[events_in], start_new_session=True,
            )  # fmt: skip
        os.close(lifeline_out)
        os.close(events_in)
        self.processes.append(process)
        return Trainer(process, lifeline_in, events_out, warm=False)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def watched(
    scripts: Scripts,
    run_dir: Path,
    *,
    served: bool = False,
    stop_after: float | None = None,
    why: StopReason = StopReason.SHUTDOWN,
) -> tuple[Cluster, Ending, list[TrainingEvent]]:
    strategy = ParameterServerStrategy(workers=2) if served else MultiWorkerMirroredStrategy(workers=3)
    request = TrainingRequest(
        job_id="job_1",
        attempt=1,
        spec={},
        run_dir=run_dir,
        tfds_dir=run_dir,
        cache_dir=run_dir.parent / "cache",
    )
    said: list[TrainingEvent] = []
    cluster = Cluster(scripts, request, seats(strategy), [], said.append)
    begun = time.monotonic()

    def reason() -> StopReason | None:
        late = stop_after is not None and time.monotonic() - begun > stop_after
        return why if late else None

    try:
        ending = watch(
            cluster, on_event=said.append, on_tick=lambda: None, stop_reason=reason, grace_seconds=5
        )
    finally:
        cluster.close()
    assert all(process.wait(5) is not None for process in scripts.processes), "nothing is left"
    return cluster, cluster.judged(ending), said


def test_when_the_chief_has_finished_the_others_are_ended(run_dir: Path) -> None:
    scripts = Scripts(worker_0="time.sleep(0.3)\n" + FINISH, worker_1=LIVE, worker_2=LIVE)
    _, ending, said = watched(scripts, run_dir)
    assert isinstance(ending.last_word, Finished)
    assert ending.exit_code == 0
    facts = next(event for event in said if isinstance(event, Noted)).data["cluster"]
    assert [member["name"] for member in facts["members"]] == ["worker-0", "worker-1", "worker-2"]
    assert [member["log"] for member in facts["members"]] == [
        "job.log",
        "job.worker-1.log",
        "job.worker-2.log",
    ]
    assert facts["members"][0]["pid"] == scripts.processes[0].pid


def test_a_worker_that_is_killed_ends_all_at_once_and_is_named(run_dir: Path) -> None:
    scripts = Scripts(worker_0=LIVE, worker_1=LIVE, worker_2="print('last line'); sys.stdout.flush()\n" + DIE)
    begun = time.monotonic()
    cluster, ending, _ = watched(scripts, run_dir)
    assert time.monotonic() - begun < 5
    assert ending == Ending(None, -signal.SIGKILL, None)
    error = cluster.crash(ending, oom_before=10**9)
    assert error.code == "trainer_killed"
    assert "worker-2" in error.message
    assert "SIGKILL" in error.message
    assert error.detail == "last line"


def test_who_only_noticed_that_another_is_gone_is_not_to_blame(run_dir: Path) -> None:
    noise = 'say(event="failed", code="member_lost", message="gone"); sys.exit(1)'
    scripts = Scripts(
        worker_0="time.sleep(0.6)\n" + noise,
        worker_1="time.sleep(0.3)\n" + noise,
        worker_2="time.sleep(0.2)\n" + DIE,
    )
    cluster, ending, _ = watched(scripts, run_dir)
    assert ending.last_word is None
    assert "worker-2" in cluster.crash(ending, oom_before=10**9).message


def test_what_a_member_says_in_words_is_the_jobs_failure_unless_the_chief_speaks(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHIEF_SPEAKS_SECONDS", 0.5)
    fail = 'say(event="failed", code="data_invalid", message="{}"); sys.exit(1)'
    silent_chief = Scripts(worker_0=LIVE, worker_1=fail.format("of 1"), worker_2=LIVE)
    _, ending, _ = watched(silent_chief, run_dir)
    assert isinstance(ending.last_word, Failed)
    assert ending.last_word.message == "of 1"
    chief = "time.sleep(0.2)\n" + fail.format("of the chief")
    _, ending, _ = watched(Scripts(worker_0=chief, worker_1=fail.format("of 1"), worker_2=LIVE), run_dir)
    assert isinstance(ending.last_word, Failed)
    assert ending.last_word.message == "of the chief"


def test_a_silent_member_is_ended_and_the_cluster_with_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    scripts = Scripts(worker_0=LIVE, worker_1=LIVE, worker_2="time.sleep(60)")
    cluster, ending, _ = watched(scripts, run_dir)
    error = cluster.crash(ending, oom_before=10**9)
    assert (error.code, "worker-2" in error.message) == ("member_lost", True)


def test_a_port_that_somebody_else_took_is_told_apart(run_dir: Path) -> None:
    taken = 'say(event="failed", code="port_taken", message="taken"); sys.exit(1)'
    cluster, ending, _ = watched(Scripts(worker_0=LIVE, worker_1=taken, worker_2=LIVE), run_dir)
    assert ending.last_word is None
    assert cluster.port_was_taken
    cluster, _, _ = watched(Scripts(worker_0=taken, worker_1=LIVE, worker_2=LIVE), run_dir)
    assert cluster.port_was_taken


def test_stopping_asks_the_chief_alone(run_dir: Path) -> None:
    chief = """
def stop(*_): say(event="stopped", checkpoint="c"); sys.exit(75)
signal.signal(signal.SIGTERM, stop)
live()"""
    dies_of_it = "signal.signal(signal.SIGTERM, lambda *_: os._exit(3))\nlive()"
    scripts = Scripts(worker_0=chief, worker_1=dies_of_it, worker_2=LIVE)
    _, ending, _ = watched(scripts, run_dir, stop_after=0.4)
    assert isinstance(ending.last_word, Stopped)
    assert (ending.exit_code, ending.stopped_for) == (75, StopReason.SHUTDOWN)


def test_a_cluster_whose_job_was_lost_is_killed_at_once(run_dir: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nlive()"
    scripts = Scripts(worker_0=deaf, worker_1=deaf, worker_2=deaf)
    begun = time.monotonic()
    _, ending, _ = watched(scripts, run_dir, stop_after=0.3, why=StopReason.LOST)
    assert ending == Ending(None, -signal.SIGKILL, StopReason.LOST)
    assert time.monotonic() - begun < 5


def test_a_worker_of_a_parameter_server_is_started_again_alone_at_its_address(run_dir: Path) -> None:
    scripts = Scripts(
        chief_0="time.sleep(1.5)\n" + FINISH,
        ps_0=LIVE,
        worker_0=LIVE,
        worker_1=["time.sleep(0.1)\n" + DIE, LIVE],
    )
    _, ending, said = watched(scripts, run_dir, served=True)
    assert isinstance(ending.last_word, Finished)
    addresses = [address for name, address in scripts.started if name == "worker-1"]
    assert len(addresses) == 2
    assert len(set(addresses)) == 1
    warning = next(event for event in said if isinstance(event, Warned))
    assert warning.code == "member_restarted"
    assert "worker-1 of the cluster was ended by signal 9" in warning.message
    facts = [event for event in said if isinstance(event, Noted)][-1].data["cluster"]
    assert facts["restarts"] == 1
    assert facts["members"][3]["pid"] == scripts.processes[-1].pid


def test_a_worker_that_dies_again_and_again_ends_the_cluster(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "MAX_RESTARTS", 3)
    scripts = Scripts(chief_0=LIVE, ps_0=LIVE, worker_0=LIVE, worker_1="sys.exit(5)")
    cluster, ending, _ = watched(scripts, run_dir, served=True)
    assert [name for name, _ in scripts.started].count("worker-1") == 4
    assert "exit code 5" in cluster.crash(ending, oom_before=10**9).message


def test_a_parameter_server_that_dies_ends_the_cluster(run_dir: Path) -> None:
    scripts = Scripts(chief_0=LIVE, ps_0=DIE, worker_0=LIVE, worker_1=LIVE)
    cluster, ending, _ = watched(scripts, run_dir, served=True)
    assert "ps-0" in cluster.crash(ending, oom_before=10**9).message
    assert not (run_dir.parent / "cache" / "members" / "job_1").exists()
