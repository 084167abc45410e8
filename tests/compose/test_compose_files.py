"""The Dockerfiles and the compose files themselves; needs no engine, the compose part Docker's command."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose.engine import ROOT

DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
OVERRIDES = sorted(path.name for path in (ROOT / "deploy").glob("compose.*.yml"))
SETTINGS = {
    "MODELYARD_SECRETS": "/nowhere/secrets",
    "MODELYARD_DATABASE_URL": "postgresql://modelyard@db.example.org/modelyard",
    "MODELYARD_BROKER_URL": "redis://redis.example.org/0",
    "MODELYARD_PRIVATE_ADDRESS": "10.0.0.1",
    "MODELYARD_FIRST_HOST": "10.0.0.1",
    "MODELYARD_SHARED": "/srv/modelyard",
    "COMPOSE_PROFILES": "gpu-1,gpu-2,gpu-3",
}


def config(*overrides: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """``docker compose config``."""
    probe = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("there is no docker compose")
    files = [
        part
        for name in ("docker-compose.yml", *(f"deploy/{one}" for one in overrides))
        for part in ("-f", name)
    ]
    return subprocess.run(
        ["docker", "compose", "--env-file", "/dev/null", *files, "config"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": "/tmp", **settings},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def services(*overrides: str) -> dict[str, Any]:
    done = config(*overrides, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return found


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_is_content(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is packaged for Linux only")
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("override", [None, *OVERRIDES])
def test_docker_compose_is_content(override: str | None) -> None:
    assert "worker" in services(*filter(None, [override]))


def test_without_passwords_compose_says_what_to_do() -> None:
    done = config()
    assert done.returncode != 0
    assert "deploy/secrets.sh" in done.stderr


def test_an_external_database_must_be_named() -> None:
    done = config("compose.external.yml", MODELYARD_SECRETS="/nowhere")
    assert done.returncode != 0
    assert "address of your" in done.stderr


def test_only_the_api_is_published_and_all_are_confined() -> None:
    found = services()
    assert {name for name, one in found.items() if one.get("ports")} == {"api"}
    assert found["api"]["ports"][0]["host_ip"] == "127.0.0.1"
    for name, one in found.items():
        assert one["read_only"], name
        assert one["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in one["security_opt"], name
        assert int(one["mem_limit"]) > 0, name
    for name in ("redis", "postgres", "serving", "tensorboard"):
        assert "outside" not in found[name]["networks"], name
    assert not {"store"} & set(found["serving"]["networks"]) | {"store"} & set(
        found["tensorboard"]["networks"]
    )


def test_no_password_is_in_an_environment() -> None:
    for name, one in services().items():
        for variable, value in (one.get("environment") or {}).items():
            if "PASSWORD" in variable:
                assert variable.endswith("_FILE"), name
                assert value.startswith("/run/secrets/"), name


def test_workers_have_longer_to_stop_than_their_trainers() -> None:
    worker = services()["worker"]
    grace = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", worker["stop_grace_period"])
    assert grace is not None
    seconds = 60 * int(grace[1] or 0) + int(grace[2] or 0)
    assert seconds >= int(worker["environment"]["MODELYARD_GRACE_SECONDS"]) + 20


def test_each_gpu_has_a_worker_with_one_slot() -> None:
    found = services("compose.gpu.yml")
    workers = [one for name, one in found.items() if name.startswith("worker")]
    devices = [one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for one in workers]
    assert sorted(devices) == [["0"], ["1"], ["2"], ["3"]]
    for one in workers:
        assert one["environment"]["MODELYARD_SLOTS"] == "1"
        assert one["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
        assert one["environment"]["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
        assert one["build"]["args"]["LOCK"] == "worker-gpu"
    queues = [set(one["environment"]["MODELYARD_QUEUES"].split(",")) for one in workers]
    assert set.intersection(*queues) == {"default", "cpu", "gpu"}
    assert sorted(name for one in queues for name in one if name.startswith("gpu-")) == [
        f"gpu-{n}" for n in range(4)
    ]
    assert found["serving"]["image"].endswith("-gpu")


def test_with_external_servers_ours_are_left_out() -> None:
    assert not {"postgres", "redis"} & set(services("compose.external.yml"))


def test_secrets_are_random_private_and_kept(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        subprocess.run(
            [ROOT / "deploy/secrets.sh", tmp_path / "secrets"],
            check=True, capture_output=True,
            env={"PATH": os.environ["PATH"], "MODELYARD_ENV_FILE": str(tmp_path / "env")},
        )  # fmt: skip
        return {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}

    first = make()
    assert make() == first
    assert len(set(first.values())) == len(first) >= 2
    assert all(len(text) >= 32 for text in first.values())
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert (tmp_path / "env").read_text().count("MODELYARD_SECRETS=") == 1


def test_the_apis_health_does_not_depend_on_the_names_it_answers_to() -> None:
    text = (ROOT / "deploy" / "api.Dockerfile").read_text()
    request = re.search(r"printf '(GET /healthz .*?)'", text)
    assert request is not None
    # MODELYARD_ALLOWED_HOSTS refuses a request that names no host
    assert r"\\r\\nHost: localhost\\r\\n" in request[1]


@pytest.mark.parametrize("image", ["api", "worker", "worker-gpu", "serving", "tensorboard"])
def test_images_install_the_versions_that_are_tested(image: str) -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / f"requirements/{name}.lock").read_text()
        return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))

    tested, found = pins("dev"), pins(image)
    own = {"tensorflow"} | {name for name in found if name.startswith(("nvidia-", "triton"))}
    assert {
        name: version for name, version in found.items() if name not in own and tested.get(name) != version
    } == {}
    text = (ROOT / f"requirements/{image}.lock").read_text()
    assert text.count("--hash=sha256:") > len(found)
    assert ("tensorflow" in "".join(name for name in found if name.startswith("tensorflow"))) == (
        image in ("worker", "worker-gpu", "serving")
    )
