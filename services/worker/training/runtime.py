"""TensorFlow's runtime, set up for one job before its first op."""

from __future__ import annotations

import keras
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.eager import context

from shared.specs import FitSpec


def prepare(fit: FitSpec) -> None:
    """Seed everything, and make the runtime deterministic if the job asks for it."""
    without_memory_optimizer()
    keras.utils.set_random_seed(fit.seed)
    if fit.deterministic:
        tf.config.experimental.enable_op_determinism()


def without_memory_optimizer() -> None:
    """Switch off one of the graph optimizer's passes, which breaks loops (TensorFlow 2.21).

    Where it believes memory to be short, the pass rewrites sums of three and more tensors to temporary variables. In
    the body of a loop these collide: ``AlreadyExistsError: Resource __per_step_0/while/body/.../tmp_var``. Any
    model that uses a tensor three times has such a sum among its gradients. ``tf.config.optimizer`` has a switch for
    every other pass but not for this one, so it is set where those end up.
    """
    current = context.context()
    config = current._config or tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    current._config = config
