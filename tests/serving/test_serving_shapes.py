"""A request of the wrong shape must never end the server, whatever the model's kernels think of it."""

from __future__ import annotations

import pytest

from tests.serving.conftest import Server

pytestmark = pytest.mark.tf


def test_a_convolution_given_another_rank_answers_in_words_and_lives_on(server: Server) -> None:
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
