"""Every call of the gateway, by its own tenant, by another, and by those that may not. A call that is not in the table
fails the first test: say there what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from service.apikeys import DEFAULT_SCOPES, SCOPES, Scope
from service.contracts.settings import Settings
from service.dependencies import Tenant
from tests.service.keys import KeyFile, sent
from tests.service.test_immunize import refused


@dataclass(frozen=True)
class Call:
    """What a call needs, and what it answers about a job that waits."""

    scope: Scope | None  # None: it is open to all
    status: int


CALLS = {
    "POST /immunize": Call("submit", 202),
    "GET /jobs/{job_id}": Call("read", 200),
    "GET /jobs/{job_id}/image": Call("read", 409),
    "POST /jobs/{job_id}/cancel": Call("cancel", 202),
    "POST /jobs/{job_id}/webhook": Call("submit", 409),
    "GET /catalog": Call("read", 200),
    "GET /metrics": Call("metrics", 200),
    "GET /healthz": Call(None, 200),
    "GET /readyz": Call(None, 200),
    "GET /docs": Call(None, 200),
    "GET /docs/oauth2-redirect": Call(None, 200),
    "GET /redoc": Call(None, 200),
    "GET /openapi.json": Call(None, 200),
}
GUARDED = [name for name, call in CALLS.items() if call.scope]
OF_A_JOB = [name for name in GUARDED if "{" in name]


def routes(app: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every `METHOD /path` of the app, those that the docs do not show as well."""
    for route in app.routes:
        inner = getattr(route, "original_router", None) or (None if hasattr(route, "methods") else route)
        if inner is not None:
            before = getattr(getattr(route, "include_context", route), "prefix", "")
            yield from routes(inner, prefix + before)
        else:
            yield from ((f"{method} {prefix}{route.path}", route) for method in route.methods - {"HEAD"})


@dataclass(frozen=True)
class Tried:
    """A gateway with a job of acme's that waits, and somebody who calls."""

    gateway: TestClient
    keys: KeyFile
    job: str
    image: bytes
    record: Path

    def call(self, name: str, key: str | None, **more: Any) -> Any:
        method, path = name.split()
        if name == "POST /immunize":
            more = {"files": {"image": ("a", self.image)}} | more
        headers = sent(key) | more.pop("headers", {})
        return self.gateway.request(method, path.format(job_id=self.job), headers=headers, **more)


@pytest.fixture
def tried(keyed: Callable[..., TestClient], keys: KeyFile, settings: Settings, image: bytes) -> Tried:
    key = keys.key("acme", ("submit",))
    gateway = keyed()
    answer = gateway.post("/immunize", files={"image": ("a", image)}, headers=sent(key))
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    return Tried(gateway, keys, job, image, Path(settings.store_url.removeprefix("file://"), "jobs", "acme", job))


def test_every_call_is_in_the_table(gateway: TestClient) -> None:
    assert {name for name, _ in routes(gateway.app)} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_tenant_about_its_own(name: str, tried: Tried) -> None:
    scope = CALLS[name].scope
    key = tried.keys.key("acme", (scope,)) if scope else None
    answer = tried.call(name, key)
    assert answer.status_code == CALLS[name].status, answer.text


@pytest.mark.parametrize("name", GUARDED)
def test_the_scope_admin_is_enough_for_all(name: str, tried: Tried) -> None:
    assert tried.call(name, tried.keys.key("acme", ("admin",))).status_code == CALLS[name].status


@pytest.mark.parametrize("name", CALLS)
def test_another_tenant_learns_and_does_nothing(name: str, tried: Tried) -> None:
    before = {path: path.read_bytes() for path in tried.record.iterdir()}
    answer = tried.call(name, tried.keys.key("another", ("admin",)))
    if name in OF_A_JOB:
        assert refused(answer, 404) == "there is no job of that id"
    else:
        assert answer.status_code == CALLS[name].status, answer.text
    assert tried.job not in answer.text
    assert "acme" not in answer.text
    assert {path: path.read_bytes() for path in tried.record.iterdir()} == before


STRANGERS: dict[str, Callable[[Tried], dict[str, str]]] = {
    "no key": lambda _: {},
    "an empty key": lambda _: {"Authorization": "Bearer "},
    "no key of ours": lambda _: sent("sesame"),
    "an unknown key": lambda _: sent(f"imz_{'0' * 12}_{'0' * 64}"),
    "a key with another secret": lambda tried: sent(tried.keys.key("acme", ("admin",))[:-64] + "0" * 64),
    "a key, and more": lambda tried: sent(tried.keys.key("acme", ("admin",)) + "0"),
    "a key in capitals": lambda tried: sent(tried.keys.key("acme", ("admin",)).upper()),
    "not as bearer": lambda tried: {"Authorization": f"Basic {tried.keys.key('acme', ('admin',))}"},
    "letters beyond ASCII": lambda _: {"Authorization": "Bearer imz_ü"},
    "a revoked key": lambda tried: sent(tried.keys.key("acme", ("admin",), revoked=True)),
    "an expired key": lambda tried: sent(tried.keys.key("acme", ("admin",), expired=True)),
}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("name", GUARDED)
def test_a_stranger(name: str, stranger: str, tried: Tried) -> None:
    before = {path: path.read_bytes() for path in tried.record.iterdir()}
    headers = {key: value.encode("latin-1") for key, value in STRANGERS[stranger](tried).items()}
    answer = tried.call(name, None, headers=headers)
    said = refused(answer, 401)
    assert said == "this call needs a valid key; send it as `Authorization: Bearer imz_...`"  # whatever was wrong
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:immunize:unauthenticated"
    assert {path: path.read_bytes() for path in tried.record.iterdir()} == before


@pytest.mark.parametrize("name", GUARDED)
def test_a_strangers_body_is_not_even_looked_at(name: str, tried: Tried) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        answer = tried.call(name, None, content=b"{", files=None, headers={"Content-Type": kind})
        assert answer.status_code == 401


@pytest.mark.parametrize("name", GUARDED)
def test_a_key_without_the_scope(name: str, tried: Tried) -> None:
    scope = CALLS[name].scope
    others = tuple(each for each in SCOPES if each not in {scope, "admin"})
    before = {path: path.read_bytes() for path in tried.record.iterdir()}
    answer = tried.call(name, tried.keys.key("acme", others))
    assert refused(answer, 403) == f"this call needs a key with the scope {scope!r}"
    assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'
    assert {path: path.read_bytes() for path in tried.record.iterdir()} == before


@pytest.mark.parametrize("name", CALLS)
def test_the_docs_tell_what_a_call_needs(name: str, gateway: TestClient) -> None:
    described = gateway.get("/openapi.json").json()
    method, path = name.split()
    call = described["paths"].get(path, {}).get(method.lower())
    scope = CALLS[name].scope
    if scope is None:
        assert call is None or "security" not in call
        return
    assert call["security"] == [{"key": [scope]}]
    assert {"401", "403"} <= set(call["responses"])
    assert "429" in call["responses"] or name == "GET /metrics"
    scheme = described["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert all(f"`{each}`" in scheme["description"] for each in SCOPES)


def test_a_route_that_names_no_scope_is_for_admin_alone(tried: Tried) -> None:
    app: Any = tried.gateway.app

    def forgotten(tenant: Tenant) -> str:
        return tenant

    app.router.routes.append(APIRoute("/forgotten", forgotten))
    assert tried.call("GET /forgotten", tried.keys.key("acme", DEFAULT_SCOPES)).status_code == 403
    assert tried.call("GET /forgotten", tried.keys.key("acme", ("admin",))).json() == "acme"
