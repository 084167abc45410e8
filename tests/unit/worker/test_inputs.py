"""Which files a job's data are, by id, path or glob; and what may not be named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.worker.inputs import resolve_data_file, resolve_data_files
from shared.errors import Conflict, InvalidInput
from shared.settings import Settings
from shared.store import Store, migrate
from tests.builders import train_spec

FEATURES = {"row": {"dtype": "float32", "shape": [3]}, "label": {"dtype": "int64"}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    allowed = tmp_path / "allowed"
    (allowed / "flowers" / "rose").mkdir(parents=True)
    for name in ("train-0.tfrecord", "train-1.tfrecord", "test.tfrecord"):
        (allowed / name).write_bytes(b"x")
    (allowed / "train-2.tfrecord").symlink_to("/etc/passwd")
    return Settings(home=tmp_path / "home", allowed_paths=str(allowed))  # type: ignore[arg-type]


@pytest.fixture
def store(settings: Settings) -> Any:
    settings.paths.create()
    migrate(settings.store_url)
    store = Store(settings.store_url)
    yield store
    store.close()


def uploaded(store: Store, settings: Settings, kind: str) -> str:
    place = settings.paths.datasets / kind / f"data.{kind}"
    place.parent.mkdir()
    place.write_bytes(b"x")
    path = str(place.relative_to(settings.paths.datasets))
    return store.datasets.add(name="n", kind=kind, size_bytes=1, sha256="0" * 64, path=path, info={}).id


def records(tfrecord: Any, **more: Any) -> Any:
    return train_spec(dataset={"tfrecord": tfrecord, "features": FEATURES, **more})


def test_tfrecords_by_id_path_and_glob(store: Store, settings: Settings) -> None:
    (allowed,) = settings.allowed_paths
    dataset = uploaded(store, settings, "tfrecord")
    spec = records([dataset, f"{allowed}/train-[01].tfrecord"], test=f"{allowed}/test.tfrecord")
    found = resolve_data_files(spec, store, settings)
    assert {field: [path.name for path in paths] for field, paths in found.items()} == {
        "tfrecord": ["data.tfrecord", "train-0.tfrecord", "train-1.tfrecord"],
        "test": ["test.tfrecord"],
    }
    assert resolve_data_file(spec, store, settings) == (None, None)


def test_images_by_folder_and_id(store: Store, settings: Settings) -> None:
    (allowed,) = settings.allowed_paths
    spec = train_spec(dataset={"images": str(allowed / "flowers")})
    assert resolve_data_file(spec, store, settings) == (allowed / "flowers", None)
    dataset = uploaded(store, settings, "images")
    found, sha256 = resolve_data_file(train_spec(dataset={"images": dataset}), store, settings)
    assert found is not None
    assert (found.name, sha256) == ("data.images", "0" * 64)


@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        ("ALLOWED/train-*.tfrecord", "path_not_allowed"),  # one of them is a link out
        ("ALLOWED/no-*.tfrecord", "data_missing"),
        ("ALLOWED/*/../../*", "path_not_allowed"),
        ("ALLOWED/../*", "path_not_allowed"),
        ("/etc/*", "path_not_allowed"),
        ("/*", "path_not_allowed"),
        ("*", "path_not_allowed"),
        ("~nobody-has-this-name/*", None),
        ("ALLOWED/\x00*", None),
        ("ALLOWED/[", None),
    ],
)
def test_globs_lead_nowhere_else(store: Store, settings: Settings, pattern: str, code: str | None) -> None:
    spec = records(pattern.replace("ALLOWED", str(settings.allowed_paths[0])))
    with pytest.raises((InvalidInput, RuntimeError)) as caught:
        resolve_data_files(spec, store, settings)
    if code is not None:
        assert isinstance(caught.value, InvalidInput)
        assert (caught.value.code, caught.value.field) == (code, "dataset.tfrecord")


def test_a_file_among_several_is_in_use_too(store: Store, settings: Settings) -> None:
    dataset = uploaded(store, settings, "tfrecord")
    store.jobs.create(records(["/data/a", dataset]))
    with pytest.raises(Conflict, match="in use"):
        store.datasets.delete(dataset)
