"""Small pictures of images of untrusted origin, made with Pillow in bounded memory."""

from __future__ import annotations

import base64
import io

FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "WEBP",
)  # what training reads too; no other reader of Pillow's gets the bytes
SIDE = 64  # pixels
MAX_BYTES = 16 * 2**20  # of the file
MAX_PIXELS = 16_000_000  # decoded, it takes at most 64 MiB


def size_of(head: bytes) -> tuple[int, int] | None:
    """(width, height), from the first bytes of a file; None if they tell none, or without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(head), formats=FORMATS) as image:  # reads no pixels
            return image.size
    except Exception:  # Pillow's readers of broken headers raise whatever they come upon
        return None


def thumbnail_of(data: bytes) -> str | None:
    """A PNG of at most 64 x 64 pixels and 64 colours as ``data:image/png;base64,...``.

    None if the image is broken or too large to be decoded here, and without Pillow.
    """
    size = size_of(data)
    if size is None or len(data) > MAX_BYTES or size[0] * size[1] > MAX_PIXELS:
        return None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft("RGB", (SIDE, SIDE))  # JPEG is decoded small at once
            deep = image.mode.startswith("I;16")
            small = (image.point(lambda value: value / 256).convert("L") if deep else image).convert("RGB")
            small.thumbnail((SIDE, SIDE), reducing_gap=2.0)
            out = io.BytesIO()
            small.quantize(64).save(out, "PNG", optimize=True)
    except Exception:  # as above; of pixels, too
        return None
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
