"""Models that begin with trained weights: a version's, a job's, or a file's; fine-tuning and continued training.

A model that comes from Modelyard has its preprocessing inside, so none is put before it a second time. What it is to
be trained with is the spec's ``fit``, never what it was once compiled with.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from services.worker.protocol import TrainingRequest
from services.worker.training import keras_config, sources
from services.worker.training.data.record import TrainingData
from services.worker.training.emitter import Emitter
from services.worker.training.failures import TrainingFailed, model_invalid, shorten
from services.worker.training.model_facts import ModelFacts
from services.worker.training.sources import SourceModel
from services.worker.training.user_code import Code
from shared.specs import FromFileModel, FromJobModel, FromVersionModel, ModelSpec, TrainedModel, TrainJob


@dataclass(frozen=True, slots=True)
class Start:
    """What a job starts from; ``source`` for a run or version, ``file`` for a file of the user's own."""

    request: TrainingRequest
    emit: Emitter
    source: SourceModel | None = None

    def inner(self, spec: TrainedModel, data: TrainingData, build: Any) -> keras.Model:
        """The trained model, uncompiled; ``build(architecture)`` makes a fresh one of a spec."""
        if isinstance(spec, FromFileModel):
            return _from_file(spec, self._file(), build)
        source = self._loaded()
        _compare(source.facts, data, spec, self.emit)
        return source.model

    def give_optimizer(self, job: TrainJob, model: keras.Model) -> None:
        """Have the compiled ``model`` go on with the source's optimizer state, if the job asks for that.

        The learning rate is part of the state, and goes on too unless the job names one.

        Raises:
            TrainingFailed: model_invalid: it is another optimizer's, or of other weights.
        """
        spec = job.model
        if not isinstance(spec, TrainedModel) or not spec.keep_optimizer:
            return
        given = job.fit.optimizer.params if job.fit.optimizer is not None else {}
        keep_rate = job.fit.learning_rate is None and "learning_rate" not in given
        found = self._optimizer_values(spec)
        variables = model.optimizer.variables
        shapes = [tuple(value.shape) for _, value in found]
        if shapes != [tuple(variable.shape) for variable in variables]:
            raise model_invalid(
                "model.keep_optimizer",
                f"the state's {len(shapes)} arrays do not fit {type(model.optimizer).__name__} with this model",
                "Use the optimizer that it was trained with, or leave keep_optimizer out.",
            )
        for variable, (_, value) in zip(variables, found, strict=True):
            if keep_rate or not variable.path.endswith("learning_rate"):
                variable.assign(value)

    def _optimizer_values(self, spec: TrainedModel) -> list[tuple[str, Any]]:
        if not isinstance(spec, FromFileModel):
            source = self._loaded()
            if source.checkpoint is not None:
                return [(n, a) for n, a in source.checkpoint.arrays.items() if n.startswith("optimizer/")]
            path = source.file
        else:
            path = self._file()
        if path is None or path.suffix != ".keras":
            raise model_invalid(
                "model.keep_optimizer",
                "the source has no optimizer's state",
                "Only checkpoints (.npz) and .keras files have it.",
            )
        optimizer = getattr(sources.load_keras(path, compile=True), "optimizer", None)
        if optimizer is None:
            raise model_invalid("model.keep_optimizer", "the .keras file was saved without an optimizer")
        return [(variable.path, variable.numpy()) for variable in optimizer.variables]

    def _loaded(self) -> SourceModel:
        if self.source is None:
            raise TrainingFailed("request_invalid", "the request names no model to go on from")
        return self.source

    def _file(self) -> Path:
        if self.request.model_file is None:
            raise TrainingFailed("request_invalid", "the request names no model file to go on from")
        return self.request.model_file


def open_source(spec: ModelSpec, request: TrainingRequest, code: Code, emit: Emitter) -> Start | None:
    """Load what ``spec`` starts from, within the strategy's scope; None when it starts from nothing.

    Raises:
        TrainingFailed: source_invalid.
    """
    if not isinstance(spec, TrainedModel):
        return None
    code.load_all()  # a model of the user's own has classes of theirs
    if isinstance(spec, FromVersionModel | FromJobModel):
        if request.source is None:
            raise TrainingFailed("request_invalid", "the request names no model to go on from")
        emit.note(source=request.source.lineage)
        return Start(request, emit, sources.load(request.source))
    emit.note(source={"file": str(request.model_file)})
    return Start(request, emit)


def _from_file(spec: FromFileModel, path: Path, build: Any) -> keras.Model:
    if path.is_dir():
        model = build(spec.architecture)
        _take_saved_model(model, path)
        return model
    if path.name.endswith(".weights.h5"):
        model = build(spec.architecture)
        sources.load_weights(model, path)
        return model
    return sources.load_keras(path)


def _take_saved_model(model: keras.Model, path: Path) -> None:
    """Put a SavedModel's variables into a model of the same architecture, built by code.

    A SavedModel lists its trainable variables in the order of the layers; the others (moving means and variances) are
    matched by the order of their shapes in the same way. Keras 3 can't load the folder itself, and ``TFSMLayer``, which
    runs it, can't be trained with moments (Adam, momentum).
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        trainable, every = _variables(loaded)
    except Exception as error:  # whatever its parts raise
        raise TrainingFailed(
            "source_invalid", f"the SavedModel can't be loaded: {shorten(str(error), 400)}"
        ) from error
    fixed = [variable for variable in every if all(variable is not other for other in trainable)]
    wanted_fixed = [v for v in model.non_trainable_variables if "seed_generator" not in v.path]
    fixed = [variable for variable in fixed if variable.dtype.is_floating]
    for what, found, wanted in (
        ("trainable", trainable, model.trainable_variables),
        ("other", fixed, wanted_fixed),
    ):
        shapes, needed = [tuple(v.shape) for v in found], [tuple(v.shape) for v in wanted]
        if shapes != needed:
            raise TrainingFailed(
                "source_invalid",
                f"the SavedModel's {len(shapes)} {what} variables {shorten(str(shapes), 200)} do not fit the "
                f"architecture's {len(needed)} {shorten(str(needed), 200)}",
                "Name the very architecture it was exported from, with its preprocessing.",
            )
        for variable, value in zip(wanted, found, strict=True):
            variable.assign(value.numpy())


def _variables(loaded: Any) -> tuple[list[Any], list[Any]]:
    signature = loaded.signatures.get("serving_default") or next(iter(loaded.signatures.values()), None)
    every = list(getattr(loaded, "variables", None) or (signature.variables if signature is not None else []))
    trainable = getattr(loaded, "trainable_variables", None)
    if not trainable and signature is not None:
        trainable = signature.trainable_variables
    return list(trainable or []), every


def _compare(facts: ModelFacts, data: TrainingData, spec: TrainedModel, emit: Emitter) -> None:
    """Say what of the new data is other than what the model was trained on.

    Raises:
        TrainingFailed: shape_mismatch: other classes without a new head.
    """
    before, now = (table and [column.meaning for column in table] for table in (facts.table, data.table))
    if before != now:
        raise TrainingFailed(
            "shape_mismatch",
            "the table's columns, or the values of its categories, are not those that the model was trained on",
            "Codes of categories would mean something else. Train a model of its own on this table.",
        )
    if facts.input_kind == "image" and data.input_kind == "image" and facts.largest_value != data.pixel_scale:
        emit.warn(
            "scale_differs",
            f"The model was trained on pixels up to {facts.largest_value:g}, and is given some up to "
            f"{data.pixel_scale:g}; its own preprocessing scales by the former.",
        )
    if not spec.new_head and data.classes is not None and facts.classes != data.classes:
        emit.warn(
            "classes_differ",
            f"The model's classes are {shorten(str(facts.classes), 120)}, the data's are "
            f"{shorten(str(data.classes), 120)}; new_head gives it outputs of its own for them.",
        )


def adapt(spec: TrainedModel, model: keras.Model, head: keras.Layer) -> keras.Model:
    """Freeze the layers that the spec names, and put ``head`` in place of the last layers if it asks for that.

    Raises:
        TrainingFailed: model_invalid with the field.
    """
    if not keras_config.is_plain(model):
        raise model_invalid("model", "the model to go on from has no defined input")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise model_invalid(
            "model",
            f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is supported",
        )
    if not spec.keep_optimizer:
        for layer in _layers(model):
            layer.trainable = True  # what an earlier job froze, this one trains unless it says so too
    _freeze(spec.freeze, model)
    if spec.new_head is not False:
        count = None if spec.new_head is True else int(spec.new_head)
        body = _without_head(model, count)
        taken = {layer.name for layer in _layers(body)}
        if head.name in taken:
            config = head.get_config()
            config["name"] = next(
                f"{head.name}_{n}" for n in range(2, 1000) if f"{head.name}_{n}" not in taken
            )
            head = type(head).from_config(config)
        if len(body.output_shape) != 2:
            raise model_invalid(
                "model.new_head",
                f"below the layers taken away the model gives {list(body.output_shape)}, not [batch, units]",
                "Take away fewer or more layers: a number counts them from the end.",
            )
        model = keras.Model(body.inputs, head(body.outputs[0]), name=model.name)
    if not model.trainable_variables:
        raise model_invalid("model.freeze", "no layer is left that could be trained")
    return model


def _layers(model: keras.Model) -> list[keras.Layer]:
    """All layers, those of models within it too."""
    found = []
    for layer in model.layers:
        found.append(layer)
        if isinstance(layer, keras.Model):
            found += _layers(layer)
    return found


def _freeze(patterns: list[str], model: keras.Model) -> None:
    every = _layers(model)
    for index, pattern in enumerate(patterns):
        matching = [layer for layer in every if fnmatch.fnmatchcase(layer.name, pattern)]
        if not matching:
            names = ", ".join(layer.name for layer in every)
            raise model_invalid(
                f"model.freeze.{index}",
                f"no layer is called {pattern!r}",
                f"Its layers are: {shorten(names, 600)}.",
            )
        for layer in matching:
            layer.trainable = False


def _without_head(model: keras.Model, count: int | None) -> keras.Model:
    """``model`` up to its last layer with weights, without it; or without its ``count`` last layers."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    last = layers[-1] if layers else None
    if isinstance(last, keras.Model):  # preprocessing before a whole model
        inner = _without_head(last, count)
        before = last.input if len(layers) == 1 else layers[-2].output
        inputs = model.inputs if len(layers) > 1 else inner.inputs
        return keras.Model(inputs, inner(before) if len(layers) > 1 else inner.outputs[0])
    if count is None:
        with_weights = [index for index, layer in enumerate(layers) if layer.weights]
        count = len(layers) - with_weights[-1] if with_weights else 1
    if count >= len(layers):
        raise model_invalid(
            "model.new_head", f"the model has {len(layers)} layers; at least one must stay below the new head"
        )
    try:
        return keras.Model(model.inputs, layers[-count - 1].output)
    except (ValueError, AttributeError) as error:
        raise model_invalid(
            "model.new_head", f"the model can't be cut there: {shorten(str(error), 300)}"
        ) from error
