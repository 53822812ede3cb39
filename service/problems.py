"""Errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.contracts.errors import ImmunizeError
from service.contracts.schemas import FieldProblem, Problem

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


def install(app: FastAPI) -> None:
    """Make every error of the app a problem document."""
    app.add_exception_handler(ImmunizeError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of error answers."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": content} for status in statuses
    }


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    body = problem.model_dump(exclude_none=True)
    return JSONResponse(body, problem.status, headers=headers, media_type=MEDIA_TYPE)


def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImmunizeError)
    if request.method == "POST":
        request.app.state.metrics.rejected.labels(error.type).inc()
    if error.status >= 500:
        cause = error.__cause__ if error.status == 500 else None  # what is merely away needs no trace at every probe
        log.warning("%s %s: %s", request.method, request.url.path, error.detail, exc_info=cause)
    errors = [FieldProblem(field=error.field, detail=error.detail)] if error.field else None
    headers = {"Retry-After": error.retry_after, "WWW-Authenticate": error.challenge}
    return _answer(
        Problem(
            type=f"urn:immunize:{error.type}",
            title=error.title,
            status=error.status,
            detail=error.detail,
            errors=errors,
        ),
        {name: str(value) for name, value in headers.items() if value is not None},
    )


def _invalid(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    assert isinstance(error, RequestValidationError)
    found = [
        FieldProblem(field=".".join(str(part) for part in item["loc"][1:]), detail=item["msg"])
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.detail}" for item in found)
    return _answer(
        Problem(type="urn:immunize:invalid-field", title="A field is wrong", status=422, detail=detail, errors=found)
    )


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    details = {
        404: f"there is nothing at {request.url.path}; see /docs",
        405: f"{request.method} is not answered at {request.url.path}; see /docs",
    }
    phrase = HTTPStatus(error.status_code).phrase
    return _answer(
        Problem(
            type=f"urn:immunize:{phrase.lower().replace(' ', '-')}",
            title=phrase,
            status=error.status_code,
            detail=details.get(error.status_code, str(error.detail)),
        ),
        dict(error.headers) if error.headers else None,
    )


def _unknown(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(
        Problem(
            type="urn:immunize:internal",
            title="Internal error",
            status=500,
            detail="the request failed for an internal reason; it was logged",
        )
    )
