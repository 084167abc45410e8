"""docker-compose.yml as a person would start it, in a project of its own, with its own passwords, port and volumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
BASES = ("python:3.11-slim-bookworm", "redis:7-alpine", "postgres:16")
# The embedded model server is built under the name of tensorflow/serving; nothing else differs.
FILES = ("docker-compose.yml", "tests/compose/embedded.yml")


@cache
def why_no_engine() -> str | None:
    """Why there is no Docker engine with Compose and our base images here; None if there is."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            return f"`{' '.join(command)}` fails: {done.stderr.strip()[-200:]}"
    for base in BASES:
        known = subprocess.run(
            ["docker", "image", "inspect", base], capture_output=True, timeout=60, check=False
        )
        if known.returncode:
            pull = ["docker", "pull", "-q", base]
            done = subprocess.run(pull, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                return f"the image {base} is not here and can't be pulled: {done.stderr.strip()[-200:]}"
    return None


class Compose:
    """One project. ``settings`` are variables of docker-compose.yml."""

    def __init__(self, folder: Path, project: str, port: int, **settings: str) -> None:
        self.project = project
        self.secrets = folder / "secrets"
        self._env_file = folder / "env"
        self.url = f"http://127.0.0.1:{port}"
        own = {"MODELYARD_SECRETS": str(self.secrets), "MODELYARD_PORT": str(port), **settings}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MODELYARD_")}
        self.environment = {**inherited, **own}
        self._env_file.write_text("")  # so that a .env of the person's own plays no part
        subprocess.run(
            [ROOT / "deploy/secrets.sh", str(self.secrets)],
            check=True,
            capture_output=True,
            env={**inherited, "MODELYARD_ENV_FILE": str(self._env_file)},
        )
        key = (self.secrets / "admin_key").read_text()
        self.http = httpx.Client(
            base_url=self.url, timeout=60, trust_env=False, headers={"Authorization": f"Bearer {key}"}
        )

    def compose(self, *arguments: str, timeout: float = 600) -> str:
        """``docker compose ...``; returns what it printed.

        Raises:
            AssertionError: it failed; with its last words.
        """
        files = [part for name in FILES for part in ("-f", name)]
        return self._run(
            "docker", "compose", "--env-file", str(self._env_file), "-p", self.project, *files, *arguments,
            timeout=timeout,
        )  # fmt: skip

    def docker(self, *arguments: str, timeout: float = 120) -> str:
        """``docker ...``."""
        return self._run("docker", *arguments, timeout=timeout)

    def _run(self, *command: str, timeout: float) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def up(self, *, workers: int = 1) -> None:
        """Build what is not built, start everything, and wait until it is healthy."""
        self.compose("build", timeout=1200)
        try:
            self.compose("up", "-d", "--wait", "--scale", f"worker={workers}", timeout=400)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('ps', '-a')}\n{self.logs(lines=30)}") from None

    def down(self) -> None:
        """Stop everything and delete its volumes."""
        self.http.close()
        self.compose("down", "-v", "--timeout", "5")

    def containers(self, service: str, *, all_states: bool = False) -> list[str]:
        """Ids of a service's containers."""
        return self.compose("ps", "-q", *(["-a"] if all_states else []), service).split()

    def logs(self, *services: str, lines: int = 60) -> str:
        """The last lines that they logged."""
        return self.compose("logs", "--no-color", "--tail", str(lines), *services)

    def request(self, method: str, path: str, **more: Any) -> Any:
        """An answer's JSON; anything but success is an error."""
        answer = self.http.request(method, path, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"
        return answer.json() if answer.content else None

    def upload(self, file: Path) -> str:
        """A dataset's id."""
        with file.open("rb") as data:
            return str(self.request("POST", "/datasets", files={"file": (file.name, data)})["id"])

    def submit(self, job: dict[str, Any]) -> str:
        """A job's id."""
        return str(self.request("POST", "/jobs", json=job)["id"])

    def ended(self, job: str, *, seconds: float = 120) -> dict[str, Any]:
        """The job once it has ended."""
        found: dict[str, Any] = {}

        def over() -> bool:
            nonlocal found
            found = self.request("GET", f"/jobs/{job}")
            return found["state"] in ("succeeded", "failed", "cancelled")

        self.until(
            over, seconds, lambda: f"{job}: {found.get('state')} {found.get('stage')}\n{self.logs('worker')}"
        )
        return found

    def succeeded(self, job: str, *, seconds: float = 120) -> dict[str, Any]:
        """The job once it has succeeded."""
        found = self.ended(job, seconds=seconds)
        assert found["state"] == "succeeded", f"{found['error']}\n{self.logs('worker', 'serving')}"
        return found

    def until(
        self,
        condition: Callable[[], Any],
        seconds: float,
        why: Callable[[], str] = lambda: "nothing more is known",
    ) -> None:
        """Wait for it."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain: {why()}"
            time.sleep(0.25)
