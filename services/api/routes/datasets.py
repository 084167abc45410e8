"""Datasets: upload, list, read, delete."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from services.api import render
from services.api.body import checked, json_of, short_body
from services.api.deps import AfterId, DatasetId, Limit, RemoteFilesDep, StoreDep, UploadsDep
from services.api.describe import problems, ref
from services.api.errors import Malformed, UnsupportedMedia
from services.api.multipart import FilePart
from services.api.remote_files import DatasetSource, file_name
from services.api.uploads import checked_title
from shared.views import DatasetList, DatasetView

router = APIRouter(tags=["datasets"])

_RAW_TYPES = (
    "text/csv",
    "application/octet-stream",
    "application/zip",
    "application/gzip",
    "application/x-npz",
    "application/x-tar",
)
MAX_SOURCE_BYTES = 64 * 1024
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "The file."},
            "name": {"type": "string", "description": "Instead of ?name=; must come before the file."},
        },
    }
}


@router.post(
    "/datasets",
    status_code=201,
    operation_id="uploadDataset",
    summary="Upload a dataset, or have it fetched",
    response_model=DatasetView,
    responses={
        200: {
            "description": "The same bytes are here already: that dataset.",
            "content": {"application/json": {"schema": ref(DatasetView)}},
        },
        201: {"description": "Stored."},
        **problems(400, 413, 415, 422, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": _FORM,
                "text/csv": _BINARY,
                "application/octet-stream": _BINARY,
                "application/json": {"schema": ref(DatasetSource)},
            },
        }
    },
)
async def upload_dataset(
    request: Request,
    uploads: UploadsDep,
    remote_files: RemoteFilesDep,
    name: Annotated[str | None, Query(description="Name for people; default: the file's.")] = None,
    content_type: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Written to disk while it arrives, then looked into: what it is is told by its content.

    A csv file needs a header; an npz archive holds plain arrays, no Python objects; images lie in folders of a zip or
    tar archive; TFRecord files hold examples. A JSON body names a path or a URL that the operator allows,
    from where the file is copied.
    """
    kind = content_type.partition(";")[0].strip().lower()
    file_title: str | None = None
    checked_title(name, None)
    if kind == "multipart/form-data":
        part = FilePart(content_type, request.stream(), "file")
        received = await uploads.receive(aiter(part))
        name = name or part.fields.get("name")
        file_title = part.file_name
    elif kind == "application/json":
        raw = await short_body(
            request, MAX_SOURCE_BYTES, "A JSON body names a path or url; files are sent in other types."
        )
        source = checked(DatasetSource.model_validate, json_of(raw))
        received = await uploads.receive(remote_files.chunks(source))
        name, file_title = name or source.name, file_name(source)
    elif kind in _RAW_TYPES:
        received = await uploads.receive(request.stream())
    else:
        raise UnsupportedMedia(
            f"A dataset can't be sent as {kind[:80] or 'a body without a Content-Type'}.",
            hint="Use a form (curl -F file=@data.csv), Content-Type: text/csv or application/octet-stream, or a JSON "
            "body with a path or url.",
        )
    try:
        if received.size_bytes == 0 and kind != "multipart/form-data":
            raise Malformed("The request has no body.", hint="Send the file as the body, or as a form.")
        title = checked_title(name, file_title)
    except Exception:
        await to_thread.run_sync(received.path.unlink)
        raise
    dataset, created = await to_thread.run_sync(uploads.keep, received, title)
    location = {"Location": f"/datasets/{dataset.id}"}
    return render.answer(render.dataset(dataset), 201 if created else 200, location)


@router.get(
    "/datasets",
    operation_id="listDatasets",
    summary="List datasets",
    response_model=DatasetList,
    responses=problems(422, 503),
)
def list_datasets(store: StoreDep, limit: Limit = 50, after: AfterId = None) -> Response:
    """Newest first; previews of images are without thumbnails here."""
    return render.answer(render.page(store.datasets.find(after=after, limit=limit), render.dataset_in_list))


@router.get(
    "/datasets/{dataset_id}",
    operation_id="getDataset",
    summary="Read a dataset's description",
    response_model=DatasetView,
    responses=problems(404, 503),
)
def get_dataset(dataset_id: DatasetId, store: StoreDep) -> Response:
    """What is in it: columns with statistics, arrays, folders of images or features, and a preview."""
    return render.answer(render.dataset(store.datasets.get(dataset_id)))


@router.delete(
    "/datasets/{dataset_id}",
    status_code=204,
    operation_id="deleteDataset",
    summary="Delete a dataset and its file",
    responses=problems(404, 409, 503),
)
def delete_dataset(dataset_id: DatasetId, uploads: UploadsDep) -> Response:
    """Refused while a job that has not ended names it."""
    uploads.delete(dataset_id)
    return Response(status_code=204)
