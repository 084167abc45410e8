"""What a person may ask for, as frozen, typed records that refuse unknown fields.

Modules: ``model`` and ``dataset`` (what to train, on what), ``fit`` (how), ``job`` (the whole request),
``keras_names`` (the names Keras itself knows). Nothing here imports a framework but pydantic.
"""

from shared.specs.dataset import CsvDataset, DatasetSpec, NpzDataset, TfdsDataset
from shared.specs.fit import CheckpointSpec, FitSpec, KerasObject, TensorBoardSpec
from shared.specs.job import JobSpec, PublishSpec, RetrySpec, TrainJob, parse_job
from shared.specs.model import BuilderModel, KerasConfigModel, Lenet5Params, MlpParams, ModelSpec

__all__ = [
    "BuilderModel",
    "CheckpointSpec",
    "CsvDataset",
    "DatasetSpec",
    "FitSpec",
    "JobSpec",
    "KerasConfigModel",
    "KerasObject",
    "Lenet5Params",
    "MlpParams",
    "ModelSpec",
    "NpzDataset",
    "PublishSpec",
    "RetrySpec",
    "TensorBoardSpec",
    "TfdsDataset",
    "TrainJob",
    "parse_job",
]
