"""``modelyard export``, ``artifacts``, ``download``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelyard.cli.options import AsJson, Follow, JobId, JobName, Url, connect
from modelyard.cli.output import ago, more, note, print_json, print_table, size
from modelyard.cli.show import finish, print_plan
from modelyard.cli.train import read_spec
from shared.errors import InvalidInput

_QUANTIZATIONS = ("float16", "dynamic_range", "int8")


def register(app: typer.Typer) -> None:
    for command in (export, artifacts, download):
        app.command()(command)


def export(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A job's id, MODEL:VERSION, or a file SPEC.json ('-' reads standard input).",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-F",
            help="saved_model, keras, h5, weights, tflite, onnx, or tflite:float16, tflite:dynamic_range, tflite:int8; "
            "repeatable. Default: saved_model.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Of a job: best, last, or one of its files. Default: the finished model."),
    ] = None,
    signature: Annotated[
        list[str] | None, typer.Option(help="Of the SavedModel; repeatable. Default: all that make sense.")
    ] = None,
    publish: Annotated[str | None, typer.Option(help="Serve the SavedModel under this name.")] = None,
    name: JobName = None,
    follow: Follow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it; store nothing.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit an export of a trained model. Prints the job's id; with --follow, shows it until it ends."""
    if source is None:
        raise InvalidInput(
            "Say which model to export.", hint="modelyard export JOB, or modelyard export MODEL:VERSION."
        )
    given = (
        read_spec(Path(source)) if source == "-" or source.endswith(".json") else {"from": _source(source)}
    )
    body: dict[str, Any] = {"kind": "export", **given}
    if checkpoint is not None:
        body["from"] = {**body.get("from", {}), "checkpoint": checkpoint}
    if formats:
        body["formats"] = [_format(item) for item in formats]
    flags = {"signatures": signature, "name": name, "publish": {"model": publish} if publish else None}
    body |= {key: value for key, value in flags.items() if value}
    with connect(url) as client:
        if dry_run:
            print_plan(client.jobs.plan(body), as_json=as_json)
            return
        finish(client.jobs.submit(body), follow=follow, as_json=as_json)


def artifacts(
    job_id: JobId,
    path: Annotated[str, typer.Option(help="Only this folder of it, e.g. export.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Files to show.")] = 200,
    after: Annotated[str | None, typer.Option(help="Show what follows this name: the next page.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List a job's files."""
    with connect(url) as client:
        page = client.jobs.get(job_id).artifacts(path, limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    print_table(
        ("NAME", "FORMAT", "SIZE", "SHA256", "WRITTEN"),
        (
            (item.name, item.format, size(item.size_bytes), (item.sha256 or "")[:12], ago(item.created_at))
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].name if page.items else None)


def download(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A job's id, or MODEL:VERSION.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="One of the job's files. Default: all, as one archive."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to. Default: the file's name, or SOURCE.zip.")
    ] = None,
    path: Annotated[str, typer.Option(help="Of an archive of a job: only this folder, e.g. export.")] = "",
    url: Url = None,
) -> None:
    """Download one file of a job, or a whole job or version as a .zip or .tar.gz."""
    chosen = _source(source)
    with connect(url) as client:
        if "job" not in chosen:
            if name is not None or path:
                raise InvalidInput("A version is downloaded whole.", hint="Leave out FILE and --path.")
            file_name = f"{chosen['model']}-{chosen['version']}.zip"
            saved = client.models.download(chosen["model"], chosen["version"], output or Path(file_name))
        elif name is not None:
            saved = client.jobs.get(source).download(name, output or Path(Path(name).name))
        else:
            saved = client.jobs.get(source).download_all(output or Path(f"{source}.zip"), below=path)
    note(f"{saved}: {size(saved.stat().st_size)}")


def _source(text: str) -> dict[str, Any]:
    model, colon, version = text.rpartition(":")
    if colon and version.isdecimal():
        return {"model": model, "version": int(version)}
    if text.startswith("job_"):
        return {"job": text}
    raise InvalidInput(f"{text!r} is neither a job's id nor MODEL:VERSION.", hint="Such as fashion:3.")


def _format(text: str) -> str | dict[str, str]:
    name, colon, quantization = text.partition(":")
    if not colon:
        return text
    if name != "tflite" or quantization not in _QUANTIZATIONS:
        raise InvalidInput(
            f"--format {text}: only tflite has variants: {', '.join(f'tflite:{item}' for item in _QUANTIZATIONS)}."
        )
    return {"format": name, "quantization": quantization}
