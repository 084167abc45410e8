"""Files that later attempts and later jobs rely on: checkpoints, decoded arrays, Debian's rebuilt archives."""

from __future__ import annotations

import gzip
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.worker.training import checkpoints, run_files
from services.worker.training.checkpoints import Checkpoint, Position
from services.worker.training.data import apt, debian, decoded
from services.worker.training.data.tfds import cache_key
from services.worker.training.failures import TrainingFailed
from services.worker.training.weight_images import as_image


def a_checkpoint(epoch: int, step: int = 0) -> Checkpoint:
    return Checkpoint(
        position=Position(epoch, step, epoch * 10 + step),
        arrays={"model/00000": np.full((3, 2), epoch, np.float32), "seed": np.array([1, 2], np.uint32)},
        callbacks=[{"best": float("nan"), "wait": 2}],
        identity={"seed": 1},
        complete=epoch == 3,
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, a_checkpoint(2, 5), keep=2)
    (found_path, found), *rest = checkpoints.newest(tmp_path)
    assert (found_path, rest) == (path, [])
    assert isinstance(found, Checkpoint)
    assert found.position == Position(2, 5, 25)
    assert found.identity == {"seed": 1}
    assert found.arrays["seed"].dtype == np.uint32
    np.testing.assert_array_equal(found.arrays["model/00000"], np.full((3, 2), 2))


def test_the_newest_are_kept_and_come_first(tmp_path: Path) -> None:
    for epoch in range(12):
        checkpoints.write(tmp_path, a_checkpoint(epoch), keep=3)
    positions = [c.position.epoch for _, c in checkpoints.newest(tmp_path) if isinstance(c, Checkpoint)]
    assert positions == [11, 10, 9]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "note"])
def test_a_damaged_checkpoint_is_reported_not_trusted(tmp_path: Path, harm: str) -> None:
    checkpoints.write(tmp_path, a_checkpoint(1), keep=2)
    path = checkpoints.write(tmp_path, a_checkpoint(2), keep=2)
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[100] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-10])
    elif harm == "gone":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("{")
    (_, newest), (_, before) = checkpoints.newest(tmp_path)
    assert isinstance(newest, str)
    assert isinstance(before, Checkpoint)
    assert before.position.epoch == 1


def test_a_write_that_was_cut_off_at_any_byte_is_no_checkpoint(tmp_path: Path) -> None:
    chance = random.Random(7)
    checkpoints.write(tmp_path, a_checkpoint(1), keep=2)
    path = checkpoints.write(tmp_path, a_checkpoint(2), keep=2)
    for file in (path, path.with_suffix(".json")):
        whole = file.read_bytes()
        for size in [0, len(whole) - 1, *(chance.randrange(1, len(whole) - 1) for _ in range(40))]:
            file.write_bytes(whole[:size])
            assert [isinstance(found, str) for _, found in checkpoints.newest(tmp_path)] == [True, False]
        for _ in range(40):
            harmed = bytearray(whole)
            harmed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            file.write_bytes(harmed)
            assert [isinstance(found, str) for _, found in checkpoints.newest(tmp_path)] == [True, False]
        file.write_bytes(whole)
    assert not any(isinstance(found, str) for _, found in checkpoints.newest(tmp_path))


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for epoch in range(1, 7):
        best = {"file": f"{Position(min(epoch, 2)).stem}.npz", "value": 0.5}
        checkpoints.write(tmp_path, replace(a_checkpoint(epoch), best=best, metrics={"loss": 1.0}), keep=2)
    assert sorted(path.stem for path in tmp_path.glob("*.npz")) == [
        Position(epoch).stem for epoch in (2, 5, 6)
    ]


def test_what_is_newer_than_the_place_one_goes_on_from_is_deleted(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoints.write(tmp_path, a_checkpoint(epoch), keep=5)
    (tmp_path / ".000004-00000000.npz.tmp").write_text("half")
    checkpoints.discard_after(tmp_path, Position(2))
    assert {path.stem for path in tmp_path.iterdir()} == {Position(1).stem, Position(2).stem}
    checkpoints.discard_after(tmp_path, None)
    assert list(tmp_path.iterdir()) == []
    checkpoints.discard_after(tmp_path / "none", None)


def test_another_runs_checkpoint_is_taken_over_with_its_best_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for epoch in (1, 2, 3):
        checkpoints.write(old, a_checkpoint(epoch), keep=5)
    newest = replace(a_checkpoint(3), best={"file": f"{Position(1).stem}.npz"})
    checkpoints.adopt(old, new, newest)
    found = [c.position.epoch for _, c in checkpoints.newest(new) if isinstance(c, Checkpoint)]
    assert found == [3, 1]


def test_files_that_grow_are_taken_back_to_what_was_noted(tmp_path: Path) -> None:
    root, other = tmp_path / "run", tmp_path / "other"
    for folder in (root, other):
        (folder / "train/deep").mkdir(parents=True)
        (folder / "log.csv").write_text("one\ntwo\n")
        (folder / "train/events").write_bytes(b"12345")
        (folder / "train/deep/later").write_text("x")
        (folder / "best.keras").write_text("model")
    noted = {"log.csv": 4, "train/events": 5, "best.keras": run_files.WHOLE, "short": 9}
    warned: list[str] = []
    present = [root / "log.csv", root / "train/events", root / "train/deep/later"]
    run_files.take_back(root, noted, present, lambda code, _: warned.append(code))
    assert (root / "log.csv").read_text() == "one\n"
    assert not (root / "train/deep").exists()
    assert warned == ["file_lost"]
    copied = tmp_path / "copied"
    copied.mkdir()
    run_files.take_back(copied, {"log.csv": 4, "best.keras": run_files.WHOLE}, [], lambda *_: None, other)
    assert (copied / "log.csv").read_text() == "one\n"
    assert (copied / "best.keras").read_text() == "model"
    assert (other / "log.csv").read_text() == "one\ntwo\n"


def test_a_failed_write_leaves_the_older_checkpoint_and_no_scraps(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, a_checkpoint(1), keep=2)
    (tmp_path / ".000002-00000000.npz.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(tmp_path, a_checkpoint(2), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001-00000000.json", "000001-00000000.npz"]


def write(folder: Path, x: np.ndarray, **notes: str) -> None:
    with decoded.Writer(folder) as writer:
        for start in range(0, len(x), 2):
            writer.append(x=x[start : start + 2])
        writer.finish(notes)


def test_decoded_arrays_are_mapped_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert decoded.read(folder) is None
    write(folder, np.arange(7, dtype=np.uint8), name="n")
    write(folder, np.zeros(9, np.uint8), name="late")  # another job was first
    found = decoded.read(folder)
    assert found is not None
    assert found[0]["x"].tolist() == list(range(7))
    assert isinstance(found[0]["x"], np.memmap)
    assert found[1]["name"] == "n"
    assert found[1]["fingerprint"].startswith("sha256:")
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_damaged_decoded_arrays_are_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    write(folder, np.arange(6))
    (folder / "x.npy").write_bytes(b"junk")
    assert decoded.read(folder) is None
    write(folder, np.arange(3))
    found = decoded.read(folder)
    assert found is not None
    assert len(found[0]["x"]) == 3


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def unequal() -> None:
        with decoded.Writer(tmp_path / "b") as writer:
            writer.append(x=np.zeros((2, 3)), y=np.zeros(2))
            writer.append(x=np.zeros((1, 3)))
            writer.finish({})

    with pytest.raises(ValueError, match="unequal length"):
        unequal()
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="GiB are free") as caught:
        decoded.require_room(tmp_path / "b", 2**60)
    assert caught.value.code == "disk_full"


def test_cache_keys_are_readable_and_distinct() -> None:
    keys = {
        cache_key("fashion_mnist", "train"),
        cache_key("fashion_mnist", "train[:5%]"),
        cache_key("mnist", "train"),
    }
    assert len(keys) == 3
    assert all("/" not in key and "[" not in key for key in keys)


def test_a_file_that_is_not_the_published_one_is_refused() -> None:
    with pytest.raises(apt.NotAvailable, match="not the published file"):
        debian.rebuilt("t10k-labels-idx1-ubyte.gz", gzip.compress(b"other"))


def test_kernels_are_laid_out_as_a_grid() -> None:
    kernel = np.zeros((5, 5, 3, 4), np.float32)
    kernel[:, :, 2, 3] = 1
    image = as_image(kernel)
    assert image is not None
    assert image.shape == (1, 3 * 6 - 1, 4 * 6 - 1, 1)
    assert image[0, -1, -1, 0] == 255
    assert image[0, 0, 0, 0] == 0
    bias = as_image(np.zeros(7, np.float32))
    assert bias is not None
    assert bias.shape == (1, 1, 7, 1)
    assert as_image(np.full(3, np.nan)) is None
