"""What the door checks of every request, without waiting for anybody: both ways to a prediction lead through here."""

from __future__ import annotations

from services.api.access.asked import Asked
from services.api.access.opening import Access
from services.api.access.origins import check_near, check_origin
from services.api.access.principal import OPEN, Principal
from services.api.access.rules import Found
from services.api.errors import Forbidden
from shared.errors import NotFound
from shared.keys import Role


def caller_at_hand(access: Access, asked: Asked, method: str, found: Found) -> Principal | None:
    """Who calls, where nobody need be asked: this machine's owner while there is no key, or a key that was found good a
    moment ago.

    Raises:
        Forbidden: for where it comes from, or by what name it calls this server.
    """
    locked = access.lock.locked
    access.origins.check_host(asked.host, locked=locked)
    if not locked:
        check_near(asked.address, forwarded=asked.forwarded)
        check_origin(method, asked.origin, asked.site, asked.host)
        return OPEN
    if found.rule.public:  # logging in and out
        check_origin(method, asked.origin, asked.site, asked.host)
    if asked.given is None:
        return None
    asked.secret = asked.given
    return access.callers.remembered(asked.given)


def check_role(principal: Principal, method: str, path: str, found: Found) -> None:
    """May this caller do this?

    Raises:
        Forbidden: its role may not.
        NotFound: nobody could; there is nothing.
    """
    if principal.role in found.rule.roles:
        return
    if not found.methods:
        raise NotFound(
            f"There is nothing at {path[:200]}.",
            code="route_not_found",
            hint="GET /docs lists all routes.",
        )
    allowed = ", ".join(role for role in Role if role in found.rule.roles)
    raise Forbidden(
        f"The role {principal.role} may not {method} {found.template}.",
        hint=f"Use a key with one of these roles: {allowed}.",
    )


def body_limit(access: Access, principal: Principal, *, upload: bool) -> tuple[int, str] | None:
    """How many MiB this caller may send, and whose limit that is; None: it has none of its own."""
    limits = principal.limits
    of_role = access.role_max_body_mb.get(principal.role)
    of_key = limits.max_upload_mb if upload else limits.max_body_mb
    if of_role is None and of_key is None:
        return None
    most = min(value for value in (of_role, of_key) if value is not None)
    whose = "this key's" if most == of_key else f"the role {principal.role}'s"
    return most, f"That is {whose} limit; an admin sets it."
