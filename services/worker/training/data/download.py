"""Preparing a tensorflow_datasets dataset on its first use, without waiting minutes for a host that is away."""

from __future__ import annotations

import contextlib
import difflib
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from services.worker.training.data import apt, debian
from services.worker.training.data.preparing import Preparing
from services.worker.training.failures import TrainingFailed, data_invalid, shorten

if TYPE_CHECKING:
    from services.worker.training.emitter import Emitter

PROBE_SECONDS = 5.0
TELL_SECONDS = 0.5
DOWNLOADS, EXTRACTED = "downloads", "extracted"  # folders of tensorflow_datasets' own


def prepared_builder(name: str, tfds_dir: Path, emit: Emitter) -> Any:
    """The builder of ``name`` with its files in ``tfds_dir``; downloads them if they are not there.

    Two jobs that need the same dataset at once take turns; the second finds it ready.

    Raises:
        TrainingFailed: data_invalid for an unknown name, data_unreachable if its host does not answer.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(tfds_dir))
    except tfds.core.DatasetNotFoundError:
        close = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], tfds.list_builders(), n=3)
        raise data_invalid(
            f"tensorflow_datasets has no dataset {name!r}.",
            (f"Did you mean {' or '.join(close)}? " if close else "")
            + "The catalog of tensorflow_datasets lists all names.",
        ) from None  # its message lists all names
    except (ValueError, AssertionError) as error:
        raise data_invalid(f"dataset.tfds {name!r}: {shorten(str(error), 400)}") from error
    if _is_ready(builder):
        return builder
    tfds_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(tfds_dir / f".{builder.info.full_name.replace('/', '-')}.lock")
    with lock.acquire(poll_interval=0.2):
        builder = tfds.builder(name, data_dir=str(tfds_dir))
        if not _is_ready(builder):
            _prepare(tfds, builder, tfds_dir, emit)
    return builder


def _is_ready(builder: Any) -> bool:
    return bool(builder.info.splits) and Path(builder.data_dir).is_dir()


def _prepare(tfds: Any, builder: Any, tfds_dir: Path, emit: Emitter) -> None:
    urls = _urls(builder)
    problem = unreachable(urls[0]) if urls else None
    if problem is None:
        emit.note(data_source="download")
        print(f"downloading {builder.info.full_name}", flush=True)  # noqa: T201 - the job's log
        _download(tfds, builder, tfds_dir, emit, manual_dir=None)
    elif builder.info.name == "fashion_mnist":
        _prepare_from_debian(tfds, builder, tfds_dir, emit, problem)
    else:
        raise TrainingFailed(
            "data_unreachable",
            f"{builder.info.name} is not on this machine yet and its host can't be reached: {problem}",
            f"Connect this machine to the network, or prepare the dataset elsewhere and copy it to {builder.data_dir}.",
        )


def _prepare_from_debian(tfds: Any, builder: Any, tfds_dir: Path, emit: Emitter, problem: str) -> None:
    with tempfile.TemporaryDirectory(prefix="modelyard-fashion-mnist-") as folder:
        try:
            origin = debian.genuine_files(Path(folder))
        except apt.NotAvailable as error:
            raise TrainingFailed(
                "data_unreachable",
                f"fashion_mnist can't be downloaded ({problem}), nor had from Debian's package ({error})",
                "Connect this machine to the network, or install the Debian package dataset-fashion-mnist.",
            ) from error
        emit.note(data_source=origin)
        emit.warn(
            "data_fallback",
            f"The download host of fashion_mnist does not answer ({problem}). The same four files were taken from "
            f"{origin}; their SHA-256 are those that tensorflow_datasets expects.",
        )
        _download(tfds, builder, tfds_dir, emit, manual_dir=folder)


def _download(tfds: Any, builder: Any, tfds_dir: Path, emit: Emitter, manual_dir: str | None) -> None:
    tfds.disable_progress_bar()  # made for terminals; the job's log gets lines instead
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        with _progress_told(builder, tfds_dir, emit):
            builder.download_and_prepare(download_config=config)
    except (tfds.download.DownloadError, ConnectionError) as error:
        raise TrainingFailed(
            "data_unreachable", f"{builder.info.name} could not be downloaded: {shorten(str(error), 400)}"
        ) from error
    except AssertionError as error:
        # builders assert that files which only a person may fetch lie in manual_dir
        raise data_invalid(
            f"{builder.info.name} can't be prepared: {shorten(str(error), 400)}",
            "Datasets that need files fetched by hand are not supported.",
        ) from error


@contextlib.contextmanager
def _progress_told(builder: Any, folder: Path, emit: Emitter) -> Iterator[None]:
    """Tell twice a second how much has been downloaded, of how much, and then how much has been prepared."""
    done, preparing = threading.Event(), Preparing(emit, builder.info.full_name)
    total, before = download_size(builder), _size(folder / DOWNLOADS)

    def tell() -> None:
        while not done.wait(TELL_SECONDS):
            arrived = _size(folder / DOWNLOADS) - before
            prepared = sum(_size(path) for path in Path(builder.data_dir).parent.glob("*incomplete*"))
            if prepared:
                preparing.tell("prepare", prepared, builder.info.dataset_size or None, "bytes")
            else:
                preparing.tell("download", arrived, total, "bytes")

    thread = threading.Thread(target=tell, name="download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)


def download_size(builder: Any) -> int | None:
    """Bytes of all files that a dataset is made of, as its checksums were registered; None if they were not."""
    with contextlib.suppress(Exception):  # builders without registered checksums have none
        return sum(int(info.size) for info in builder.url_infos.values()) or None
    return None


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; what was unpacked from others is left out."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files come and go
            if path.is_file() and EXTRACTED not in path.parts:
                size += path.stat().st_size
    return size


def _urls(builder: Any) -> list[str]:
    with contextlib.suppress(Exception):  # builders without registered checksums have none
        return [
            str(url)
            for url in builder.url_infos
            if urllib.parse.urlsplit(str(url)).scheme in {"http", "https"}
        ]
    return []


def _reason(error: Exception) -> str:
    """The innermost cause: requests and urllib3 wrap it in addresses and object names."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return shorten(str(cause).rsplit(": ", 1)[-1], 200)


def unreachable(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """None if the host of ``url`` answers an HTTP request in time, else what went wrong.

    The request runs in a thread, for looking up a name has no timeout of its own.
    """
    answer: list[str | None] = []

    def ask() -> None:
        import requests

        try:
            requests.head(url, timeout=seconds, allow_redirects=False).raise_for_status()
            answer.append(None)
        except requests.RequestException as error:
            answer.append(_reason(error))

    thread = threading.Thread(target=ask, name="probe", daemon=True)
    thread.start()
    thread.join(seconds)
    host = urllib.parse.urlsplit(url).hostname
    problem = answer[0] if answer else f"no answer within {seconds:.0f} s"
    return None if problem is None else f"{host}: {problem}"
