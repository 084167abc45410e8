"""Test images as the training program decoded them, and the picture of what the model made of them.

They are read from the platform's cache of decoded data, so this process needs neither TensorFlow nor a download.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import NotFound
from shared.home import Home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = 4
CELL, TITLE, GAP = 168, 44, 16
RIGHT, WRONG, INK = (31, 78, 186), (196, 30, 30), (60, 60, 60)


@dataclass(frozen=True)
class Samples:
    """Images as the model takes them, their true classes by number, and the names of all classes."""

    images: NDArray[np.uint8]
    truth: list[int]
    classes: list[str]


def test_samples(home: Home, dataset: str, count: int, *, seed: int) -> Samples:
    """``count`` images of the test split, drawn by ``seed``.

    Raises:
        NotFound: no job on this machine has decoded the dataset.
    """
    import numpy as np

    for folder in sorted((home.cache / "tfds").glob(f"{dataset}-test-*"), key=_age):
        notes: dict[str, Any] = json.loads((folder / "notes.json").read_text())
        x = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)
        y = np.load(folder / "y.npy", mmap_mode="r", allow_pickle=False)
        chosen = np.random.default_rng(seed).choice(len(x), size=count, replace=False)
        return Samples(np.asarray(x[chosen]), [int(y[row]) for row in chosen], list(notes["classes"]))
    raise NotFound(f"No test images of {dataset} in {home.cache}.", hint="Run the demo again.")


def _age(folder: Path) -> float:
    return -folder.stat().st_mtime  # newest first: an older package may have left another


def draw(samples: Samples, predicted: Sequence[str], target: Path) -> None:
    """A grid of the images; above each what the model says, blue when right, red when wrong, and the truth."""
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(predicted) // COLUMNS)
    size = (COLUMNS * (CELL + GAP) + GAP, rows * (CELL + TITLE + GAP) + GAP)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    for number, (image, truth, name) in enumerate(zip(samples.images, samples.truth, predicted, strict=True)):
        left = GAP + (number % COLUMNS) * (CELL + GAP)
        top = GAP + (number // COLUMNS) * (CELL + TITLE + GAP)
        true_name = samples.classes[truth]
        pen.text((left, top), name, fill=RIGHT if name == true_name else WRONG, font=large)
        pen.text((left, top + 22), f"truth: {true_name}", fill=INK, font=small)
        tile = Image.fromarray(image.squeeze()).resize((CELL, CELL), Image.Resampling.NEAREST)
        canvas.paste(tile.convert("RGB"), (left, top + TITLE))
    canvas.save(target)
