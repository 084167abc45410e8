"""Optimizer, loss and metrics from their names, and the form in which they need the labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import keras

from services.worker.training import own_compile, precision, schedules
from services.worker.training.data.record import Array, TrainingData
from services.worker.training.failures import TrainingFailed, model_invalid
from services.worker.training.heads import Head
from services.worker.training.keras_config import in_words
from services.worker.training.own_compile import OwnCompile
from shared.specs import FitSpec, KerasObject, keras_names

Labels = Literal["sparse", "one_hot", "column", "numbers"]

_ALIASES = {
    "mse": "MeanSquaredError",
    "mae": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError",
}
# metrics that compare probabilities class by class, so class numbers must come as one-hot rows
_ONE_HOT_METRICS = frozenset(
    """auc precision recall f1_score f_beta_score categorical_accuracy categorical_crossentropy
    top_k_categorical_accuracy precision_at_recall recall_at_precision sensitivity_at_specificity
    specificity_at_sensitivity true_positives true_negatives false_positives false_negatives categorical_hinge
    one_hot_io_u one_hot_mean_io_u kl_divergence""".split()
)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What compiling decided.

    Attributes:
        labels: sparse int32 [N]; one_hot float32 [N, units]; column float32 [N, 1]; numbers float32 [N, D].
        logits: the model's outputs are logits, which serving turns into probabilities.
        class_weight: what a row of each class counts for in the loss, float32 [classes]; None: all alike. Metrics
            are not weighted, as with ``fit(class_weight=)``.
        weighted: training labels come with a weight for each row, in a last column.
    """

    labels: Labels
    logits: bool
    loss: str
    optimizer: str
    metrics: list[str]
    class_weight: Array | None = None
    weighted: bool = False


def compile_model(
    model: keras.Model,
    fit: FitSpec,
    data: TrainingData,
    head: Head,
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Compiled:
    """Compile ``model`` in place. What a model of the user's came compiled with stays, unless ``fit`` names another.

    The optimizer is created in a strategy's ``scope``, metrics are not.

    Raises:
        TrainingFailed: model_invalid with the path of the field, or shape_mismatch.
    """
    own = own_compile.of(model)
    if own is not None:
        return _compile_own(model, own, fit, data, head, scope)
    metrics = fit.metrics if fit.metrics is not None else _default_metrics(data)
    wants_one_hot = any(_snake(metric.name) in _ONE_HOT_METRICS for metric in metrics)
    name = _loss_class(fit.loss.name) if fit.loss is not None else _default_loss(data, head, wants_one_hot)
    params = dict(fit.loss.params) if fit.loss is not None else {}
    loss_type = getattr(keras.losses, name)
    logits = bool(params.get("from_logits", head.activation == "linear"))
    if "from_logits" in inspect.signature(loss_type).parameters:
        params.setdefault("from_logits", logits)
    else:
        logits = False
    labels = _labels(name, data, head, wants_one_hot=wants_one_hot and fit.loss is not None)
    if data.classes is None:
        logits = False
    measures = [_metric(index, metric, head, logits) for index, metric in enumerate(metrics)]
    with scope():
        model.compile(
            optimizer=precision.scaled(_optimizer(fit), model),
            auto_scale_loss=False,
            loss=_made("fit.loss", lambda: loss_type(**params)),
            metrics=measures,
        )
        _made("fit.optimizer", lambda: model.optimizer.build(model.trainable_variables))
    return Compiled(
        labels=labels,
        logits=logits,
        loss=name,
        optimizer=optimizer_name(model),
        metrics=[metric.name for metric in metrics],
    )


def _compile_own(
    model: keras.Model,
    own: OwnCompile,
    fit: FitSpec,
    data: TrainingData,
    head: Head,
    scope: Callable[[], AbstractContextManager[Any]],
) -> Compiled:
    if fit.loss is not None:
        name: str | None = _loss_class(fit.loss.name)
        params = dict(fit.loss.params)
        loss = _made("fit.loss", lambda: getattr(keras.losses, name or "")(**params))
    else:
        loss = own.loss if own.loss is not None else _default_loss(data, head, wants_one_hot=False)
        name = own_compile.loss_name(loss)
    logits = data.classes is not None and own_compile.from_logits(loss)
    metrics = own.metrics
    if fit.metrics is not None:
        metrics = [_metric(index, metric, head, logits) for index, metric in enumerate(fit.metrics)]
    with scope():
        optimizer = precision.scaled(_own_optimizer(own, fit), model)
        model.compile(optimizer=optimizer, auto_scale_loss=False, loss=loss, metrics=metrics)
        _made("fit.optimizer", lambda: model.optimizer.build(model.trainable_variables))
    if name is not None:
        labels = _labels(name, data, head, wants_one_hot=False)
    else:  # a loss of their own gets class numbers, as the data have them
        labels = "numbers" if data.classes is None else "column" if head.units == 1 else "sparse"
    return Compiled(
        labels=labels,
        logits=logits,
        loss=name or own_compile.name_of(loss),
        optimizer=optimizer_name(model),
        metrics=[own_compile.name_of(metric) for metric in metrics or ()],
    )


def _own_optimizer(own: OwnCompile, fit: FitSpec) -> keras.Optimizer:
    if fit.optimizer is not None or own.optimizer is None:
        return _optimizer(fit)
    optimizer = keras.optimizers.get(own.optimizer)
    if fit.learning_rate is not None:
        rate = fit.learning_rate
        fixed = isinstance(rate, float | int)
        optimizer.learning_rate = (
            rate if fixed else _made("fit.learning_rate", lambda: schedules.by_step(rate))
        )
    return optimizer


def optimizer_name(model: keras.Model) -> str:
    """The class of a compiled model's optimizer, within the one that scales the loss for float16."""
    optimizer = model.optimizer
    return type(getattr(optimizer, "inner_optimizer", optimizer)).__name__


def _default_metrics(data: TrainingData) -> list[KerasObject]:
    return [KerasObject(name="accuracy" if data.classes is not None else "mean_absolute_error")]


def _default_loss(data: TrainingData, head: Head, wants_one_hot: bool) -> str:
    if data.classes is None:
        return "MeanSquaredError"
    if head.units == 1:
        return "BinaryCrossentropy"
    # the same number either way
    return "CategoricalCrossentropy" if wants_one_hot else "SparseCategoricalCrossentropy"


def _labels(loss: str, data: TrainingData, head: Head, *, wants_one_hot: bool) -> Labels:
    if data.classes is None:
        return "numbers"
    if loss.startswith("Sparse"):
        if wants_one_hot:
            raise model_invalid(
                "fit.metrics",
                f"one of the metrics compares class by class, which does not go with the loss {loss}",
                "Leave fit.loss out, or use categorical_crossentropy, which is the same number.",
            )
        if head.units == 1:
            raise TrainingFailed(
                "shape_mismatch",
                f"the model has 1 output, but {loss} needs one a class",
                "Use binary_crossentropy, or give the last layer 2 units.",
            )
        return "sparse"
    return "column" if head.units == 1 else "one_hot"


def _optimizer(fit: FitSpec) -> keras.Optimizer:
    wanted = fit.optimizer or KerasObject(name="adam")
    config = dict(wanted.params)
    if fit.learning_rate is not None:
        config["learning_rate"] = fit.learning_rate
    rate = config.get("learning_rate")
    if rate is not None and not isinstance(rate, float | int):
        config["learning_rate"] = _made("fit.optimizer", lambda: schedules.by_step(rate))
    known = {name.lower(): name for name in keras_names.OPTIMIZERS if name[0].isupper()}
    name = known[wanted.name.lower()]
    return _made(
        "fit.optimizer",
        lambda: keras.optimizers.deserialize({"class_name": name, "config": config}),
    )


def _metric(index: int, metric: KerasObject, head: Head, logits: bool) -> Any:
    field = f"fit.metrics.{index}"
    if metric.name == "accuracy" and not metric.params:
        if head.units == 1 and logits:
            return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
        return "accuracy"  # Keras picks the kind from the shapes
    if not metric.params:
        return _made(field, lambda: keras.metrics.get(metric.name))
    classes = {_snake(name): name for name in keras_names.METRICS if name[0].isupper()}
    name = classes.get(_snake(_ALIASES.get(metric.name, metric.name)))
    if name is None:
        raise model_invalid(field, f"{metric.name} takes no params")
    return _made(field, lambda: getattr(keras.metrics, name)(**metric.params))


def _loss_class(name: str) -> str:
    name = _ALIASES.get(name, name)
    classes = {_snake(known): known for known in keras_names.LOSSES if known[0].isupper()}
    return classes[_snake(name)]


def _snake(name: str) -> str:
    return keras_names._snake(name) if not name.islower() else name


def _made(field: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise model_invalid(f"{field}.params", in_words(error)) from error
