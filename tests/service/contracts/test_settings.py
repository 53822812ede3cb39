"""Settings: what the environment may say."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from service.contracts.errors import BadField
from service.contracts.settings import Settings, describe, load_settings

WRONG = {
    "unknown name": ("IMMUNIZE_MAX_PIXEL", "5", "no such setting; there are IMMUNIZE_"),
    "not a number": ("IMMUNIZE_MAX_PIXELS", "many", "valid integer"),
    "zero pixels": ("IMMUNIZE_MAX_PIXELS", "0", "greater than or equal to 1"),
    "tiny upload": ("IMMUNIZE_MAX_UPLOAD_BYTES", "10", "1024"),
    "no attempts": ("IMMUNIZE_ATTEMPTS", "0", "greater than or equal to 1"),
    "negative time": ("IMMUNIZE_JOB_TIMEOUT", "-1", "greater than or equal to 1"),
    "no pause": ("IMMUNIZE_RECONCILE_SECONDS", "0", "greater than 0"),
    "port": ("IMMUNIZE_METRICS_PORT", "70000", "65535"),
    "store scheme": ("IMMUNIZE_STORE_URL", "ftp://somewhere", "file:///folder or s3://bucket/prefix"),
    "store relative": ("IMMUNIZE_STORE_URL", "data/store", "file:///folder or s3://bucket/prefix"),
    "store without bucket": ("IMMUNIZE_STORE_URL", "s3://", "file:///folder or s3://bucket/prefix"),
    "redis scheme": ("IMMUNIZE_REDIS_URL", "127.0.0.1:6379", "redis://, rediss:// or unix://"),
    "redis port": ("IMMUNIZE_REDIS_URL", "redis://127.0.0.1:port/0", "port is not a number"),
    "checksums": ("IMMUNIZE_S3_CHECKSUMS", "always", "when_required"),
    "a short webhook secret": ("IMMUNIZE_WEBHOOK_SECRET", "secret", "openssl rand -hex 32"),
    "one short of two": ("IMMUNIZE_WEBHOOK_SECRET", f"{'a' * 32},b", "32 letters or more"),
    "no network": ("IMMUNIZE_WEBHOOK_NETWORKS", "10.0.0.0/8,inside", "not a valid IPv4 or IPv6 network"),
    "a host, not a network": ("IMMUNIZE_WEBHOOK_NETWORKS", "10.0.0.1/8", "not a valid IPv4 or IPv6 network"),
    "a rate below 0": ("IMMUNIZE_TENANT_RATE", "-1", "greater than or equal to 0"),
    "half a picture": ("IMMUNIZE_TENANT_DAILY", "0.5", "valid integer"),
    "perhaps anonymous": ("IMMUNIZE_ALLOW_ANONYMOUS", "perhaps", "valid boolean"),
    "presigning for ever": ("IMMUNIZE_PRESIGN_SECONDS", "604801", "604800"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value, told = WRONG[case]
    monkeypatch.setenv(name, value)
    with pytest.raises(BadField) as caught:
        load_settings()
    detail = caught.value.detail
    assert detail.startswith(f"{name}: ")
    assert told in detail
    assert "\n" not in detail


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("IMMUNIZE_MAX_PIXELS", "1000", "max_pixels", 1000),
        ("IMMUNIZE_STORE_URL", "s3://bucket/some/prefix", "store_url", "s3://bucket/some/prefix"),
        ("IMMUNIZE_REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
        ("IMMUNIZE_RECONCILE_SECONDS", "0.5", "reconcile_seconds", 0.5),
        ("IMMUNIZE_WEBHOOK_SECRET", f"{'a' * 32}, {'b' * 32}", "webhook_secrets", ("a" * 32, "b" * 32)),
        (
            "IMMUNIZE_WEBHOOK_NETWORKS",
            "10.1.0.0/16, fd12::/16",
            "webhook_networks",
            (ip_network("10.1.0.0/16"), ip_network("fd12::/16")),
        ),
        ("IMMUNIZE_API_KEYS_FILE", "/run/keys", "api_keys_file", Path("/run/keys")),
        ("IMMUNIZE_TENANT_WAITING", "0", "tenant_waiting", 0),
    ],
)
def test_the_environment_is_read(
    name: str, value: str, field: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == expected


def test_nothing_need_be_set() -> None:
    assert load_settings() == Settings()


def test_what_others_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMUNE", "yes")
    load_settings()


def test_every_setting_is_described() -> None:
    text = describe()
    lines = text.splitlines()
    assert len(lines) == len(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert f"IMMUNIZE_{name.upper()} " in text
        assert field.description
        assert field.description in text


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMUNIZE_WEBHOOK_SECRET", "a" * 32)
    settings = load_settings()
    assert "aaaa" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    with pytest.raises(ValueError, match="32 letters") as caught:
        Settings(webhook_secret="too-short-a-secret")  # type: ignore[arg-type]
    assert "too-short" not in str(caught.value)
