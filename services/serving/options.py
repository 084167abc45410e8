"""The command line: ``tensorflow_model_server``'s flag names, as far as this server does what they ask.

A flag of TensorFlow Serving that is not done here ends the program with a sentence: silently ignoring, say,
``--enable_batching`` would be worse.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from services.serving.channel import AVAILABLE
from services.serving.config import local_path
from services.serving.labels import LabelRule

# TensorFlow Serving's flags that ask for something not done here, with the values that ask for nothing.
_NOT_DONE: Mapping[str, tuple[str, ...]] = {
    "platform_config_file": ("",),
    "thread_pool_factory_config_file": ("",),
    "use_alts_credentials": ("false",),
    "skip_initialize_tpu": ("false", "true"),  # there is none
}
# Those that change no answer here, whatever their value: unloading never holds up loading, files are read once,
# functions that ask for XLA are compiled anyway, there is no profiler, ...
_WITHOUT_EFFECT = (
    "enable_profiler",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "num_unload_threads",
    "flush_filesystem_caches",
    "remove_unused_fields_from_bundle_metagraph",
    "prefer_tflite_model",  # a wish, which the SavedModel beside that file fulfils as well
    "num_tflite_interpreters_per_pool",
    "num_tflite_pools",
)
_GRPC_PORT = 8500
_REST_PORT = 8501
_BATCHING_THREADS = 64
_MOST_PROCESSES = 4
_THREADS = 16  # fewer could not gather a batch


@dataclass(frozen=True)
class GrpcOptions:
    """The gRPC side; ``port`` 0 and no ``socket_path``: none."""

    port: int
    socket_path: str
    required: bool  # asked for by a flag: then it must work
    threads: int
    channel_arguments: tuple[tuple[str, int | str], ...]
    ssl_config_file: Path | None
    health: bool
    as_content: bool

    @property
    def wanted(self) -> bool:
        return bool(self.port or self.socket_path)


@dataclass(frozen=True)
class Options:
    """What the server was started with; see ``--help`` for each field."""

    host: str
    reuse_port: bool
    processes: int  # beside this one, for predictions on LiteRT
    port: int | None  # REST's; 0: a free one; None: no REST
    model_name: str
    model_base_path: str
    model_config_file: Path | None
    config_poll_seconds: float
    models_dir: Path | None
    poll_seconds: float
    max_load_retries: int
    load_retry_seconds: float
    load_threads: int
    timeout_ms: int
    threads: int
    cors: bool
    intra_op_threads: int
    inter_op_threads: int
    warmup_iterations: int  # 0: none
    monitoring_config_file: Path | None
    request_log: Path | None
    grpc: GrpcOptions
    saved_model_tags: tuple[str, ...]
    session_config_file: Path | None
    gpu_memory_fraction: float
    bfloat16: bool
    batching: bool
    batching_file: Path | None
    per_model_batching: bool
    label_rule: LabelRule
    load_ahead: bool
    check_method_names: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the flags; ends the program with code 2 and a sentence if they can't be used."""
    parser = _build_parser()
    given, unknown = parser.parse_known_args(arguments)
    if unknown and given.models_dir is not None:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for argument in unknown:  # tensorflow_model_server starts all the same
        sys.stderr.write(f"unknown argument: {argument}\n")
    for flag, harmless in _NOT_DONE.items():
        value = getattr(given, flag)
        if value is not None and value.lower() not in (
            *harmless,
            *(("0", "no") if "false" in harmless else ()),
        ):
            parser.error(f"--{flag} is not supported by this server; leave it out or use tensorflow/serving")
    if (
        given.tensorflow_session_parallelism > 0
        and given.tensorflow_intra_op_parallelism > 0
        and given.tensorflow_inter_op_parallelism > 0
    ):
        parser.error(
            "--tensorflow_session_parallelism stands for the intra and inter flags: give it, or them"
        )
    if given.batching_parameters_file is not None and not given.enable_batching:
        parser.error("--batching_parameters_file needs --enable_batching")
    if not (_rest_port(given) is not None or _grpc_options(given, 1).wanted):
        parser.error("nothing to listen on: give --rest_api_port, --port or --grpc_socket_path")
    if given.models_dir is None and given.model_config_file is None and not given.model_base_path:
        parser.error("nothing to serve: give --models_dir, --model_base_path or --model_config_file")
    if given.model_base_path and not os.path.isabs(local_path(given.model_base_path)):
        parser.error(f"--model_base_path must be absolute, not {given.model_base_path!r}")
    poll = given.file_system_poll_wait_seconds
    intra_op_threads, inter_op_threads = _op_threads(given)
    cores = os.cpu_count() or 1
    return Options(
        host=given.rest_api_host,
        port=_rest_port(given),
        reuse_port=given.rest_api_reuse_port,
        processes=_processes(given, cores),
        model_name=given.model_name,
        model_base_path=local_path(given.model_base_path),
        model_config_file=given.model_config_file,
        config_poll_seconds=given.model_config_file_poll_wait_seconds,
        models_dir=given.models_dir,
        # One machine waits for its own publications, so it looks often; a look costs microseconds.
        poll_seconds=poll if poll is not None else (0.2 if given.models_dir else 1.0),
        max_load_retries=max(0, given.max_num_load_retries),
        load_retry_seconds=max(0, given.load_retry_interval_micros) / 1e6,
        load_threads=max(1, given.num_load_threads),
        timeout_ms=max(0, given.rest_api_timeout_in_ms),
        # Requests wait for their batch in a thread each.
        threads=max(0, given.rest_api_num_threads)
        or (_BATCHING_THREADS if given.enable_batching else max(_THREADS, 4 * cores)),
        cors=given.rest_api_enable_cors_support,
        intra_op_threads=intra_op_threads,
        inter_op_threads=inter_op_threads,
        warmup_iterations=max(1, given.num_request_iterations_for_warmup) if given.enable_model_warmup else 0,
        monitoring_config_file=given.monitoring_config_file,
        request_log=given.request_log,
        grpc=_grpc_options(given, cores),
        saved_model_tags=tuple(tag for tag in given.saved_model_tags.split(",") if tag) or ("serve",),
        session_config_file=given.tensorflow_session_config_file,
        gpu_memory_fraction=given.per_process_gpu_memory_fraction,
        bfloat16=given.mixed_precision == "bfloat16",
        batching=given.enable_batching,
        batching_file=given.batching_parameters_file,
        per_model_batching=given.enable_per_model_batching_parameters,
        label_rule=_label_rule(given),
        load_ahead=given.load_tensorflow_ahead,
        check_method_names=given.enable_signature_method_name_check,
    )


def _processes(given: argparse.Namespace, cores: int) -> int:
    # With these each request must be seen in one place; and who starts several servers has said how many.
    if not AVAILABLE or given.enable_batching or given.enable_signature_method_name_check:
        return 0
    asked: int | None = given.rest_api_processes
    if asked is not None:
        return max(0, asked)
    return 0 if given.rest_api_reuse_port or cores == 1 else min(cores, _MOST_PROCESSES)


def _op_threads(given: argparse.Namespace) -> tuple[int, int]:
    """Within an operation, and operations at one time; one of the two flags is enough to make the third unheard."""
    intra, inter = given.tensorflow_intra_op_parallelism, given.tensorflow_inter_op_parallelism
    both = given.tensorflow_session_parallelism
    return (max(0, intra), max(0, inter)) if intra > 0 or inter > 0 else (max(0, both), max(0, both))


def _rest_port(given: argparse.Namespace) -> int | None:
    port = given.rest_api_port
    if port is None:
        # TensorFlow Serving's default is none.
        return _REST_PORT if given.models_dir is not None else None
    if port == "auto":
        return 0
    return int(port) or None


def _label_rule(given: argparse.Namespace) -> LabelRule:
    # Found models come and go by themselves, so labels of a file beside them can't wait for the right moment.
    if given.force_allow_any_version_labels_for_unavailable_models or given.models_dir is not None:
        return LabelRule.ANY
    if given.allow_version_labels_for_unavailable_models:
        return LabelRule.UNUSED_LABELS
    return LabelRule.NONE


def _grpc_options(given: argparse.Namespace, cores: int) -> GrpcOptions:
    port = given.port
    if port is None:
        # Many servers of folders of models may run on one machine, each started with the one port it is given.
        port = 0 if given.models_dir is not None else _GRPC_PORT
    return GrpcOptions(
        port=port,
        socket_path=given.grpc_socket_path,
        required=given.port is not None or bool(given.grpc_socket_path),
        threads=max(0, given.grpc_max_threads) or (_BATCHING_THREADS if given.enable_batching else 4 * cores),
        channel_arguments=given.grpc_channel_arguments,
        ssl_config_file=given.ssl_config_file,
        health=given.enable_grpc_healthcheck_service,
        as_content=given.enable_serialization_as_tensor_content,
    )


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """``key=value,key=value``; whole numbers of 32 bits become numbers, as gRPC wants them."""
    arguments: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals):
            raise argparse.ArgumentTypeError(f"expected key=value, not {part!r}")
        try:
            number = int(value)
        except ValueError:
            number = 2**31
        arguments.append((key, number if -(2**31) <= number < 2**31 else value))
    return tuple(arguments)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def _version() -> str:
    try:
        return f"Modelyard model server {metadata.version('modelyard')}"
    except metadata.PackageNotFoundError:
        return "Modelyard model server"


def _port(text: str, *, auto: bool = False) -> int | str:
    if auto and text == "auto":
        return text
    # gRPC would take another port for a number that none has
    if text.isdecimal() and len(text) < 6 and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a port's number{' or auto' if auto else ''}, not {text!r}")


def _path(text: str) -> Path | None:
    return Path(text) if text else None  # an empty value is TensorFlow Serving's default for its file flags


def _build_parser() -> argparse.ArgumentParser:
    # No abbreviations: "--port" must not silently become something else.
    parser = _Parser(
        prog="python -m services.serving",
        description="Serve SavedModels over TensorFlow Serving's REST and gRPC APIs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    flag = partial(add, type=_boolean, nargs="?", const=True, default=False, metavar="BOOL")
    add(
        "--rest_api_port",
        type=partial(_port, auto=True),
        help=f"REST's port; 0: no REST; auto: a free one, which the log names (default 0; {_REST_PORT} with"
        " --models_dir)",
    )
    flag("--rest_api_reuse_port", help="let several of these servers listen on one REST port")
    add(
        "--rest_api_processes",
        type=int,
        help="processes beside this one for predictions on LiteRT; 0: none (default: one a core, at most"
        f" {_MOST_PROCESSES}; none with --rest_api_reuse_port, batching or checked method names)",
    )
    add("--rest_api_host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--model_name", default="default", help="name of the one model at --model_base_path")
    add("--model_base_path", default="", help="folder that holds the version folders of the one model")
    add("--model_config_file", type=_path, help="text proto ModelServerConfig; wins over --model_base_path")
    add("--model_config_file_poll_wait_seconds", type=float, default=0, help="0: read it once")
    add("--models_dir", type=Path, help="folder of models; each sub-folder is one, new ones are picked up")
    add(
        "--file_system_poll_wait_seconds",
        type=float,
        help="how often to look for versions: 0 once, negative never (default 1; 0.2 with --models_dir)",
    )
    add("--max_num_load_retries", type=int, default=5, help="tries after the first (default %(default)s)")
    add("--load_retry_interval_micros", type=int, default=60_000_000, help="(default %(default)s)")
    add("--num_load_threads", type=int, default=2, help="loads at one time (default %(default)s)")
    add("--rest_api_timeout_in_ms", type=int, default=30_000, help="limit for one call of a graph")
    add(
        "--rest_api_num_threads", type=int, default=0, help="predictions at one time; 0: four times the cores"
    )
    flag("--rest_api_enable_cors_support", help="allow requests from pages of other origins")
    add(
        "--tensorflow_intra_op_parallelism", type=int, default=0, help="threads within an operation; 0: cores"
    )
    add("--tensorflow_inter_op_parallelism", type=int, default=0, help="operations at one time; 0: cores")
    flag("--enable_model_warmup", default=True, help="run the requests that come with a version")
    add("--num_request_iterations_for_warmup", type=int, default=1, help="runs of each warm-up request")
    add(
        "--monitoring_config_file",
        type=_path,
        help="text proto MonitoringConfig: Prometheus' metrics and their path (default: no metrics)",
    )
    flag(
        "--load_tensorflow_ahead",
        help="load it behind versions that LiteRT answers for, rather than at the first request that needs it",
    )
    add("--request_log", type=_path, help="append one JSON line per request to this file")
    add(
        "--port",
        type=_port,
        help=f"gRPC's port; 0: no gRPC (default {_GRPC_PORT}; 0 with --models_dir). Listens on --rest_api_host",
    )
    add("--grpc_socket_path", default="", help="UNIX socket to answer gRPC on as well")
    add("--grpc_max_threads", type=int, default=0, help="gRPC calls at one time; 0: four times the cores")
    add("--grpc_channel_arguments", type=_channel_arguments, default=(), help="key=value,key=value for gRPC")
    add("--ssl_config_file", type=_path, help="text proto SSLConfig: TLS for gRPC (REST is always plain)")
    flag("--enable_grpc_healthcheck_service", help="answer gRPC's health protocol")
    flag(
        "--enable_serialization_as_tensor_content", help="outputs over gRPC as bytes, not as lists of numbers"
    )
    add(
        "--saved_model_tags",
        default="serve",
        help="tags of the graph to load, by commas (default %(default)s)",
    )
    add("--tensorflow_session_parallelism", type=int, default=0, help="both of the two flags above at once")
    add("--tensorflow_session_config_file", type=_path, help="text proto ConfigProto for sessions")
    add("--per_process_gpu_memory_fraction", type=float, default=0, help="0: TensorFlow decides")
    add("--mixed_precision", default="", help="bfloat16: let oneDNN compute in it where it can")
    flag("--enable_batching", help="run requests that arrive together as one")
    flag(
        "--enable_per_model_batching_parameters",
        help="batch the versions whose folder has a batching_params.pbtxt, by that",
    )
    flag(
        "--enable_signature_method_name_check",
        help="refuse signatures that were exported for another method than the one asked",
    )
    add("--batching_parameters_file", type=_path, help="text proto BatchingParameters")
    flag(
        "--allow_version_labels_for_unavailable_models",
        help="labels that mean no other version may be set before their version is available",
    )
    flag("--force_allow_any_version_labels_for_unavailable_models", help="any label may")
    add("--version", action="version", version=_version(), help="print the version and end")
    for name in (*_NOT_DONE, *_WITHOUT_EFFECT):
        add(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    return parser
