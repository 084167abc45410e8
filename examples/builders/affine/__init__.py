"""A dense network behind a layer of one's own: f(x) = a1 * x + b1, with a1 and b1 learnt."""

from .data import make_dataset
from .model import build_model

__all__ = ["build_model", "make_dataset"]
