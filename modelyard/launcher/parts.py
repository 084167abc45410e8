"""Which processes one machine runs, with which options, and how to tell that each is ready."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from modelyard.launcher.broker import Broker
from modelyard.launcher.guard import free_port
from modelyard.launcher.options import base_url, environment
from shared.settings import Settings

PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Part:
    """One process of the platform."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[int], bool]  # given its process id
    what: str  # for the log line that says it is ready
    grace: float = 10.0  # seconds from TERM to KILL
    essential: bool = True  # the platform does not start without it
    env: Mapping[str, str] = field(default_factory=dict)  # beside what all parts get


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first process starts."""

    settings: Settings  # as the parts see them
    env: dict[str, str]
    first: tuple[Part, ...]  # need nothing but themselves; started before the store is migrated
    then: tuple[Part, ...]  # need the store and the broker
    migrate: tuple[str, ...]

    @property
    def url(self) -> str:
        return base_url(self.settings.host, self.settings.port)

    @property
    def stop_order(self) -> tuple[Part, ...]:
        """No new requests, then running jobs are handed back, then what they need, the broker last."""
        order = ("api", "worker", "tensorboard", "serving", "broker")
        return tuple(sorted((*self.first, *self.then), key=lambda part: order.index(part.name)))


def make_plan(settings: Settings, base_env: dict[str, str]) -> Plan:
    """Choose ports and commands. A server whose URL is set in the environment is somebody else's, and not started."""
    given = settings.model_fields_set
    updates: dict[str, Any] = {"port": settings.port}
    first: list[Part] = []
    broker = None
    if "broker_url" not in given:
        broker = Broker(settings.paths.broker)
        updates["broker_url"] = broker.url
        first.append(Part("broker", broker.command(), broker.answers, "Valkey, private to this platform"))
    if "serving_url" not in given:
        port = free_port()
        updates["serving_url"] = f"http://127.0.0.1:{port}"
        updates["serving_finds_models"] = True
        first.append(_serving(settings, port))
    if "tensorboard_url" not in given:
        port = free_port()
        updates["tensorboard_url"] = f"http://127.0.0.1:{port}"
        first.append(_tensorboard(settings, port))
    fields = {name: getattr(settings, name) for name in given}
    resolved = Settings.model_validate({**fields, **updates})
    url = base_url(resolved.host, resolved.port)
    # The API shows its workers to callers with a key only, once there are keys. The launcher's own is in the memory of
    # these two processes, and good for reading.
    key = secrets.token_urlsafe(32)
    then = (
        Part(
            "worker",
            _module("services.worker"),
            _worker_listed(url, key),
            "ready for jobs",
            settings.grace_seconds + 10,
        ),
        Part(
            "api",
            _module("services.api"),
            _answers(f"{url}/healthz"),
            f"REST API on {url}",
            env={"MODELYARD_LAUNCHER_KEY": key},
        ),
    )
    return Plan(
        settings=resolved,
        env=environment(base_env, resolved),
        first=tuple(first),
        then=then,
        migrate=_module("shared.store", "upgrade"),
    )


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


def _serving(settings: Settings, port: int) -> Part:
    options = (
        *("--rest_api_port", str(port), "--rest_api_host", "127.0.0.1"),
        # a version that can't be loaded should fail its job soon: TensorFlow Serving's defaults take five minutes
        *("--max_num_load_retries", "1", "--load_retry_interval_micros", "1000000"),
        # the first picture, which LiteRT can't decode, should not wait for TensorFlow
        "--load_tensorflow_ahead",
        # what labels need beyond the newest versions
        *("--model_config_file", str(settings.paths.models / "models.config")),
        *("--model_config_file_poll_wait_seconds", "0.5"),
    )
    return Part(
        "serving",
        _module("services.serving", *options, "--models_dir", str(settings.paths.models)),
        _answers(f"http://127.0.0.1:{port}/healthz"),
        f"model server on http://127.0.0.1:{port}",
    )


def _tensorboard(settings: Settings, port: int) -> Part:
    options = ("--logdir", str(settings.paths.runs), "--port", str(port), "--path_prefix", "/tensorboard")
    return Part(
        "tensorboard",
        _module("services.tensorboard", *options),
        _answers(f"http://127.0.0.1:{port}/tensorboard/data/environment"),
        f"{base_url(settings.host, settings.port)}/tensorboard/",
        essential=False,
    )


def _get(url: str, key: str | None = None) -> httpx.Response | None:
    try:
        # trust_env: a proxy set for the outside world has no business between our own processes
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(url, headers=headers, timeout=PROBE_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return None


def _answers(url: str) -> Callable[[int], bool]:
    def probe(_pid: int) -> bool:
        response = _get(url)
        return response is not None and response.is_success

    return probe


def _worker_listed(url: str, key: str) -> Callable[[int], bool]:
    """A worker listens on no port: it is ready when the API lists it."""

    def probe(pid: int) -> bool:
        response = _get(f"{url}/workers", key)
        if response is None or not response.is_success:
            return False
        return any(item["pid"] == pid and item["alive"] for item in response.json()["items"])

    return probe
