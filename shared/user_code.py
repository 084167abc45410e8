"""The user's own builders: folders and packages with ``build_model(params)`` and ``make_dataset(params)``.

A builder is found in a folder that the operator allows (``code_dirs``) or among installed packages (entry points of
the group ``modelyard.builders``); no request brings one in. Nothing here imports any of it: functions, parameters and
words are read with ``ast``, so that a process which lists builders never runs their code.

What may lie in a code folder:

    mynet/            a package, or a folder of modules one of which has the function; the builder ``mynet``
    tiny.py           a single module; the builder ``tiny``

A code folder that is itself a package (has an ``__init__.py``) is one builder, by its own name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.names import NAME_PATTERN

ENTRY_POINTS = "modelyard.builders"
BUILT_IN = ("lenet5", "mlp")
MAX_FILES, MAX_BYTES = 2_000, 64 * 2**20  # of one builder: more is a mistake, such as a whole disk
FUNCTIONS = ("build_model", "make_dataset")
_NAME = re.compile(NAME_PATTERN)
Function = Literal["build_model", "make_dataset"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as far as it can be read: ``default`` is None where it is no plain value, or there is none."""

    name: str
    required: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A function of a builder.

    Attributes:
        module: where it is to be imported from, relative to the builder: "" is the builder itself.
        takes_params: True for ``f(params)``, one dict; False for ``f(*, units=64, ...)``, one argument a parameter.
        open: other parameters than those listed may be given.
    """

    module: str
    takes_params: bool
    parameters: tuple[Parameter, ...] = ()
    open: bool = True
    doc: str | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """A builder of the user's. ``problem`` says why it can't be used, if so.

    Attributes:
        path: its folder or its single .py file.
        package: the name it is imported by when it is installed; None: it is loaded from ``path``.
        sha256: over the names and bytes of all its .py files, sorted.
    """

    name: str
    source: str  # "folder /srv/code" or "package mynets 1.2"
    path: Path
    package: str | None = None
    hashed: Path | None = None  # what the hash covers, if not ``path``: all of an installed package
    sha256: str | None = None
    doc: str | None = None
    functions: dict[str, Entry] = field(default_factory=dict)
    problem: str | None = None


def names(code_dirs: tuple[Path, ...]) -> list[str]:
    """Names of all builders that are there, usable or not; sorted."""
    return sorted({name for name, _ in _candidates(code_dirs)})


def find_all(code_dirs: tuple[Path, ...]) -> list[Builder]:
    """All builders, usable or not, by name. The first folder that has a name keeps it."""
    found: dict[str, Builder] = {}
    for name, place in _candidates(code_dirs):
        if name not in found:
            found[name] = _inspected(name, place)
    return [found[name] for name in sorted(found)]


def find(name: str, code_dirs: tuple[Path, ...]) -> Builder | None:
    """The builder called ``name``; it may have a ``problem``. ``name`` is only compared, never used as a path."""
    for candidate, place in _candidates(code_dirs):
        if candidate == name:
            return _inspected(name, place)
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    source: str
    path: Path
    package: str | None = None
    hashed: Path | None = None  # what the content hash covers, if not ``path``
    problem: str | None = None


def _candidates(code_dirs: tuple[Path, ...]) -> Iterator[tuple[str, _Place]]:
    for folder in code_dirs:
        root = folder.expanduser().resolve()
        if (root / "__init__.py").is_file():
            yield root.name, _named(root.name, _Place(f"folder {root.parent}", root))
            continue
        try:
            entries = sorted(root.iterdir())
        except OSError:
            continue  # gone since the start; the other folders still count
        for entry in entries:
            name = entry.name
            if name.startswith((".", "_")):
                continue
            if entry.is_dir():
                if any(_python_files(entry, limit=1)):
                    yield name, _named(name, _Place(f"folder {root}", entry))
            elif entry.suffix == ".py" and entry.is_file() and _defines(entry):
                yield entry.stem, _named(entry.stem, _Place(f"folder {root}", entry))
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        yield point.name, _named(point.name, _installed(point))


def _named(name: str, place: _Place) -> _Place:
    if not _NAME.fullmatch(name) or name.isdigit():
        return _Place(
            place.source, place.path, problem="Its name can't be used; letters, digits, '-' and '_' can."
        )
    if name in BUILT_IN:
        return _Place(place.source, place.path, problem="This is the name of a built-in builder; rename it.")
    return place


def _installed(point: importlib.metadata.EntryPoint) -> _Place:
    dist = point.dist
    source = f"package {dist.name} {dist.version}" if dist is not None else f"package {point.module}"
    top, *rest = point.module.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name: looks for it, does not import it
    except (ImportError, ValueError):
        spec = None
    roots = [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []
    if spec and not roots and spec.origin and not rest:
        return _Place(source, Path(spec.origin), package=point.module)
    for root in roots:
        base = root.joinpath(*rest)
        for path in (base, base.with_suffix(".py")) if rest else (base,):
            if path.exists():
                return _Place(source, path, package=point.module, hashed=root)
    return _Place(source, Path(top), problem=f"The module {point.module} of its entry point is not there.")


def _defines(file: Path) -> bool:
    """Whether a lone module is meant as a builder; cheap enough to ask of every .py file in a folder."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return False
    return any(f"def {name}" in text for name in FUNCTIONS)


def _inspected(name: str, place: _Place) -> Builder:
    bare = Builder(name, place.source, place.path, place.package, place.hashed, problem=place.problem)
    if place.problem is not None:
        return bare
    try:
        digest = content_hash(place.hashed or place.path)
        doc, functions = _read(place.path)
    except SyntaxError as error:
        words = f"{Path(error.filename or '').name}, line {error.lineno}: {error.msg}."
        return _with(bare, problem=f"It is no valid Python: {words}")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return _with(bare, problem=f"It can't be read: {error}.")
    if not functions:
        return _with(bare, sha256=digest, problem="It has neither a build_model nor a make_dataset function.")
    return _with(bare, sha256=digest, doc=doc, functions=functions)


def _with(builder: Builder, **changes: Any) -> Builder:
    values = {name: getattr(builder, name) for name in Builder.__slots__}
    return Builder(**{**values, **changes})


def content_hash(path: Path) -> str:
    """SHA-256, hex, over all .py files of a folder or over one file: their relative names and bytes, sorted by name.

    Raises:
        OSError: a file can't be read.
        ValueError: there are more files or bytes than any builder has.
    """
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(_python_files(path, limit=MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise ValueError(f"more than {MAX_FILES} .py files lie in it")
    size = 0
    for file in files:
        data = file.read_bytes()
        size += len(data)
        if size > MAX_BYTES:
            raise ValueError(f"its .py files have more than {MAX_BYTES >> 20} MiB")
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def _python_files(folder: Path, limit: int) -> Iterator[Path]:
    """At most ``limit`` .py files, links to folders not followed; hidden folders and caches left out."""
    count = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(root, name)
                count += 1
                if count >= limit:
                    return


def _read(path: Path) -> tuple[str | None, dict[str, Entry]]:
    """Docstring and functions of a builder, in its own module or in one that it imports them from."""
    if path.is_file():
        tree = _parsed(path)
        return ast.get_docstring(tree), {name: _entry(node, "") for name, node in _functions(tree).items()}
    init = path / "__init__.py"
    functions: dict[str, Entry] = {}
    doc = None
    if init.is_file():
        tree = _parsed(init)
        doc = ast.get_docstring(tree)
        functions = {name: _entry(node, "") for name, node in _functions(tree).items()}
        for name in FUNCTIONS:
            if name not in functions and (found := _imported(tree, name, path)) is not None:
                functions[name] = found
    for name in FUNCTIONS:
        if name not in functions:
            found = _in_modules(path, name)
            if found is not None:
                functions[name] = found
    docs = (entry.doc for entry in functions.values())
    return doc or next((text for text in docs if text), None), functions


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    return {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS
    }


def _imported(tree: ast.Module, name: str, folder: Path) -> Entry | None:
    """``from .model import build as build_model``: followed once, for its parameters."""
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or node.level != 1:
            continue
        for alias in node.names:
            if (alias.asname or alias.name) != name:
                continue
            file = folder.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            if file.is_file():
                for inner in _parsed(file).body:
                    if isinstance(inner, ast.FunctionDef) and inner.name == alias.name:
                        return _entry(inner, "")
            return Entry("", takes_params=True)
    return None


def _in_modules(folder: Path, name: str) -> Entry | None:
    """The one module of a folder that has the function.

    Raises:
        ValueError: several have it.
    """
    found: list[Entry] = []
    for file in sorted(folder.glob("*.py")):
        if file.name == "__init__.py" or not _defines(file):
            continue
        node = _functions(_parsed(file)).get(name)
        if node is not None:
            found.append(_entry(node, file.stem))
    if len(found) > 1:
        places = ", ".join(f"{entry.module}.py" for entry in found)
        raise ValueError(f"{name} is defined in {places}: import the one that counts in __init__.py")
    return found[0] if found else None


def _entry(node: ast.FunctionDef, module: str) -> Entry:
    doc = ast.get_docstring(node)
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    takes_params = [item.arg for item in plain] == ["params"] and not arguments.kwonlyargs
    if takes_params:
        return Entry(module, True, tuple(_used(node, plain[0].arg)), True, doc)
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [
        *zip(plain, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    parameters = tuple(Parameter(item.arg, default is None, _literal(default)) for item, default in pairs)
    return Entry(module, False, parameters, arguments.kwarg is not None, doc)


def _used(node: ast.FunctionDef, params: str) -> Iterator[Parameter]:
    """Parameters that the function's body reads: ``params["units"]``, ``params.get("units", 64)``."""
    found: dict[str, Parameter] = {}
    for part in sorted(ast.walk(node), key=lambda each: getattr(each, "lineno", 0)):
        match part:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if name == params:
                found.setdefault(key, Parameter(key, required=True))
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="get" | "pop" | "setdefault"),
                args=[ast.Constant(value=str(key)), *rest],
            ) if name == params:
                found[key] = Parameter(key, False, _literal(rest[0]) if rest else None)
    yield from found.values()


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return _plain(value)


def _plain(value: Any) -> Any:
    """``value`` as JSON data; None where it is none."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    return None
