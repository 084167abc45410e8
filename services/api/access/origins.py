"""Browsers of people who look at other sites.

Without keys everybody on this machine may do everything, and a web page of anybody's runs on this machine too. Such a
page can send requests here (it can't read the answers, as no CORS header is ever sent), or have its own name lead to
127.0.0.1 (DNS rebinding) and then read them as well. Against the first stands the Origin header, against the second the
Host header: a browser sends both truly. Programs that are no browsers send no Origin, and are not concerned.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from services.api.errors import Forbidden

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a name or an address can only mean this machine; ``*.localhost`` too (RFC 6761, 6.3)."""
    name = host.rstrip(".").lower()
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


class Origins:
    """``hosts``: names that the API may be called by; empty: any, or loopback's only while there is no key."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.rstrip(".").lower() for host in hosts)
        self._good: set[str] = set()

    def check_host(self, header: str, *, locked: bool) -> None:
        """The Host header must name this server.

        Raises:
            Forbidden: it does not.
        """
        if locked and not self._hosts:
            return
        if header in self._good:
            return
        host = host_of(header)
        if host in self._hosts or (is_loopback(host) and not locked) or (self._hosts and is_loopback(host)):
            if len(self._good) < 100:
                self._good.add(header)
            return
        raise Forbidden(
            f"This server is not called {host[:80] or 'nothing'!r}.",
            code="host_not_allowed",
            hint="Use http://127.0.0.1, or have the operator name it in MODELYARD_ALLOWED_HOSTS"
            + ("." if locked else ", or make an API key: modelyard keys create --local --role admin."),
        )


def check_origin(method: str, origin: str | None, site: str | None, host: str) -> None:
    """A browser may change something from this server's own pages only.

    Args:
        method: the request's.
        origin: the Origin header; None: not sent.
        site: the Sec-Fetch-Site header; None: not sent.
        host: the Host header.

    Raises:
        Forbidden: another site's page sent the request.
    """
    if method in SAFE:
        return
    if origin is not None:
        same = origin.partition("://")[2].lower() == host.lower()
    else:
        same = site in (None, "same-origin", "none")
    if not same:
        raise Forbidden(
            f"A page of {(origin or 'another site')[:100]!r} may not change anything here.",
            code="cross_origin",
            hint="Call the API from a program, or from its own pages.",
        )


def check_near(address: str, *, forwarded: bool) -> None:
    """Without keys only this machine may call, and not for others.

    Raises:
        Forbidden: the caller is elsewhere, or is a proxy that says so.
    """
    if forwarded or not is_loopback(address):
        raise Forbidden(
            "Without an API key only programs on this machine are served.",
            code="not_local",
            hint="Make a key: modelyard keys create --local --role admin",
        )
