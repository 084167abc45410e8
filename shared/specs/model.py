"""What to train: a builder by name, built in or the user's own, or an architecture in Keras' own JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.names import NAME_PATTERN
from shared.specs.base import Spec, by_key
from shared.specs.export import FromJob, FromVersion

MAX_CONFIG_BYTES = 4 * 2**20
# Layers that carry code, or reach outside the model, are never built from a request.
CODE_CLASSES = frozenset({"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer"})

Preprocessing = Literal["auto", "none", "rescale", "normalize"]


class Lenet5Params(Spec):
    """LeNet-5: C1 conv 6@5x5 relu, S2 max-pool, C3 conv 16@5x5 relu, S4 max-pool, dense 120, 84, softmax.

    Images smaller than 32x32 are zero-padded inside the model, as in LeCun et al. 1998.
    """


class MlpParams(Spec):
    """A dense network: flatten, then for each of ``units`` a relu layer and dropout, then the head."""

    units: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(min_length=1, max_length=32)] = [
        128,
        64,
    ]
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Fraction of inputs dropped after each layer.")

    @field_validator("units", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        # "128,64" is one categorical value in a search space; a list would not be. 64 is one layer.
        if isinstance(value, str):
            return [part.strip() for part in value.split(",")]
        return [value] if isinstance(value, int) else value


class BuilderModel(Spec):
    """A built-in architecture with its parameters."""

    builder: Literal["lenet5", "mlp"]
    params: dict[str, Any] = {}
    preprocessing: Preprocessing = Field(
        "auto",
        description="Layers put before the architecture, inside the model. auto: rescale images to [0, 1], "
        "normalize numeric columns by the training data's mean and variance.",
    )

    @model_validator(mode="after")
    def _params_fit_builder(self) -> BuilderModel:
        try:
            self.typed_params()
        except ValidationError as error:
            raise _below("params", error) from None
        return self

    def typed_params(self) -> Lenet5Params | MlpParams:
        """``params`` checked against the builder.

        Raises:
            pydantic.ValidationError: naming the parameter.
        """
        if self.builder == "lenet5":
            return Lenet5Params.model_validate(self.params)
        return MlpParams.model_validate(self.params)


def _below(key: str, error: ValidationError) -> ValidationError:
    """``error`` with its locations below ``key``."""
    lines = [
        InitErrorDetails(
            type=PydanticCustomError(item["type"], "{words}", {"words": item["msg"]}),
            loc=(key, *item["loc"]),
            input=item["input"],
        )
        for item in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, lines)


class UserModel(Spec):
    """A builder of the user's own: its ``build_model(params)`` makes the model (docs/user-code.md)."""

    builder: str = Field(pattern=NAME_PATTERN, description="Name of a builder; GET /builders lists them.")
    params: dict[str, Any] = Field({}, description="Handed to build_model.")
    preprocessing: Preprocessing = Field(
        "none", description="Layers put before the model. none: it takes rows as the data have them."
    )


class KerasConfigModel(Spec):
    """Any Keras architecture, as ``model.to_json()`` or ``keras.saving.serialize_keras_object`` write it."""

    keras_config: dict[str, Any]
    preprocessing: Preprocessing = "none"

    @field_validator("keras_config", mode="before")
    @classmethod
    def _parse_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return json.loads(value)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"not JSON: {error}") from None
        return value

    @field_validator("keras_config")
    @classmethod
    def _plain_keras_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "class_name" not in value or "config" not in value:
            raise ValueError(
                "expected Keras' own JSON with 'class_name' and 'config'; model.to_json() writes it"
            )
        try:
            size = len(json.dumps(value))
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if size > MAX_CONFIG_BYTES:
            raise ValueError(f"{size} bytes of config; the limit is {MAX_CONFIG_BYTES}")
        _refuse_code(value)
        return value


def _refuse_code(root: dict[str, Any]) -> None:
    """Refuse layers that carry code and classes from outside Keras.

    Keras' own ``safe_mode`` checks again when the model is built; this check answers at submission, in words.
    """
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            name = node.get("class_name")
            if isinstance(name, str):
                if name in CODE_CLASSES:
                    raise ValueError(
                        f"the layer {name} carries code, which is never run from a request; "
                        "use a built-in layer such as Rescaling, Normalization or Activation instead"
                    )
                module = node.get("module")
                if isinstance(module, str) and module.split(".")[0] != "keras":
                    raise ValueError(f"{module}.{name} is not one of Keras' own classes")
                if node.get("registered_name") not in (None, name, f"keras>{name}"):
                    raise ValueError(
                        f"{node['registered_name']} is a custom class; only Keras' own can be built"
                    )
            pending.extend(node.values())


Architecture = Annotated[
    Annotated[BuilderModel, Tag("builder")] | Annotated[KerasConfigModel, Tag("keras_config")],
    Discriminator(
        by_key("builder", "keras_config"),
        custom_error_type="model_kind",
        custom_error_message="name exactly one of 'builder' (lenet5, mlp) or 'keras_config'",
    ),
]


class TrainedModel(Spec):
    """What all models have in common that begin with trained weights (docs/fine-tuning.md)."""

    freeze: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [], max_length=200, description="Layers that are not trained, by name or glob: 'c1', 'block1_*'."
    )
    new_head: bool | Annotated[int, Field(ge=1, le=100)] = Field(
        False,
        description="Replace the last layer with weights (true), or so many last layers, by a new one for the new "
        "data's classes or numbers.",
    )
    keep_optimizer: bool = Field(
        False,
        description="Go on with the optimizer's state (moments, step count) instead of beginning anew. Only for the "
        "same optimizer and the same trainable weights.",
    )

    @field_validator("keep_optimizer")
    @classmethod
    def _of_the_same_weights(cls, value: bool, info: ValidationInfo) -> bool:
        if value and (info.data.get("new_head") or info.data.get("freeze")):
            raise ValueError(
                "the optimizer's state belongs to the weights it was trained with: leave out keep_optimizer, or both "
                "freeze and new_head"
            )
        return value


class FromVersionModel(TrainedModel):
    """The model of a published version."""

    from_version: FromVersion


class FromJobModel(TrainedModel):
    """The model of a train job, or one of its checkpoints."""

    from_job: FromJob


class FromFileModel(TrainedModel):
    """A file of your own: ``.keras``, ``.h5``, ``.weights.h5``, or a SavedModel's folder."""

    from_file: str = Field(
        min_length=1,
        max_length=4096,
        description="An upload's id (ds_...), or a path below a folder that the operator allows.",
    )
    architecture: Architecture | None = Field(
        None,
        description="What the weights belong to: for .weights.h5 files and SavedModels, which have none.",
    )
    preprocessing: Preprocessing = Field(
        "none",
        description="Layers put before the model. none: it has its own, or takes rows as the data have them.",
    )


_BUILT_IN = frozenset({"lenet5", "mlp"})
_key = by_key("builder", "keras_config", "from_version", "from_job", "from_file")


def _tag(value: Any) -> str | None:
    """The key that is present; a builder that is not built in is the user's."""
    key = _key(value)
    if key != "builder":
        return key
    name = value.get("builder") if isinstance(value, dict) else value.builder
    return "user_builder" if isinstance(name, str) and name not in _BUILT_IN else "builder"


ModelSpec = Annotated[
    Annotated[BuilderModel, Tag("builder")]
    | Annotated[UserModel, Tag("user_builder")]
    | Annotated[KerasConfigModel, Tag("keras_config")]
    | Annotated[FromVersionModel, Tag("from_version")]
    | Annotated[FromJobModel, Tag("from_job")]
    | Annotated[FromFileModel, Tag("from_file")],
    Discriminator(
        _tag,
        custom_error_type="model_kind",
        custom_error_message="name exactly one of 'builder' (lenet5, mlp, or one of your own), 'keras_config', "
        "'from_version', 'from_job' or 'from_file'",
    ),
]
