"""What a person may ask for, as frozen, typed records that refuse unknown fields.

Modules: ``model``, ``dataset`` and ``dataset_options`` (what to train, on what), ``fit`` (how), ``callbacks`` and
``schedule`` (Keras' own, by name), ``checkpoint``, ``tensorboard``, ``strategy`` (on which replicas), ``devices``
(where), ``export`` (which model to write, in which formats), ``space`` and ``optimiser`` (which parameters to try,
and how), ``job`` and ``tune`` (jobs), ``request`` (any of them), ``keras_names`` (the names Keras itself knows).
Nothing here imports a framework but pydantic.
"""

from shared.specs.callbacks import CallbackSpec
from shared.specs.checkpoint import BestSpec, CheckpointSpec
from shared.specs.dataset import (
    CsvDataset,
    DatasetSpec,
    ImagesDataset,
    NpzDataset,
    TfdsDataset,
    TfrecordDataset,
)
from shared.specs.dataset_user import UserDataset
from shared.specs.devices import DeviceSpec
from shared.specs.export import FromJob, FromVersion
from shared.specs.fit import FitSpec, KerasObject
from shared.specs.job import ExportJob, PublishSpec, RetrySpec, TrainJob
from shared.specs.model import (
    BuilderModel,
    FromFileModel,
    FromJobModel,
    FromVersionModel,
    KerasConfigModel,
    Lenet5Params,
    MlpParams,
    ModelSpec,
    TrainedModel,
    UserModel,
)
from shared.specs.optimiser import Objective
from shared.specs.request import JOB, JobSpec, parse_job
from shared.specs.strategy import (
    CentralStorageStrategy,
    DefaultStrategy,
    MirroredStrategy,
    MultiWorkerMirroredStrategy,
    OneDeviceStrategy,
    ParameterServerStrategy,
    StrategySpec,
    TpuStrategy,
)
from shared.specs.tensorboard import TensorBoardSpec
from shared.specs.tune import TuneJob

__all__ = [
    "JOB",
    "BestSpec",
    "BuilderModel",
    "CallbackSpec",
    "CentralStorageStrategy",
    "CheckpointSpec",
    "CsvDataset",
    "DatasetSpec",
    "DefaultStrategy",
    "DeviceSpec",
    "ExportJob",
    "FitSpec",
    "FromFileModel",
    "FromJob",
    "FromJobModel",
    "FromVersion",
    "FromVersionModel",
    "ImagesDataset",
    "JobSpec",
    "KerasConfigModel",
    "KerasObject",
    "Lenet5Params",
    "MirroredStrategy",
    "MlpParams",
    "ModelSpec",
    "MultiWorkerMirroredStrategy",
    "NpzDataset",
    "Objective",
    "OneDeviceStrategy",
    "ParameterServerStrategy",
    "PublishSpec",
    "RetrySpec",
    "StrategySpec",
    "TensorBoardSpec",
    "TfdsDataset",
    "TfrecordDataset",
    "TpuStrategy",
    "TrainJob",
    "TrainedModel",
    "TuneJob",
    "UserDataset",
    "UserModel",
    "parse_job",
]
