"""The table of roles over routes: one line a route. A route without a line is an admin's, and a test fails.

The rule is found by the path itself, before any route runs. Where several templates fit a path, all their rules must
allow it, so it does not matter in which order the router would try them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from re import Pattern
from typing import Literal

from starlette.routing import compile_path

from shared.keys import Role

Kind = Literal["request", "prediction"]
_ALL = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may use a route. ``audited``: each use goes to the audit log; ``kind``: the rate limit that counts it."""

    roles: frozenset[Role]
    public: bool = False
    audited: bool = False
    kind: Kind = "request"


_READERS = frozenset({Role.ADMIN, Role.DEVELOPER, Role.VIEWER})
_ASKERS = frozenset({Role.ADMIN, Role.DEVELOPER, Role.PREDICTOR})
_MAKERS = frozenset({Role.ADMIN, Role.DEVELOPER})

PUBLIC = Rule(_ALL, public=True)  # without any key
SIGN = Rule(_ALL, public=True, audited=True)  # sessions of browsers
ANY = Rule(_ALL)  # any live key
READ = Rule(_READERS)
TAKE = Rule(_READERS, audited=True)  # reading, but what leaves is worth a line: weights, artifacts
PREDICT = Rule(_ASKERS, kind="prediction")
ABOUT_MODELS = Rule(_ALL)  # who asks a model may see what it takes
CHANGE = Rule(_MAKERS, audited=True)
PLAN = Rule(_MAKERS)
ADMIN = Rule(frozenset({Role.ADMIN}), audited=True)
ADMIN_READ = Rule(frozenset({Role.ADMIN}))
UNKNOWN = ADMIN

TABLE: Mapping[str, Rule] = {
    # the front door
    "GET /": ANY,
    "GET /docs": ANY,
    "GET /docs/oauth2-redirect": ANY,
    "GET /openapi.json": ANY,
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,  # without details for those without a key
    "GET /login": PUBLIC,
    "POST /session": SIGN,
    "DELETE /session": SIGN,
    "POST /logout": SIGN,
    "GET /session": ANY,
    # keys
    "GET /keys": ADMIN_READ,
    "POST /keys": ADMIN,
    "GET /keys/{key_id}": ADMIN_READ,
    "DELETE /keys/{key_id}": ADMIN,
    "GET /audit": ADMIN_READ,
    # jobs
    "GET /jobs": READ,
    "POST /jobs": CHANGE,
    "GET /jobs/{job_id}": READ,
    "GET /jobs/{job_id}/explain": READ,
    "PUT /jobs/{job_id}/priority": CHANGE,
    "POST /jobs/{job_id}/cancel": CHANGE,
    "POST /jobs/{job_id}/retry": CHANGE,
    "POST /jobs/{job_id}/continue": CHANGE,
    "POST /jobs/{job_id}/reproduce": CHANGE,
    "GET /jobs/{job_id}/reproduction": READ,
    "GET /jobs/{job_id}/events": READ,
    "GET /jobs/{job_id}/logs": READ,
    "GET /jobs/{job_id}/metrics": READ,
    "GET /jobs/{job_id}/study": READ,
    "GET /jobs/{job_id}/trials": READ,
    "GET /jobs/{job_id}/importance": READ,
    "GET /jobs/{job_id}/history": READ,
    "GET /jobs/{job_id}/parallel": READ,
    "GET /jobs/{job_id}/checkpoints": READ,
    "GET /jobs/{job_id}/artifacts": READ,
    "GET /jobs/{job_id}/artifacts/{path:path}": TAKE,
    "GET /jobs/{job_id}/artifacts.{kind}": TAKE,
    "GET /builders": READ,
    # datasets
    "GET /datasets": READ,
    "POST /datasets": CHANGE,
    "GET /datasets/{dataset_id}": READ,
    "DELETE /datasets/{dataset_id}": CHANGE,
    # models
    "GET /models": ABOUT_MODELS,
    "GET /models/{model}": ABOUT_MODELS,
    "GET /models/{model}/versions": ABOUT_MODELS,
    "GET /models/{model}/versions/{version}": ABOUT_MODELS,
    "DELETE /models/{model}/versions/{version}": CHANGE,
    "GET /models/{model}/versions/{version}/download": TAKE,
    "GET /models/{model}/labels": ABOUT_MODELS,
    "PUT /models/{model}/labels/{label}": CHANGE,
    "DELETE /models/{model}/labels/{label}": CHANGE,
    "POST /models/{model}/rollback": CHANGE,
    "GET /models/{model}/events": READ,
    # predictions
    "POST /predict": PREDICT,
    "GET /v1/models": ABOUT_MODELS,
    "GET /v1/models/{rest:path}": ABOUT_MODELS,
    "POST /v1/models/{rest:path}": PREDICT,
    # the model server has nothing there; were it to get something, it would be no reader's
    "PUT /v1/models/{rest:path}": CHANGE,
    "PATCH /v1/models/{rest:path}": CHANGE,
    "DELETE /v1/models/{rest:path}": CHANGE,
    "OPTIONS /v1/models/{rest:path}": ANY,
    # operations
    "GET /workers": READ,
    "POST /maintenance/clean-up": ADMIN,
    "POST /workers/{worker_id}/drain": ADMIN,
    "POST /workers/{worker_id}/undrain": ADMIN,
    "GET /projects": READ,
    "GET /projects/{project}": READ,
    "PUT /projects/{project}": ADMIN,
    "GET /metrics": READ,
    # TensorBoard reads with POST too: the points of many charts in one request
    "GET /tensorboard": READ,
    "GET /tensorboard/{rest:path}": READ,
    "POST /tensorboard/{rest:path}": READ,
}


@dataclass(frozen=True, slots=True)
class _Place:
    pattern: Pattern[str]
    template: str
    methods: dict[str, Rule]


@dataclass(frozen=True, slots=True)
class Found:
    """What the table says about a request. ``methods``: those that have a rule at this path; empty: no such path."""

    rule: Rule
    template: str
    methods: frozenset[str]


class Rules:
    """Finds the rule of a method and a path. Every template begins with a literal part, by which it is found."""

    def __init__(self, table: Mapping[str, Rule] = TABLE) -> None:
        self._by_head: dict[str, list[_Place]] = {}
        self._literal: dict[tuple[str, str], Found] = {}
        self._lately = lru_cache(maxsize=1024)(
            self._search
        )  # predictions ask for a few paths again and again
        places: dict[str, dict[str, Rule]] = {}
        for line, rule in table.items():
            method, _, template = line.partition(" ")
            methods = places.setdefault(template, {})
            methods[method] = rule
            if method == "GET":
                methods["HEAD"] = rule
        for template, methods in places.items():
            if "{" in _head(template):
                raise ValueError(f"{template} begins with a parameter: its rule would not be found")
            pattern, _, _ = compile_path(template)
            self._by_head.setdefault(_head(template), []).append(_Place(pattern, template, methods))
        for line in table:
            method, _, template = line.partition(" ")
            if "{" not in template:
                self._literal[method, template] = self._search(method, template)

    def of(self, method: str, path: str) -> Found:
        """The rule; an admin's where the table has none."""
        return self._literal.get((method, path)) or self._lately(method, path)

    def _search(self, method: str, path: str) -> Found:
        fitting = [place for place in self._by_head.get(_head(path), ()) if place.pattern.match(path)]
        rules = [(place.methods[method], place.template) for place in fitting if method in place.methods]
        methods = frozenset().union(*(place.methods for place in fitting))
        if not rules:
            return Found(UNKNOWN, fitting[0].template if fitting else "unmatched", methods)
        return Found(_strictest(rule for rule, _ in rules), rules[0][1], methods)


def _head(path: str) -> str:
    """Up to the second slash."""
    return path[1:].partition("/")[0]


def _strictest(rules: Iterable[Rule]) -> Rule:
    found = list(rules)
    if len(found) == 1:
        return found[0]
    return Rule(
        frozenset.intersection(*(rule.roles for rule in found)),
        public=all(rule.public for rule in found),
        audited=any(rule.audited for rule in found),
        kind=found[0].kind,
    )
