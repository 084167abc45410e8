"""From encoded image bytes to pixels: the same way for training data and in the exported model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from shared.specs.dataset_options import ImageOptions

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}


@dataclass(frozen=True, slots=True)
class Pixels:
    """What every image becomes: [height, width, channels], resized and cut as said."""

    height: int
    width: int
    channels: int
    interpolation: str = "bilinear"
    crop: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @classmethod
    def of(cls, options: ImageOptions, *, size: tuple[int, int], channels: int) -> Pixels:
        """As the spec says; ``size`` and ``channels`` are for what it leaves open."""
        height, width = options.image_size or size
        channels = CHANNELS[options.color_mode] if options.color_mode is not None else channels
        return cls(height, width, channels, options.interpolation, options.crop_to_aspect_ratio)


def decode(file: Any, pixels: Pixels) -> Any:
    """One PNG, JPEG, GIF (its first frame), BMP or WebP file, a scalar string, as float32 ``pixels.shape``, 0-255."""
    if pixels.channels == 4:  # JPEG files have no transparency: they are opaque
        image = tf.cond(tf.io.is_jpeg(file), lambda: _opaque(file), lambda: _decoded(file, 4))
    else:
        image = _decoded(file, pixels.channels)
    return resize(image, pixels)


def resize(image: Any, pixels: Pixels) -> Any:
    """An image [h, w, channels] of any number dtype as float32 ``pixels.shape``; smoothed where it shrinks."""
    if pixels.crop:
        image = _middle(image, pixels.height, pixels.width)
    resized = tf.image.resize(
        tf.cast(image, tf.float32), [pixels.height, pixels.width], pixels.interpolation, antialias=True
    )
    return tf.ensure_shape(resized, pixels.shape)


def to_bytes(image: Any) -> Any:
    """float32 values 0-255 as uint8, rounded."""
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


def _decoded(file: Any, channels: int) -> Any:
    image = tf.io.decode_image(file, channels=channels, expand_animations=False)
    image.set_shape([None, None, channels])
    return image


def _opaque(file: Any) -> Any:
    image = _decoded(file, 3)
    return tf.concat(
        [image, tf.fill([*tf.unstack(tf.shape(image)[:2]), 1], tf.constant(255, tf.uint8))], axis=2
    )


def _middle(image: Any, height: int, width: int) -> Any:
    """The largest part in the middle that has the aspect ratio of ``height`` to ``width``."""
    have_height, have_width = tf.unstack(tf.shape(image)[:2])
    cut_height = tf.maximum(1, tf.minimum(have_height, have_width * height // width))
    cut_width = tf.maximum(1, tf.minimum(have_width, have_height * width // height))
    top, left = (have_height - cut_height) // 2, (have_width - cut_width) // 2
    return image[top : top + cut_height, left : left + cut_width]
