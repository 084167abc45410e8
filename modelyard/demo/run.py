"""The walk: start the platform, train over HTTP, wait for the version, ask it, show it, stop."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from modelyard.cli.follow import Follower
from modelyard.cli.output import console
from modelyard.client import Client
from modelyard.client.outcome import raise_if_unsuccessful
from modelyard.demo.images import draw, test_samples
from modelyard.demo.platform import DemoPlatform, demo_home
from modelyard.demo.timings import Timings
from modelyard.exits import Exit
from modelyard.launcher.options import load_settings
from modelyard.predictions import top
from shared.views import JobView

MODEL = "fashion"
DATASET = "fashion_mnist"
SAMPLES = 12
TARGET_ACCURACY = 0.85
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "make demo",
    "model": {"builder": "lenet5"},
    "dataset": {"tfds": DATASET},
    "fit": {"epochs": 4, "batch_size": 128, "optimizer": "adam", "learning_rate": 0.001},
    "publish": {"model": MODEL, "label": "stable"},
}


def run(*, home: Path | None, port: int, keep: bool, since: float | None) -> int:
    """Returns the exit code; whatever happens, nothing is left running.

    Raises:
        ModelyardError: a step failed.
    """
    timings = Timings()
    if since is not None:
        timings.steps.append(("environment (.venv)", max(0.0, time.time() - since)))
    signal.signal(signal.SIGTERM, _as_interrupt)
    settings = load_settings(home=home, port=port or None)
    platform = None
    try:
        with timings.step("start the platform"), console.status("starting the platform"):
            platform = DemoPlatform(settings)
            state = platform.wait_ready()
        console.print(f"The platform is up at {state.url}", style="green", markup=False)
        with Client(state.url) as client:
            view = _train(client, timings)
            _ask(client, view, platform, timings)
            _show_urls(state.url, view)
        if keep:
            console.print(timings.table())
            console.print("\nRunning until Ctrl-C.", style="bold")
            _wait(platform)
    finally:
        if platform is not None:
            with timings.step("stop the platform"):
                platform.stop()
    if not keep:
        console.print(timings.table())
    return _verdict(view)


def _as_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _train(client: Client, timings: Timings) -> JobView:
    began = time.monotonic()
    job = client.jobs.submit(SPEC)
    console.print(f"POST /jobs: {job.id}, LeNet-5 on {DATASET}", markup=False)
    follower = Follower(console)
    view = follower.run(job)
    timings.add_job(began, follower.stages)
    raise_if_unsuccessful(view)
    return view


def _ask(client: Client, view: JobView, platform: DemoPlatform, timings: Timings) -> None:
    version = _version(view)
    served = client.models.version(MODEL, version)
    console.print(f"{MODEL} version {version} is {served.serving_state}", style="green", markup=False)
    samples = test_samples(platform.home, DATASET, SAMPLES, seed=version)
    with timings.step(f"predict {SAMPLES} images"):
        answer = client.predict(MODEL, version=version, instances=samples.images)
    found = [top(prediction, samples.classes) for prediction in answer.predictions or ()]
    table = Table("image", "predicted", "probability", "truth", box=None)
    for number, (best, truth) in enumerate(zip(found, samples.truth, strict=True), 1):
        true_name = samples.classes[truth]
        style = "blue" if best.name == true_name else "red"
        score = "" if best.probability is None else f"{best.probability:.2f}"
        table.add_row(str(number), Text(best.name, style=style), score, true_name)
    console.print(table)
    target = demo_home(platform.home) / f"{MODEL}-v{version}.png"
    with timings.step("draw the picture"):
        draw(samples, [best.name for best in found], target)
    console.print(f"Picture: {target}", markup=False, soft_wrap=True)


def _show_urls(url: str, view: JobView) -> None:
    for name, link in (
        ("API docs", f"{url}/docs"),
        ("TensorBoard", f"{url}/tensorboard/jobs/{view.id}/"),
        ("model status", f"{url}/v1/models/{MODEL}"),
        ("job", f"{url}/jobs/{view.id}"),
    ):
        console.print(f"{name + ':':<14}{link}", markup=False, soft_wrap=True)


def _wait(platform: DemoPlatform) -> None:
    try:
        platform.wait_end()
    except KeyboardInterrupt:
        console.print("stopping")


def _version(view: JobView) -> int:
    version = view.result.version if view.result else None
    if version is None:
        raise AssertionError("a succeeded job that publishes has a version")
    return version


def _verdict(view: JobView) -> int:
    metrics = view.result.metrics if view.result else {}
    accuracy = metrics.get("test_accuracy") or 0.0
    good = accuracy > TARGET_ACCURACY
    console.print(
        f"Test accuracy {accuracy:.4f}" + ("" if good else f" is not above {TARGET_ACCURACY}"),
        style="bold green" if good else "bold red",
    )
    return Exit.OK if good else Exit.BELOW_TARGET
