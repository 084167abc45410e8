"""Labels: where they send requests, what they were before, and which versions must therefore be loaded.

A change is written under a lock on the model's row, with one event, in one transaction. A version that loses its last
label stays wanted for ``RELEASE_SECONDS``: API processes remember labels for a second, and none may be sent to a
version that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from shared.errors import Conflict, NotFound
from shared.jobs import Page
from shared.specs.traffic import LabelRoute
from shared.store.database import Database
from shared.store.schema import model_events, model_labels, model_versions, models

RELEASE_SECONDS = 10.0
HISTORY = 20  # earlier routes kept per label
DEFAULT = ""  # stands for "no label": what a request gets that names neither version nor label


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


class LabelStore:
    """All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, model: str) -> list[Label]:
        """A model's labels by name.

        Raises:
            NotFound: no such model.
        """
        with self._db.read() as tx:
            _model_row(tx, model)
            return self._labels(tx, model)

    def get(self, model: str, label: str) -> Label:
        """One label.

        Raises:
            NotFound: no such model or label.
        """
        found = {item.name: item for item in self.of(model)}
        if label not in found:
            raise _no_label(model, label)
        return found[label]

    def traffic(self, model: str) -> Traffic:
        """How requests to ``model`` are routed; nothing known of a model is no error."""
        with self._db.read() as tx:
            row = tx.execute(select(models.c.traffic).where(models.c.name == model)).one_or_none()
            if row is None:
                return Traffic()
            labels = {item.name: item.route for item in self._labels(tx, model)}
        return Traffic(labels, (row.traffic or {}).get("default"))

    def check(self, model: str, label: str, route: LabelRoute) -> list[int]:
        """The versions that ``route`` sends requests to, all of which exist.

        Raises:
            NotFound: no such model, version or label.
            Conflict: it leads back to the label itself, or through a label that splits.
        """
        with self._db.read() as tx:
            _model_row(tx, model)
            labels = {item.name: item.route for item in self._labels(tx, model)}
            found: list[int] = []
            for target in route.targets:
                found += self._behind(tx, model, label, target, labels)
        return list(dict.fromkeys(found))

    def prepare(self, model: str, label: str, versions: Iterable[int]) -> None:
        """Want ``versions`` loaded for a change of ``label`` that is to come. ``put`` and ``abandon`` end it."""
        with self._db.write() as tx:
            state = _State(self._db, tx, model)
            state.pending[label] = sorted(set(versions))
            state.save()

    def abandon(self, model: str, label: str) -> None:
        """The change that was prepared will not come."""
        with self._db.write() as tx:
            state = _State(self._db, tx, model)
            state.pending.pop(label, None)
            state.save()

    def put(
        self, model: str, label: str, route: LabelRoute, *, why: str = "set", back: bool = False
    ) -> Label:
        """Make ``route`` the label's, remembering the one before.

        ``back``: it is the last of the history, which is taken off rather than added to.

        Raises:
            NotFound, Conflict: as ``check``.
        """
        versions = self.check(model, label, route)
        with self._db.write() as tx:
            state = _State(self._db, tx, model)
            before = self._referenced(tx, model, state)
            old = next((item for item in self._labels(tx, model) if item.name == label), None)
            self._write(tx, state, label, route, versions[0] if versions else 0, old, back=back)
            state.pending.pop(label, None)
            state.release(before - self._referenced(tx, model, state))
            state.event("label", {"label": label, "why": why, "from": _shown(old), "to": _plain(route)})
            state.save()
        return self.get(model, label)

    def delete(self, model: str, label: str) -> None:
        """Remove a label; one that is not there is no error.

        Raises:
            NotFound: no such model.
        """
        with self._db.write() as tx:
            state = _State(self._db, tx, model)
            before = self._referenced(tx, model, state)
            old = next((item for item in self._labels(tx, model) if item.name == label), None)
            if old is None:
                return
            tx.execute(
                delete(model_labels).where(model_labels.c.model == model, model_labels.c.label == label)
            )
            state.release(before - self._referenced(tx, model, state))
            state.event("label_deleted", {"label": label, "from": _shown(old)})
            state.save()

    def withdraw(self, model: str, label: str, seen: LabelRoute, target: str, reason: dict[str, Any]) -> bool:
        """Send ``label``'s requests no longer to ``target``, if its route is still ``seen``.

        A route with nothing else goes back to the one before. Returns whether anything was changed.
        """
        with self._db.write() as tx:
            state = _State(self._db, tx, model)
            old = next((item for item in self._labels(tx, model) if item.name == label), None)
            if old is None or old.route != seen:
                return False
            left, back = seen.without(target), False
            if left is None and old.history:
                left, back = LabelRoute.model_validate(old.history[-1]["route"]), True
            if left is None:
                return False
            before = self._referenced(tx, model, state)
            labels = {item.name: item.route for item in self._labels(tx, model)}
            versions = Traffic(labels).versions(left.heaviest)
            self._write(tx, state, label, left, versions[0] if versions else old.version, old, back=back)
            state.release(before - self._referenced(tx, model, state))
            data = {"label": label, "target": target, "from": _plain(seen), "to": _plain(left), **reason}
            state.event("withdrawn", data)
            state.save()
        return True

    def set_default(self, model: str, version: int | None, *, why: str) -> None:
        """What requests get that name neither version nor label; None: the highest AVAILABLE version.

        Raises:
            NotFound: no such model.
        """
        with self._db.write() as tx:
            state = _State(self._db, tx, model)
            before = self._referenced(tx, model, state)
            old, state.default = state.default, version
            state.pending.pop(DEFAULT, None)
            state.release(before - self._referenced(tx, model, state))
            if old != version:
                state.event("default", {"from": old, "to": version, "why": why})
            state.save()

    def published(self, model: str, version: int) -> None:
        """A version is AVAILABLE: a default that holds requests back on an older one ends."""
        with self._db.read() as tx:
            row = tx.execute(select(models.c.traffic).where(models.c.name == model)).one_or_none()
        default = (row.traffic or {}).get("default") if row is not None else None
        if default is not None and default < version:
            self.set_default(model, None, why=f"version {version} was published")

    def events(self, model: str, *, after: int = 0, limit: int = 200) -> Page[ModelEvent]:
        """What happened to a model since event ``after``, oldest first.

        Raises:
            NotFound: no such model.
        """
        query = select(model_events).where(model_events.c.model == model, model_events.c.seq > after)
        with self._db.read() as tx:
            _model_row(tx, model)
            rows = tx.execute(query.order_by(model_events.c.seq).limit(limit + 1)).all()
        items = [ModelEvent(row.model, row.seq, row.at, row.type, row.data) for row in rows[:limit]]
        return Page(items, has_more=len(rows) > limit)

    def wanted(self) -> Iterator[Wanted]:
        """For each model that has a version: which must be loaded now."""
        query = (
            select(model_versions.c.model, func.max(model_versions.c.version).label("newest"))
            .where(model_versions.c.deleted_at.is_(None))
            .group_by(model_versions.c.model)
            .order_by(model_versions.c.model)
        )
        with self._db.read() as tx:
            now = float(tx.execute(select(self._db.now())).scalar_one())
            numbers = {row.model: int(row.newest) for row in tx.execute(query)}
            rows = tx.execute(select(models.c.name, models.c.traffic).where(models.c.traffic_at.is_not(None)))
            states = {row.name: row.traffic for row in rows}
            labels: dict[str, list[Label]] = {}
            for row in tx.execute(select(model_labels).order_by(model_labels.c.label)):
                labels.setdefault(row.model, []).append(_label(row))
        for name, number in numbers.items():
            yield _wanted(name, number, labels.get(name, []), states.get(name) or {}, now)

    def settling(self, seconds: float) -> bool:
        """Whether anything about what must be loaded has changed in the last ``seconds``."""
        query = select(func.max(models.c.traffic_at), self._db.now())
        with self._db.read() as tx:
            last, now = tx.execute(query).one()
        return last is not None and float(now) - float(last) < seconds

    def _labels(self, tx: Connection, model: str) -> list[Label]:
        rows = tx.execute(
            select(model_labels).where(model_labels.c.model == model).order_by(model_labels.c.label)
        )
        return [_label(row) for row in rows]

    def _behind(
        self, tx: Connection, model: str, label: str, target: str, labels: Mapping[str, LabelRoute]
    ) -> list[int]:
        if target.isdigit():
            found = tx.execute(
                select(model_versions.c.version).where(
                    model_versions.c.model == model,
                    model_versions.c.version == int(target),
                    model_versions.c.deleted_at.is_(None),
                )
            ).one_or_none()
            if found is None:
                raise NotFound(
                    f"There is no version {target} of a model {model[:80]!r}.",
                    code="version_not_found",
                    field="version",
                    hint=f"See its versions with GET /models/{model[:80]}/versions.",
                )
            return [int(target)]
        if target == label:
            raise Conflict(f"The label {label!r} can't lead to itself.", code="label_loop", field="split")
        if target not in labels:
            raise _no_label(model, target)
        if labels[target].split is not None:
            raise Conflict(
                f"The label {target!r} splits its requests itself.",
                code="label_nested",
                field="split",
                hint="Name versions, or labels that point at one version.",
            )
        return [int(name) for name in labels[target].weights]

    def _write(
        self,
        tx: Connection,
        state: _State,
        label: str,
        route: LabelRoute,
        version: int,
        old: Label | None,
        *,
        back: bool,
    ) -> None:
        history = list(old.history) if old is not None else []
        if back:
            history = history[:-1]
        elif old is not None and old.route != route:
            history = [*history, {"route": _plain(old.route), "until": state.now}][-HISTORY:]
        row = {
            "model": state.model,
            "label": label,
            "version": version,
            "updated_at": state.now,
            "route": _plain(route),
            "history": history,
        }
        self._db.upsert(tx, model_labels, [row])

    def _referenced(self, tx: Connection, model: str, state: _State) -> set[int]:
        found = _of_labels(self._labels(tx, model))
        return found | ({state.default} if state.default is not None else set())


def holders(tx: Connection, model: str) -> dict[int, str]:
    """What sends requests to each version of a model that gets any by name, in words."""
    rows = tx.execute(select(model_labels).where(model_labels.c.model == model))
    found = {
        number: f"the label {item.name!r}" for item in map(_label, rows) for number in _of_labels([item])
    }
    row = tx.execute(select(models.c.traffic).where(models.c.name == model)).one_or_none()
    default = (row.traffic or {}).get("default") if row is not None else None
    return found if default is None else {**found, int(default): "being the default after a rollback"}


class _State:
    """A model's row under its lock, and what is to be written back."""

    def __init__(self, db: Database, tx: Connection, model: str) -> None:
        row = _model_row(tx, model, lock=True)
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


def _wanted(name: str, newest: int, labels: list[Label], state: Mapping[str, Any], now: float) -> Wanted:
    versions = {newest} | _of_labels(labels)
    if state.get("default") is not None:
        versions.add(int(state["default"]))
    for pending in (state.get("pending") or {}).values():
        versions.update(pending)
    versions |= {
        int(key) for key, when in (state.get("released") or {}).items() if now - when < RELEASE_SECONDS
    }
    plain = {item.name: item.route.version for item in labels if item.route.version is not None}
    return Wanted(name, newest, frozenset(versions), plain)


def _of_labels(labels: Iterable[Label]) -> set[int]:
    return {int(target) for item in labels for target in item.route.targets if target.isdigit()}


def _label(row: Row[Any]) -> Label:
    route = LabelRoute.model_validate(row.route) if row.route else LabelRoute(version=row.version)
    return Label(row.label, row.version, route, tuple(row.history or ()), row.updated_at)


def _plain(route: LabelRoute) -> dict[str, Any]:
    return route.model_dump(mode="json", exclude_none=True)


def _shown(label: Label | None) -> dict[str, Any] | None:
    return _plain(label.route) if label is not None else None


def _model_row(tx: Connection, model: str, *, lock: bool = False) -> Any:
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


def _no_label(model: str, label: str) -> NotFound:
    return NotFound(
        f"The model {model!r} has no label {label[:80]!r}.",
        code="label_not_found",
        field="label",
        hint=f"See its labels with GET /models/{model}/labels.",
    )
