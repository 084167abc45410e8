"""Which version a request goes to: by number, by label, by a label's weights, or by a model's default.

What the store says is remembered for a second, a model at a time; the hot path then costs a look into a dictionary
and, where a label splits, one hash.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple

from services.api.remembered import Remembered
from shared.errors import NotFound
from shared.specs.traffic import LabelRoute
from shared.store import Store, Traffic

KEY_HEADER = "X-Request-Key"
LOOK_AGAIN_SECONDS = 0.05  # for a label that is not known: asking for many of them costs no more than this


class Choice(NamedTuple):
    """Where one request goes.

    Attributes:
        version: None leaves it to the model server, which takes the highest AVAILABLE one.
        label: by which it was chosen; None without one.
        target: the key of the label's weights that was drawn.
        route: the label's, as it was when it was drawn from.
        shadow: version that gets a copy of this request.
    """

    version: int | None
    label: str | None = None
    target: str | None = None
    route: LabelRoute | None = None
    shadow: int | None = None


class Router:
    """Belongs to one event loop."""

    def __init__(self, store: Store, remembered: Remembered) -> None:
        self._store = store
        self._remembered = remembered

    async def choose(self, model: str, label: str | None, key: str | None) -> Choice:
        """Draw for a request without a version of its own.

        Args:
            model: its name.
            label: None for the model's default.
            key: requests with equal keys are drawn alike; None draws by chance.

        Raises:
            NotFound: no such label.
            Unavailable: the store does not answer.
        """
        found = self.choose_at_hand(model, label, key)
        if found is not None:
            return found
        place, ask = self._asked(model)
        traffic = await self._remembered.get(place, ask)
        if label is not None and label not in traffic.labels:  # perhaps another process made it a moment ago
            traffic = await self._remembered.get(place, ask, within=LOOK_AGAIN_SECONDS)
        found = _choice(traffic, model, label, key)
        if found is None:
            raise no_label(model, label or "")
        return found

    def choose_at_hand(self, model: str, label: str | None, key: str | None) -> Choice | None:
        """As ``choose``, from what is remembered; None where that will not do.

        Raises:
            NotFound: the label leads to a target without a version.
        """
        traffic = self._remembered.at_hand(*self._asked(model))
        return _choice(traffic, model, label, key) if traffic is not None else None

    def _asked(self, model: str) -> tuple[tuple[str, str], Callable[[], Traffic]]:
        return ("traffic", model), lambda: self._store.labels.traffic(model)


def _choice(traffic: Traffic, model: str, label: str | None, key: str | None) -> Choice | None:
    """None: there is no such label."""
    if label is None:
        return Choice(traffic.default)
    route = traffic.labels.get(label)
    if route is None:
        return None
    target = draw(route, f"{model}/{label}", key)
    versions = traffic.versions(target)
    if not versions:
        raise no_label(model, target)
    return Choice(versions[0], label, target, route, _shadow(route, traffic))


def draw(route: LabelRoute, salt: str, key: str | None) -> str:
    """One of the route's targets, each with the chance of its share.

    A key's place on the line from 0 to 1 is fixed, and targets lie on it in the order of their names: when a weight
    grows, callers only ever join that side.
    """
    weights = sorted(item for item in route.weights.items() if item[1] > 0)
    if len(weights) == 1:
        return weights[0][0]
    place = random.random() if key is None else _place(salt, key)  # noqa: S311 - no secret depends on it
    point = place * sum(weight for _, weight in weights)
    for target, weight in weights:
        point -= weight
        if point < 0:
            return target
    return weights[-1][0]


def _place(salt: str, key: str) -> float:
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def _shadow(route: LabelRoute, traffic: Traffic) -> int | None:
    shadow = route.shadow
    if shadow is None or (shadow.percent < 100 and random.random() * 100 >= shadow.percent):  # noqa: S311
        return None
    versions = traffic.versions(shadow.to)
    return versions[0] if versions else None


def no_label(model: str, label: str) -> NotFound:
    """The error for a label that is not there."""
    return NotFound(
        f"The model {model!r} has no label {label[:80]!r}.",
        code="label_not_found",
        field="label",
        hint=f"See its labels with GET /models/{model}/labels.",
    )
