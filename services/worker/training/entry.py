"""Where a job's process begins and ends, however it was started."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import traceback
from typing import Any

from services.worker.protocol import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    Failed,
    Stopped,
    TrainingRequest,
)
from services.worker.training import environment, lifeline, membership, user_code
from services.worker.training.emitter import Emitter
from services.worker.training.failures import explain
from services.worker.training.stopping import StopRequested, StopSignal
from services.worker.training.timings import Timings


def main(lifeline_fd: int, events_fd: int) -> int:
    """Run the one job whose request comes in on ``lifeline_fd``, telling about it on ``events_fd``.

    Returns:
        The process' exit code. The last event is always ``finished``, ``failed`` or ``stopped``.
    """
    timings = Timings()
    stop = StopSignal()
    emit = Emitter(events_fd)
    os.set_inheritable(events_fd, False)  # apt-get and its like must not keep the pipe open
    os.set_inheritable(lifeline_fd, False)
    faulthandler.enable(2)  # a native crash leaves at least the Python lines that led to it in the log
    code = EXIT_FAILED
    try:
        stop.install()
        code = _guarded(lifeline_fd, emit, stop, timings)
    except StopRequested:  # between two lines of ours
        emit(Stopped(checkpoint=None))
        code = EXIT_STOPPED
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the last word is said
        emit.flush()
    return code


def _guarded(lifeline_fd: int, emit: Emitter, stop: StopSignal, timings: Timings) -> int:
    run = request = None
    try:
        line = lifeline.read_line(lifeline_fd)
        lifeline.watch(lifeline_fd)
        timings.mark("request")
        request = TrainingRequest.model_validate_json(line)
        _head_log(request)
        if request.cluster is not None:
            membership.join(request.cluster, emit, stop)
        environment.quiet()
        with environment.without_banners():
            program = _program(request)
        gc.freeze()  # see preload; a fresh start gains the same
        timings.mark("imported")
        run = program(request, emit, stop, timings)
        finished = run.run()
        with stop.deferred():
            emit(finished)
            return EXIT_FINISHED
    except StopRequested:
        with stop.deferred():
            emit(Stopped(checkpoint=run.newest_checkpoint() if run is not None else None))
            return EXIT_STOPPED
    except Exception as error:
        with stop.deferred():
            with contextlib.suppress(OSError):  # the log is on the disk that may be full
                traceback.print_exc()
                sys.stderr.flush()
            task = request.cluster if request is not None else None
            failure = membership.explain(error, task) or user_code.blame(error) or explain(error)
            if failure.code == "oom_gpu" and run is not None:
                run.note_gpu_memory()
            emit(Failed(code=failure.code, message=failure.message, hint=failure.hint, detail=failure.detail))
            return EXIT_FAILED


def _head_log(request: TrainingRequest) -> None:
    """Say in the job's log which attempt begins here, and for which request."""
    about = {"job_id": request.job_id, "attempt": request.attempt, "request_id": request.request_id,
             "worker_id": request.worker_id}  # fmt: skip
    with contextlib.suppress(OSError):  # the log's disk is full: the job will say so itself
        sys.stderr.write(
            " ".join(f"{key}={value}" for key, value in about.items() if value is not None) + "\n"
        )
        sys.stderr.flush()


def _program(request: TrainingRequest) -> Any:
    """What runs a job of this kind; loading it loads TensorFlow, if nobody has yet."""
    if request.spec.get("kind") == "export":
        from services.worker.training.export_job import ExportRun

        return ExportRun
    if membership.serves(request.cluster):
        from services.worker.training.server import ServerRun

        return ServerRun
    from services.worker.training.run import Run

    return Run
