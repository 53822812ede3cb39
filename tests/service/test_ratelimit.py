"""The RateLimit fields: how they are written, and that every answer of a route that left them has them."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from service.ratelimit import Policy, RateLimitFields, Standing, Standings
from tests.service.fields import parsed

STANDINGS = Standings(
    (Policy("rate", 5000, 10), Policy("waiting", 20)), (Standing("rate", 4999, 1), Standing("waiting", 0))
)


def test_how_they_are_written() -> None:
    assert STANDINGS.headers() == {
        "RateLimit-Policy": '"rate";q=5000;w=10, "waiting";q=20',
        "RateLimit": '"rate";r=4999;t=1, "waiting";r=0',
    }
    assert parsed(STANDINGS.headers()["RateLimit"]) == {"rate": {"r": 4999, "t": 1}, "waiting": {"r": 0}}


def test_without_limits_there_are_none() -> None:
    assert Standings((), ()).headers() == {}


@pytest.mark.parametrize("text", ["", '"a"', 'a;q=1"', '"a";q=1,', '"a";q=1 "b";q=1', '"a";Q=1', '"a";q=1, "a";q=2'])
def test_the_tests_own_reader_is_strict(text: str) -> None:
    if text == '"a"':
        assert parsed(text) == {"a": {}}
    else:
        with pytest.raises(ValueError, match="no "):
            parsed(text)


@pytest.mark.parametrize(("path", "status"), [("/fine", 200), ("/own", 409), ("/refused", 418), ("/silent", 200)])
def test_every_answer_has_them_if_its_route_left_them(path: str, status: int) -> None:
    app = FastAPI()
    app.add_middleware(RateLimitFields)

    def leave(request: Request) -> None:
        request.state.standings = STANDINGS

    @app.get("/fine")
    def fine(request: Request) -> dict[str, Any]:
        leave(request)
        return {}

    @app.get("/own")
    def own(request: Request) -> JSONResponse:
        leave(request)
        return JSONResponse({}, 409)

    @app.get("/refused")
    def refused(request: Request) -> None:
        leave(request)
        raise HTTPException(418)

    @app.get("/silent")
    def silent() -> dict[str, Any]:
        return {}

    with TestClient(app) as client:
        answer = client.get(path)
    assert answer.status_code == status
    expected = {} if path == "/silent" else {name.lower(): value for name, value in STANDINGS.headers().items()}
    assert {name: value for name, value in answer.headers.items() if name.startswith("ratelimit")} == expected
