"""Files that a person wants taken in from elsewhere: a path or a URL that the operator allows. No FastAPI here.

A URL must begin as one of the operator's prefixes. Its host is looked up once, the addresses are checked, and the
connection goes to the address that was checked, so that a name that answers differently the second time leads nowhere.
Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import httpx
from anyio import to_thread
from pydantic import Field, model_validator

from shared.data_paths import allowed_file
from shared.errors import InvalidInput
from shared.settings import Settings
from shared.specs.base import Spec

CHUNK_BYTES = 2**20
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
# A server that sends a byte now and then would otherwise hold a request and a file for ever.
LONGEST_SECONDS = 3600.0


class DatasetSource(Spec):
    """Where a dataset is to be copied from."""

    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="A file in a folder that the operator allows."
    )
    url: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="An http or https address that begins as one the operator allows."
    )
    name: str | None = Field(None, description="Name for people; default: the file's.")

    @model_validator(mode="after")
    def _one_of_them(self) -> DatasetSource:
        if (self.path is None) == (self.url is None):
            raise ValueError("name either path or url")
        return self


class RemoteFiles:
    """Reads what is named, if it is allowed. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._paths = settings.allowed_paths
        self._prefixes = settings.allowed_urls
        self._private = settings.allow_private_urls

    def chunks(self, source: DatasetSource) -> AsyncIterator[bytes]:
        """The file's bytes.

        Raises:
            InvalidInput: it is not allowed, not there, or does not answer.
        """
        return self._of_path(source.path) if source.path is not None else self._of_url(source.url or "")

    async def _of_path(self, name: str) -> AsyncIterator[bytes]:
        path: Path = await to_thread.run_sync(lambda: allowed_file(name, self._paths, field="path"))
        try:
            file = await to_thread.run_sync(lambda: path.open("rb"))
        except OSError as error:
            raise InvalidInput(
                f"{name[:200]!r} can't be read: {error.strerror}.", code="file_unreadable", field="path"
            ) from None
        with file:
            while chunk := await to_thread.run_sync(file.read, CHUNK_BYTES):
                yield chunk

    async def _of_url(self, url: str) -> AsyncIterator[bytes]:
        host, port, scheme = self._allowed(url)
        address = await self._address(host, port)
        target = httpx.URL(url).copy_with(host=address, fragment=None)
        named = f"[{host}]" if ":" in host else host
        headers = {
            "Host": named if port == _PORTS[scheme] else f"{named}:{port}",
            "Accept-Encoding": "identity",
            "User-Agent": "modelyard",
        }
        ends = time.monotonic() + LONGEST_SECONDS
        try:
            async with (
                httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, follow_redirects=False) as client,
                client.stream("GET", target, headers=headers, extensions={"sni_hostname": host}) as answer,
            ):
                _check_answer(answer)
                async for (
                    chunk
                ) in answer.aiter_raw():  # as it arrives: a full chunk may take its sender for ever
                    if time.monotonic() > ends:
                        raise httpx.ReadTimeout(f"not done within {LONGEST_SECONDS / 60:g} minutes")
                    yield chunk
        except httpx.HTTPError as error:
            raise InvalidInput(
                f"{host} does not send the file: {error or type(error).__name__}.",
                code="url_unreachable",
                field="url",
            ) from None

    def _allowed(self, url: str) -> tuple[str, int, str]:
        """(host, port, scheme) of a URL that begins as one of the prefixes."""
        try:
            asked = urlsplit(url)
            place = (asked.scheme, asked.hostname, asked.port or _PORTS.get(asked.scheme))
            path = unquote(asked.path)
            plain = (
                not asked.username and ".." not in path.split("/") and "\\" not in path and url.isprintable()
            )
            known = (
                plain
                and asked.hostname is not None
                and any(self._begins(place, path, p) for p in self._prefixes)
            )
        except ValueError:
            known = False
        if not known:
            raise InvalidInput(
                f"{url[:200]!r} is not an address that the operator allows.",
                code="url_not_allowed",
                field="url",
                hint="Upload the file, or have the operator allow the beginning of its address "
                "(MODELYARD_ALLOWED_URLS).",
            )
        return str(asked.hostname), int(place[2] or 0), asked.scheme

    @staticmethod
    def _begins(place: tuple[str, str | None, int | None], path: str, prefix: str) -> bool:
        allowed = urlsplit(prefix)
        base = allowed.path if allowed.path.endswith("/") else f"{allowed.path}/"
        return place == (allowed.scheme, allowed.hostname, allowed.port or _PORTS.get(allowed.scheme)) and (
            path == allowed.path or path.startswith(base)
        )

    async def _address(self, host: str, port: int) -> str:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise InvalidInput(
                f"There is no host {host[:200]!r}: {error.strerror}.", code="url_unreachable", field="url"
            ) from None
        addresses = [str(item[4][0]) for item in found]
        reaches = {reach_of(each) for each in addresses}
        if Reach.NEVER in reaches:
            raise InvalidInput(
                f"{host[:200]!r} is a link-local address, such as those of a cloud's metadata, or no host's at all.",
                code="url_not_allowed",
                field="url",
            )
        if Reach.PRIVATE in reaches and not self._private:
            raise InvalidInput(
                f"{host[:200]!r} is an address of this machine or a private network, which is not fetched from.",
                code="url_not_allowed",
                field="url",
                hint="The operator can allow it with MODELYARD_ALLOW_PRIVATE_URLS.",
            )
        return addresses[0]


_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits


class Reach(Enum):
    """Where an address leads."""

    PUBLIC = "public"
    PRIVATE = "private"  # loopback, private networks, carriers' networks
    NEVER = "never"  # link-local, multicast, unspecified, reserved


def reach_of(text: str) -> Reach:
    """Where an IP address leads, looking through the forms in which IPv6 carries an IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    if address.is_loopback:  # ::1 counts as reserved too
        return Reach.PRIVATE
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return Reach.NEVER
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def _check_answer(answer: httpx.Response) -> None:
    if answer.is_redirect:
        raise InvalidInput(
            f"The address leads on to {answer.headers.get('location', '')[:200]!r}; redirects are not followed.",
            code="url_refused",
            field="url",
            hint="Name the address where the file itself is.",
        )
    if answer.status_code != 200:
        raise InvalidInput(
            f"The address answers {answer.status_code} {answer.reason_phrase}.",
            code="url_refused",
            field="url",
        )
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise InvalidInput("The address sends the file in a coded form.", code="url_refused", field="url")


def file_name(source: DatasetSource) -> str:
    """The last part of the path or URL."""
    named = source.path if source.path is not None else unquote(urlsplit(source.url or "").path)
    return named.rstrip("/").rpartition("/")[2][:200]
