"""API keys: how they are written, what is kept, how they are compared."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from service import apikeys
from service.apikeys import ApiKey, TenantLimits, key_id, matches, new_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_key_is_written_so_that_leaks_can_be_found() -> None:
    kept, key = new_key("acme", ("read",), NOW, None)
    assert re.fullmatch(r"imz_[0-9a-f]{12}_[0-9a-f]{64}", key)  # as the README tells scanners
    assert key_id(key) == kept.key == key[4:16]
    assert len({new_key("acme", ("read",), NOW, None)[1] for _ in range(100)}) == 100


def test_the_secrets_hash_is_kept_and_not_the_secret() -> None:
    kept, key = new_key("acme", ("read",), NOW, None)
    secret = key.rpartition("_")[2]
    assert kept.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in kept.model_dump_json()
    assert kept.sha256 not in repr(kept)


@pytest.mark.parametrize("text", ["", "imz_", "imz_0_0", "x" * 81, f"imz_{'0' * 12}_{'0' * 65}", f" imz_{'0' * 76}"])
def test_what_is_no_key(text: str) -> None:
    assert key_id(text) is None


def test_which_key_matches() -> None:
    kept, key = new_key("acme", ("read",), NOW, None)
    other, _ = new_key("acme", ("read",), NOW, None)
    assert matches(key, kept)
    assert not matches(key, other)
    assert not matches(key, None)
    assert not matches(key[:-1] + ("0" if key[-1] != "0" else "1"), kept)
    assert not matches("", None)
    assert not matches("ü" * 64, kept)


def test_keys_are_compared_in_constant_time_known_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def counting(first: Any, second: Any) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    kept, key = new_key("acme", ("read",), NOW, None)
    monkeypatch.setattr(apikeys, "hmac", type("Counting", (), {"compare_digest": staticmethod(counting)}))
    for sent, against in ((key, kept), (key, None), ("", None), (f"imz_{kept.key}_{'0' * 64}", kept)):
        compared.clear()
        matches(sent, against)
        ((first, second),) = compared  # once, and of digests: all of one length
        assert len(first) == len(second) == 64


@pytest.mark.parametrize(
    ("expires", "revoked", "state"),
    [
        (None, None, "valid"),
        (NOW + timedelta(seconds=1), None, "valid"),
        (NOW, None, "expired"),
        (NOW + timedelta(days=1), NOW, "revoked"),
        (NOW, NOW, "revoked"),
    ],
)
def test_the_state_of_a_key(expires: datetime | None, revoked: datetime | None, state: str) -> None:
    kept, _ = new_key("acme", ("read",), NOW - timedelta(days=9), expires)
    assert kept.model_copy(update={"revoked": revoked}).state(NOW) == state


@pytest.mark.parametrize("tenant", ["", "-a", "A", "a_b", "a/b", "..", "a" * 33, "ä", "a\n", "a b"])
def test_names_that_no_tenant_has(tenant: str) -> None:
    with pytest.raises(ValidationError):
        new_key(tenant, ("read",), NOW, None)
    with pytest.raises(ValidationError):
        TenantLimits(tenant=tenant)


@pytest.mark.parametrize("tenant", ["a", "0", "acme", "a-1-b-", "a" * 32])
def test_names_of_tenants(tenant: str) -> None:
    kept, _ = new_key(tenant, ("read",), NOW, None)
    assert ApiKey.model_validate_json(kept.model_dump_json()) == kept
