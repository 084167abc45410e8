"""The entry point: wires the parts, listens, and ends in order on SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import uvicorn

from services.serving.adaptive import AdaptiveServable, batchable
from services.serving.batching import BatchedServable, Scheduler
from services.serving.config import (
    ModelConfig,
    parse_batching_config,
    parse_monitoring_config,
    parse_ssl_config,
)
from services.serving.dataplane import Dataplane
from services.serving.errors import Code, ServingError
from services.serving.labels import CheckLabels, check_labels
from services.serving.litert import with_litert
from services.serving.loader import LoaderOptions, SavedModel, import_tensorflow, load_saved_model
from services.serving.manager import ModelManager, RetryRule
from services.serving.options import Options, parse_options
from services.serving.preparation import Step, prepared
from services.serving.reload import Reload, reload_models
from services.serving.rest import RestApp
from services.serving.signature import Servable
from services.serving.source import ModelsFolder
from services.serving.telemetry import RequestLog, Telemetry
from services.serving.textproto import ConfigError
from services.serving.trial import try_signatures
from services.serving.warmup import warm_up
from services.serving.watcher import Catalog, ConfigFile, Watcher

if TYPE_CHECKING:
    from services.serving.grpc_server import GrpcServer, Method

log = logging.getLogger("serving")
T = TypeVar("T")
_SWITCH_SECONDS = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; the exit code."""
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)-7s  %(name)s  %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # TensorFlow's C++ side reads this when it is imported; its start-up chatter is no event of ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A load runs Python code for hundreds of milliseconds; a request needs the interpreter several times meanwhile,
    # and would wait for the default of 5 ms each time.
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        metrics_path = _metrics_path(options)
        telemetry = Telemetry(_request_log(options))
        loader_options = _loader_options(options)
        wrap = _batching(options)
        grpc_server = _grpc_server(options, telemetry)
        manager = _manager(options, telemetry, loader_options, wrap)
        check = partial(check_labels, manager=manager, rule=options.label_rule)
        catalog = _catalog(options, check)
        listener = (
            None if options.port is None else _listen(options.host, options.port, shared=options.reuse_port)
        )
    except ConfigError as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("%s", error)
        return 1
    watcher = Watcher(catalog, manager, options.poll_seconds)
    dataplane = Dataplane(manager)
    app = RestApp(
        dataplane,
        is_ready=lambda: watcher.has_looked,
        threads=options.threads,
        cors=options.cors,
        telemetry=telemetry,
        metrics_path=metrics_path,
        as_tensorflow_serving=options.models_dir is None,
    )
    if listener is not None:
        log.info("listening on http://%s:%d", options.host, listener.getsockname()[1])
    # The port is open before anything is loaded: one bad model must not keep the others, or the health
    # check, from answering.
    manager.start()
    watcher.start()
    if grpc_server is not None:
        reload = partial(reload_models, catalog, watcher, manager, check=check)
        grpc_server.start(partial(_grpc_methods, dataplane, reload, telemetry, options))
    _serve(app, listener, options, grpc_server)
    log.info("stopping")
    watcher.stop()
    manager.stop()
    app.close()
    telemetry.close()
    return 0


def _manager(
    options: Options,
    telemetry: Telemetry,
    loader_options: LoaderOptions,
    wrap: Callable[[Servable, str], Servable],
) -> ModelManager:
    return ModelManager(
        prepared(
            partial(load_saved_model, options=loader_options),
            _steps(options, telemetry),
            telemetry,
            wrap,
        ),
        retry=RetryRule(options.max_load_retries, options.load_retry_seconds),
        load_threads=options.load_threads,
    )


def _steps(options: Options, telemetry: Telemetry) -> list[Step]:
    """What a loaded version must pass before it is AVAILABLE."""
    steps: list[Step] = [lambda servable, _: try_signatures(servable)]
    if options.warmup_iterations:
        steps.append(lambda servable, path: warm_up(servable, path, options.warmup_iterations, telemetry))
    return steps


def _request_log(options: Options) -> RequestLog | None:
    try:
        return RequestLog(options.request_log) if options.request_log else None
    except OSError as error:
        raise ConfigError(f"--request_log {options.request_log}: {error.strerror}") from None


def _metrics_path(options: Options) -> str | None:
    """Where Prometheus finds the metrics; None: nowhere."""
    file = options.monitoring_config_file
    return _read(file, parse_monitoring_config) if file else None


def _batching(options: Options) -> Callable[[Servable, str], Servable]:
    """What is put in front of a version that is ready: LiteRT where it can, and batches."""
    limit = options.timeout_ms / 1000 if options.timeout_ms else math.inf
    if not options.batching:
        places = os.cpu_count() or 1
        return lambda servable, path: with_litert(_adaptive(servable, places, limit), path)
    read = partial(parse_batching_config, cores=os.cpu_count() or 1)
    scheduler = Scheduler(read("") if options.batching_file is None else _read(options.batching_file, read))

    def wrap(servable: Servable, path: str) -> Servable:
        quick = with_litert(servable, path)
        if not options.per_model_batching:
            return BatchedServable(quick, scheduler, limit)
        file = Path(path) / "batching_params.pbtxt"
        if not file.exists():
            return quick
        try:
            return BatchedServable(quick, scheduler, limit, _read(file, read))
        except ConfigError as error:
            raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None

    return wrap


def _adaptive(servable: Servable, places: int, limit: float) -> Servable:
    names = batchable(servable) if isinstance(servable, SavedModel) and servable.stateless else frozenset()
    return AdaptiveServable(servable, names, places=places, limit=limit) if names else servable


def _read(file: Path, parse: Callable[[str], T]) -> T:
    """What a configuration file says.

    Raises:
        ConfigError: with the file's name.
    """
    try:
        return parse(file.read_text())
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _loader_options(options: Options) -> LoaderOptions:
    file = options.session_config_file
    return LoaderOptions(
        options.intra_op_threads,
        options.inter_op_threads,
        options.timeout_ms,
        options.saved_model_tags,
        _read(file, str) if file else "",
        options.gpu_memory_fraction,
    )


def _grpc_server(options: Options, telemetry: Telemetry) -> GrpcServer | None:
    """The gRPC server, its ports taken, or None if there is to be none."""
    asked = options.grpc
    if not asked.wanted:
        return None
    if find_spec("grpc") is None or find_spec("tensorflow_serving") is None:
        missing = "gRPC needs the packages grpcio and tensorflow-serving-api"
        if asked.required:
            raise ConfigError(f"{missing}; install them or give --port=0")
        log.warning("%s: it is off", missing)
        return None
    from services.serving.grpc_server import GrpcServer

    tls = _read(asked.ssl_config_file, parse_ssl_config) if asked.ssl_config_file else None
    host = f"[{options.host}]" if ":" in options.host else options.host
    addresses = [f"{host}:{asked.port}"] if asked.port else []
    if asked.socket_path:
        addresses.append(f"unix:{asked.socket_path}")
    server = GrpcServer(
        addresses,
        telemetry,
        threads=asked.threads,
        channel_arguments=asked.channel_arguments,
        tls=tls,
        health=asked.health,
    )
    log.info("gRPC on %s%s", ", ".join(addresses), " with TLS" if tls else "")
    return server


def _grpc_methods(
    dataplane: Dataplane, reload: Reload, telemetry: Telemetry, options: Options
) -> Mapping[str, Method]:
    import_tensorflow()
    from services.serving.grpc_methods import Methods

    return Methods(dataplane, reload, telemetry, as_content=options.grpc.as_content).table()


class _Uvicorn(uvicorn.Server):
    """Tells gRPC of the signal too, so that both finish their requests at the same time."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._on_stop()


def _serve(
    app: RestApp, listener: socket.socket | None, options: Options, grpc_server: GrpcServer | None
) -> None:
    """Serve until a signal, then finish the requests in flight."""
    grace = max(1.0, options.timeout_ms / 1000) if options.timeout_ms else 3600.0
    if listener is None:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stopped.set())
        stopped.wait()
        if grpc_server is not None:
            grpc_server.stop(grace).wait(grace)
        return
    # uvicorn raises the signal again when it is done, so that the program dies of it. A clean stop is exit code
    # 0 here: give it a handler to land in.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        # uvicorn's 5 s is also httpx's: a client would now and then reuse a connection that is just being closed.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=max(1, options.timeout_ms // 1000) if options.timeout_ms else None,
    )
    ended: list[threading.Event] = []

    def on_stop() -> None:
        if grpc_server is not None:
            ended.append(grpc_server.stop(grace))

    _Uvicorn(config, on_stop).run(sockets=[listener])
    for event in ended:
        event.wait(grace)


def _catalog(options: Options, check: CheckLabels) -> Catalog:
    given: dict[str, ModelConfig] = {}
    file: ConfigFile | None = None
    if options.model_config_file is not None:
        # Beside a folder of models the file only adds to what is found, and may come later.
        file = ConfigFile(
            options.model_config_file,
            options.config_poll_seconds,
            check,
            optional=options.models_dir is not None,
        )
        file.read()
    elif options.model_base_path:
        given[options.model_name] = ModelConfig(options.model_name, options.model_base_path)
    return Catalog(given, file, ModelsFolder(str(options.models_dir)) if options.models_dir else None)


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"can't listen on {host}:{port}: {error.strerror}") from None
    listener.listen(1024)
    return listener
