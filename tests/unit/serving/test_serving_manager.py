"""Versions through their lives, with fake servables."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.serving.errors import Code, ServingError
from services.serving.manager import ModelManager, RetryRule
from services.serving.policy import State

if TYPE_CHECKING:
    from conftest import FakeLoader

Eventually = Callable[[Callable[[], bool]], None]


def states(manager: ModelManager, model: str = "m") -> dict[int, State]:
    try:
        return {one.version: one.state for one in manager.statuses(model)}
    except ServingError:
        return {}


def latest(manager: ModelManager, model: str = "m") -> int | None:
    try:
        with manager.acquire(model) as harness:
            return harness.version
    except ServingError:
        return None


def test_a_version_becomes_available(manager: ModelManager, eventually: Eventually) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    assert states(manager) == {1: State.AVAILABLE}
    assert manager.models()["m"].latest == 1


def test_unknown_things_are_not_found(manager: ModelManager, eventually: Eventually) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(x\)"):
        manager.acquire("x")
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 2\)"):
        manager.acquire("m", version=2)
    with pytest.raises(ServingError, match="Unrecognized servable version label: z") as caught:
        manager.acquire("m", label="z")
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(ServingError, match="Could not find any versions of model x"):
        manager.statuses("x")
    with pytest.raises(ServingError, match="Could not find version 9 of model m"):
        manager.statuses("m", 9)


def test_the_old_version_serves_until_the_new_one_does(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    loader.gates["/m/2"] = threading.Event()
    manager.want("m", {2: "/m/2"})
    eventually(lambda: states(manager).get(2) is State.LOADING)
    assert latest(manager) == 1
    loader.gates["/m/2"].set()
    eventually(lambda: states(manager) == {1: State.END, 2: State.AVAILABLE})
    assert latest(manager) == 2
    assert loader.loaded["/m/1"].closed


def test_unloading_waits_for_requests_in_flight(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    with manager.acquire("m") as harness:
        manager.want("m", {2: "/m/2"})
        eventually(lambda: states(manager).get(1) is State.UNLOADING)
        eventually(lambda: latest(manager) == 2)
        assert not loader.loaded["/m/1"].closed
        harness.servable.run(next(iter(harness.servable.signatures.values())), {"x": np.zeros(1, np.float32)})
    eventually(lambda: states(manager)[1] is State.END)
    assert loader.loaded["/m/1"].closed


def test_a_failed_load_is_retried_and_says_loading_meanwhile(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    loader.failures["/m/1"] = 2
    manager.want("m", {1: "/m/1"})
    eventually(lambda: bool(loader.attempts))
    assert states(manager) == {1: State.LOADING}
    eventually(lambda: latest(manager) == 1)
    assert len(loader.attempts) == 3


def test_a_version_that_never_loads_ends_with_its_error_and_hurts_no_other(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    loader.failures["/bad/1"] = 99
    manager.want("bad", {1: "/bad/1"})
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    eventually(lambda: states(manager, "bad") == {1: State.END})
    (status,) = manager.statuses("bad")
    assert (status.code, status.message) == (Code.NOT_FOUND, "nothing at /bad/1")
    assert len([path for path in loader.attempts if path == "/bad/1"]) == 3  # the first, and two retries
    assert manager.settled() == {"bad": True, "m": True}


def test_a_failed_new_version_leaves_the_old_one_serving(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    loader.failures["/m/2"] = 99
    manager.want("m", {2: "/m/2"})
    eventually(lambda: states(manager).get(2) is State.END)
    assert states(manager)[1] is State.AVAILABLE
    manager.want("m", {1: "/m/1"})  # the failed one is deleted
    manager.want("m", {1: "/m/1", 3: "/m/3"})
    eventually(lambda: latest(manager) == 3)


def test_one_slow_load_delays_no_other_model(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    loader.gates["/slow/1"] = threading.Event()
    manager.want("slow", {1: "/slow/1"})
    eventually(lambda: bool(loader.attempts))
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    assert manager.settled() == {"m": True, "slow": False}


def test_a_failed_version_whose_files_arrive_is_tried_at_once(
    loader: FakeLoader, eventually: Eventually, version_folder: Callable[[str, int], Path]
) -> None:
    folder = version_folder("m", 1)
    loader.failures[str(folder)] = 1
    manager = ModelManager(loader, retry=RetryRule(retries=0, interval_seconds=3600))
    manager.start()
    try:
        manager.want("m", {1: str(folder)})
        eventually(lambda: states(manager) == {1: State.END})
        (folder / "saved_model.pb").write_bytes(b"a longer graph")
        eventually(lambda: latest(manager) == 1)
    finally:
        manager.stop()


def test_a_retry_ends_when_the_version_is_no_longer_wanted(
    loader: FakeLoader, eventually: Eventually
) -> None:
    loader.failures["/m/1"] = 99
    manager = ModelManager(loader, retry=RetryRule(retries=5, interval_seconds=3600))
    manager.start()
    try:
        manager.want("m", {1: "/m/1"})
        eventually(lambda: bool(loader.attempts))
        manager.want("m", {2: "/m/2"})
        eventually(lambda: states(manager) == {1: State.END, 2: State.AVAILABLE})
    finally:
        manager.stop()


def test_a_version_that_returns_is_loaded_anew(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    manager.want("m", {})
    eventually(lambda: states(manager) == {1: State.END})
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    assert loader.attempts == ["/m/1", "/m/1"]


def test_a_version_that_returns_while_it_is_leaving_is_loaded_anew_afterwards(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    with manager.acquire("m"):
        manager.want("m", {})
        eventually(lambda: states(manager) == {1: State.UNLOADING})
        manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    assert len(loader.attempts) == 2


def test_a_forgotten_model_is_unloaded_and_its_status_stays(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    manager.forget("m")
    eventually(lambda: states(manager) == {1: State.END})
    assert loader.loaded["/m/1"].closed
    assert manager.models() == {}


def test_labels_move_when_their_version_is_available(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    def labelled(label: str) -> int | None:
        try:
            with manager.acquire("m", label=label) as harness:
                return harness.version
        except ServingError:
            return None

    loader.gates["/m/2"] = threading.Event()
    manager.want("m", {1: "/m/1"}, {"stable": 1})
    eventually(lambda: labelled("stable") == 1)
    manager.want("m", {1: "/m/1", 2: "/m/2"}, {"stable": 2, "canary": 2})
    eventually(lambda: states(manager).get(2) is State.LOADING)
    assert labelled("stable") == 1  # keeps its meaning until version 2 can answer
    assert labelled("canary") is None
    loader.gates["/m/2"].set()
    eventually(lambda: labelled("stable") == 2)
    assert labelled("canary") == 2
    manager.want("m", {1: "/m/1", 2: "/m/2"}, {})
    eventually(lambda: labelled("stable") is None)


def test_requests_never_meet_a_closed_version(
    manager: ModelManager, loader: FakeLoader, eventually: Eventually
) -> None:
    manager.want("m", {1: "/m/1"})
    eventually(lambda: latest(manager) == 1)
    stop = threading.Event()
    failures: list[BaseException] = []

    def request() -> None:
        seen = 0
        while not stop.is_set():
            try:
                with manager.acquire("m") as harness:
                    (signature,) = harness.servable.signatures.values()
                    harness.servable.run(signature, {"x": np.zeros(1, np.float32)})
                    assert harness.version >= seen
                    seen = harness.version
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=request) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(2, 60):
        manager.want("m", {version: f"/m/{version}"})
        if version % 3 == 0:
            eventually(lambda: latest(manager) == version)  # noqa: B023 - called within the turn
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    eventually(lambda: sum(not one.closed for one in loader.loaded.values()) == 1)


def test_what_is_asked_for_is_loaded_first_then_what_has_a_label(
    loader: FakeLoader, eventually: Eventually
) -> None:
    loader.gates["/first"] = threading.Event()
    manager = ModelManager(loader, load_threads=1)
    manager.want("first", {1: "/first"})
    manager.start()
    try:
        eventually(lambda: loader.attempts == ["/first"])
        names = ("plain", "labelled", "asked")
        for name in names:
            manager.want(name, {1: f"/{name}"}, {"stable": 1} if name == "labelled" else None)
        eventually(lambda: all(states(manager, name) == {1: State.LOADING} for name in names))
        assert latest(manager, "asked") is None
        loader.gates["/first"].set()
        eventually(lambda: len(loader.attempts) == 4)  # to look by a request would be to ask for it
    finally:
        loader.gates["/first"].set()
        manager.stop()
    assert loader.attempts == ["/first", "/asked", "/labelled", "/plain"]
