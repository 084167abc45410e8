"""What the rows about labels mean: routes, what is wanted loaded, and a model's row under its lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from shared.errors import NotFound
from shared.specs.traffic import LabelRoute
from shared.store.database import Database
from shared.store.schema import model_events, model_labels, models

RELEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Label:
    """One label. ``version`` is the one with the largest share, resolved when the label was written."""

    name: str
    version: int
    route: LabelRoute
    history: tuple[dict[str, Any], ...]
    updated_at: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What routing a request to a model needs. ``default`` None: the highest AVAILABLE version."""

    labels: Mapping[str, LabelRoute] = field(default_factory=dict)
    default: int | None = None

    def versions(self, target: str) -> list[int]:
        """The versions behind a target; none if the label is gone. A label is followed once, not further."""
        if target.isdigit():
            return [int(target)]
        route = self.labels.get(target)
        return [int(name) for name in route.weights if name.isdigit()] if route is not None else []


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which versions of a model must be loaded. ``labels``: those that a model server can know, by version."""

    model: str
    newest: int
    versions: frozenset[int]
    labels: Mapping[str, int]

    @property
    def only_newest(self) -> bool:
        """True when the newest version is all that is wanted."""
        return self.versions == {self.newest} and not self.labels


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """One thing that happened to a model. ``seq`` counts from 1 per model without gaps."""

    model: str
    seq: int
    at: float
    type: str  # "label", "label_deleted", "withdrawn", "default"
    data: dict[str, Any]


class ModelState:
    """A model's row under its lock, and what is to be written back."""

    def __init__(self, db: Database, tx: Connection, model: str) -> None:
        row = model_row(tx, model, lock=True)
        data = row.traffic or {}
        self.model = model
        self.now = float(tx.execute(select(db.now())).scalar_one())
        self.default: int | None = data.get("default")
        self.pending: dict[str, list[int]] = dict(data.get("pending") or {})
        self.released = {
            key: when
            for key, when in (data.get("released") or {}).items()
            if self.now - when < RELEASE_SECONDS
        }
        self._tx = tx

    def release(self, versions: Iterable[int]) -> None:
        self.released |= {str(version): self.now for version in versions}

    def event(self, kind: str, data: dict[str, Any]) -> None:
        last = self._tx.execute(
            select(func.max(model_events.c.seq)).where(model_events.c.model == self.model)
        ).scalar_one()
        row = {"model": self.model, "seq": (last or 0) + 1, "at": self.now, "type": kind, "data": data}
        self._tx.execute(model_events.insert().values(row))

    def save(self) -> None:
        traffic = {"default": self.default, "pending": self.pending, "released": self.released}
        self._tx.execute(
            update(models)
            .where(models.c.name == self.model)
            .values(traffic={key: value for key, value in traffic.items() if value}, traffic_at=self.now)
        )


def wanted_of(name: str, newest: int, labels: list[Label], state: Mapping[str, Any], now: float) -> Wanted:
    versions = {newest} | versions_of(labels)
    if state.get("default") is not None:
        versions.add(int(state["default"]))
    for pending in (state.get("pending") or {}).values():
        versions.update(pending)
    versions |= {
        int(key) for key, when in (state.get("released") or {}).items() if now - when < RELEASE_SECONDS
    }
    plain = {item.name: item.route.version for item in labels if item.route.version is not None}
    return Wanted(name, newest, frozenset(versions), plain)


def versions_of(labels: Iterable[Label]) -> set[int]:
    return {int(target) for item in labels for target in item.route.targets if target.isdigit()}


def label_of(row: Row[Any]) -> Label:
    route = LabelRoute.model_validate(row.route) if row.route else LabelRoute(version=row.version)
    return Label(row.label, row.version, route, tuple(row.history or ()), row.updated_at)


def plain(route: LabelRoute) -> dict[str, Any]:
    return route.model_dump(mode="json", exclude_none=True)


def shown(label: Label | None) -> dict[str, Any] | None:
    return plain(label.route) if label is not None else None


def holders(tx: Connection, model: str) -> dict[int, str]:
    """What sends requests to each version of a model that gets any by name, in words."""
    rows = tx.execute(select(model_labels).where(model_labels.c.model == model))
    found = {
        number: f"the label {item.name!r}" for item in map(label_of, rows) for number in versions_of([item])
    }
    row = tx.execute(select(models.c.traffic).where(models.c.name == model)).one_or_none()
    default = (row.traffic or {}).get("default") if row is not None else None
    return found if default is None else {**found, int(default): "being the default after a rollback"}


def model_row(tx: Connection, model: str, *, lock: bool = False) -> Any:
    query = select(models.c.name, models.c.traffic).where(models.c.name == model)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no model {model[:80]!r}.",
            code="model_not_found",
            field="model",
            hint="See what is there with GET /models; a train job with 'publish' makes one.",
        )
    return row


def no_version(model: str, version: int) -> NotFound:
    """The error for a version that is not there."""
    return NotFound(
        f"There is no version {version} of a model {model[:80]!r}.",
        code="version_not_found",
        field="version",
        hint=f"See its versions with GET /models/{model[:80]}/versions.",
    )
