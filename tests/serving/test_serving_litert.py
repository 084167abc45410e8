"""A version with a LiteRT model beside its SavedModel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.tf

KERNEL = np.arange(12.0).reshape(4, 3) / 10


def test_it_answers_as_the_saved_model_does(server: Server) -> None:
    assert any("/litert/1: serving_default runs on LiteRT" in line for line in server.log)
    for rows in (1, 2, 7, 2, 1, 300):
        x = np.random.default_rng(rows).uniform(-1, 1, (rows, 4))
        response = server.predict("litert", {"instances": x.tolist()})
        assert response.headers["x-model-version"] == "1"
        expected = np.maximum(x @ KERNEL + 0.5, 0)
        np.testing.assert_allclose(response.json()["predictions"], expected, atol=1e-5)


def test_what_it_can_not_do_is_tensorflows(server: Server) -> None:
    response = server.client.post("/v1/models/litert:predict", content=b'{"inputs": [[NaN, 1, 1, 1]]}')
    assert response.status_code == 200
    refused = server.predict("litert", {"instances": [[1.0, 2.0]]})
    assert refused.status_code == 400
    assert "In[0]" in refused.json()["error"]


def test_one_that_answers_otherwise_is_not_used(server: Server) -> None:
    assert any("other_litert/1: its LiteRT model is not used" in line for line in server.log)
    answer = server.predict("other_litert", {"instances": [[0.0] * 4]}).json()
    assert answer == {"predictions": [[0.5, 0.5, 0.5]]}
