"""The door, from both sides: keys, roles, sessions, other sites' pages, limits, the audit log."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from services.api.access import __main__ as access
from services.api.access import callers
from services.api.access.rules import PUBLIC, READ, TABLE, Rule, Rules
from services.api.app import create_app
from shared.keys import Role, new_key
from shared.settings import Settings
from shared.store import Store
from tests.api_client import client_of
from tests.builders import train_request


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(settings: Settings) -> Iterator[dict[Role, str]]:
    """A key of each role, made before the application starts: it is locked from the first request on."""
    store = Store(settings.store_url)
    made = {}
    for role in Role:
        new = new_key()
        store.keys.add(new, name=f"the {role}", role=role, created_by="local")
        made[role] = new.text
    store.close()
    return made


@pytest.fixture
def as_role(keys: dict[Role, str]) -> Callable[[Role], dict[str, str]]:
    return lambda role: _bearer(keys[role])


@pytest.fixture
def admin(keys: dict[Role, str]) -> dict[str, str]:
    return _bearer(keys[Role.ADMIN])


def _routes() -> set[tuple[str, str]]:
    app = create_app(Settings.model_construct())
    found = set()
    for context in iter_route_contexts(app.routes):
        assert context.path is not None
        found |= {(method, context.path) for method in context.methods or ()}
    return {(method, path) for method, path in found if method != "HEAD"}


def _filled(template: str) -> str:
    """A path that the template fits."""
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: "zip" if found[1] == "kind" else "x1", template)


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    table = {tuple(line.split(" ", 1)) for line in TABLE}
    routes = _routes()
    assert routes - table == set(), "add a line to services/api/access/rules.py"
    assert table - routes == set(), "these rules are of no route"


def test_only_a_few_routes_need_no_key() -> None:
    assert {line for line, rule in TABLE.items() if rule.public} == {
        "GET /healthz", "GET /readyz", "GET /login", "POST /session", "DELETE /session", "POST /logout",
    }  # fmt: skip


def test_each_rule_is_the_one_that_its_paths_find() -> None:
    rules = Rules()
    for line, rule in TABLE.items():
        method, template = line.split(" ", 1)
        found = rules.of(method, _filled(template))
        assert found.rule.roles <= rule.roles, line
        assert found.rule.public is rule.public, line


def test_where_two_templates_fit_both_must_allow_it() -> None:
    loose, strict = PUBLIC, Rule(frozenset({Role.ADMIN}), audited=True)
    for table in (
        {"GET /a/{x}": loose, "GET /a/b": strict},
        {"GET /a/b": strict, "GET /a/{x}": loose},
        {"GET /a/{x:path}": loose, "GET /a/{y}": strict},
    ):
        found = Rules(table).of("GET", "/a/b").rule
        assert (found.roles, found.public, found.audited) == (strict.roles, False, True)


def test_what_the_table_does_not_know_is_an_admins() -> None:
    rules = Rules({"GET /a": READ})
    for method, path in (
        ("GET", "/b"),
        ("POST", "/a"),
        ("GET", "/a/"),
        ("GET", "//a"),
        ("GET", "/a/../b"),
        ("GET", ""),
    ):
        assert rules.of(method, path).rule.roles == {Role.ADMIN}
    assert rules.of("HEAD", "/a").rule == READ
    with pytest.raises(ValueError, match="begins with a parameter"):
        Rules({"GET /{x}/a": READ})


def test_without_a_key_nothing_but_the_public_routes_answers(
    settings: Settings, keys: dict[Role, str]
) -> None:
    with client_of(settings) as client:
        for method, template in sorted(_routes()):
            answer = client.request(method, _filled(template))
            if TABLE[f"{method} {template}"].public:
                assert answer.status_code != 401 or template == "/session", (method, template)
                continue
            assert answer.status_code == 401, (method, template)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["code"] == "key_needed"


def test_each_role_may_do_what_the_table_says_on_every_route(
    settings: Settings, as_role: Callable[[Role], dict[str, str]]
) -> None:
    settings = settings.model_copy(update={"rate_limits": {}})
    with client_of(settings) as client:
        for method, template in sorted(_routes()):
            rule = TABLE[f"{method} {template}"]
            for role in Role:
                answer = client.request(
                    method, _filled(template), headers=as_role(role), follow_redirects=False
                )
                refused = answer.status_code == 403 and answer.json()["code"] == "not_allowed"
                assert refused is (role not in rule.roles), (method, template, role, answer.status_code)


def test_roles_are_what_the_documentation_says() -> None:
    may = {role: {line for line, rule in TABLE.items() if role in rule.roles} for role in Role}
    assert may[Role.ADMIN] == set(TABLE)
    assert may[Role.DEVELOPER] >= may[Role.PREDICTOR] | may[Role.VIEWER]
    assert not {line for line in may[Role.VIEWER] if not line.startswith("GET")} - {
        "POST /tensorboard/{rest:path}", "OPTIONS /v1/models/{rest:path}",
        "POST /session", "DELETE /session", "POST /logout",
    }  # fmt: skip
    assert "POST /predict" not in may[Role.VIEWER]
    assert not {
        line
        for line in may[Role.PREDICTOR]
        if "/jobs" in line or "/datasets" in line or "tensorboard" in line
    }
    assert may[Role.ADMIN] - may[Role.DEVELOPER] >= {
        "GET /keys", "POST /keys", "DELETE /keys/{key_id}", "GET /audit",
    }  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer mdy_000000000000_" + "x" * 43},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"X-API-Key": "mdy_\xff"},
        {"Cookie": "modelyard_session=" + "x" * 43},
        {"Cookie": 'modelyard_session="'},
    ],
)
def test_a_wrong_key_is_no_key(settings: Settings, keys: dict[Role, str], headers: dict[str, str]) -> None:
    with client_of(settings) as client:
        answer = client.get("/jobs", headers={key: value.encode("latin-1") for key, value in headers.items()})
        assert answer.status_code == 401
        assert answer.json()["hint"]


def test_either_header_carries_the_key(settings: Settings, keys: dict[Role, str]) -> None:
    with client_of(settings) as client:
        for headers in (_bearer(keys[Role.VIEWER]), {"X-API-Key": keys[Role.VIEWER]}):
            found = client.get("/session", headers=headers).json()
            assert (found["name"], found["role"], found["via"]) == ("the viewer", "viewer", "key")


def test_a_key_is_shown_once_and_stored_hashed(
    settings: Settings, admin: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(0), client_of(settings) as client:
        made = client.post(
            "/keys",
            json={"role": "developer", "name": "ana", "project": "p1", "expires_in_seconds": 60},
            headers=admin,
        )
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        text = made.json()["key"]
        assert client.get("/session", headers=_bearer(text)).json()["project"] == "p1"
        listed = client.get("/keys", headers=admin)
        one = client.get(made.headers["location"], headers=admin)
        assert one.json()["last_used_at"] is not None
        secret = text.rsplit("_", 1)[1]
        for answer in (listed, one, client.get("/audit", headers=admin)):
            assert secret not in answer.text
            assert "sha256" not in answer.text
    assert secret not in caplog.text
    for file in settings.paths.root.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "role"),
        ({"role": "root"}, "role"),
        ({"role": "viewer", "name": "a\nb"}, "name"),
        ({"role": "viewer", "project": "../x"}, "project"),
        ({"role": "admin", "project": "vision"}, "project"),
        ({"role": "viewer", "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"role": "viewer", "limits": {"requests": "many"}}, "limits.requests"),
        ({"role": "viewer", "secret": "x"}, "secret"),
    ],
)
def test_a_key_that_can_not_be_made_is_refused_with_the_field(
    settings: Settings, admin: dict[str, str], body: dict[str, Any], field: str
) -> None:
    with client_of(settings) as client:
        answer = client.post("/keys", json=body, headers=admin)
        assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_a_key_made_on_the_spot_is_refused_with_the_field_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(settings.home))
    body = {"role": "admin", "limits": {"requests": "many"}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(body)))
    assert access.main(["create"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["field"] == "limits.requests"
    assert "600/minute" in error["message"]


def test_a_revoked_key_is_refused_at_once_here_and_soon_elsewhere(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callers.FRESH_SECONDS <= 5
    monkeypatch.setattr(callers, "FRESH_SECONDS", 0.5)
    monkeypatch.setattr(callers, "RENEW_SECONDS", 0.2)
    viewer = _bearer(keys[Role.VIEWER])
    with ExitStack() as stack:
        here = stack.enter_context(client_of(settings))
        elsewhere = stack.enter_context(client_of(settings))
        for client in (here, elsewhere):
            assert client.get("/jobs", headers=viewer).status_code == 200
        prefix = keys[Role.VIEWER].split("_")[1]
        assert here.delete(f"/keys/{prefix}", headers=admin).json()["live"] is False
        assert here.get("/jobs", headers=viewer).status_code == 401
        deadline = time.monotonic() + 20
        while elsewhere.get("/jobs", headers=viewer).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert here.delete(f"/keys/{prefix}", headers=admin).status_code == 200
        assert here.delete("/keys/key_nobody", headers=admin).status_code == 404


def test_an_expired_key_is_refused_though_it_was_good_a_moment_ago(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "FRESH_SECONDS", 600)
    monkeypatch.setattr(callers, "RENEW_SECONDS", 600)
    with client_of(settings) as client:
        for seconds in (1, 5, 25, 125):  # the machine may be slow
            body = {"role": "viewer", "expires_in_seconds": seconds}
            short = _bearer(client.post("/keys", json=body, headers=admin).json()["key"])
            if client.get("/session", headers=short).status_code == 200:
                break
        deadline = time.monotonic() + seconds + 20
        while client.get("/session", headers=short).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_keys_in_use_stay_good_while_the_store_is_down(
    settings: Settings, keys: dict[Role, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "FRESH_SECONDS", 0.0)
    with client_of(settings) as client:
        assert client.get("/session", headers=_bearer(keys[Role.VIEWER])).status_code == 200
        database = settings.paths.database
        client.app.state.resources.store.close()  # type: ignore[attr-defined]
        database.rename(database.with_suffix(".gone"))
        database.mkdir()  # can't be opened
        assert client.get("/session", headers=_bearer(keys[Role.VIEWER])).status_code == 200
        unknown = client.get("/session", headers=_bearer(keys[Role.ADMIN]))
        assert (unknown.status_code, unknown.json()["code"]) == (503, "store_unavailable")


def test_the_first_key_locks_a_running_api(client: TestClient) -> None:
    assert client.get("/session").json()["via"] == "open"
    early = client.post("/keys", json={"role": "developer"})
    assert (early.status_code, early.json()["code"]) == (409, "first_key_not_admin")
    made = client.post("/keys", json={"role": "admin"})
    assert made.status_code == 201
    deadline = time.monotonic() + 20
    while client.get("/jobs").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.get("/jobs", headers=_bearer(made.json()["key"])).status_code == 200


def test_an_operators_key_is_good_from_the_start(settings: Settings) -> None:
    one, two = new_key(), new_key()
    for key in (one, two):
        with client_of(settings.model_copy(update={"admin_key": _secret(key.text)})) as client:
            assert client.get("/session").status_code == 401
            assert client.get("/session", headers=_bearer(key.text)).json()["role"] == "admin"
    with client_of(settings) as client:
        assert client.get("/session", headers=_bearer(one.text)).status_code == 401
        assert client.get("/session", headers=_bearer(two.text)).status_code == 200


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)


def test_readiness_tells_strangers_nothing_but_itself(settings: Settings, keys: dict[Role, str]) -> None:
    with client_of(settings) as client:
        assert client.get("/healthz").status_code == 200
        bare = client.get("/readyz").json()
        assert bare == {"status": "degraded", "checks": {}, "version": bare["version"]}
        assert set(client.get("/readyz", headers=_bearer(keys[Role.VIEWER])).json()["checks"]) >= {
            "store",
            "broker",
        }


def test_a_projects_key_submits_and_changes_jobs_of_its_project_only(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    with client_of(settings) as client:
        body = {"role": "developer", "name": "ana", "project": "vision"}
        ana = _bearer(client.post("/keys", json=body, headers=admin).json()["key"])
        mine = client.post("/jobs", json=train_request(), headers=ana).json()
        assert mine["spec"]["project"] == "vision"
        other = client.post("/jobs", json=train_request(project="speech"), headers=admin).json()
        refused = client.post("/jobs", json=train_request(project="speech"), headers=ana)
        assert (refused.status_code, refused.json()["code"]) == (403, "project_not_allowed")
        assert client.post("/jobs/job_nobody/cancel", headers=ana).status_code == 404
        changes = [line.split() for line in TABLE if "/jobs/{job_id}/" in line and not line.startswith("GET")]
        assert len(changes) >= 3
        for method, template in changes:
            answer = client.request(method, template.replace("{job_id}", other["id"]), json={}, headers=ana)
            assert (answer.status_code, answer.json()["code"]) == (403, "project_not_allowed")
        assert client.get(f"/jobs/{other['id']}", headers=ana).json()["state"] == "queued"
        assert client.post(f"/jobs/{mine['id']}/cancel", headers=ana).status_code == 202


# browsers


def test_a_browser_logs_in_with_a_cookie_that_no_script_reads(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    with client_of(settings) as client:
        page = client.get(
            "/tensorboard/?darkMode=true", headers={"Accept": "text/html"}, follow_redirects=False
        )
        assert (page.status_code, page.headers["location"]) == (
            303,
            "/login?next=/tensorboard/%3FdarkMode%3Dtrue",
        )
        form = client.get(page.headers["location"])
        assert 'value="/tensorboard/?darkMode=true"' in form.text
        fields = {"key": keys[Role.VIEWER], "next": "/jobs"}
        done = client.post("/session", data=fields, follow_redirects=False)
        assert (done.status_code, done.headers["location"]) == (303, "/jobs")
        cookie = done.headers["set-cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"))
        token = client.cookies["modelyard_session"]
        assert token not in keys[Role.VIEWER]
        assert client.get("/session").json()["via"] == "session"
        assert client.get("/jobs").status_code == 200
        assert client.post("/keys", json={"role": "admin"}).status_code == 403
        assert "the viewer" in client.get("/login").text
        for file in settings.paths.root.rglob("*"):
            assert not file.is_file() or token.encode() not in file.read_bytes()
        assert client.post("/logout", follow_redirects=False).headers["location"] == "/login"
        client.cookies["modelyard_session"] = token
        assert client.get("/jobs").status_code == 401


def test_a_session_ends_with_its_key(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    with client_of(settings) as client:
        assert client.post("/session", json={"key": keys[Role.VIEWER]}).json()["role"] == "viewer"
        assert client.get("/jobs").status_code == 200
        client.delete(f"/keys/{keys[Role.VIEWER].split('_')[1]}", headers=admin)
        assert client.get("/jobs").status_code == 401


def test_a_wrong_key_opens_no_session(settings: Settings, keys: dict[Role, str]) -> None:
    with client_of(settings) as client:
        wrong = client.post("/session", json={"key": new_key().text})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "key_invalid")
        page = client.post("/session", data={"key": "<script>", "next": '"><script>'})
        assert page.url.path == "/login"
        assert "not good" in page.text
        assert not client.cookies
        assert "<script>" not in page.text
        assert client.post("/session", content=b"x" * 5000).status_code == 413
        assert client.post("/session", content=b"{").status_code == 400


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "https://evil.example", "", "javascript:x"]
)
def test_logging_in_leads_to_no_other_site(settings: Settings, keys: dict[Role, str], target: str) -> None:
    with client_of(settings) as client:
        done = client.post(
            "/session", data={"key": keys[Role.VIEWER], "next": target}, follow_redirects=False
        )
        assert done.headers["location"] == "/tensorboard/"


def test_the_cookie_is_for_https_only_behind_https(settings: Settings, keys: dict[Role, str]) -> None:
    with client_of(settings) as client:
        done = client.post("https://127.0.0.1:8000/session", json={"key": keys[Role.VIEWER]})
        assert "Secure" in done.headers["set-cookie"]
        assert "Secure" not in client.post("/session", json={"key": keys[Role.VIEWER]}).headers["set-cookie"]


_FOREIGN = [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://127.0.0.1:9999"}]  # fmt: skip


@pytest.mark.parametrize("headers", _FOREIGN)
def test_another_sites_page_changes_nothing_with_a_session(
    settings: Settings, keys: dict[Role, str], headers: dict[str, str]
) -> None:
    with client_of(settings) as client:
        client.post("/session", json={"key": keys[Role.ADMIN]})
        for method, path in (
            ("POST", "/jobs"),
            ("DELETE", "/datasets/x"),
            ("POST", "/tensorboard/x"),
            ("POST", "/logout"),
        ):
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin"), path
        own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
        assert client.post("/keys", json={"role": "viewer"}, headers=own).status_code == 201
        # a key is in no browser by itself, so a page that has one was given it
        assert client.get("/jobs", headers={**headers, **_bearer(keys[Role.VIEWER])}).status_code == 200


@pytest.mark.parametrize("headers", _FOREIGN)
def test_another_sites_page_changes_nothing_on_an_open_machine(
    client: TestClient, headers: dict[str, str]
) -> None:
    body = {"kind": "train", "model": {"builder": "lenet5"}, "dataset": {"tfds": "mnist"}}
    answer = client.post("/jobs", content=json.dumps(body), headers={**headers, "Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")
    assert client.post("/predict", json={}, headers={"Origin": "http://127.0.0.1:8000"}).status_code == 422


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::", "10.0.0.1"]
)
def test_a_rebound_name_reads_nothing_on_an_open_machine(client: TestClient, host: str) -> None:
    for path in ("/jobs", "/healthz", "/tensorboard/"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.8.8.8", "my.localhost"]
)
def test_loopbacks_own_names_are_good(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_allowed_hosts_hold_with_keys_too(settings: Settings, keys: dict[Role, str]) -> None:
    named = settings.model_copy(update={"allowed_hosts": ("yard.example",)})
    with client_of(named) as client:
        assert client.get("/healthz", headers={"Host": "yard.example"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403
    with client_of(settings) as client:
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("10.1.2.3", {}),
        ("127.0.0.1", {"X-Forwarded-For": "10.1.2.3"}),
        ("127.0.0.1", {"Forwarded": "for=10.1.2.3"}),
    ],
)
def test_an_open_machine_serves_itself_only(
    settings: Settings, address: str, headers: dict[str, str]
) -> None:
    with client_of(settings, address=address) as client:
        answer = client.get("/jobs", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_local")


def test_no_answer_has_a_cors_header(client: TestClient) -> None:
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (client.options("/jobs", headers=origin), client.get("/jobs", headers=origin)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_answer_has_security_headers(settings: Settings, client: TestClient) -> None:
    for path in ("/jobs", "/nothing", "/healthz", "/docs", "/login"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "sandbox" in client.get("/jobs").headers["content-security-policy"]
    assert "script-src" not in client.get("/login").headers["content-security-policy"]


# limits


def test_a_role_has_a_rate_and_a_key_its_own(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    limited = settings.model_copy(update={"rate_limits": {Role.VIEWER: "3/hour"}})
    with client_of(limited) as client:
        viewer = _bearer(keys[Role.VIEWER])
        left = [client.get("/jobs", headers=viewer) for _ in range(4)]
        assert [answer.status_code for answer in left] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in left] == ["2", "1", "0", "0"]
        assert left[3].headers["ratelimit-limit"] == "3"
        assert 1 <= int(left[3].headers["retry-after"]) <= 3600
        assert left[3].json()["code"] == "rate_limited"
        assert client.get("/jobs", headers=_bearer(keys[Role.DEVELOPER])).status_code == 200
        own = client.post(
            "/keys", json={"role": "viewer", "limits": {"requests": "1/day"}}, headers=admin
        ).json()["key"]
        assert [client.get("/jobs", headers=_bearer(own)).status_code for _ in range(2)] == [200, 429]
        assert client.get("/healthz", headers=viewer).status_code == 200


def test_predictions_have_a_rate_of_their_own(settings: Settings, keys: dict[Role, str]) -> None:
    limited = settings.model_copy(update={"predict_rate_limits": {Role.PREDICTOR: "2/hour"}})
    with client_of(limited) as client:
        predictor = _bearer(keys[Role.PREDICTOR])
        for path in ("/predict", "/v1/models/m:predict"):
            assert client.post(path, json={}, headers=predictor).status_code != 429
        assert client.post("/predict", json={}, headers=predictor).status_code == 429
        assert client.get("/models", headers=predictor).status_code == 200


def test_wrong_keys_of_one_address_are_stopped(settings: Settings, keys: dict[Role, str]) -> None:
    with client_of(settings) as client:
        assert client.get("/session", headers=_bearer(keys[Role.VIEWER])).status_code == 200
        codes = [client.get("/jobs", headers=_bearer(new_key().text)).status_code for _ in range(62)]
        assert codes == [401] * 60 + [429] * 2
        for good in (keys[Role.VIEWER], keys[Role.ADMIN]):  # used a moment ago, and not yet
            assert client.get("/session", headers=_bearer(good)).status_code == 200
        assert client.post("/session", json={"key": new_key().text}).status_code == 429
        assert client.post("/session", json={"key": keys[Role.VIEWER]}).status_code == 200


def test_a_body_has_its_keys_and_its_roles_limit(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    settings = settings.model_copy(
        update={"max_body_mb": 4, "max_upload_mb": 4, "role_max_body_mb": {Role.DEVELOPER: 3}}
    )
    with client_of(settings) as client:
        small = client.post(
            "/keys", json={"role": "developer", "limits": {"max_body_mb": 1}}, headers=admin
        ).json()["key"]
        for key, megabytes, status in (
            (keys[Role.ADMIN], 3.5, 400), (keys[Role.DEVELOPER], 3.5, 413), (keys[Role.DEVELOPER], 2.5, 400),
            (small, 1.5, 413),
        ):  # fmt: skip
            body = b"x" * int(megabytes * 2**20)
            assert client.post("/jobs", content=body, headers=_bearer(key)).status_code == status
            assert client.post("/jobs", content=iter([body]), headers=_bearer(key)).status_code == status
        answer = client.post(
            "/datasets", content=b"x" * 3 * 2**20 + b"y" * 100_000, headers=_bearer(keys[Role.DEVELOPER])
        )
        assert answer.status_code == 413
        assert "developer" in answer.json()["hint"]


# the audit log


def _audit(client: TestClient, headers: dict[str, str], number: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 20
    while True:
        items: list[dict[str, Any]] = client.get("/audit", headers=headers).json()["items"]
        if len(items) >= number or time.monotonic() > deadline:
            return items
        time.sleep(0.05)


def test_changes_and_refusals_are_written_down(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    with client_of(settings, address="10.0.0.9") as client:
        made = client.post("/keys", json={"role": "viewer", "name": "eve"}, headers=admin)
        client.post("/jobs", json={}, headers={**_bearer(keys[Role.DEVELOPER]), "X-Request-Id": "r-1"})
        client.post("/jobs", json={}, headers=_bearer(keys[Role.VIEWER]))
        client.post("/predict", json={}, headers=_bearer(keys[Role.PREDICTOR]))
        client.get("/jobs", headers=_bearer(keys[Role.VIEWER]))
        client.get("/jobs")
        found = _audit(client, admin, 3)
        told = [(item["who"], item["role"], item["method"], item["target"], item["status"]) for item in found]
        assert told == [
            ("the viewer", "viewer", "POST", "/jobs", 403),
            ("the developer", "developer", "POST", "/jobs", 422),
            ("the admin", "admin", "POST", made.headers["location"], 201),
        ]
        assert {item["address"] for item in found} == {"10.0.0.9"}
        assert found[1]["request_id"] == "r-1"
        page = client.get("/audit?limit=1", headers=admin).json()
        assert page["has_more"]
        rest = client.get(f"/audit?after={page['items'][0]['seq']}", headers=admin).json()["items"]
        assert rest == found[1:]
        mine = client.get(f"/audit?key={found[1]['key_id']}", headers=admin).json()["items"]
        assert mine == [found[1]]
    file = settings.paths.logs / "audit.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["status"] for line in lines] == [201, 422, 403, 401]
    assert lines[3]["who"] == "nobody"


def test_who_logs_in_is_written_down(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    with client_of(settings) as client:
        client.post("/session", json={"key": new_key().text})
        client.post("/session", json={"key": keys[Role.VIEWER]})
        client.delete("/session")
        found = _audit(client, admin, 2)
        told = [(item["who"], item["method"], item["status"]) for item in found]
        assert told == [("the viewer", "DELETE", 204), ("the viewer", "POST", 200)]


def test_a_line_of_the_log_is_one_line(
    settings: Settings, keys: dict[Role, str], admin: dict[str, str]
) -> None:
    with client_of(settings) as client:
        client.delete("/datasets/a%0A%7B%22who%22:%22admin%22%7D%00%E2%80%A8", headers=admin)
        assert "\\n" in _audit(client, admin, 1)[0]["target"]
    assert len((settings.paths.logs / "audit.jsonl").read_text().splitlines()) == 1


def test_the_log_goes_on_when_the_file_was_moved_away(
    settings: Settings, admin: dict[str, str], tmp_path: Path
) -> None:
    file = settings.paths.logs / "audit.jsonl"
    with client_of(settings) as client:
        client.delete("/datasets/a", headers=admin)
        file.rename(tmp_path / "old.jsonl")
        client.delete("/datasets/b", headers=admin)
        _audit(client, admin, 2)
    assert json.loads(file.read_text())["target"] == "/datasets/b"
