"""Labels: where they send requests, what they were before, and which versions must therefore be loaded.

A change is written under a lock on the model's row, with one event, in one transaction. A version that loses its last
label stays wanted for ``RELEASE_SECONDS``: API processes remember labels for a second or two, and none may be sent to a
version that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, select

from shared.errors import Conflict, NotFound
from shared.jobs import Page
from shared.specs.traffic import LabelRoute
from shared.store.database import Database
from shared.store.label_rows import (
    Label,
    ModelEvent,
    ModelState,
    Traffic,
    Wanted,
    label_of,
    model_row,
    no_version,
    plain,
    shown,
    versions_of,
    wanted_of,
)
from shared.store.schema import model_events, model_labels, model_versions, models

HISTORY = 20  # earlier routes kept per label
DEFAULT = ""  # stands for "no label": what a request gets that names neither version nor label


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
            model_row(tx, model)
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
            model_row(tx, model)
            return self._checked(tx, model, label, route)

    def prepare(self, model: str, label: str, versions: Iterable[int]) -> None:
        """Want ``versions`` loaded for a change of ``label`` that is to come. ``put`` and ``abandon`` end it."""
        with self._db.write() as tx:
            state = ModelState(self._db, tx, model)
            state.pending[label] = sorted(set(versions))
            state.save()

    def abandon(self, model: str, label: str) -> None:
        """The change that was prepared will not come."""
        with self._db.write() as tx:
            state = ModelState(self._db, tx, model)
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
        with self._db.write() as tx:
            state = ModelState(self._db, tx, model)
            versions = self._checked(
                tx, model, label, route
            )  # again: a load, and a clean-up, may lie between
            before = self._referenced(tx, model, state)
            old = next((item for item in self._labels(tx, model) if item.name == label), None)
            self._write(tx, state, label, route, versions[0] if versions else 0, old, back=back)
            state.pending.pop(label, None)
            state.release(before - self._referenced(tx, model, state))
            state.event("label", {"label": label, "why": why, "from": shown(old), "to": plain(route)})
            state.save()
        return self.get(model, label)

    def delete(self, model: str, label: str) -> None:
        """Remove a label; one that is not there is no error.

        Raises:
            NotFound: no such model.
        """
        with self._db.write() as tx:
            state = ModelState(self._db, tx, model)
            before = self._referenced(tx, model, state)
            old = next((item for item in self._labels(tx, model) if item.name == label), None)
            if old is None:
                return
            tx.execute(
                delete(model_labels).where(model_labels.c.model == model, model_labels.c.label == label)
            )
            state.release(before - self._referenced(tx, model, state))
            state.event("label_deleted", {"label": label, "from": shown(old)})
            state.save()

    def withdraw(self, model: str, label: str, seen: LabelRoute, target: str, reason: dict[str, Any]) -> bool:
        """Send ``label``'s requests no longer to ``target``, if its route is still ``seen``.

        A route with nothing else goes back to the one before, if its versions are still there. What was withdrawn is
        not remembered: a rollback that follows must not bring it back. Returns whether anything was changed.
        """
        with self._db.write() as tx:
            state = ModelState(self._db, tx, model)
            old = next((item for item in self._labels(tx, model) if item.name == label), None)
            if old is None or old.route != seen:
                return False
            last = LabelRoute.model_validate(old.history[-1]["route"]) if old.history else None
            if last is not None and not self._leads_somewhere(tx, model, label, last):
                last = None
            left = seen.without(target) or last
            if left is None:
                return False
            back = left == last
            before = self._referenced(tx, model, state)
            labels = {item.name: item.route for item in self._labels(tx, model)}
            versions = Traffic(labels).versions(left.heaviest)
            version = versions[0] if versions else old.version
            self._write(tx, state, label, left, version, old, back=back, remember=False)
            state.release(before - self._referenced(tx, model, state))
            data = {"label": label, "target": target, "from": plain(seen), "to": plain(left), **reason}
            state.event("withdrawn", data)
            state.save()
        return True

    def set_default(self, model: str, version: int | None, *, why: str) -> None:
        """What requests get that name neither version nor label; None: the highest AVAILABLE version.

        Raises:
            NotFound: no such model or version.
        """
        with self._db.write() as tx:
            state = ModelState(self._db, tx, model)
            if version is not None:
                self._behind(tx, model, DEFAULT, str(version), {})
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
            model_row(tx, model)
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
                labels.setdefault(row.model, []).append(label_of(row))
        for name, number in numbers.items():
            yield wanted_of(name, number, labels.get(name, []), states.get(name) or {}, now)

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
        return [label_of(row) for row in rows]

    def _checked(self, tx: Connection, model: str, label: str, route: LabelRoute) -> list[int]:
        labels = {item.name: item.route for item in self._labels(tx, model)}
        found: list[int] = []
        for target in route.targets:
            found += self._behind(tx, model, label, target, labels)
        return list(dict.fromkeys(found))

    def _leads_somewhere(self, tx: Connection, model: str, label: str, route: LabelRoute) -> bool:
        try:
            return bool(self._checked(tx, model, label, route))
        except (NotFound, Conflict):
            return False

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
                raise no_version(model, int(target))
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
        state: ModelState,
        label: str,
        route: LabelRoute,
        version: int,
        old: Label | None,
        *,
        back: bool,
        remember: bool = True,
    ) -> None:
        history = list(old.history) if old is not None else []
        if back:
            history = history[:-1]
        elif remember and old is not None and old.route != route:
            history = [*history, {"route": plain(old.route), "until": state.now}][-HISTORY:]
        row = {
            "model": state.model,
            "label": label,
            "version": version,
            "updated_at": state.now,
            "route": plain(route),
            "history": history,
        }
        self._db.upsert(tx, model_labels, [row])

    def _referenced(self, tx: Connection, model: str, state: ModelState) -> set[int]:
        found = versions_of(self._labels(tx, model))
        return found | ({state.default} if state.default is not None else set())


def _no_label(model: str, label: str) -> NotFound:
    return NotFound(
        f"The model {model!r} has no label {label[:80]!r}.",
        code="label_not_found",
        field="label",
        hint=f"See its labels with GET /models/{model}/labels.",
    )
