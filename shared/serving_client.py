"""What we ask of a model server, over TensorFlow Serving's REST API; the same for the embedded one and the original."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from shared.errors import ModelyardError, Unavailable

PREDICT_SECONDS = 120.0  # a large model's first call may compile it
_FIRST_POLL_SECONDS = 0.05
_SLOWEST_POLL_SECONDS = 1.0
_STALE_END_SECONDS = 5.0  # longer than any sensible pace at which a server reads its models.config


@dataclass(frozen=True, slots=True)
class VersionState:
    """START, LOADING, AVAILABLE, UNLOADING or END, with the server's error if it has one."""

    state: str
    error_code: str = "OK"
    error_message: str = ""


class LoadFailed(ModelyardError):
    """The model server gave up on a version, or did not make it AVAILABLE in time."""

    code = "version_not_available"


class ServingClient:
    """Thread-safe. ``base_url`` is the server's REST address without ``/v1``."""

    def __init__(self, base_url: str, *, timeout: float = 5.0) -> None:
        # a proxy for the outside world has no business between our own processes
        self._http = httpx.Client(
            base_url=base_url, timeout=timeout, trust_env=False, verify=base_url.startswith("https:")
        )

    def states(self, model: str) -> dict[int, VersionState]:
        """State by version; empty when the server does not know the model.

        Raises:
            Unavailable: the server does not answer.
        """
        answer = self._get(f"/v1/models/{model}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return {}
        if answer.status_code != httpx.codes.OK:
            raise Unavailable(
                f"The model server answered {answer.status_code}: {answer.text[:200]}",
                code="serving_unavailable",
            )
        return {
            int(item["version"]): VersionState(
                item["state"],
                item.get("status", {}).get("error_code", "OK"),
                item.get("status", {}).get("error_message", ""),
            )
            for item in answer.json().get("model_version_status", [])
        }

    def version_of(self, model: str, label: str) -> int | None:
        """The version that the server itself takes the label for; None: it has not read of the label.

        Asked of the metadata, for in a status TensorFlow Serving ignores the label.

        Raises:
            Unavailable: the server does not answer.
        """
        answer = self._get(f"/v1/models/{model}/labels/{label}/metadata")
        return int(answer.json()["model_spec"]["version"]) if answer.status_code == httpx.codes.OK else None

    def _get(self, path: str) -> httpx.Response:
        try:
            return self._http.get(path)
        except httpx.TransportError as error:
            raise _down(error) from error

    def predict(self, model: str, version: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON answer to a predict request's body, by that very version.

        Raises:
            Unavailable: the server does not answer.
            LoadFailed: it refuses.
        """
        try:
            answer = self._http.post(
                f"/v1/models/{model}/versions/{version}:predict", json=dict(body), timeout=PREDICT_SECONDS
            )
        except httpx.TransportError as error:
            raise _down(error) from error
        if answer.status_code != httpx.codes.OK:
            raise LoadFailed(
                f"The model server refused a request to version {version} of {model!r}: {answer.text[:500]}",
                hint="See the model server's log.",
            )
        found: Mapping[str, Any] = json.loads(answer.text)  # knows NaN, which servers write bare
        return found

    def wait_available(
        self, model: str, version: int, *, timeout: float, keep_waiting: Callable[[], bool] = lambda: True
    ) -> bool:
        """Return True when the server says AVAILABLE. A server that does not answer for a while is waited for.

        Returns False when a higher version is AVAILABLE and this one was unloaded, or never loaded, without an
        error: a server that keeps the latest version only passes over one that was overtaken.

        Raises:
            LoadFailed: the server ended the version with an error, or ``timeout`` seconds passed, or
                ``keep_waiting`` said no.
        """
        seen = "the server does not know it yet"
        for _ in _looks(timeout, keep_waiting):
            try:
                states = self.states(model)
            except Unavailable as error:
                states, seen = {}, error.message
            state = states.get(version)
            overtaken = any(number > version and one.state == "AVAILABLE" for number, one in states.items())
            if overtaken and (state is None or (state.state, state.error_code) == ("END", "OK")):
                return False
            if state is not None:
                if state.state == "AVAILABLE":
                    return True
                seen = f"the server says {state.state}"
                if state.state == "END":
                    raise LoadFailed(
                        f"The model server could not load version {version} of {model!r}: "
                        f"{state.error_message or state.error_code}",
                        hint="See the model server's log.",
                    )
        raise LoadFailed(
            f"Version {version} of {model!r} did not become AVAILABLE within {timeout:.0f} s: {seen}.",
            hint="The version is on disk and is served as soon as the model server loads it.",
        )

    def wait_labelled(self, model: str, labels: Mapping[str, int], *, timeout: float) -> bool:
        """Wait until the server has read of these labels, and so keeps their versions when newer ones appear.

        Returns whether it has, within ``timeout`` seconds; a server that does not answer has not.
        """
        for _ in _looks(timeout):
            with contextlib.suppress(Unavailable):
                if all(self.version_of(model, label) == version for label, version in labels.items()):
                    return True
        return False

    def wait_loaded(
        self, model: str, version: int, *, timeout: float, keep_waiting: Callable[[], bool] = lambda: True
    ) -> None:
        """Return when the server says AVAILABLE of a version that was just asked for, perhaps an older one.

        What the server says of an earlier time that the version was loaded counts for nothing at first.

        Raises:
            LoadFailed: the server ended the version with an error, ``timeout`` seconds passed, or ``keep_waiting``
                said no.
        """
        seen = "the server does not know it"
        for waited in _looks(timeout, keep_waiting):
            try:
                state = self.states(model).get(version)
            except Unavailable as error:
                state, seen = None, error.message
            if state is not None:
                if state.state == "AVAILABLE":
                    return
                seen = f"the server says {state.state}"
                failed = state.state == "END" and state.error_code != "OK"
                if failed and waited > _STALE_END_SECONDS:
                    raise LoadFailed(
                        f"The model server could not load version {version} of {model!r}: "
                        f"{state.error_message or state.error_code}",
                        hint="See the model server's log.",
                    )
        raise LoadFailed(
            f"Version {version} of {model!r} did not become AVAILABLE within {timeout:.0f} s: {seen}.",
            hint="Nothing was changed.",
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _looks(timeout: float, keep_waiting: Callable[[], bool] = lambda: True) -> Iterator[float]:
    """The seconds waited so far, for one look after the other, further and further apart.

    Ends when another one would come later than ``timeout`` seconds, or ``keep_waiting`` says no.
    """
    began, pause = time.monotonic(), _FIRST_POLL_SECONDS
    while True:
        yield time.monotonic() - began
        if time.monotonic() - began + pause > timeout or not keep_waiting():
            return
        time.sleep(pause)
        pause = min(pause * 1.3, _SLOWEST_POLL_SECONDS)


def _down(error: httpx.TransportError) -> Unavailable:
    return Unavailable(
        f"The model server does not answer: {error}",
        code="serving_unavailable",
        hint="Check MODELYARD_SERVING_URL and the server's log.",
    )
