"""Builds the small SavedModels of these tests; run as a program, so that no test process holds TensorFlow.

``python build_models.py DIR`` makes ``DIR/<kind>/`` for each kind below: exports without a version folder, to be
copied or renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

# TensorFlow loads it unasked, which takes as long as the rest; nothing here needs it
sys.modules["keras"] = None  # type: ignore[assignment]

import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog  # noqa: E402


class HalfPlusTwo(tf.Module):
    """y = x * 0.5 + bias; ``bias`` tells versions apart."""

    def __init__(self, bias: float = 2.0) -> None:
        super().__init__()
        self.slope = tf.Variable(0.5)
        self.bias = tf.Variable(bias)

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": x * self.slope + self.bias}


class Mixed(tf.Module):
    """Two inputs, three outputs, of several types."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="numbers"),
            tf.TensorSpec([None], tf.string, name="text"),
        ]
    )
    def __call__(self, numbers: Any, text: Any) -> dict[str, Any]:
        return {"total": tf.reduce_sum(numbers, axis=1), "text": text, "text_bytes": text}


class Kinds(tf.Module):
    """One signature per oddity."""

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int64, name="x")])
    def int64(self, x: Any) -> dict[str, Any]:
        return {"y": x + 0}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.uint64, name="x")])
    def uint64(self, x: Any) -> dict[str, Any]:
        return {"y": x + 0}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.bool, name="x")])
    def boolean(self, x: Any) -> dict[str, Any]:
        return {"y": tf.logical_not(x)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def scalar(self, x: Any) -> dict[str, Any]:
        return {"y": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def half(self, x: Any) -> dict[str, Any]:
        return {"y": tf.cast(x, tf.float16)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float16, name="x")])
    def from_half(self, x: Any) -> dict[str, Any]:
        return {"y": tf.cast(x, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def inverse(self, x: Any) -> dict[str, Any]:
        return {"y": 1.0 / x}

    @tf.function(input_signature=[])
    def constant(self) -> dict[str, Any]:
        """Needs no input: gRPC can ask for it, REST can't."""
        return {"y": tf.constant(42.0)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="n")])
    def slow(self, n: Any) -> dict[str, Any]:
        """``n`` multiplications of a matrix: seconds for large n."""
        matrix = tf.eye(256) * 0.5
        _, matrix = tf.while_loop(lambda i, _: i < n, lambda i, m: (i + 1, tf.matmul(m, m)), [0, matrix])
        return {"y": tf.reduce_sum(matrix)}


class Examples(tf.Module):
    """What a canned estimator would export: parses tf.Example, classifies and regresses."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs: Any) -> dict[str, Any]:
        x = self._x(inputs)
        labels = tf.tile([["low", "high"]], [tf.shape(x)[0], 1])
        return {"classes": labels, "scores": tf.stack([1.0 - x, x], axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs: Any) -> dict[str, Any]:
        return {"outputs": self._x(inputs)[:, tf.newaxis] * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def words(self, inputs: Any) -> dict[str, Any]:
        found = tf.io.parse_example(
            inputs,
            {
                "word": tf.io.FixedLenFeature([], tf.string, ""),
                "n": tf.io.FixedLenFeature([2], tf.int64, [0, 0]),
            },
        )
        return {"outputs": tf.cast(tf.reduce_sum(found["n"], axis=1) + 0, tf.float32)}

    def _x(self, inputs: Any) -> Any:
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]


class Dense(tf.Module):
    """A layer that LiteRT can run: y = relu(x w + b)."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.reshape(tf.range(12.0) / 10.0, [4, 3]))
        self.bias = tf.Variable(tf.fill([3], bias))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(tf.matmul(x, self.kernel) + self.bias)}


class Convolution(tf.Module):
    """What a small network for images does, with kernels that end the process when they get another rank."""

    def __init__(self) -> None:
        super().__init__()
        random = tf.random.Generator.from_seed(1)
        self.filters = tf.Variable(random.normal([3, 3, 1, 4]))
        self.kernel = tf.Variable(random.normal([36, 3]))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="image")])
    def __call__(self, image: Any) -> dict[str, Any]:
        convolved = tf.nn.relu(tf.nn.conv2d(image, self.filters, 1, "VALID"))
        pooled = tf.nn.max_pool2d(convolved, 2, 2, "VALID")
        return {"y": tf.matmul(tf.reshape(pooled, [-1, 36]), self.kernel)}


def save_with_litert(target: Path, bias: float, litert_bias: float, *, proven: bool = False) -> None:
    """A version with a LiteRT model beside it, as publishing lays it out; ``proven``: with a record."""
    dense = Dense(litert_bias)
    tf.saved_model.save(dense, str(target), signatures=dense.__call__)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(target), signature_keys=["serving_default"])
    content = converter.convert()
    dense.bias.assign(tf.fill([3], bias))
    tf.saved_model.save(dense, str(target), signatures=dense.__call__)
    folder = target / "assets.extra" / "modelyard"
    (folder / "litert").mkdir(parents=True)
    (folder / "litert" / "model.tflite").write_bytes(content)
    one = {"file": "litert/model.tflite", "sha256": hashlib.sha256(content).hexdigest()}
    described = {"format": 1, "signatures": {"serving_default": one}}
    if proven:
        files = [target / "saved_model.pb", *(target / "variables").iterdir()]
        described["saved_model"] = {
            str(file.relative_to(target)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
        }
    (folder / "litert.json").write_text(json.dumps(described))


class Image(tf.Module):
    """Mean brightness of an encoded image. An empty text is no image."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def __call__(self, image_bytes: Any) -> dict[str, Any]:
        def mean(encoded: Any) -> Any:
            return tf.reduce_mean(tf.cast(tf.io.decode_png(encoded), tf.float32))

        return {"y": tf.map_fn(mean, image_bytes, fn_output_signature=tf.float32)}


def save_without_a_variable(target: Path) -> None:
    """A TensorFlow 1 export whose checkpoint lacks one variable: it loads, and can't answer."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        saved = v1.get_variable("saved", initializer=0.5, use_resource=True)
        left_out = v1.get_variable("left_out", initializer=2.0, use_resource=True)
        y = x * saved + left_out
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(target))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, saver=v1.train.Saver([saved])
        )
        builder.save()


def write_warmups(target: Path) -> None:
    """Files of warm-up records for the ``examples`` model: ``good``, ``failing`` and ``streamed``."""
    example = tf.train.Example(
        features=tf.train.Features(
            feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=[2.0]))}
        )
    )

    def log(kind: str) -> tuple[PredictionLog, Any]:
        entry = PredictionLog()
        return entry, getattr(entry, kind).request

    predict, request = log("predict_log")
    request.model_spec.name = "another_name"  # is not looked at
    request.model_spec.signature_name = "regress"
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([example.SerializeToString()]))
    classify, request = log("classify_log")
    request.model_spec.name, request.model_spec.signature_name = "m", "classify"
    request.input.example_list.examples.append(example)
    regress, request = log("regress_log")
    request.model_spec.name, request.model_spec.signature_name = "m", "regress"
    request.input.example_list_with_context.context.CopyFrom(example)
    request.input.example_list_with_context.examples.add()
    multi, request = log("multi_inference_log")
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.signature_name = method  # without a name, which is not looked at either
    request.input.example_list.examples.append(example)
    failing, request = log("predict_log")
    request.model_spec.name, request.model_spec.signature_name = "m", "nowhere"
    streamed, request = log("session_run_log")
    request.model_spec.name = "m"
    for name, entries in {
        "good": (predict, classify, regress, multi),
        "failing": (predict, failing),
        "streamed": (streamed,),
    }.items():
        with tf.io.TFRecordWriter(str(target / name)) as writer:
            for entry in entries:
                writer.write(entry.SerializeToString())


def main(target: Path) -> None:
    half = HalfPlusTwo()
    tf.saved_model.save(half, str(target / "half_plus_two"), signatures=half.__call__)
    mixed = Mixed()
    tf.saved_model.save(mixed, str(target / "mixed"), signatures=mixed.__call__)
    kinds = Kinds()
    names = ("int64", "uint64", "boolean", "scalar", "half", "from_half", "inverse", "slow", "constant")
    tf.saved_model.save(
        kinds, str(target / "kinds"), signatures={name: getattr(kinds, name) for name in names}
    )
    examples = Examples()
    names = ("classify", "regress", "words")
    tf.saved_model.save(
        examples, str(target / "examples"), signatures={name: getattr(examples, name) for name in names}
    )
    image = Image()
    tf.saved_model.save(image, str(target / "image"), signatures=image.__call__)
    convolution = Convolution()
    tf.saved_model.save(convolution, str(target / "convolution"), signatures=convolution.__call__)
    save_with_litert(target / "litert", 0.5, 0.5)
    save_with_litert(target / "other_litert", 0.5, 0.75)
    save_with_litert(target / "proven_litert", 0.5, 0.5, proven=True)
    (target / "warmups").mkdir()
    write_warmups(target / "warmups")
    save_without_a_variable(target / "without_a_variable")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
