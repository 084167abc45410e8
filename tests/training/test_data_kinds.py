"""Jobs on every kind of data: image folders and archives, TFRecord files, rows that stay on disk."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from tests.training.conftest import SCALARS_ALONE, Supervisor, changed

MLP = {"builder": "mlp", "params": {"units": [16]}}


def digit_pictures(count: int = 300) -> list[tuple[str, bytes]]:
    """(class/file, PNG) of handwritten digits, of two sizes."""
    bunch = load_digits()
    found = []
    for index in range(count):
        picture = Image.fromarray((bunch.images[index] * (255 / 16)).astype(np.uint8))
        if index % 2:
            picture = picture.resize((16, 12))
        out = io.BytesIO()
        picture.save(out, "PNG" if index % 3 else "JPEG")
        name = f"{bunch.target_names[bunch.target[index]]}/{index:04d}.{'png' if index % 3 else 'jpg'}"
        found.append((name, out.getvalue()))
    return found


@pytest.fixture(scope="module")
def pictures() -> list[tuple[str, bytes]]:
    return digit_pictures()


@pytest.fixture
def folder(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> Path:
    for name, data in pictures:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "pictures"


def images_job(**dataset: Any) -> dict[str, Any]:
    return {
        "model": MLP,
        "dataset": {"images": "ds_x", "image_size": [8, 8], "color_mode": "grayscale", **dataset},
        "fit": {"epochs": 8, "batch_size": 32, "learning_rate": 0.005},
        "tensorboard": SCALARS_ALONE,
    }


def fingerprint(supervisor: Supervisor, spec: dict[str, Any], **given: Any) -> str:
    """What a job says that its data are. They are not those it is told to have, so it does not train."""
    assert supervisor.fail(spec, expected_data="sha256:0", **given)["code"] == "data_changed"
    return str(supervisor.jobs[-1].noted()["data"]["fingerprint"])


def test_a_folder_of_images_trains_and_serves_files(supervisor: Supervisor, folder: Path) -> None:
    (folder / "0" / "notes.txt").write_text("not an image")
    (folder / "link").symlink_to(folder / "1")
    spec = images_job(validation_split=0.2, stratify=True)
    job = supervisor.run(spec, data=folder)
    facts = job.noted()["data"]
    assert facts["rows"] == {"train": 192, "validation": 48, "test": 60}
    assert job.last["classes"] == [str(digit) for digit in range(10)]
    assert job.last["metrics"]["test_accuracy"] > 0.6
    assert job.noted()["preparing"]["percent"] == 100
    loaded = tf.saved_model.load(str(job.run_dir / "export"))
    names = sorted(path for path in folder.glob("*/*.png"))[:60]
    answers = loaded.signatures["image_bytes"](tf.constant([path.read_bytes() for path in names]))
    right = [
        path.parent.name == str(np.argmax(row))
        for path, row in zip(names, answers["probabilities"], strict=True)
    ]
    assert np.mean(right) > 0.7, "the served model sees files as training did"

    again = supervisor.run(spec, data=folder, run="again")
    assert again.noted()["data"]["fingerprint"] == facts["fingerprint"]
    assert "preparing" not in again.noted(), "decoded once"


def test_archives_hold_the_same_rows_as_their_folder(
    supervisor: Supervisor, tmp_path: Path, pictures: list[tuple[str, bytes]], folder: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name, data in pictures:
            archive.writestr(f"digits/{name}", data)
        archive.writestr("../../evil/1.png", pictures[0][1])
        archive.writestr("__MACOSX/1/._1.png", b"")
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as tar:
        for name, data in sorted(pictures):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("1/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    prints = {
        name: fingerprint(supervisor, images_job(), data=tmp_path / name, run=f"run-{name}")
        for name in ("p.zip", "p.tar.gz", "pictures")
    }
    assert len(set(prints.values())) == 1, prints


def test_faults_of_images_name_the_file(supervisor: Supervisor, folder: Path) -> None:
    (folder / "3" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n junk")
    (folder / "4" / "empty.jpg").write_bytes(b"")
    failed = supervisor.fail(images_job(), data=folder)
    assert failed["code"] == "data_invalid"
    assert "'3/bad.png'" in failed["message"]
    job = supervisor.run(changed(images_job(on_broken="skip"), fit={"epochs": 1}), data=folder, run="skip")
    assert job.noted()["data"]["images_skipped"] == 2
    assert [event["code"] for event in job.of("warning")] == ["images_skipped"]

    failed = supervisor.fail(images_job(class_names=["0", "10"]), data=folder, run="names")
    assert "no such folder" in failed["message"]
    (folder / "loose.png").write_bytes(b"x")
    failed = supervisor.fail(images_job(), data=folder, run="loose")
    assert "'loose.png' lies in no class folder" in failed["message"]
    failed = supervisor.fail(images_job(folder="train"), data=folder, run="train")
    assert "no images in a folder 'train'" in failed["message"]
    (folder.parent / "text.zip").write_text("no archive")
    failed = supervisor.fail(images_job(), data=folder.parent / "text.zip", run="text")
    assert "neither a folder nor a zip or tar" in failed["message"]


def test_a_changed_test_part_is_other_data(
    supervisor: Supervisor, tmp_path: Path, folder: Path, records: Path
) -> None:
    """What ``reproduce`` compares must not stay the same when the rows do that the model is measured on."""
    root = tmp_path / "split"
    root.mkdir()
    shutil.copytree(folder, root / "train")
    for digit in "012":
        shutil.copytree(folder / digit, root / "test" / digit)
    files = sorted(records.iterdir())
    spec = images_job(folder="train", test_folder="test")
    record_spec = records_job({"image": IMAGE, "label": LABEL})

    def fingerprints(run: str, test: Path) -> list[str]:
        given = {"tfrecord": files[:1], "test": [test]}
        return [
            fingerprint(supervisor, spec, data=root, run=f"images-{run}"),
            fingerprint(supervisor, record_spec, data_files=given, run=f"records-{run}"),
        ]

    before = fingerprints("before", files[1])
    next((root / "test" / "2").iterdir()).unlink()
    after = fingerprints("after", files[2])
    assert not set(before) & set(after)
    failed = supervisor.fail(spec, data=root, run="reproduced", expected_data=before[0])
    assert failed["code"] == "data_changed", failed
    quick = changed(spec, fit={"epochs": 1})
    reproduced = supervisor.run(quick, data=root, run="same", expected_data=after[0])
    assert reproduced.noted()["data"]["fingerprint"] == after[0]


def example(image: bytes, label: int, name: str, row: Any) -> bytes:
    feature = tf.train.Feature
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image": feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": feature(int64_list=tf.train.Int64List(value=[label])),
                "name": feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
                "row": feature(float_list=tf.train.FloatList(value=row)),
            }
        )
    ).SerializeToString()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, pictures: list[tuple[str, bytes]]) -> Path:
    folder = tmp_path_factory.mktemp("records")
    rows = load_digits().data / 16
    for part, options in enumerate(("", "", "GZIP")):
        with tf.io.TFRecordWriter(str(folder / f"part-{part}.tfrecord"), options) as writer:
            for index in range(part * 100, part * 100 + 100):
                name, data = pictures[index]
                digit = name.split("/")[0]
                writer.write(example(data, int(digit), f"digit {digit}", rows[index]))
    return folder


IMAGE = {"dtype": "string", "decode": "image", "shape": [8, 8, 1]}
LABEL = {"dtype": "int64"}


def records_job(features: dict[str, Any], **dataset: Any) -> dict[str, Any]:
    return {
        "model": MLP,
        "dataset": {"tfrecord": "x", "features": features, **dataset},
        "fit": {"epochs": 8, "batch_size": 32, "learning_rate": 0.005},
        "tensorboard": SCALARS_ALONE,
    }


def test_tfrecords_of_images_numbers_and_text_labels(supervisor: Supervisor, records: Path) -> None:
    files = sorted(records.iterdir())
    job = supervisor.run(records_job({"image": IMAGE, "label": LABEL}), data_files={"tfrecord": files})
    assert job.noted()["data"]["rows"]["train"] == 240
    assert job.noted()["data"]["input_shape"] == [8, 8, 1]
    assert job.last["metrics"]["test_accuracy"] > 0.6
    features = {"row": {"dtype": "float32", "shape": [64]}, "name": {"dtype": "string"}}
    job = supervisor.run(
        records_job(features, y="name"),
        data_files={"tfrecord": files[1:], "test": files[:1]},
        run="numbers",
    )
    assert job.noted()["data"]["rows"] == {"train": 200, "validation": 100, "test": 100}
    assert job.noted()["data"]["input_kind"] == "tabular"
    assert job.last["classes"] == [f"digit {digit}" for digit in range(10)]
    assert job.last["metrics"]["test_accuracy"] > 0.6


def test_faults_of_tfrecords_name_file_and_record(
    supervisor: Supervisor, records: Path, tmp_path: Path
) -> None:
    data = bytearray((records / "part-0.tfrecord").read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken = tmp_path / "broken.tfrecord"
    broken.write_bytes(data)
    spec = records_job({"image": IMAGE, "label": LABEL})

    def message(spec: dict[str, Any], path: Path, run: str) -> str:
        failed = supervisor.fail(spec, data_files={"tfrecord": [path]}, run=run)
        assert failed["code"] == "data_invalid"
        return str(failed["message"])

    sizes = [
        len(record) + 16
        for record in tf.data.TFRecordDataset(str(records / "part-0.tfrecord")).as_numpy_iterator()
    ]
    index = int(np.searchsorted(np.cumsum(sizes), len(data) // 2, side="right"))
    assert f"broken.tfrecord, record {index}: it is broken" in message(spec, broken, "a")
    other = records_job({"pixels": IMAGE, "label": LABEL})
    assert "part-0.tfrecord, record 0: it is not as dataset.features says" in message(
        other, records / "part-0.tfrecord", "b"
    )
    text = records_job({"name": IMAGE, "label": LABEL})
    assert "record 0: the image 'name' can't be decoded" in message(text, records / "part-0.tfrecord", "c")
    plain = changed(spec, dataset={"compression": "none"})
    assert "part-2.tfrecord, record 0" in message(plain, records / "part-2.tfrecord", "d")
    (tmp_path / "empty.tfrecord").touch()
    assert "there are no records in empty.tfrecord" in message(spec, tmp_path / "empty.tfrecord", "e")


def test_rows_on_disk_train_the_same_model_as_rows_in_memory(supervisor: Supervisor, records: Path) -> None:
    files = sorted(records.iterdir())
    spec = changed(
        records_job({"image": IMAGE, "label": LABEL}, validation_split=0.1),
        fit={"epochs": 2, "deterministic": True},
    )
    ends = []
    for cache in (True, False):
        job = supervisor.run(
            changed(spec, dataset={"cache": cache, "pipeline": {"parallel_reads": None, "prefetch": 0}}),
            data_files={"tfrecord": files},
            run=f"cache-{cache}",
        )
        assert job.noted()["data"]["kept"] == ("memory" if cache else "disk")
        ends.append(job.last["metrics"])
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_two_replicas_train_on_it_as_one_device_does(supervisor: Supervisor, folder: Path) -> None:
    """Rows of all kinds lie on disk alike; those of arrays are seen to in the tests of strategies."""
    spec = changed(images_job(cache=False), devices={"virtual_devices": 2})

    def trained(batch: int, run: str, **more: Any) -> tuple[dict[str, float], list[Any]]:
        fit = {"epochs": 2, "batch_size": batch, "deterministic": True}
        job = supervisor.run(changed(spec, fit=fit) | more, run=run, data=folder)
        assert job.noted()["data"]["kept"] == "disk"
        assert job.noted()["replicas"] == (2 if more else 1)
        loaded = tf.saved_model.load(str(job.run_dir / "export"))
        return job.last["metrics"], [variable.numpy() for variable in loaded.variables]

    # the last batch of an epoch is short, and odd
    metrics, weights = trained(64, "one")
    their_metrics, their_weights = trained(32, "two", strategy={"kind": "mirrored"})
    assert their_metrics == pytest.approx(metrics, abs=1e-5)
    for mine, theirs in zip(weights, their_weights, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)
