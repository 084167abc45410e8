"""The names that Keras knows, written down so that the API can refuse a typo without loading Keras.

A test compares these lists with the installed Keras. Left out on purpose: optimizers that wrap others
(LossScaleOptimizer, MultiOptimizer), metrics that need a function (MeanMetricWrapper); for callbacks see ``callbacks``.
"""

from __future__ import annotations

import difflib
import re

_OPTIMIZERS = """Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion Muon Nadam RMSprop SGD
ScheduleFreeAdamW""".split()

_LOSSES = """BinaryCrossentropy BinaryFocalCrossentropy CTC CategoricalCrossentropy CategoricalFocalCrossentropy
CategoricalGeneralizedCrossEntropy CategoricalHinge Circle CosineSimilarity Dice Hinge Huber KLDivergence
LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError MeanSquaredLogarithmicError Poisson
SparseCategoricalCrossentropy SquaredHinge Tversky""".split()

_LOSS_FUNCTIONS = """binary_crossentropy binary_focal_crossentropy categorical_crossentropy
categorical_focal_crossentropy
categorical_generalized_cross_entropy categorical_hinge circle cosine_similarity ctc dice hinge huber
kl_divergence log_cosh mean_absolute_error mean_absolute_percentage_error mean_squared_error
mean_squared_logarithmic_error poisson sparse_categorical_crossentropy squared_hinge tversky mae mse mape
msle""".split()

_METRICS = """AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU CategoricalAccuracy CategoricalCrossentropy
CategoricalHinge ConcordanceCorrelation CosineSimilarity F1Score FBetaScore FalseNegatives FalsePositives
Hinge IoU KLDivergence LogCoshError Mean MeanAbsoluteError MeanAbsolutePercentageError MeanIoU
MeanSquaredError MeanSquaredLogarithmicError OneHotIoU OneHotMeanIoU PearsonCorrelation Poisson Precision
PrecisionAtRecall R2Score Recall RecallAtPrecision RootMeanSquaredError SensitivityAtSpecificity
SparseCategoricalAccuracy SparseCategoricalCrossentropy SparseTopKCategoricalAccuracy
SpecificityAtSensitivity SquaredHinge Sum TopKCategoricalAccuracy TrueNegatives TruePositives""".split()

_METRIC_FUNCTIONS = """accuracy auc binary_accuracy binary_crossentropy binary_focal_crossentropy categorical_accuracy
categorical_crossentropy categorical_focal_crossentropy categorical_hinge concordance_correlation
cosine_similarity hinge huber kl_divergence log_cosh mean_absolute_error mean_absolute_percentage_error
mean_squared_error mean_squared_logarithmic_error pearson_correlation poisson sparse_categorical_accuracy
sparse_categorical_crossentropy sparse_top_k_categorical_accuracy squared_hinge top_k_categorical_accuracy
mae mse mape msle r2_score""".split()

CALLBACKS = frozenset(
    """CSVLogger EarlyStopping LearningRateScheduler ModelCheckpoint ReduceLROnPlateau SwapEMAWeights
    TerminateOnNaN""".split()
)

# Layers that change rows in training only.
AUGMENTATION = frozenset(
    """GaussianDropout GaussianNoise RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
    RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
    RandomTranslation RandomZoom""".split()
)


def _snake(name: str) -> str:
    """Keras' own rule for the text form of a class name (keras.src.utils.naming.to_snake_case)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


OPTIMIZERS = frozenset(_OPTIMIZERS) | {name.lower() for name in _OPTIMIZERS}
LOSSES = frozenset(_LOSSES) | frozenset(_LOSS_FUNCTIONS)
METRICS = frozenset(_METRICS) | {_snake(name) for name in _METRICS} | frozenset(_METRIC_FUNCTIONS)


def closest(name: str, names: frozenset[str]) -> str | None:
    """The known name nearest to a mistyped one, or None."""
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return found[0] if found else None
