"""The entry point: wires the parts, listens, and ends in order on SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
from services.serving.first_loads import FirstLoads
from services.serving.fronts import Fronts
from services.serving.labels import CheckLabels, check_labels
from services.serving.lazy import litert_first, rest_of
from services.serving.listening import listen, serve
from services.serving.litert import LitertServable, with_litert
from services.serving.loader import LoaderOptions, SavedModel, load_saved_model
from services.serving.manager import ModelManager, RetryRule
from services.serving.options import Options, parse_options
from services.serving.plain import compiled
from services.serving.preparation import Step, prepared
from services.serving.reload import Reload, reload_models
from services.serving.rest import CORS, RestApp
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
        fronts = _fronts(options, telemetry)
        manager = _manager(options, telemetry, loader_options, wrap, fronts)
        check = partial(check_labels, manager=manager, rule=options.label_rule)
        catalog = _catalog(options, check)
        listener = (
            None if options.port is None else listen(options.host, options.port, shared=options.reuse_port)
        )
    except ConfigError as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("%s", error)
        return 1
    watcher = Watcher(catalog, manager, options.poll_seconds)
    # A folder of models has no list of what must be there.
    first_loads = (
        FirstLoads(lambda: watcher.has_looked, manager.pending) if options.models_dir is None else None
    )
    dataplane = Dataplane(manager, check_method_names=options.check_method_names)
    app = RestApp(
        dataplane,
        is_ready=lambda: watcher.has_looked,
        threads=options.threads,
        cors=options.cors,
        telemetry=telemetry,
        metrics_path=metrics_path,
        as_tensorflow_serving=options.models_dir is None,
        first_loads=first_loads,
    )
    if listener is not None:
        log.info("listening on http://%s:%d", options.host, listener.getsockname()[1])
        log.info("numbers in JSON: %s", "compiled modules" if compiled() else "libraries; see setup.py")
    if fronts is not None:
        fronts.start()
    # The port is open before anything is loaded: one bad model must not keep the others, or the health
    # check, from answering.
    manager.start()
    watcher.start()
    if grpc_server is not None:
        reload = partial(reload_models, catalog, watcher, manager, check=check)
        grpc_server.start(partial(_grpc_methods, dataplane, reload, telemetry, options, first_loads))
    serve(app, listener, options, grpc_server, fronts)
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
    fronts: Fronts | None,
) -> ModelManager:
    places, limit = os.cpu_count() or 1, _limit(options)

    def open_(path: str) -> Servable:
        loaded = load_saved_model(path, loader_options)
        return loaded if options.batching else _adaptive(loaded, places, limit)

    return ModelManager(
        prepared(
            partial(_load, options=loader_options, open_=open_),
            _steps(options, telemetry),
            telemetry,
            _loading_ahead(wrap) if options.load_ahead else wrap,
        ),
        retry=RetryRule(options.max_load_retries, options.load_retry_seconds),
        load_threads=options.load_threads,
        on_table=None if fronts is None else fronts.publish,
    )


def _fronts(options: Options, telemetry: Telemetry) -> Fronts | None:
    if options.processes < 1 or options.port is None:
        return None
    fronts = Fronts(
        options.processes,
        telemetry.absorb,
        cors=CORS if options.cors else (),
        request_log=str(options.request_log or ""),
    )
    telemetry.gather = fronts.gather
    return fronts


def _load(path: str, options: LoaderOptions, open_: Callable[[str], Servable]) -> Servable:
    return litert_first(path, options.tags, open_) or load_saved_model(path, options)


def _loading_ahead(wrap: Callable[[Servable, str], Servable]) -> Callable[[Servable, str], Servable]:
    """``wrap``, and what LiteRT can't answer of the version is loaded from then on, one version after the other."""
    behind = ThreadPoolExecutor(1, "load-ahead")  # the program ends without waiting for it

    def run(servable: Servable, path: str) -> Servable:
        rest = rest_of(servable)
        wrapped = wrap(servable, path)
        if rest is not None:
            behind.submit(rest.load_ahead)
        return wrapped

    return run


def _steps(options: Options, telemetry: Telemetry) -> list[Step]:
    """What a loaded version must pass before it is AVAILABLE."""
    # What has been compared with its LiteRT model at publishing was run there, all signatures of it.
    steps: list[Step] = [
        lambda servable, _: try_signatures(
            servable, servable.ready if isinstance(servable, LitertServable) else None
        )
    ]
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
    limit = _limit(options)
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


def _limit(options: Options) -> float:
    """Seconds that a call may take if it says nothing of its own."""
    return options.timeout_ms / 1000 if options.timeout_ms else math.inf


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
        options.bfloat16,
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
    try:
        server = GrpcServer(
            addresses,
            telemetry,
            threads=asked.threads,
            channel_arguments=asked.channel_arguments,
            tls=tls,
            health=asked.health,
        )
    except OSError as error:
        if asked.required:
            raise
        # Nobody asked for this port: a second server for REST, say.
        log.warning("%s: gRPC is off; --port gives it another one", error)
        return None
    log.info("gRPC on %s%s", ", ".join(addresses), " with TLS" if tls else "")
    return server


def _grpc_methods(
    dataplane: Dataplane,
    reload: Reload,
    telemetry: Telemetry,
    options: Options,
    first_loads: FirstLoads | None,
) -> Mapping[str, Method]:
    from services.serving.grpc_methods import Methods

    if first_loads is not None:
        first_loads.wait_for_all()

    return Methods(dataplane, reload, telemetry, as_content=options.grpc.as_content).table()


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
