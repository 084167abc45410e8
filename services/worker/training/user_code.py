"""The user's own code: loaded in this process only, called under guard, and blamed by file and line when it fails.

A folder is imported under a name of our own (``modelyard_user_code.<builder>``), so that two folders can't collide and
neither hides an installed package; relative imports within it work. It is compiled from source each time: bytecode
left over from an edit within the same second would be other code than what was hashed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from services.worker.protocol import CodeSource
from services.worker.training.failures import TrainingFailed, explain, printable, shorten
from services.worker.training.stopping import StopRequested
from shared.user_code import FUNCTIONS, Function, content_hash

ROOT = "modelyard_user_code"
MAX_DETAIL = 4_000
_OURS = {"oom_host", "oom_gpu", "oom_device", "disk_full"}  # what no line of theirs explains
# Keras adds the name of the layer and all its arguments to what went wrong in it
_KERAS = re.compile(
    r"^Exception encountered when calling .*?\n\n(?:\x1b\[1m)?(.*?)(?:\x1b\[0m)?\n\nArguments received.*",
    re.S,
)
# TensorFlow tells of what failed while a graph ran in text only: the op with the lines that made it, or the
# traceback of a Python function that a dataset called
_GRAPH = re.compile(r"^Graph execution error:.*\n  File [^\n]*\n\s*(.*?)\s*(?:\[\[\{\{node.*)?$", re.S)
_CALLED = re.compile(r"^(?:\{\{.*?\}\} )?(\w+(?:: .*?)?)\nTraceback \(most recent call last\):\n.*$", re.S)
_LINE = re.compile(r'^\s*File "([^"\n]+)", line (\d+)', re.M)
_AUTOGRAPH = re.compile(r"^in user code:\n.*\n\n    (?:\w+: )?(.*)$", re.S)  # a traceback within the message
_roots: list[Path] = []  # of all builders loaded in this process


class Code:
    """The builders of one job, loaded when first used."""

    def __init__(self, sources: Sequence[CodeSource]) -> None:
        self._sources = {source.name: source for source in sources}
        self._loaded: dict[str, ModuleType] = {}

    @property
    def hashes(self) -> dict[str, str | None]:
        """Content hashes by builder, as recorded in the job; part of a checkpoint's identity."""
        return {name: source.sha256 for name, source in sorted(self._sources.items())}

    def load_all(self) -> None:
        """Import all of them, which makes their Keras classes known to loading."""
        for name in self._sources:
            self._module(name)

    def call(self, builder: str, function: Function, params: dict[str, Any]) -> Any:
        """What ``function`` of ``builder`` returns.

        Raises:
            TrainingFailed: user_code, code_changed.
        """
        source = self._sources.get(builder)
        if source is None:
            raise TrainingFailed("request_invalid", f"the request says nothing about the builder {builder!r}")
        module = self._module(builder)
        inner = source.modules.get(function, "")
        with guarded(f"{builder}, {function}"):
            if inner:
                module = importlib.import_module(f"{module.__name__}.{inner}")
            called = getattr(module, function)
            # a copy by way of plain data: nothing of ours to change, and the same whatever happened before
            result = called(_copied(params)) if source.takes_params[function] else called(**_copied(params))
        _register(builder, source)  # classes of modules that were imported within
        return result

    def _module(self, builder: str) -> ModuleType:
        if builder not in self._loaded:
            source = self._sources[builder]
            _check_hash(source)
            self._loaded[builder] = _imported(source)
            _register(builder, source)
        return self._loaded[builder]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _check_hash(source: CodeSource) -> None:
    """A job runs with the code it was submitted with, or not at all: it may be resumed, compared and repeated."""
    try:
        now = content_hash(source.hashed)
    except (OSError, ValueError) as error:
        raise TrainingFailed(
            "code_changed", f"The builder {source.name!r} can't be read any more: {error}"
        ) from error
    if source.sha256 is not None and now != source.sha256:
        raise TrainingFailed(
            "code_changed",
            f"The code of the builder {source.name!r} is not what the job was submitted with: its hash was "
            f"{source.sha256[:12]}, and is {now[:12]} on this worker now.",
            "Submit the job again, or modelyard retry it, to run it with the code as it is; give all workers the same "
            "code.",
        )


def _imported(source: CodeSource) -> ModuleType:
    _roots.append(source.hashed.resolve())
    with guarded(f"importing {source.name}"):
        if source.package is not None:
            return importlib.import_module(source.package)
        return _private(source)
    raise AssertionError  # for the type checker: guarded never swallows


def _private(source: CodeSource) -> ModuleType:
    """The folder or file as a module below ``ROOT``."""
    if ROOT not in sys.modules:
        root = ModuleType(ROOT)
        root.__path__ = []
        sys.modules[ROOT] = root
        sys.meta_path.insert(0, _Finder())
    name = f"{ROOT}.{source.name}"
    is_file = source.path.is_file()
    file = source.path if is_file else source.path / "__init__.py"
    spec = importlib.machinery.ModuleSpec(name, None, is_package=not is_file)
    if file.is_file():
        spec = importlib.machinery.ModuleSpec(
            name, _Fresh(name, str(file)), origin=str(file), is_package=not is_file
        )
        spec.has_location = True
    if not is_file:
        spec.submodule_search_locations = [str(source.path)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)
    return module


class _Fresh(importlib.machinery.SourceFileLoader):
    """Compiles from source, neither reading bytecode nor writing it into the user's folder."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules within the user's folders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{ROOT}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Fresh(spec.loader.name, spec.loader.path)
        return spec


def _register(builder: str, source: CodeSource) -> None:
    """Let Keras find the builder's own classes and functions again when a model of theirs is loaded.

    What the user has registered stays as it is; the rest goes by ``<builder>><name>``.
    """
    import keras

    prefix = source.package or f"{ROOT}.{builder}"
    kinds = (
        keras.Layer, keras.Loss, keras.Metric, keras.Optimizer, keras.Initializer, keras.Regularizer,
        keras.constraints.Constraint, keras.optimizers.schedules.LearningRateSchedule,
    )  # fmt: skip
    for module_name, module in list(sys.modules.items()):
        if module_name != prefix and not module_name.startswith(f"{prefix}."):
            continue
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) != module_name or name in FUNCTIONS:
                continue
            is_class = inspect.isclass(value) and issubclass(value, kinds)
            if not is_class and not inspect.isfunction(value):
                continue
            if keras.saving.get_registered_name(value) == value.__name__:
                with contextlib.suppress(ValueError):  # an abstract class; another of the same name
                    keras.saving.register_keras_serializable(package=builder)(value)


class _Exited(BaseException):
    """``os._exit`` was called: no library on the way may swallow it."""


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Within, code of the user's runs: whatever it raises, or if it tries to end the process, is its error.

    Raises:
        TrainingFailed: user_code, with file and line.
    """
    real = os._exit
    pid = os.getpid()
    active = True

    def refuse(status: int) -> Any:
        if active and os.getpid() == pid:
            raise _Exited(f"os._exit({status})")
        real(status)  # a child process of theirs, or a time when we do not watch

    os._exit = refuse
    try:
        yield
    except (StopRequested, TrainingFailed):
        raise
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit, _Exited) as error:
        raise blamed(error, what) from error
    finally:
        active = False
        os._exit = real


def blame(error: BaseException) -> TrainingFailed | None:
    """The failure that ``error`` is if it came out of a line of the user's code, wherever that was called from."""
    if not _roots:
        return None
    if isinstance(error, TrainingFailed) and error.code == "user_code":
        return error
    if explain(error).code in _OURS:
        return None
    if isinstance(error, NotImplementedError) and "get_config" in str(
        error
    ):  # Keras could not write the model down
        return TrainingFailed(
            "user_code",
            shorten(str(error), 600),
            "Give that class a get_config that returns the arguments of its __init__ as plain values.",
            detail=_detail(error),
        )
    seen: BaseException | None = error
    while seen is not None:
        if _place(seen) is not None:
            return blamed(seen, "training")
        seen = seen.__cause__
    return None


def blamed(error: BaseException, what: str) -> TrainingFailed:
    """``error`` as a failure of the user's code; ``what`` was being done."""
    known = explain(error)
    if known.code in _OURS:
        return known
    place = _place(error)
    where = f"{place[0]}, line {place[1]}: " if place else f"{what}: "
    return TrainingFailed("user_code", f"{where}{_words(error)}", _hint(error), detail=_detail(error))


def _words(error: BaseException) -> str:
    if isinstance(error, _Exited):
        return f"the code ended its process with {error}"
    if isinstance(error, SystemExit):
        return f"the code ended its process with sys.exit({error.code!r})"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    text = _text(error)
    if called := _CALLED.match(text):
        return shorten(called[1], 600)
    text = _GRAPH.sub(r"\1", _AUTOGRAPH.sub(r"\1", _KERAS.sub(r"\1", text)))
    return shorten(f"{type(error).__name__}: {text}" if text else type(error).__name__, 600)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message can't be read)"


def _hint(error: BaseException) -> str | None:
    if isinstance(error, ModuleNotFoundError) and error.name:
        for root in _roots:
            folder = root if root.is_dir() else root.parent
            if (folder / f"{error.name}.py").is_file() or (folder / error.name).is_dir():
                return f"Modules of the same folder are imported relatively: from . import {error.name}"
        return f"Install {error.name} where the workers run."
    if isinstance(error, SystemExit | _Exited):
        return "Raise an exception instead, with a sentence that says what is wrong."
    return "The job's log has the whole traceback."


def _place(error: BaseException) -> tuple[str, int] | None:
    """(file, line) of the innermost line of the user's that ``error`` came through, or that its text names."""
    if isinstance(error, SyntaxError) and error.filename and _is_theirs(error.filename):
        return _shown(error.filename), error.lineno or 0
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_theirs(frame.f_code.co_filename):
            found = (_shown(frame.f_code.co_filename), line)
    if found is None:
        told = [(file, int(line)) for file, line in _LINE.findall(_text(error)) if _is_theirs(file)]
        found = (_shown(told[-1][0]), told[-1][1]) if told else None
    return found


def _is_theirs(file: str) -> bool:
    path = Path(file)
    return path.is_absolute() and any(path.is_relative_to(root) for root in _roots)


def _shown(file: str) -> str:
    """As seen from the folder that holds the builder: ``mynet/layers.py``."""
    path = Path(file)
    root = next(root for root in _roots if path.is_relative_to(root))
    return path.relative_to(root.parent).as_posix()


def _detail(error: BaseException) -> str:
    """The end of the traceback, from the first line of theirs on."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if _is_theirs(frame.filename)), None)
    if first is None:
        text = _text(error)  # or where the text has one
        told = next((line.start() for line in _LINE.finditer(text) if _is_theirs(line[1])), None)
        if told is not None:
            return _end_of(printable(text[told:]).strip())
    lines = [
        "Traceback (most recent call last):\n",
        *traceback.StackSummary.from_list(frames[first or 0 :]).format(),
    ]
    if isinstance(error, SyntaxError):
        lines += traceback.format_exception_only(error)
    else:
        lines.append(_words(error))
    return _end_of("".join(lines).strip())


def _end_of(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else f"...\n{text[-MAX_DETAIL:].partition(chr(10))[2]}"
