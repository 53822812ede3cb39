"""The error tree."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import pytest

from service.contracts import errors
from service.contracts.errors import ImmunizeError, InputError


def _tree(kind: type[ImmunizeError] = ImmunizeError) -> Iterator[type[ImmunizeError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


KINDS = list(_tree())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_has_a_status_a_type_and_a_title(kind: type[ImmunizeError]) -> None:
    error = kind("what was wrong", field="epsilon", retry_after=3)
    assert HTTPStatus(error.status).value >= 400
    assert error.type == error.type.lower().replace(" ", "-")
    assert error.title
    assert (str(error), error.detail, error.field, error.retry_after) == (
        "what was wrong",
        "what was wrong",
        "epsilon",
        3,
    )
    assert issubclass(kind, InputError) == (error.status in {413, 415, 422}), (
        "input errors are those exit status 2 is for"
    )


def test_types_differ() -> None:
    assert len({kind.type for kind in KINDS}) == len(KINDS)


def test_the_contracts_statuses_are_there() -> None:
    assert {kind.status for kind in KINDS} >= {404, 409, 413, 415, 422, 429, 500, 503}
