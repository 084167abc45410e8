"""Loads a trained model from the files of a run or a version: as training left it, or from a checkpoint.

Everything is loaded in Keras' safe mode, and without the compilation it once had.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from services.worker.protocol import RunDir, SourceFiles
from services.worker.training import checkpoints, kept, model_facts
from services.worker.training.checkpoints import Checkpoint
from services.worker.training.failures import TrainingFailed, shorten
from services.worker.training.kept import Golden
from services.worker.training.keras_config import in_words
from services.worker.training.model_facts import ModelFacts

_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A trained model, uncompiled, and what is known of it.

    Attributes:
        golden: with the answers of the training program; without, when ``model`` is a checkpoint's.
        file: the ``.keras`` file it was loaded from, if it was.
        checkpoint: the checkpoint it was loaded from, if it was.
    """

    model: keras.Model
    facts: ModelFacts
    kept: dict[str, Any]
    golden: Golden
    file: Path | None
    checkpoint: Checkpoint | None = None


def load(source: SourceFiles) -> SourceModel:
    """The model that ``source`` names.

    Raises:
        TrainingFailed: source_invalid: a file is gone or damaged, or Keras refuses it.
    """
    try:
        noted = json.loads((source.folder / kept.FACTS).read_text())
        facts = model_facts.from_dict(noted)
        golden = kept.read_golden(source.folder / kept.GOLDEN)
    except _DAMAGED as error:
        raise _invalid(f"what the run kept can't be read: {shorten(str(error), 300)}") from error
    if source.checkpoint is None:
        path = source.folder / kept.MODEL
        return SourceModel(load_keras(path), facts, noted, golden, path)
    golden = Golden(golden.rows, golden.targets)
    path = _checkpoint_file(source)
    if path.suffix == ".keras":
        return SourceModel(load_keras(path), facts, noted, golden, path)
    model = architecture(source.folder / kept.ARCHITECTURE)
    if path.name.endswith(".weights.h5"):
        load_weights(model, path)
        return SourceModel(model, facts, noted, golden, None)
    found = _read_checkpoint(path)
    give_variables(model.variables, found, "model")
    return SourceModel(model, facts, noted, golden, None, found)


def load_keras(path: Path, *, compile: bool = False) -> keras.Model:
    """A ``.keras`` or ``.h5`` file, in safe mode.

    Raises:
        TrainingFailed: source_invalid, in Keras' words.
    """
    try:
        model = keras.saving.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts do
        raise _invalid(
            f"Keras {keras.__version__} can't load {path.name}: {in_words(error)}",
            "Layers that carry code (Lambda) are never loaded; a custom layer's code must be known to this worker.",
        ) from error
    if not isinstance(model, keras.Model):
        raise _invalid(f"{path.name} holds a {type(model).__name__}, not a model")
    return model


def architecture(path: Path) -> keras.Model:
    """A fresh model of a kept architecture.

    Raises:
        TrainingFailed: source_invalid.
    """
    try:
        config = json.loads(path.read_text())
        config.pop("compile_config", None)
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:
        raise _invalid(f"the architecture can't be built: {in_words(error)}") from error
    if not isinstance(model, keras.Model):
        raise _invalid("the architecture is no model")
    return model


def load_weights(model: keras.Model, path: Path) -> None:
    """Put the weights of a ``.weights.h5`` file into ``model``.

    Raises:
        TrainingFailed: source_invalid: they are another architecture's.
    """
    try:
        model.load_weights(path)
    except Exception as error:
        raise _invalid(
            f"the weights in {path.name} do not fit the architecture: {in_words(error)}",
            "A weights file has no architecture of its own; name the very one it was saved from.",
        ) from error


def give_variables(variables: list[Any], checkpoint: Checkpoint, group: str) -> None:
    """Assign a checkpoint's arrays of ``group`` ('model' or 'optimizer'), in order.

    Raises:
        TrainingFailed: source_invalid: their number or shapes differ.
    """
    arrays = [array for name, array in checkpoint.arrays.items() if name.startswith(f"{group}/")]
    shapes = [tuple(array.shape) for array in arrays]
    wanted = [tuple(variable.shape) for variable in variables]
    if shapes != wanted:
        raise _invalid(f"the checkpoint's {group} has {len(shapes)} arrays of other shapes than the model's")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _checkpoint_file(source: SourceFiles) -> Path:
    folder = RunDir(source.root).checkpoints
    name = source.checkpoint or ""
    if name in ("best", "last"):
        newest = next(
            (path for path, found in checkpoints.newest(folder) if isinstance(found, Checkpoint)), None
        )
        if newest is None:
            raise _invalid("its run has no sound checkpoint")
        if name == "last":
            return newest
        best = (_read_checkpoint(newest).best or {}).get("file")
        if best is None:
            raise _invalid(
                "its run kept no best checkpoint",
                "Name 'last', or train with validation data and checkpoint.keep_best.",
            )
        return folder / str(best)
    root = source.root.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise _invalid(
            f"its run has no file {name!r}",
            "GET /jobs/{id}/artifacts lists what it has; older checkpoints are removed.",
        )
    if not path.name.endswith((".npz", ".keras", ".weights.h5")):
        raise _invalid(
            f"{name!r} is no checkpoint", "Name an .npz of checkpoints/, a .keras or a .weights.h5 file."
        )
    return path


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        return checkpoints.read(path)
    except _DAMAGED as error:
        raise _invalid(f"the checkpoint {path.name} is damaged: {shorten(str(error), 300)}") from error


def _invalid(message: str, hint: str | None = None) -> TrainingFailed:
    return TrainingFailed("source_invalid", f"The model to start from can't be used: {message}", hint)
