"""From an upload to a prediction through containers, over HTTP, with TensorFlow Serving's image name and flags."""

from __future__ import annotations

import gzip
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from services.worker.training.data import apt, debian
from tests.compose import digits
from tests.compose.engine import Compose

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

BLACK = [[[0]] * 8] * 8


def predict(compose: Compose, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = compose.request("POST", "/predict", json={"instances": [BLACK], **body})
    return found


def test_the_api_image_has_no_tensorflow(compose: Compose) -> None:
    names = ("tensorflow", "keras", "services.worker")
    code = f"import importlib.util as u, sys; sys.exit(any(map(u.find_spec, {names})))"
    compose.compose("exec", "-T", "api", "python", "-c", code)
    compose.compose("exec", "-T", "tensorboard", "python", "-c", code)


def test_nobody_is_root_and_no_image_can_be_changed(compose: Compose) -> None:
    for service in ("api", "worker", "serving", "tensorboard", "redis", "postgres"):
        shell = "test $(id -u) -ne 0 && touch /tmp/may && ! touch /srv/x /usr/x /x 2>/dev/null"
        compose.compose("exec", "-T", service, "sh", "-c", shell)
    inspected = json.loads(compose.docker("image", "inspect", "modelyard/worker:0.1.0"))[0]
    assert inspected["Config"]["User"] == "10001:10001"
    assert inspected["Config"]["Labels"]["org.opencontainers.image.title"] == "Modelyard worker"


def test_passwords_are_in_no_process_list_and_no_environment(compose: Compose) -> None:
    passwords = [file.read_text() for file in compose.secrets.iterdir()]
    ids = compose.compose("ps", "-q", "-a").split()
    shown = compose.docker("inspect", *ids) + "".join(
        compose.docker("top", one, "-eo", "pid,args") for one in compose.compose("ps", "-q").split()
    )
    assert not [one for one in passwords if one in shown]


def test_without_a_key_nothing_is_told(compose: Compose) -> None:
    assert httpx.get(f"{compose.url}/healthz", trust_env=False).status_code == 200
    for path in ("/jobs", "/models", "/tensorboard/", "/v1/models/digits"):
        assert httpx.get(f"{compose.url}{path}", trust_env=False).status_code == 401, path


def test_train_publish_predict_roll_back_and_export(compose: Compose, digits_id: str) -> None:
    for version in (1, 2):
        job = compose.succeeded(compose.submit(digits.job(digits_id, publish="digits")))
        assert job["result"]["version"] == version
        # the job succeeded, so the model server has it: no waiting here
        assert predict(compose, model="digits", label="stable")["version"] == version
    compose.request("POST", "/models/digits/rollback")
    assert predict(compose, model="digits", label="stable")["version"] == 1
    own = compose.request("POST", "/v1/models/digits/labels/stable:predict", json={"instances": [BLACK]})
    assert len(own["predictions"][0]) == 10
    exported = compose.succeeded(
        compose.submit(
            {"kind": "export", "from": {"model": "digits", "version": 2}, "formats": ["keras", "tflite"]}
        )
    )
    files = compose.request("GET", f"/jobs/{exported['id']}/artifacts")["items"]
    assert {file["format"] for file in files} >= {"keras", "tflite"}


def test_a_new_name_is_served_without_a_restart(compose: Compose, digits_id: str) -> None:
    server = compose.containers("serving")[0]
    started = compose.docker("inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", server)
    compose.succeeded(compose.submit(digits.job(digits_id, epochs=1, publish="newcomer")))
    state = compose.request("GET", "/v1/models/newcomer")["model_version_status"][0]["state"]
    assert state == "AVAILABLE"
    predict(compose, model="newcomer")
    assert compose.docker("inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", server) == started


def test_a_study_runs_its_trials_on_the_workers(compose: Compose, digits_id: str) -> None:
    base = digits.job(digits_id, epochs=1)
    base.pop("kind")
    study = {
        "kind": "tune",
        "base": {**base, "dataset": {"npz": digits_id, "validation_split": 0.2}},
        "space": {"fit.learning_rate": {"choice": [0.001, 0.01]}},
        "sampler": "grid",
        "objective": {"metric": "val_accuracy", "mode": "max"},
        "publish": {"model": "tuned", "label": "stable"},
    }
    compose.succeeded(compose.submit(study), seconds=200)
    assert predict(compose, model="tuned", label="stable")["version"] == 1


def test_tensorboard_shows_the_runs_through_the_api(compose: Compose, digits_id: str) -> None:
    job = compose.succeeded(compose.submit(digits.job(digits_id, epochs=1)))
    runs = compose.request("GET", f"/tensorboard/jobs/{job['id']}/data/runs")
    assert runs


def test_metrics_of_the_model_server_stay_inside(compose: Compose) -> None:
    code = (
        "import urllib.request as r; "
        "print(r.urlopen('http://serving:8501/monitoring/prometheus/metrics').read().decode())"
    )
    assert ":tensorflow:serving:request_count" in compose.compose("exec", "-T", "api", "python", "-c", code)


def test_a_worker_that_is_told_to_stop_hands_its_job_to_the_other(compose: Compose, digits_id: str) -> None:
    job = compose.submit(digits.job(digits_id, epochs=150))

    def training() -> bool:
        return bool((compose.request("GET", f"/jobs/{job}")["progress"] or {}).get("epoch", 0) >= 2)

    compose.until(training, 60)
    hosts = {one["host"]: one for one in compose.request("GET", "/workers")["items"]}
    busy = next(host for host, one in hosts.items() if job in json.dumps(one))
    container = next(one for one in compose.containers("worker") if one.startswith(busy))
    began = time.monotonic()
    stopper = threading.Thread(target=compose.docker, args=("stop", container))
    stopper.start()
    found = compose.succeeded(job, seconds=180)
    stopper.join()
    assert time.monotonic() - began < 180
    assert found["result"]["epochs"] == 150
    attempts = compose.request("GET", f"/jobs/{job}/events", params={"limit": 1000})["items"]
    assert "released" in json.dumps(attempts)
    compose.docker("start", container)


def gang(kind: str, digits_id: str, epochs: int, **more: Any) -> dict[str, Any]:
    strategy = {"kind": kind, "workers": 2, "placement": "spread", **more}
    return digits.job(digits_id, epochs=epochs, publish=kind.replace("_", "-"), strategy=strategy)


def test_a_job_over_two_worker_containers_survives_the_death_of_one(compose: Compose, digits_id: str) -> None:
    job = compose.submit(gang("multi_worker_mirrored", digits_id, 60))
    found: dict[str, Any] = {}

    def training() -> bool:
        nonlocal found
        found = compose.request("GET", f"/jobs/{job}")
        assert found["state"] in ("queued", "running"), found["error"]
        return bool((found["progress"] or {}).get("epoch", 0) >= 2)

    compose.until(training, 180, lambda: f"{found.get('stage')} {found.get('run')}\n{compose.logs('worker')}")
    containers = compose.containers("worker")
    homes = {
        next(one for one in containers if member["worker"].startswith(one[:12]))
        for member in found["run"]["cluster"]["members"]
    }
    assert homes == set(containers), found["run"]["cluster"]
    compose.docker("kill", containers[0])
    compose.docker("start", containers[0])
    done = compose.succeeded(job, seconds=300)
    assert done["result"]["epochs"] == 60
    versions = compose.request("GET", "/models/multi-worker-mirrored/versions")["items"]
    assert [one["version"] for one in versions] == [1]  # only the chief publishes, and once
    predict(compose, model="multi-worker-mirrored", version=1)


def test_a_parameter_server_job_over_two_worker_containers(compose: Compose, digits_id: str) -> None:
    job = compose.succeeded(compose.submit(gang("parameter_server", digits_id, 2, ps=1)), seconds=240)
    assert job["result"]["version"] == 1
    assert len({member["worker"] for member in job["run"]["cluster"]["members"]}) == 2


def test_the_database_away_is_503_with_a_time_to_come_back(compose: Compose) -> None:
    postgres = compose.containers("postgres")[0]
    compose.docker("stop", postgres)
    try:
        answer = compose.http.get("/jobs")
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"]
        assert answer.json()["code"] == "store_unavailable"
        assert compose.http.get("/healthz").status_code == 200
        assert compose.http.get("/readyz").status_code == 503
    finally:
        compose.docker("start", postgres)
    compose.until(lambda: compose.http.get("/readyz").json()["status"] == "ok", 60)


def test_fashion_mnist_as_an_upload(compose: Compose, tmp_path: Path) -> None:
    """Containers here have no way out to a data set's home: it is fetched on the host and uploaded."""
    try:
        debian.genuine_files(tmp_path)
    except apt.NotAvailable as reason:
        pytest.skip(f"Debian's package can't be had: {reason}")

    def read(name: str, header: int) -> Any:
        with gzip.open(tmp_path / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    arrays = {}
    for part, name, rows in (("train", "train", 6000), ("test", "t10k", 1000)):
        arrays[f"x_{part}"] = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)[:rows]
        arrays[f"y_{part}"] = read(f"{name}-labels-idx1-ubyte.gz", 8)[:rows]
    np.savez_compressed(tmp_path / "fashion.npz", **arrays)
    dataset = compose.upload(tmp_path / "fashion.npz")
    spec = digits.job(dataset, publish="fashion") | {"model": {"builder": "lenet5"}}
    job = compose.succeeded(compose.submit(spec | {"fit": {"epochs": 2, "batch_size": 64}}), seconds=180)
    assert job["result"]["metrics"]["test_accuracy"] > 0.5
    rows = arrays["x_test"][:20]
    answer = predict(compose, model="fashion", label="stable", instances=rows.tolist())
    right = np.argmax(answer["predictions"], axis=1) == arrays["y_test"][:20]
    assert right.mean() > 0.4
