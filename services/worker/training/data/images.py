"""Folders and archives of images, one sub-folder a class: decoded once into arrays on disk.

Options and their meaning are those of ``keras.utils.image_dataset_from_directory``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.worker.training.data import decoded, image_files
from services.worker.training.data.image_files import ImageFile, Source
from services.worker.training.data.in_order import in_order
from services.worker.training.data.preparing import Preparing
from services.worker.training.data.record import Array, Rows, TrainingData
from services.worker.training.failures import data_invalid, shorten
from shared.specs import ImagesDataset

if TYPE_CHECKING:
    from services.worker.training.emitter import Emitter
    from services.worker.training.pixels import Pixels

MAX_PIXELS = 100_000_000  # of one image; what claims more is a bomb or a map, and not a training image
BATCH = 64
SHOWN_BROKEN = 20


@dataclass(frozen=True, slots=True)
class _Part:
    """The images of a split, with their classes' names."""

    files: list[ImageFile]
    labels: list[str]


def load(spec: ImagesDataset, path: Path, cache_dir: Path, *, emit: Emitter) -> TrainingData:
    """All images, resized, as uint8 [N, height, width, channels].

    Raises:
        TrainingFailed: data_invalid, naming the file; disk_full.
    """
    from services.worker.training.pixels import Pixels

    pixels = Pixels.of(spec, size=(256, 256), channels=3)  # the spec names both
    with image_files.opened(path) as source:
        found = list(source.files())
        train = _part(found, spec.folder, path.name)
        classes = _classes(train, spec, path.name)
        test = _part(found, spec.test_folder, path.name) if spec.test_folder is not None else None
        x, notes = _decoded(source, train, classes, spec, pixels, cache_dir, emit)
        held_out, test_notes = None, dict[str, Any]()
        broken = list(notes["broken"])
        if test is not None:
            test_x, test_notes = _decoded(source, test, classes, spec, pixels, cache_dir, emit)
            held_out = Rows(test_x["x"], test_x["y"])
            broken += test_notes["broken"]
    if broken:
        emit.warn(
            "images_skipped",
            f"{len(broken)} images could not be decoded and were left out: {', '.join(broken[:SHOWN_BROKEN])}",
        )
    return TrainingData(
        train=Rows(x["x"], x["y"]),
        validation=None,
        test=held_out,
        task="classification",
        input_kind="image",
        classes=classes,
        columns=None,
        fingerprint=decoded.fingerprint_of(
            classes=repr(classes), train=notes["fingerprint"], test=test_notes.get("fingerprint")
        ),
        source=f"images {spec.images}",
        pixels=pixels,
        notes={"images_skipped": len(broken)} if broken else {},
    )


def _part(found: list[ImageFile], folder: str | None, name: str) -> _Part:
    """The images below ``folder``, whose first folders are the classes.

    A single folder around everything, as archives have it, is seen through.
    """
    top = {file.name.split("/", 1)[0] for file in found}
    prefixes = [""]
    if len(top) == 1 and all(file.name.count("/") >= (2 if folder is None else 1) for file in found):
        prefixes.append(f"{next(iter(top))}/")
    wanted = "/".join(part for part in (folder or "").split("/") if part)
    for prefix in reversed(prefixes):
        start = prefix + (f"{wanted}/" if wanted else "")
        inside = [file for file in found if file.name.startswith(start)]
        if inside:
            break
    else:
        raise data_invalid(
            f"{name} has no images{f' in a folder {wanted!r}' if wanted else ''}; images end in "
            f"{', '.join(image_files.SUFFIXES)}",
            "Its first folders are: " + (", ".join(sorted(top)[:20]) or "none") + ".",
        )
    loose = next((file for file in inside if "/" not in file.name[len(start) :]), None)
    if loose is not None:
        raise data_invalid(
            f"the image {loose.name!r} lies in no class folder",
            "Put the images of each class into a folder of its own: CLASS/IMAGE.png. Where the classes lie deeper, "
            "name the folder around them in dataset.folder.",
        )
    return _Part(inside, [file.name[len(start) :].split("/", 1)[0] for file in inside])


def _classes(part: _Part, spec: ImagesDataset, name: str) -> list[str]:
    found = sorted(set(part.labels))
    if spec.class_names is not None:
        missing = [each for each in spec.class_names if each not in found]
        if missing:
            raise data_invalid(
                f"dataset.class_names has {missing[0]!r}, but {name} has no such folder with images",
                f"Its folders are: {', '.join(found[:20])}.",
            )
        return list(spec.class_names)
    if len(found) < 2:
        raise data_invalid(
            f"all images of {name} lie in one folder, {found[0]!r}: there is nothing to tell apart",
            "A class is a sub-folder; where they lie deeper, name the folder around them in dataset.folder.",
        )
    return found


def _decoded(
    source: Source,
    part: _Part,
    classes: list[str],
    spec: ImagesDataset,
    pixels: Pixels,
    cache_dir: Path,
    emit: Emitter,
) -> tuple[dict[str, Array], dict[str, Any]]:
    number = {name: index for index, name in enumerate(classes)}
    chosen = [
        (file, number[label]) for file, label in zip(part.files, part.labels, strict=True) if label in number
    ]
    if not chosen:
        raise data_invalid("no image of the test folder lies in a folder of one of the classes")
    key = hashlib.sha256(
        json.dumps(
            [image_files.digest([file for file, _ in chosen]), repr(pixels), spec.on_broken, classes]
        ).encode()
    )
    folder = cache_dir / "images" / key.hexdigest()[:32]
    found = decoded.read(folder)
    if found is not None:
        return found
    decoded.require_room(folder, len(chosen) * int(np.prod(pixels.shape)))
    _write(source, chosen, spec, pixels, folder, emit)
    return decoded.must_read(folder)


def _write(
    source: Source,
    chosen: list[tuple[ImageFile, int]],
    spec: ImagesDataset,
    pixels: Pixels,
    folder: Path,
    emit: Emitter,
) -> None:
    one = decoder(pixels)
    preparing, broken = Preparing(emit, spec.images), list[str]()
    images: list[Array] = []
    labels: list[int] = []

    def work(item: tuple[ImageFile, int, bytes]) -> tuple[ImageFile, int, Array | str]:
        file, label, data = item
        try:
            return file, label, one(data)
        except ValueError as error:
            return file, label, str(error)

    def read() -> Iterator[tuple[ImageFile, int, bytes]]:
        for file, label in chosen:
            yield file, label, source.read(file)

    def flush() -> None:
        if images:
            writer.append(x=np.stack(images), y=np.asarray(labels, np.int32))
            images.clear()
            labels.clear()

    with decoded.Writer(folder) as writer:
        for done, (file, label, image) in enumerate(in_order(read(), work), start=1):
            preparing.tell("decode", done, len(chosen))
            if isinstance(image, str):
                if spec.on_broken == "fail":
                    raise data_invalid(
                        f"the image {file.name!r} can't be decoded: {image}",
                        "Mend or remove it, or set dataset.on_broken to 'skip' to leave such images out.",
                    )
                broken.append(file.name)
                continue
            images.append(image)
            labels.append(label)
            if len(images) == BATCH:
                flush()
        flush()
        if not writer.rows:
            raise data_invalid(f"none of the {len(chosen)} images can be decoded")
        writer.finish({"broken": broken})


def decoder(pixels: Pixels) -> Any:
    """A function from an image file's bytes to uint8 ``pixels.shape``; thread-safe.

    It raises ``ValueError`` with the reason for bytes that are no image, or a huge one.
    """
    import tensorflow as tf
    from PIL import Image, UnidentifiedImageError

    from services.worker.training.pixels import decode, to_bytes

    compiled = tf.function(
        lambda file: to_bytes(decode(file, pixels)),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )

    def one(data: bytes) -> Array:
        if len(data) > image_files.MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {image_files.MAX_FILE_BYTES // 2**20} MiB")
        try:
            with Image.open(io.BytesIO(data)) as header:  # reads no pixels
                width, height = header.size
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            reason = (
                "it is not an image"
                if isinstance(error, UnidentifiedImageError)
                else shorten(str(error), 200)
            )
            raise ValueError(reason if data else "it is empty") from error
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"it is {width} x {height} pixels large; {MAX_PIXELS // 10**6} megapixels are the limit"
            )
        try:
            image: Array = compiled(tf.constant(data)).numpy()
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            raise ValueError(shorten(str(error.message), 200)) from error
        return image

    return one
