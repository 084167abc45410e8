"""What of a data set of tensorflow_datasets is taken: by its keys or by name, images resized, text refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from services.worker.training.data import decoded
from services.worker.training.data import tfds as loader
from services.worker.training.data.record import TrainingData
from services.worker.training.failures import TrainingFailed
from shared.specs import TfdsDataset
from tests.training.test_fashion_mnist import Said


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Twelve images of growing size with all kinds of labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict(
            {
                "picture": tfds.features.Image(shape=(None, None, 3)),
                "small": tfds.features.Image(shape=(4, 5, 1)),
                "kind": tfds.features.ClassLabel(names=["cat", "dog", "cow"]),
                "weight": np.float32,
                "row": tfds.features.Tensor(shape=(3,), dtype=np.float64),
                "caption": tfds.features.Text(),
                "words": tfds.features.Sequence(np.int64),
            }
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

    def _generate_examples(self, count: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(count):
            yield (
                index,
                {
                    "picture": np.full((4 + index, 9, 3), 20 * index, np.uint8),
                    "small": np.full((4, 5, 1), index, np.uint8),
                    "kind": index % 3,
                    "weight": index / 2,
                    "row": [index, 1, 2],
                    "caption": "text",
                    "words": list(range(index)),
                },
            )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tfds")


def load(home: Path, said: Said | None = None, **spec: Any) -> TrainingData:
    dataset = TfdsDataset.model_validate({"tfds": "tiny_pictures", **spec})
    return loader.load(dataset, home / "tfds", home / "cache", emit=said or Said(), loss=None)  # type: ignore[arg-type]


def test_images_of_varying_size_are_resized_and_progress_is_told(home: Path) -> None:
    said = Said()
    data = load(home, said, x="picture", y="kind", image_size=[6, 8])
    assert (data.train.x.shape, data.train.x.dtype) == ((12, 6, 8, 3), np.uint8)
    assert sorted(data.train.x[:, 3, 3, 0].tolist()) == [20 * index for index in range(12)]
    assert (data.classes, data.input_kind) == (["cat", "dog", "cow"], "image")
    assert data.pixels is not None
    told: Any = said.facts["preparing"]
    assert (told["phase"], told["unit"], told["done"], told["percent"]) == ("decode", "rows", 3, 100.0)
    gray = load(
        home, x="picture", y="kind", image_size=[6, 8], color_mode="grayscale", train_split="train[:50%]"
    )
    assert gray.train.x.shape == (6, 6, 8, 1)


def test_features_are_chosen_by_name(home: Path) -> None:
    table = load(home, x="row", y="weight")
    assert (table.task, table.input_kind, table.train.x.dtype) == ("regression", "tabular", np.float32)
    assert load(home, x="small", y="kind").train.x.shape == (12, 4, 5, 1)


def test_the_fingerprint_covers_the_test_part(home: Path) -> None:
    def fingerprint(split: str | None) -> str:
        return load(home, x="small", y="kind", test_split=split).fingerprint

    assert len({fingerprint(split) for split in ("test", "test[:2]", None)}) == 3
    assert fingerprint("test") == fingerprint("test")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "Name them in dataset.x and dataset.y; its features are"),
        ({"x": "photo", "y": "kind"}, r"no feature 'photo' \(dataset.x\)"),
        ({"x": "picture", "y": "kind"}, "no single shape"),
        ({"x": "picture", "y": "kind", "color_mode": "rgb"}, "vary in size"),
        ({"x": "caption", "y": "kind"}, "'caption', are text"),
        ({"x": "words", "y": "kind"}, "no single shape"),
        ({"x": "small", "y": "row"}, "one number a row"),
        ({"x": "row", "y": "kind", "image_size": [4, 4]}, "they are not images"),
        ({"x": "small", "y": "kind", "train_split": "dev"}, "no split 'dev'"),
    ],
)
def test_what_cant_be_trained_on_is_refused_in_words(home: Path, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingFailed) as caught:
        load(home, **spec)
    assert caught.value.code == "data_invalid"
    said = f"{caught.value.message} {caught.value.hint}"
    assert re.search(words, said), said


def test_what_does_not_fit_on_the_disk_is_refused_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "SPARE_BYTES", 2**62)
    with pytest.raises(TrainingFailed) as caught:
        load(home, x="small", y="weight")
    assert caught.value.code == "disk_full"
