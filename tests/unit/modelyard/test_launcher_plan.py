"""What the launcher decides before anything starts: settings, ports, folders, commands."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from modelyard.exits import Exit
from modelyard.launcher.broker import Broker
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.guard import check_address, check_allowed, free_port, lock_home, prepare_home
from modelyard.launcher.options import base_url, environment, load_settings
from modelyard.launcher.parts import make_plan
from modelyard.launcher.state import UpState, read_state, remove_state, write_state
from shared.home import Home
from shared.settings import Settings


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELYARD_PORT", "9001")
    monkeypatch.setenv("MODELYARD_SLOTS", "3")
    settings = load_settings(home=tmp_path, port=9002)
    assert (settings.port, settings.slots) == (9002, 3)


@pytest.mark.parametrize(("options", "named"), [({"port": 70000}, "--port"), ({}, "MODELYARD_LEASE_SECONDS")])
def test_a_wrong_setting_is_named_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, int], named: str
) -> None:
    if not options:
        monkeypatch.setenv("MODELYARD_LEASE_SECONDS", "-1")
    with pytest.raises(LaunchError, match=named) as caught:
        load_settings(port=options.get("port"))
    assert caught.value.exit_code is Exit.MISCONFIGURED


def test_the_parts_see_what_was_set_and_their_own_defaults_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load_settings(home=tmp_path, port=9002, allow_paths=[tmp_path / "a", tmp_path / "b"])
    env = environment({"PATH": "/bin"}, settings)
    assert env["MODELYARD_HOME"] == str(tmp_path)
    assert env["MODELYARD_ALLOWED_PATHS"] == f"{tmp_path}/a:{tmp_path}/b"
    assert "MODELYARD_SLOTS" not in env
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    assert Settings().allowed_paths == settings.allowed_paths


def test_the_plan_starts_all_parts_with_the_same_interpreter(tmp_path: Path) -> None:
    plan = make_plan(load_settings(home=tmp_path, port=9002), {})
    parts = {part.name: part for part in (*plan.first, *plan.then)}
    assert set(parts) == {"broker", "serving", "tensorboard", "worker", "api"}
    assert all(part.argv[0] == sys.executable for name, part in parts.items() if name != "broker")
    assert plan.settings.serving_url.rsplit(":", 1)[1] in parts["serving"].argv
    assert plan.env["MODELYARD_BROKER_URL"] == plan.settings.broker_url
    assert [part.name for part in plan.stop_order] == ["api", "worker", "tensorboard", "serving", "broker"]


def test_servers_of_ones_own_are_used_and_not_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELYARD_BROKER_URL", "redis://queue:6379/0")
    monkeypatch.setenv("MODELYARD_SERVING_URL", "http://models:8501")
    monkeypatch.setenv("MODELYARD_TENSORBOARD_URL", "http://boards:6006")
    plan = make_plan(load_settings(home=tmp_path), {})
    assert {part.name for part in (*plan.first, *plan.then)} == {"worker", "api"}
    assert plan.env["MODELYARD_BROKER_URL"] == "redis://queue:6379/0"


def test_the_brokers_password_is_random_and_not_on_its_command_line(tmp_path: Path) -> None:
    one, two = Broker(tmp_path / "a"), Broker(tmp_path / "b")
    assert one.password != two.password
    assert not any(one.password in word for word in one.command())
    config = tmp_path / "a" / "valkey.conf"
    assert config.stat().st_mode & 0o777 == 0o600
    assert "maxmemory-policy noeviction" in config.read_text()
    assert "appendonly yes" in config.read_text()


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1"),
     ("box.lan", "http://box.lan:1")],
)  # fmt: skip
def test_a_client_on_this_machine_reaches_any_listening_address(host: str, url: str) -> None:
    assert base_url(host, 1) == url


def test_a_port_that_is_taken_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(LaunchError, match="in use") as caught,
    ):
        check_address("127.0.0.1", other.getsockname()[1])
    assert caught.value.exit_code is Exit.PORT_IN_USE
    check_address("127.0.0.1", free_port())


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(LaunchError, match="no such address"):
        check_address("192.0.2.1", 8000)


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError) as caught:
        prepare_home(Home(tmp_path / "file" / "home"))
    assert caught.value.exit_code is Exit.UNUSABLE_FOLDER


def test_allowed_paths_must_be_folders(tmp_path: Path) -> None:
    check_allowed((tmp_path,))
    with pytest.raises(LaunchError):
        check_allowed((tmp_path, tmp_path / "none"))


def test_a_home_is_taken_once_and_free_again_afterwards(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    lock = lock_home(home)
    with pytest.raises(LaunchError) as caught:
        lock_home(home)
    assert caught.value.exit_code is Exit.ALREADY_UP
    lock.release()
    lock_home(home).release()


def test_the_state_of_a_launcher_that_is_gone_is_no_state(tmp_path: Path) -> None:
    home = Home(tmp_path)
    state = UpState.model_validate(
        {"pid": os.getpid(), "url": "u", "serving_url": "s", "tensorboard_url": None, "started_at": 0}
    )
    assert read_state(home) is None
    write_state(home, state)
    assert read_state(home) == state
    write_state(home, state.model_copy(update={"pid": 2**22 - 1}))
    assert read_state(home) is None
    remove_state(home)
    remove_state(home)
