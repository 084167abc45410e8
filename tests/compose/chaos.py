"""Breaks the containers of a running platform, one after the other, while jobs are submitted and run.

    python -m tests.compose.chaos --seed 1

starts a platform of its own, kills, stops, pauses and disconnects each of its services in an order that the seed
decides, and then holds it to what was promised: each accepted job has ended, the failed ones say why, no version
was published twice and none is missing. Prints a table in Markdown; the exit code is 0 if all held.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from tests.compose import digits
from tests.compose.engine import Compose, why_no_engine
from tests.conftest import free_port

SERVICES = ("api", "worker", "redis", "postgres", "serving", "tensorboard")
ACTIONS = ("kill", "stop", "pause", "disconnect")
MODELS = ("alpha", "beta", "gamma")
# Shorter and longer than the lease of 30 s, after which a job is given to another worker.
OUTAGES = (1.0, 4.0, 9.0, 20.0)
LONG_OUTAGE = 45.0
PAUSES = (1.0, 3.0, 6.0)


@dataclass
class Event:
    """One outage."""

    at: float
    service: str
    action: str
    seconds: float
    accepted: int = 0  # jobs that had been accepted when it began
    ended: int = 0
    running: int = 0
    errors: Counter[str] = field(
        default_factory=Counter
    )  # what clients got while it lasted, other than success


class Chaos:
    """One run against one project."""

    def __init__(self, compose: Compose, seed: int, jobs: int, events: int | None) -> None:
        self.compose = compose
        self.random = random.Random(seed)
        self.jobs = jobs
        plan = list(product(SERVICES, ACTIONS))
        self.random.shuffle(plan)
        self.plan = plan[:events]
        self.began = time.monotonic()
        self.accepted: dict[str, str | None] = {}  # id to the model it publishes
        self.events: list[Event] = []
        self.errors: Counter[str] = Counter()
        self.stopped = threading.Event()

    # -- load ---------------------------------------------------------------

    def submit_all(self, dataset: str) -> None:
        """Jobs at an even pace over the whole time; each is repeated with the same key until it is accepted."""
        pace = max(1.0, 9.0 * len(self.plan) / self.jobs)
        for number in range(self.jobs):
            model = MODELS[number % len(MODELS)] if number % 5 else None
            body = digits.job(dataset, epochs=500 + number * 370 % 900, publish=model, name=f"chaos-{number}")
            while True:
                answer = self.ask("POST", "/jobs", json=body, headers={"Idempotency-Key": f"chaos-{number}"})
                if answer is not None:
                    self.accepted[answer["id"]] = model
                    break
                if self.stopped.wait(0.5):
                    return
            self.stopped.wait(pace)

    def predict_all(self) -> None:
        """Somebody uses the models meanwhile."""
        body = {"model": MODELS[0], "instances": [[[[0]] * 8] * 8]}
        while not self.stopped.wait(0.5):
            self.ask("POST", "/predict", json=body)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer, or None: then what went wrong is counted. A 500 is never right."""
        try:
            answer = self.compose.http.request(method, path, **more)
        except httpx.TransportError as error:
            self.note(f"{type(error).__name__}")
            return None
        if answer.is_success:
            return answer.json()
        if answer.status_code == 404 and path == "/predict":
            return None  # nothing is published yet
        code = answer.json().get("code", "") if "json" in answer.headers.get("content-type", "") else ""
        retry = "" if answer.status_code != 503 or "retry-after" in answer.headers else " without Retry-After"
        self.note(f"{answer.status_code} {code}{retry}")
        return None

    def note(self, error: str) -> None:
        self.errors[error] += 1
        if self.events:
            self.events[-1].errors[error] += 1

    # -- outages ------------------------------------------------------------

    def break_all(self) -> None:
        for service, action in self.plan:
            time.sleep(self.random.choice(PAUSES))
            outages = (*OUTAGES, LONG_OUTAGE) if service in ("worker", "postgres") else OUTAGES
            seconds = self.random.choice(outages)
            container = self.choose(service)
            event = Event(
                round(time.monotonic() - self.began, 1),
                service,
                action,
                seconds,
                len(self.accepted),
                self.count("state IN ('succeeded', 'failed', 'cancelled')"),
            )
            event.running = self.count("state = 'running'")
            self.events.append(event)
            print(f"{event.at:7.1f} s  {action} {service} for {seconds:.0f} s", file=sys.stderr, flush=True)
            getattr(self, action)(container, service, seconds)

    def choose(self, service: str) -> str:
        """One of its containers; a worker that has a job, if there is one that is known to."""
        containers = sorted(self.compose.containers(service, all_states=True))
        if service == "worker":
            workers = (self.ask("GET", "/workers") or {"items": []})["items"]
            busy = {one["host"] for one in workers if one["jobs"]}
            containers = [one for one in containers if one[:12] in busy] or containers
        return self.random.choice(containers)

    def kill(self, container: str, service: str, seconds: float) -> None:
        self.compose.docker("kill", container)
        time.sleep(seconds)
        self.compose.docker("start", container)

    def stop(self, container: str, service: str, seconds: float) -> None:
        self.compose.docker("stop", container)
        time.sleep(seconds)
        self.compose.docker("start", container)

    def pause(self, container: str, service: str, seconds: float) -> None:
        for _ in range(10):
            try:
                self.compose.docker("pause", container)
                break
            except (
                AssertionError
            ) as error:  # runc on cgroup v1: "unable to freeze", of a container that forks just then
                if "unable to freeze" not in str(error):
                    raise
                time.sleep(0.5)
        else:
            self.events[-1].action = "pause (refused by the engine)"
            return
        time.sleep(seconds)
        self.compose.docker("unpause", container)

    def disconnect(self, container: str, service: str, seconds: float) -> None:
        inspected = json.loads(self.compose.docker("inspect", container))[0]
        networks = sorted(inspected["NetworkSettings"]["Networks"])
        for network in networks:
            self.compose.docker("network", "disconnect", "-f", network, container)
        time.sleep(seconds)
        for network in networks:
            self.compose.docker("network", "connect", "--alias", service, network, container)

    def count(self, condition: str) -> int:
        """Jobs; as the database has it, whatever the API's state. -1: nobody can be asked."""
        query = f"SELECT count(*) FROM jobs WHERE {condition}"
        try:
            postgres = self.compose.containers("postgres")[0]
            return int(
                self.compose.docker("exec", postgres, "psql", "-U", "modelyard", "-Atc", query, timeout=20)
            )
        except (AssertionError, IndexError, ValueError, subprocess.TimeoutExpired):
            return -1

    # -- judgement ----------------------------------------------------------

    def settle(self, seconds: float) -> dict[str, dict[str, Any]]:
        """All accepted jobs, once they have ended."""
        ended: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + seconds
        while len(ended) < len(self.accepted) and time.monotonic() < deadline:
            for job in [job for job in self.accepted if job not in ended]:
                found = self.ask("GET", f"/jobs/{job}")
                if found is not None and found["state"] in ("succeeded", "failed", "cancelled"):
                    ended[job] = found
            time.sleep(1)
        return ended

    def faults(self, ended: dict[str, dict[str, Any]]) -> list[str]:
        """What was promised and not kept."""
        found = [f"{job} was accepted and never ended" for job in self.accepted if job not in ended]
        listed = self.compose.request("GET", "/jobs", params={"limit": 200})["items"]
        found += [
            f"{job} is missing from the list"
            for job in self.accepted
            if job not in {one["id"] for one in listed}
        ]
        found += [
            f"{one['id']} exists and was never accepted" for one in listed if one["id"] not in self.accepted
        ]
        for job, one in ended.items():
            if one["state"] == "failed" and not (one["error"] or {}).get("message"):
                found.append(f"{job} failed without a reason")
            if one["state"] == "cancelled":
                found.append(f"{job} was cancelled, and nobody asked for it")
        found += self._faults_of_versions(ended)
        found += [
            f"clients got {error!r} {count} times"
            for error, count in self.errors.items()
            if self._wrong(error)
        ]
        return found

    def _faults_of_versions(self, ended: dict[str, dict[str, Any]]) -> list[str]:
        found = []
        manifests = self._manifests()
        for job, count in Counter(manifests.values()).items():
            if count > 1:
                found.append(
                    f"{job} was published {count} times: {[at for at, by in manifests.items() if by == job]}"
                )
        for job, one in ended.items():
            model = self.accepted[job]
            if model is None or one["state"] != "succeeded":
                continue
            at = (model, int(one["result"]["version"]))
            if manifests.get(at) != job:
                found.append(f"{job} says it is {at}; on disk that is of {manifests.get(at)}")
        for model in MODELS:
            of_model = [version for (name, version) in manifests if name == model]
            listed = self.compose.request("GET", f"/models/{model}/versions", params={"limit": 200})["items"]
            if sorted(one["version"] for one in listed) != sorted(of_model):
                found.append(
                    f"{model}: {sorted(of_model)} on disk, {sorted(one['version'] for one in listed)} listed"
                )
            answer = self.ask("POST", "/predict", json={"model": model, "instances": [[[[0]] * 8] * 8]})
            if answer is None:
                found.append(f"{model} does not answer")
        return found

    def _manifests(self) -> dict[tuple[str, int], str]:
        """(model, version) on disk, and the job each is of."""
        code = (
            "import json, pathlib, os\n"
            "for p in pathlib.Path('/var/lib/modelyard/models').glob('*/[0-9]*/assets.extra/modelyard.json'):\n"
            "    print(json.dumps([p.parts[-4], int(p.parts[-3]), json.loads(p.read_text())['job_id']]))"
        )
        lines = self.compose.docker(
            "exec", self.compose.containers("api")[0], "python", "-c", code
        ).splitlines()
        return {(model, version): job for model, version, job in map(json.loads, lines)}

    @staticmethod
    def _wrong(error: str) -> bool:
        # 502: the model server closed the connection in the middle of its answer
        return (
            error.startswith("5") and not error.startswith(("502", "503", "504"))
        ) or "without Retry-After" in error

    def run(self) -> list[str]:
        """Break, wait, judge; returns the faults."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "digits.npz"
            digits.write(file)
            dataset = self.compose.upload(file)
        self.began = time.monotonic()
        load = threading.Thread(target=self.submit_all, args=(dataset,))
        predictions = threading.Thread(target=self.predict_all)
        load.start()
        predictions.start()
        try:
            self.break_all()
            load.join(300)
            self.compose.compose("up", "-d", "--wait", "--no-recreate", timeout=200)
            ended = self.settle(600)
        finally:
            self.stopped.set()
            predictions.join()
        self.outcome = Counter(one["state"] for one in ended.values())
        self.reasons = Counter(one["error"]["code"] for one in ended.values() if one["error"])
        self.attempts = Counter(
            len(one.get("attempts") or []) or one.get("attempt") for one in ended.values()
        )
        self.lasted = time.monotonic() - self.began
        return self.faults(ended)

    def table(self) -> str:
        """What was broken when, in Markdown."""
        lines = [
            "| at | what | for | jobs accepted, running, ended | clients saw |",
            "| --- | --- | --- | --- | --- |",
        ]
        for one in self.events:
            saw = ", ".join(f"{error} ({count})" for error, count in one.errors.most_common()) or "no error"
            running, ended = ("?" if count < 0 else count for count in (one.running, one.ended))
            lines.append(
                f"| {one.at:.0f} s | {one.action} {one.service} | {one.seconds:.0f} s "
                f"| {one.accepted}, {running}, {ended} | {saw} |"
            )
        return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Exit codes: 0 all held, 1 something did not, 2 wrong usage or no engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--events", type=int, help="outages; default: each action on each service, 24")
    parser.add_argument("--keep", action="store_true", help="leave the platform running")
    given = parser.parse_args(arguments)
    if reason := why_no_engine():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        compose = Compose(Path(folder), f"modelyard-chaos-{given.seed}", free_port())
        try:
            compose.up(workers=given.workers)
            chaos = Chaos(compose, given.seed, given.jobs, given.events)
            faults = chaos.run()
            print(f"Seed {given.seed}: {len(chaos.accepted)} jobs accepted in {chaos.lasted:.0f} s, ", end="")
            print(
                f"{dict(chaos.outcome)}, failed for {dict(chaos.reasons)}, attempts {dict(chaos.attempts)}\n"
            )
            print(chaos.table())
            for fault in faults:
                print(f"\nBROKEN: {fault}")
            if faults:
                print(compose.logs("api", "worker", lines=200), file=sys.stderr)
        finally:
            if not given.keep:
                compose.down()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
