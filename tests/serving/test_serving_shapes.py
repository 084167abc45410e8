"""A request of the wrong shape must never end the server, whatever the model's kernels think of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import StartServer

pytestmark = pytest.mark.tf

CONVOLUTION = """
import sys, keras
keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((8, 8, 1), name="image"), keras.layers.Conv2D(4, 3, activation="relu"),
    keras.layers.MaxPooling2D(2), keras.layers.Flatten(), keras.layers.Dense(3),
])
model.export(sys.argv[1], verbose=False)
"""


def test_a_convolution_given_another_rank_answers_in_words_and_lives_on(
    start_server: StartServer, tmp_path: Path
) -> None:
    version = tmp_path / "models" / "convolution" / "1"
    subprocess.run([sys.executable, "-c", CONVOLUTION, str(version)], check=True, capture_output=True)
    with start_server(f"--models_dir={tmp_path / 'models'}") as server:
        server.wait_for("convolution", 1)
        row = [[[0.0]] * 8] * 8
        for instances, shape in (
            ([[1, 2, 3]], "[1, 3]"),
            ([1.0], "[1]"),
            ([row[0]], "[1, 8, 1]"),
            ([[row]], "[1, 1, 8, 8, 1]"),
            ([[[[0.0, 1.0]] * 8] * 8], "[1, 8, 8, 2]"),
        ):
            answer = server.predict("convolution", {"instances": instances})
            assert answer.status_code == 400, answer.text
            assert f"has shape {shape}, but the model takes [-1, 8, 8, 1]" in answer.json()["error"]
        assert server.process.poll() is None
        good = server.predict("convolution", {"instances": [row, row]})
        assert good.status_code == 200
        assert len(good.json()["predictions"]) == 2
